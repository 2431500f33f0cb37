"""The command line: the verbs of `python -m experiments`, and the commands of sweep files (`sweep`, `search`)."""
