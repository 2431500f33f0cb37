"""`page`: an HTML page from a template beside this file, in one file, without scripts and network.

jinja2 escapes every value; `| safe` marks what is markup already: style sheets, matplotlib's SVG, the table of `formats`.
"""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.style import CSS
from analysis.words import NOTHING

FOLDER = Path(__file__).parent


def page(template: str, **values: object) -> str:
    """The whole document. Raises jinja2's UndefinedError for a value that the template needs and that is not given."""
    pages = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = CSS + (FOLDER / "page.css").read_text(encoding="utf-8")
    return pages.get_template(template).render(css=css, nothing=NOTHING, **values) + "\n"
