"""The README's lists of sweeps, baselines, image sets and readouts, from where each of these is written.

    python -m tests.support.readme_lists --write

fills in what stands between `<!-- sweeps -->` and `<!-- /sweeps -->` and so on; without --write it says whether one is behind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments import Sweep
from experiments.plan.registry import baselines
from experiments.store.metrics import PROTOCOLS
from moco.data.catalog import FOLDER, SetFacts, sets
from sweeps import questions

README = Path(__file__).parents[2] / "README.md"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"|{'|'.join(cell if cell == '---' else f' {cell} ' for cell in line)}|" for line in lines)


def sweep_list() -> str:
    rows = []
    for name, asked in questions().items():
        expected = asked.claim_in_words if isinstance(asked, Sweep) else "Optuna, see below"
        published = asked.published_source if isinstance(asked, Sweep) else ""
        rows.append([f"`{name}`", asked.question, expected, published])
    return table(["sweep", "question", "expected", "beside published numbers of"], rows)


def baseline_list() -> str:
    rows = ([f"`{name}`", first_sentence(make)] for name, make in baselines().items())
    return table(["baseline", "what it is"], rows)


def first_sentence(make: Callable[..., object]) -> str:
    """Of the docstring: up to the first full stop that ends a word or the paragraph."""
    words = " ".join((make.__doc__ or "").partition("\n\n")[0].split())
    found = re.match(r".*?[.](?=\s|$)", words)
    return (found[0] if found else words).removesuffix(".").replace("<", "&lt;")


def set_list() -> str:
    rows = []
    for name, facts in sets().items():
        labels = " without labels" if facts.unlabelled else ""
        rows.append([f"`{name}`", f"{facts.unlabelled or facts.train:,}{labels}", f"{facts.classes:,}", source(facts)])
    rows.append([f"`{FOLDER}`", "yours", "yours", "`data.root=DIR`: `DIR/train/<class>/*`, `DIR/val/<class>/*`"])
    return table(["`data.name`", "images to pre-train on, before any are held out", "classes", "comes"], rows)


def source(facts: SetFacts) -> str:
    if not facts.present:
        return "with the package"
    return "by torchvision, over the network" if facts.downloads else "by hand, none is downloaded"


def readout_list() -> str:
    return table(["`--protocol`", "what it is"], ([f"`{name}`", what] for name, what in PROTOCOLS.items()))


LISTS = {"sweeps": sweep_list, "baselines": baseline_list, "image sets": set_list, "readouts": readout_list}


def filled(text: str) -> str:
    """The text with every list as it is now. Raises ValueError for a list whose marks are not there."""
    for name, make in LISTS.items():
        first, last = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        before, found, rest = text.partition(first)
        _, ended, after = rest.partition(last)
        if not found or not ended:
            raise ValueError(f"{README.name}: the marks {first.strip()} and {last.strip()} are not there")
        text = before + first + make() + last + after
    return text


def main() -> int:
    text = README.read_text()
    if (new := filled(text)) == text:
        print("the lists are as they should be")
        return 0
    if "--write" not in sys.argv[1:]:
        print("a list is behind; --write brings it up to date")
        return 1
    README.write_text(new)
    print("written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
