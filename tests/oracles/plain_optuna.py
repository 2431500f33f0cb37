"""What Optuna does by itself, to compare with: python -m tests.plain_optuna JOURNAL TRIALS"""

from __future__ import annotations

import sys

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


def objective(trial: optuna.Trial) -> float:
    lr, temperature = trial.suggest_float("lr", 1e-3, 10, log=True), trial.suggest_float("T", 0.02, 2, log=True)
    return (
        lr + temperature + trial.suggest_int("K", 7, 10) + (trial.suggest_categorical("hidden", ["()", "(0)"]) == "()")
    )


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path, trials = sys.argv[1:]
    storage = JournalStorage(JournalFileBackend(path, lock_obj=JournalFileOpenLock(path)))
    study = optuna.create_study(
        storage=storage, study_name="plain", load_if_exists=True, sampler=optuna.samplers.RandomSampler()
    )
    study.optimize(objective, n_trials=int(trials))
