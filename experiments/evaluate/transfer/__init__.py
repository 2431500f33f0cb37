"""What pre-training is worth elsewhere: runs, sweeps and files of weights through detection and segmentation.

`job` says what is to be done, `one` does it for one encoder and leaves a record beside the run, `worker` for one run after
the other in a process of its own, `table` puts a sweep's records side by side, `verb` is the command line.
"""
