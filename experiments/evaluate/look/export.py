"""`--features FILE`: the features of the training and validation images, for other tools."""

from __future__ import annotations

from pathlib import Path

from experiments.evaluate.look.learned import Learned

SUFFIXES = (".parquet", ".npy")


def check(file: Path) -> None:
    if file.suffix not in SUFFIXES:
        raise ValueError(f"--features {file}: end it in {' or '.join(SUFFIXES)}")


def write(found: Learned, file: Path) -> str:
    """Write the file and return what it holds, in one line. The rows are the training images, then the validation images."""
    import torch

    check(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    features_MD = torch.cat([found.train_ND, found.validation_VD]).float().numpy()
    labels = torch.cat([found.train_labels_N, found.labels_V]).tolist()
    splits = ["train"] * len(found.train_ND) + ["validation"] * len(found.validation_VD)
    count, width = features_MD.shape
    shape = f"{count:,} x {width:,}, float32; {len(found.train_ND):,} training images, then validation"
    if file.suffix == ".npy":
        import numpy

        numpy.save(file, features_MD)
        return f"{file}: {shape}"
    import pyarrow
    from pyarrow import parquet

    columns = {
        "split": splits,
        "label": labels,
        "class": [found.classes[label] if label >= 0 else None for label in labels],
        "features": pyarrow.FixedSizeListArray.from_arrays(features_MD.ravel(), width),
    }
    parquet.write_table(pyarrow.table(columns), file)
    return f"{file}: {shape}, with split, label and class"
