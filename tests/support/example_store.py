"""The committed store of real runs: the digits, 12 epochs, far from the best a run can do. `tests/example_store/README.md`."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import analysis

STORE = Path(__file__).with_name("example_store")
NOTEBOOKS = Path(analysis.__path__[0]) / "notebooks"


def copied(place: Path) -> Path:
    """A copy that may be written to."""
    shutil.copytree(STORE, place)
    return place


def code_cells(notebook: str) -> list[dict[str, Any]]:
    cells = json.loads((NOTEBOOKS / notebook).read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def executed(notebook: str, **settings: object) -> tuple[dict[str, Any], list[str]]:
    """Run the cells in order, as Jupyter does; the values at the end, and what each cell would show.

    settings: values in place of those that the first cell assigns.
    """
    values: dict[str, Any] = {}
    shown: list[str] = []
    for i, cell in enumerate(code_cells(notebook)):
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), f"{notebook}:{i}", "exec"), values)
        if i == 0:
            assert set(settings) <= set(values)
            values.update(settings)
        if isinstance(last, ast.Expr):
            shown.append(_display(eval(compile(ast.Expression(last.value), f"{notebook}:{i}", "eval"), values)))
    return values, shown


def _display(value: object) -> str:
    """The richest form that a notebook would take."""
    for name in ("_repr_svg_", "_repr_html_"):
        form = getattr(value, name, None)
        if form is not None:
            return str(form())
    return repr(value)
