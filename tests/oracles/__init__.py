"""Plain, slow, independent versions of what the suite computes."""
