"""`dressed`: a figure for where it will stand. A paper's column is so wide, has its own font and captions; slides are dark.

The size of the text stays: a narrower figure is laid out anew, not shrunk.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
from matplotlib import font_manager
from matplotlib.collections import Collection
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from analysis.figures.look import COLOURS, Picture, caption, house_style
from analysis.style import DARK_BLUE, DARK_INK, DARK_LINE, DARK_MUTED, DARK_PAPER, INK, LINE, MUTED, PAPER

UNITS: Final = {"": 1.0, "in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # TeX's point
NARROWEST, WIDEST = 1.5, 40.0  # inches
LEAST_PANEL: Final = 0.8  # inches of a panel's width; narrower ones cannot be read
LINE_INCHES: Final = 0.125  # of a caption

_IN_THE_DARK: Final = {
    INK: DARK_INK,
    MUTED: DARK_MUTED,
    LINE: DARK_LINE,
    PAPER: DARK_PAPER,
    to_hex(COLOURS[0]): DARK_BLUE,
}


@dataclass(frozen=True)
class Dress:
    """width: inches, None as it was drawn. font: a family that is installed."""

    width: float | None = None
    font: str | None = None
    caption: bool = True
    dark: bool = False


def inches(text: str) -> float:
    """`3.25`, `3.25in`, `8.5cm`, `85mm`, `246pt`. Raises ValueError for anything else, and for a width out of reason."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(in|cm|mm|pt|)", text.strip())
    if match is None:
        raise ValueError(
            f"--width {text}: write a number of inches, or with a unit, such as 3.25in, 8.5cm, 85mm, 246pt"
        )
    width = float(match[1]) * UNITS[match[2]]
    if not NARROWEST <= width <= WIDEST:
        raise ValueError(f"--width {text}: must be from {NARROWEST:g} to {WIDEST:g} inches")
    return width


def dressed(figure: Picture, dress: Dress) -> Picture:
    """The same figure, changed. Raises ValueError for an unknown font, and where its words have no room in the width."""
    if dress.font is not None:
        check_font(dress.font)
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "constrained_layout not applied")  # `_check_room` says so in one line
        if not dress.caption:
            _without_caption(figure)
        if dress.width is not None:
            _resize(figure, dress.width)
        figure.draw_without_rendering()
        if dress.font is not None:
            for text in figure.findobj(Text):
                text.set_fontfamily(dress.font)
        if dress.width is not None:
            _turn_ticks(figure)
            _check_room(figure, dress.width)
        if dress.dark:
            darken(figure)
    return figure


def check_font(name: str) -> None:
    known = sorted({entry.name for entry in font_manager.fontManager.ttflist})
    if name not in known:
        near = difflib.get_close_matches(name, known, 3, 0.6) or [n for n in known if n.startswith("DejaVu")]
        raise ValueError(f"--font {name}: not installed here; there are {', '.join(near)}, among {len(known)}")


def _without_caption(figure: Any) -> None:
    if figure._supxlabel is not None:
        figure._supxlabel.remove()
        figure._supxlabel = None


def _resize(figure: Figure, width: float) -> None:
    """The panels keep their height; the caption is wrapped anew, and has the lines that it takes."""
    small, height = figure.get_supxlabel(), figure.get_figheight()
    figure.set_size_inches(width, height)
    if small:
        caption(figure, " ".join(small.split()))
        more = figure.get_supxlabel().count("\n") - small.count("\n")
        figure.set_size_inches(width, height + LINE_INCHES * more)


def _turn_ticks(figure: Figure) -> None:
    """Labels below a panel that would lie on each other are turned."""
    figure.draw_without_rendering()
    for ax in figure.axes:
        labels = [t for t in ax.get_xticklabels() if t.get_text().strip() and t.get_visible()]
        boxes = [label.get_window_extent() for label in labels]
        if any(a.overlaps(b) for a, b in combinations(boxes, 2)):
            ax.tick_params(axis="x", labelrotation=35)
            for label in labels:
                label.set(ha="right", rotation_mode="anchor")
            texts = [label.get_text() for label in ax.get_xticklabels()]
            if any("\n" in text for text in texts):  # a second line, which says what a ring or a gap says too
                first = [text.partition("\n")[0] for text in texts]
                ax.set_xticks(ax.get_xticks(), first, rotation=35, ha="right", rotation_mode="anchor")
    figure.draw_without_rendering()


def _words(figure: Figure) -> Iterator[Text]:
    """What is written level: labels of ticks that are in their panel, and all else."""
    for ax in figure.axes:
        for axis, (low, high) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
            if not axis.get_visible():  # that of a second axis on the same places
                continue
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
            yield from (label for place, label in ticks if low <= place <= high)
        yield from (*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label)
    yield from figure.texts
    for legend in figure.legends:
        yield from legend.get_texts()


def _check_room(figure: Figure, width: float) -> None:
    panels = [ax.get_window_extent().width / figure.dpi for ax in figure.axes]
    boxes = [
        word.get_window_extent().padded(-1)
        for word in _words(figure)
        if word.get_visible() and word.get_text().strip() and word.get_rotation() % 90 == 0
    ]
    page = figure.bbox.padded(1)
    outside = any(not (page.contains(b.x0, b.y0) and page.contains(b.x1, b.y1)) for b in boxes)
    if min(panels, default=width) < LEAST_PANEL or outside or any(a.overlaps(b) for a, b in combinations(boxes, 2)):
        raise ValueError(
            f"--width {width:.3g}in: the words of this figure have no room in it; make it wider, or draw a narrower kind, "
            "such as --kind forest or --kind axis"
        )


def darken(figure: Figure) -> None:
    """The house's colours for a dark page, in place. What shows values by colour keeps its colours."""
    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(_dark(artist.get_color()))
            if (box := artist.get_bbox_patch()) is not None:
                _darken_patch(box)
        elif isinstance(artist, Line2D):
            for name in ("color", "markerfacecolor", "markeredgecolor"):
                artist.set(**{name: _dark(getattr(artist, f"get_{name}")())})
        elif isinstance(artist, Patch):
            _darken_patch(artist)
        elif isinstance(artist, Collection):
            if artist.get_array() is None:
                artist.set_facecolor(_dark_array(artist.get_facecolor()))
            artist.set_edgecolor(_dark_array(artist.get_edgecolor()))


def _darken_patch(patch: Patch) -> None:
    patch.set_facecolor(_dark(patch.get_facecolor()))
    patch.set_edgecolor(_dark(patch.get_edgecolor()))


def _dark(colour: Any) -> Any:
    if isinstance(colour, str) and colour in ("none", "auto", "inherit"):
        return colour
    rgba = to_rgba(colour)
    return (*to_rgba(_IN_THE_DARK[name])[:3], rgba[3]) if (name := to_hex(rgba)) in _IN_THE_DARK else colour


def _dark_array(colours: Any) -> Any:
    if isinstance(colours, str):
        return _dark(colours)
    return np.array([to_rgba(_dark(tuple(rgba))) for rgba in to_rgba_array(colours)]).reshape(-1, 4)
