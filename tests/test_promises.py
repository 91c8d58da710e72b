"""Each promise of docs/promises.md names the test that holds it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/promises.md").read_text(encoding="utf-8")


def test_the_tests_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 25
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{path}::{name}"


def test_each_promise_has_one() -> None:
    promised = PAGE.partition("## Not promised")[0].partition("## Resume")[2]
    for paragraph in promised.strip().split("\n\n"):
        if paragraph.startswith(("##", "The threat")):
            continue
        assert re.search(r"^: `tests/", paragraph, re.MULTILINE), paragraph
