"""Renders pages/*.html, templates of jinja2. Each page opens offline and loads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES = Path(__file__).parent / "pages"


def rendered(name: str, **content: Any) -> str:
    """The page NAME.html, which extends frame.html. Values are escaped; names that are not UTF-8 get question marks.

    Args:
        name: of the template.
        content: its values; those of a script go through the filter tojson.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(PAGES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(f"{name}.html").render(**content).encode("utf-8", "replace").decode()


def plotly() -> str:
    """Plotly's script (plotly.js, MIT), to be inlined."""
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script
