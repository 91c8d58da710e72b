"""Fills in pages/*.html. Each page opens offline and loads nothing."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).parent / "pages"


def filled(name: str, **parts: str) -> str:
    """A page with each <!--name--> replaced by HTML.

    Args:
        name: of the page.
        parts: HTML by name, already escaped.
    """
    page = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    for part, text in parts.items():
        page = page.replace(f"<!--{part}-->", text)
    return page
