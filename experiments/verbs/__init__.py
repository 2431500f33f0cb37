"""What `python -m experiments VERB` does: one module a family, each with `register` and its functions."""
