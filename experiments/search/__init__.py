"""Optuna searches. A search is defined by data; each trial is an ordinary run; the run directories and the search's
record are the truth, and the Optuna study can be lost.

    space, definition    the search space; a search, and the check of it
    address, storage     where the study is kept: a journal file or a database
    study                the Optuna study: new points, results, trials whose worker died
    trial                one trial as a run
    worker               the loop of one worker: ask, train, tell
    launch               starts and follows workers, on this machine or as an array of jobs
    export               the study as the search's record, plain JSON
    result               the best trials at fresh seeds, and the winner as a baseline

optuna is imported in this room only, and only when it is needed: the `--dry-run` of a search does without.
"""
