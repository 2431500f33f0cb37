"""The verbs of `python -m experiments`, one file for those that belong together."""
