"""Optuna searches: what is searched is data (`definition`, `space`), the run directories and the record are the truth.

    definition, space        what is searched, as data
    address                  where its study is kept; no optuna needed to ask
    trial, study, storage    one trial is one run; Optuna is asked and told here, and nowhere else
    launch, worker           who works through the trials: processes of this machine, or a Slurm array
    result, export           what comes after: fresh seeds for the best trials, a baseline of the winner, the history as files

optuna is imported in this room only, and only when it is needed: a sweep file's `--dry-run` does without.
"""
