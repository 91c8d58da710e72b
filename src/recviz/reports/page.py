"""Fills in pages/*.html, within pages/frame.html. Each page opens offline and loads nothing."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).parent / "pages"


def filled(name: str, style: str, **parts: str) -> str:
    """The page NAME.html in the style of STYLE.css, with each <!--part--> replaced by its HTML, already escaped."""
    page, body, sheet = (
        (PAGES / file).read_text(encoding="utf-8") for file in ("frame.html", f"{name}.html", f"{style}.css")
    )
    for part, text in {"style": sheet, "body": body, **parts}.items():
        page = page.replace(f"<!--{part}-->", text)
    return page
