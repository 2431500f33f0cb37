"""`look`: one HTML page with the augmented views of a config and, of a finished network, what it has learned."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from experiments.launch.grid import paragraph
from experiments.plan.overrides import base_configs
from experiments.plan.parser import AddVerb, add_set
from experiments.plan.proposal import start
from experiments.plan.registry import baselines
from experiments.run.machine import visible_gpus
from experiments.state.find import find
from experiments.store.run import runs_root
from experiments.tracking.lookup import run_id_of
from moco.config import Config

DESCRIPTION = """Views, nearest neighbours, the embedding in two dimensions, confusions and mistakes, on training and
validation images; the test split is not opened. Without a target: the views of --baseline, before anything is trained.
The views of all arms of a sweep: its own flag --look."""


def register(add: AddVerb) -> None:
    verb = add(
        "look", help="one page of pictures: views, neighbours, mistakes", allow_abbrev=False, description=DESCRIPTION
    )
    verb.add_argument(
        "target", nargs="?", metavar="RUN", help="any name `find` knows, a run directory, a file of weights"
    )
    verb.add_argument("--baseline", metavar="NAME", help=f"whose images and augmentation: {', '.join(baselines())}")
    add_set(verb)
    verb.add_argument("--out", type=Path, metavar="FILE", help="default: look.html, or look-NAME.html")
    verb.add_argument("--layout", choices=("pca", "tsne"), default="pca", help="of the embedding (default: pca)")
    verb.add_argument("--features", type=Path, metavar="FILE", help="write the features, too: .parquet or .npy")
    verb.add_argument("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: as the run was trained)")
    verb.set_defaults(run=look)


def look(options: argparse.Namespace, command: str) -> int:
    base = None
    if options.baseline and options.target:
        base = base_configs(options.baseline, options.set)[0]
    elif options.baseline:  # what would be trained
        begun = start(options.baseline, options.set, gpu=bool(visible_gpus()))
        base = begun.base
        if begun.line:
            print("\n".join(paragraph(begun.line)))
    if options.set and base is None:
        raise ValueError("--set: changes what --baseline NAME says, and there is none")
    if options.features:
        from experiments.evaluate.look.export import check

        check(options.features)
    if options.target:
        return _learned(options, base)
    for flag, value in (("--features", options.features), ("--device", options.device)):
        if value:
            raise ValueError(f"{flag} {value}: of a finished network; name a run or a file of weights")
    if base is None:
        raise ValueError("look: name a run or a file of weights, or give --baseline NAME to see its views")
    title = f"{options.baseline}: what it is shown"
    return write_views({options.baseline: base}, title, command, options.out or Path("look.html"))


def write_views(arms: Mapping[str, Config], title: str, command: str, out: Path) -> int:
    """Write a page with the views of each arm. Raises ValueError for a file that is no page."""
    from experiments.evaluate.look.page import page
    from experiments.evaluate.look.sprite import Sprite
    from experiments.evaluate.look.views import view_rows

    _check_page(out)
    sprite = Sprite()
    rows = view_rows(arms, sprite)
    configs = list(arms.values())
    facts = {"images": " and ".join(dict.fromkeys(_images(config) for config in configs)), "made by": command}
    return _write(out, page(title, facts, rows, None, sprite))


def _learned(options: argparse.Namespace, base: Config | None) -> int:
    from experiments.evaluate.look.export import write
    from experiments.evaluate.look.learned import class_rows, dots, learned, mistakes
    from experiments.evaluate.look.page import Known, page
    from experiments.evaluate.look.sprite import Sprite
    from experiments.evaluate.look.views import view_rows

    path, name = _target(options.target)
    out: Path = options.out or Path(f"look-{name}.html")
    _check_page(out)
    sprite = Sprite()
    found = learned(path, base, options.device, sprite)
    laid, how = dots(found, options.layout, sprite)
    known = Known(found, laid, how, class_rows(found), mistakes(found, sprite))
    facts = {
        "weights": str(path),
        "images": _images(found.config),
        "network": f"{type(found.config.encoder).__name__}, {found.validation_VD.shape[1]} features",
    }
    _write(out, page(name, facts, view_rows({"": found.config}, sprite), known, sprite))
    if options.features:
        print(write(found, options.features))
    return 0


def _target(target: str) -> tuple[Path, str]:
    """The run directory or file, and a name for the page."""
    path = Path(target)
    if path.exists():
        return path, path.stem
    root = runs_root()
    found = find(root, target, tracked=run_id_of)
    if len(found) > 1:
        ids = ", ".join(f"{run.run_id} ({run.name})" for run in found[:6]) + (", ..." if len(found) > 6 else "")
        raise ValueError(f"{target}: names {len(found)} runs; choose one, by its run id: {ids}")
    return root / found[0].run_id, found[0].name.replace(" ", "-")


def _images(config: Config) -> str:
    where = f" in {config.data.root}" if config.data.root else ""
    return f"{config.data.name}{where}, {config.data.image_size} pixels"


def _check_page(out: Path) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out {out}: the page is HTML; end it in .html")


def _write(out: Path, text: str) -> int:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)
    return 0
