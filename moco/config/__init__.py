"""What a run is: a tree of frozen values, one group per part of the method. Imports no torch, so a login node plans fast.

A published method is a value of `Config` (see `moco.methods`); an arm of an ablation is a `dataclasses.replace` of it.
Fields marked `cosmetic(...)` (workers, paths, cadence of logs, device) do not change the result and stay out of a run's
identity; fields marked `added(...)` are younger than some finished runs, whose identities they leave as they are. Every
group checks its own ranges when it is built; `Config` checks the mixes. All errors are `ValueError`s that name the value,
what is allowed and what to do.
"""

from moco.config.data import Augment, Data
from moco.config.evaluation import Evaluation
from moco.config.fields import added, cosmetic, require
from moco.config.method import (
    Absent,
    BothViews,
    Classifier,
    CrossEntropy,
    Head,
    InBatch,
    InfoNCE,
    KeyEncoder,
    MemoryBank,
    Momentum,
    Negatives,
    Predictor,
    Queue,
    ResNet,
    Shared,
    ViT,
)
from moco.config.run import Config, check_processes
from moco.config.training import LARS, SGD, AdamW, Cosine, Schedule, Step, Train

SCHEMA_VERSION = 1  # part of every run's identity: raise it when the same config starts to mean another computation

__all__ = [
    "LARS",
    "SCHEMA_VERSION",
    "SGD",
    "Absent",
    "AdamW",
    "Augment",
    "BothViews",
    "Classifier",
    "Config",
    "Cosine",
    "CrossEntropy",
    "Data",
    "Evaluation",
    "Head",
    "InBatch",
    "InfoNCE",
    "KeyEncoder",
    "MemoryBank",
    "Momentum",
    "Negatives",
    "Predictor",
    "Queue",
    "ResNet",
    "Schedule",
    "Shared",
    "Step",
    "Train",
    "ViT",
    "added",
    "check_processes",
    "cosmetic",
    "require",
]
