"""Optuna searches: what is searched is data (`definition`, `space`), the run directories and the record are the truth.

    begin, record, address   a study is made once, and found again by its address
    trial, study, storage    one trial is one run; Optuna is asked and told here, and nowhere else
    worker, local, cluster   who works through the trials: processes of this machine, or a Slurm array
    confirm, adopt, export   what comes after: fresh seeds for the chosen trial, a baseline of it, its history as files
    cli                      `main(SEARCH)` at the end of a file in `sweeps/`

optuna is imported in this room only, and only when it is needed: a sweep file's `--dry-run` does without.
"""

from experiments.search.definition import Choice, Complement, Float, Given, Int, Log, Powers, Search

__all__ = ["Choice", "Complement", "Float", "Given", "Int", "Log", "Powers", "Search"]
