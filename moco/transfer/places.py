"""The data set of a recipe: the embedded scenes, or VOC and COCO from the user's folder."""

from __future__ import annotations

from pathlib import Path

from moco.transfer.recipes import Recipe
from moco.transfer.samples import Split


def splits(recipe: Recipe, root: Path | None, held_out: str = "test") -> tuple[Split, Split]:
    """What is learned from, and what is judged on. Raises ValueError for a folder that is missing or lacks something."""
    if recipe.data == "scenes":
        from moco.transfer.scenes import scenes

        return scenes("train"), scenes(held_out)
    if held_out != "test":
        raise ValueError(f"--on {held_out}: {recipe.data} has no validation split of ours; choose on the scenes")
    if root is None:
        raise ValueError(f"--data {recipe.data}: say where it is, --root DIR; nothing is downloaded")
    if not root.is_dir():
        raise ValueError(f"--root {root}: no such folder")
    if recipe.data == "voc":
        from moco.transfer.voc import VOC

        segmentation = recipe.task == "segmentation"
        return VOC(root, "train", segmentation=segmentation), VOC(root, "test", segmentation=segmentation)
    from moco.transfer.coco import COCO

    masks = recipe.task == "instance"
    return COCO(root, "train", masks=masks), COCO(root, "test", masks=masks)
