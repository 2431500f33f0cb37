"""Colours and styles of tables, figures and reports. The colours are Okabe and Ito's, safe for the colour-blind."""

from __future__ import annotations

from pathlib import Path
from typing import Final

INK: Final = "#1d2126"
MUTED: Final = "#6b727b"
LINE: Final = "#d9dce0"
FIGURE_FORMATS: Final = ("svg", "pdf", "png")
PAPER: Final = "#ffffff"
BLUE: Final = "#0072b2"
VERMILLION: Final = "#d55e00"
# The same on a dark page, as in table.css.
DARK_INK, DARK_MUTED, DARK_LINE, DARK_PAPER, DARK_BLUE = "#e4e7eb", "#98a1ab", "#343a41", "#15181c", "#56b4e9"

# Of a table as a fragment. Everything is inside .ablation, so that it can be pasted into any page.
CSS: Final = (Path(__file__).parent / "table.css").read_text(encoding="utf-8")
