"""Readouts of what has been trained: of a run, of all runs of a sweep, of a file of weights.

`weights` finds the network, `add` lets the protocols look at it and writes what they say into the run's directory;
`worker` does that for one run after the other in a process of its own, `pool` and `cluster` give it work, `verb` is the
command line.
"""
