"""Readouts of trained encoders: of a run, of all runs of a sweep, or of a file of weights.

    weights       the network in a file: of this suite, or of another tool
    add           evaluates it by the protocols asked for, and adds the readouts to the run directory
    worker        the same for one run, with its errors as a result
    pool          the runs of a sweep on this machine
    cluster       the runs of a sweep as jobs of a cluster
    progress      the bar on the terminal
    verb          `python -m experiments evaluate`
    transfer/     detection and segmentation

moco has the readouts themselves (`moco.evaluation`).
"""
