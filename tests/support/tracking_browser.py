"""Pages of an MLflow server in a real headless Chromium, with a picture of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.parts import require_part

BROWSER = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync --no-first-run"
PICTURES = "MOCO_SCREENSHOTS"
PATIENCE = 180_000  # milliseconds: the pages are large, and the machine may be busy


@dataclass
class Page:
    """`words`: what must stand on it; `shapes`: selectors of what must be drawn on it, each with the least number."""

    url: str
    words: Sequence[str]
    shapes: Mapping[str, int] = field(default_factory=dict)
    width: int = 1800


def pictures_folder(default: Path) -> Path:
    """$MOCO_SCREENSHOTS, else the test's own folder; printed, so that a person can look at them."""
    folder = Path(os.environ.get(PICTURES) or default)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"screenshots: {folder}")
    return folder


def open_pages(pages: Mapping[str, Page], pictures: Path) -> dict[str, str]:
    """The text of each page once everything stands on it."""
    from playwright.sync_api import expect, sync_playwright

    texts = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=require_part("chromium"), args=BROWSER.split(), timeout=PATIENCE
        )
        for name, wanted in pages.items():
            page = browser.new_page(viewport={"width": wanted.width, "height": 1200})
            page.goto(wanted.url, timeout=PATIENCE)
            try:
                for word in wanted.words:
                    expect(page.get_by_text(word, exact=True).first).to_be_visible(timeout=PATIENCE)
                for selector, least in wanted.shapes.items():
                    expect(page.locator(selector).nth(least - 1)).to_be_attached(timeout=PATIENCE)
            finally:
                page.screenshot(path=pictures / f"{name}.png")
            texts[name] = page.locator("body").inner_text()
            page.close()
        browser.close()
    return texts
