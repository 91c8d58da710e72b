"""Pages of pages/*.html, filled in. Each opens offline and may load nothing from anywhere."""

from __future__ import annotations

from pathlib import Path

PAGES = Path(__file__).parent / "pages"


def filled(name: str, **parts: str) -> str:
    """A page with each <!--name--> replaced by HTML.

    Args:
        name: of the page.
        parts: HTML by name; what comes from users is escaped.
    """
    page = (PAGES / f"{name}.html").read_text(encoding="utf-8")
    for part, text in parts.items():
        page = page.replace(f"<!--{part}-->", text)
    return page
