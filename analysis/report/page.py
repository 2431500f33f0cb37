"""Pages from the templates beside this file: one file each, no script, no network. Every value is escaped by jinja2.

`| safe` stands for what is markup already: the style sheets, matplotlib's SVG and the table that `formats` writes.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.style import CSS
from analysis.words import NOTHING

FOLDER = Path(__file__).parent


def page(template: str, **values: object) -> str:
    """A whole document. A name that the template uses and nobody gives is an error."""
    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = CSS + (FOLDER / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(css=css, nothing=NOTHING, **values) + "\n"
