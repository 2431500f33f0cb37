"""`transfer`: fine-tune an encoder for detection and segmentation."""

from __future__ import annotations

import argparse

from experiments.evaluate.weights import add_reading
from experiments.plan.parser import AddVerb
from moco.transfer.recipes import PLACES, RECIPES, TASKS


def register(add: AddVerb) -> None:
    verb = add(
        "transfer",
        help="detection and segmentation with the encoder of a run, a sweep or a file",
        allow_abbrev=False,
        description="Fine-tune torchvision's detectors or segmenters on an encoder. A run, and each finished run of a "
        "sweep, keeps a\nrecord in its transfer/ folder; of a file the readouts are only printed.",
    )
    verb.add_argument("target", metavar="ANY", help="a file of weights, a run directory, or any name `find` knows")
    verb.add_argument("--task", required=True, metavar="NAME", help=", ".join(TASKS))
    verb.add_argument("--data", default="scenes", metavar="NAME", help=f"{', '.join(PLACES)} (default: scenes)")
    verb.add_argument("--root", metavar="DIR", help="where VOC or COCO is; nothing is downloaded")
    verb.add_argument("--recipe", metavar="NAME", help="one of those below (default: the usual one of task and data)")
    verb.add_argument(
        "--set",
        nargs="+",
        action="extend",
        metavar="FIELD=VALUE",
        help="change a field of the recipe, or encoder.* of a file",
    )
    add_reading(verb)
    verb.add_argument(
        "--frozen", action="store_true", help="keep the encoder as it is; short for --set backbone=frozen"
    )
    verb.add_argument(
        "--on", default="test", metavar="SPLIT", help="test, or validation to choose a recipe by (scenes)"
    )
    verb.add_argument("--random-init", action="store_true", help="of one run or file: an untrained encoder besides")
    verb.add_argument(
        "--baseline", metavar="NAME", help="whose pixel statistics a file of another tool was trained with"
    )
    verb.add_argument("--seed", type=int, metavar="N", help="of a file: seed of the fine-tuning")
    verb.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images (default: none)")
    verb.add_argument("--max-parallel", type=int, metavar="N", help="of a sweep, runs at a time")
    verb.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N (default: auto)")
    verb.formatter_class, verb.epilog = argparse.RawDescriptionHelpFormatter, _recipes()
    verb.set_defaults(run=transfer)


def _recipes() -> str:
    width = max(map(len, RECIPES))
    lines = [f"  {name:<{width}}  {(make.__doc__ or '').partition(chr(10))[0]}" for name, make in RECIPES.items()]
    return "recipes:\n" + "\n".join(lines)


def transfer(options: argparse.Namespace, command: str) -> int:
    from experiments.evaluate.transfer.verb import transfer as carry_out

    return carry_out(options, command)
