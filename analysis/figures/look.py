"""What all figures share.

    house_style, COLOURS, MARKERS    the style
    picture, caption                 a new figure, and the small print below it
    save, inline_svg                 the figure as a file, and as an element of a page

Nothing is kept in pyplot: a figure is a `Picture`, and the style holds while it is drawn.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import matplotlib
import seaborn as sns
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.style import BLUE, FIGURE_FORMATS, INK, LINE, MUTED, PAPER
from experiments.store.metrics import unit_of
from experiments.store.summary import t_interval

DOTS_PER_INCH: Final = 200
SMALLEST: Final = 0.69  # of its drawn size, in a narrow page

# seaborn's colour-blind palette without its yellow, too light on paper; its grey, used for published numbers; and its light
# blue, which the first blue becomes in a page's dark mode.
COLOURS: Final = [sns.color_palette("colorblind")[i] for i in (0, 1, 2, 4, 3, 5, 6)]
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")

# In a page the figure takes the page's colours (style.CSS), which differ in light and dark mode.
_PAGE_COLOURS: Final = {
    to_hex(COLOURS[0]): f"var(--high, {BLUE})",
    INK: "currentColor",
    MUTED: f"var(--muted, {MUTED})",
    LINE: f"var(--line, {LINE})",
    PAPER: f"var(--paper, {PAPER})",
}

_LOOK: Final[dict[str, Any]] = {
    **sns.plotting_context("paper"),
    **sns.axes_style("ticks"),
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "axes.titlepad": 9,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],  # the first is what the layout is made with
    "figure.constrained_layout.wspace": 0.06,
    "svg.hashsalt": "analysis",  # the same figure is the same file
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and restyled
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": DOTS_PER_INCH,
}


class Picture(Figure):
    """A figure that notebooks show as SVG, and that pyplot's global list does not keep alive."""

    def _repr_svg_(self) -> str:
        return inline_svg(self, "")


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib's settings for our figures; the caller's own are restored at the end."""
    with matplotlib.rc_context(cast(Any, _LOOK)):
        yield


def picture(width: float, height: float) -> Picture:
    """An empty figure, in inches."""
    return Picture(figsize=(width, height), layout="constrained")


def caption(figure: Figure, text: str) -> None:
    """Small print below the panels, wrapped to the figure's width."""
    characters = int(figure.get_figwidth() * 19)
    figure.supxlabel("\n".join(textwrap.wrap(text, characters)), x=0.01, ha="left", fontsize=7, color=MUTED)


def shortened(name: str, limit: int) -> str:
    """A name without its middle, if it is too long: names of arms differ at their ends."""
    if len(name) <= limit:
        return name
    front = (limit - 1) // 2
    return f"{name[:front]}…{name[len(name) - (limit - 1 - front) :]}"


def error_bar(values: Iterable[float]) -> tuple[float, float]:
    """The 95 % t interval, for seaborn's `errorbar`, whose own default covers 75 % at n = 3."""
    known = [float(v) for v in values]
    return t_interval(known) or (known[0], known[0])


def interval_of(values: Sequence[float], readout: str) -> tuple[float, float]:
    """`error_bar` of a readout, within what it can be: the true mean of percentages is in 0 to 100, whatever t says."""
    low, high = error_bar(values)
    if unit_of(readout) != "%":
        return low, high
    mean = sum(values) / len(values)
    return min(mean, max(0.0, low)), max(mean, min(100.0, high))


def n_seeds(counts: Sequence[int]) -> str:
    """`n = 5 seeds per arm`, `n = 3 to 5 seeds per arm`."""
    low, high = min(counts), max(counts)
    return f"n = {low} seed{'s' if low > 1 else ''} per arm" if low == high else f"n = {low} to {high} seeds per arm"


def save(figure: Figure, path: Path) -> None:
    """Vector or pixels by suffix (`FIGURE_FORMATS`); the folder is made. `ValueError` for another suffix."""
    suffix = path.suffix.lstrip(".").lower()
    if suffix not in FIGURE_FORMATS:
        raise ValueError(f"{path}: a figure is written as {', '.join('.' + s for s in FIGURE_FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with house_style():
        figure.savefig(path, metadata=dated[suffix])


def inline_svg(figure: Figure, label: str) -> str:
    """The figure as an element of a page, with the page's text colour and background, in light and dark mode."""
    out = io.StringIO()
    with house_style():
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for ours, theirs in _PAGE_COLOURS.items():
        svg = svg.replace(ours, theirs)
    width = figure.get_figwidth() * 96
    # Smaller than that, its text could not be read; a narrow page scrolls it instead.
    size = f"width:100%;min-width:{SMALLEST * width:.0f}px;max-width:{width:.0f}px;height:auto"
    head = f'<svg role="img" aria-label="{label}" style="{size}"'
    return svg.replace("<svg", head, 1)
