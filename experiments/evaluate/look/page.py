"""The page: one file without scripts and network, light or dark, from the template beside this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.evaluate.look.learned import ClassRow, Dot, Learned, Mistake, QueryRow
from experiments.evaluate.look.sprite import COLUMNS, Sprite
from experiments.evaluate.look.views import ViewRow

FOLDER = Path(__file__).parent
SIDE = 620  # of the plane, in its own units
EDGE = 14


@dataclass(frozen=True)
class Mark:
    """How a class is drawn: a colour and a shape, so that it is told apart without colours, too."""

    colour: int
    shape: str  # of an SVG path around (0, 0)


SHAPES = (
    "M-4.5,0a4.5,4.5 0 1,0 9,0a4.5,4.5 0 1,0 -9,0z",  # circle
    "M-4,-4h8v8h-8z",  # square
    "M0,-5L5,4H-5z",  # triangle
    "M0,-5.5L5.5,0L0,5.5L-5.5,0z",  # diamond
    "M-5,-4H5L0,5z",  # triangle, down
)
COLOURS = 8  # in look.css


def mark(kind: int) -> Mark:
    return Mark(kind % COLOURS, SHAPES[kind % len(SHAPES)])


def across(x: float) -> float:
    """A coordinate of -1 to 1 in the units of the plane."""
    return round(EDGE + (x + 1) / 2 * (SIDE - 2 * EDGE), 1)


@dataclass(frozen=True)
class Known:
    """What the page shows of a finished network."""

    found: Learned
    dots: Sequence[Dot]
    how: str
    classes: Sequence[ClassRow]
    mistakes: Sequence[Mistake]

    @property
    def neighbours(self) -> Sequence[QueryRow]:
        return self.found.neighbours

    @property
    def right(self) -> float:
        """Percent of the validation images that the vote takes for what they are."""
        return 100 * float((self.found.votes_VC.argmax(1) == self.found.labels_V).double().mean())


def page(title: str, facts: Mapping[str, str], views: Sequence[ViewRow], known: Known | None, sprite: Sprite) -> str:
    """The whole document."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (FOLDER / "look.css").read_text(encoding="utf-8")
    return (
        pages.get_template("look.html.j2").render(
            title=title,
            facts=facts,
            views=views,
            known=known,
            sprite=sprite,
            address=sprite.address(),
            css=css,
            mark=mark,
            across=across,
            side=SIDE,
            columns=COLUMNS,
        )
        + "\n"
    )
