"""What the next version of a library may break: its private attributes in use, each with its reason, and no patches."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import recviz

SRC = Path(recviz.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SRC.rglob("*.py"))}
LIBRARIES = ("torch", "torchvision", "lightning", "jsonargparse")

ONE_KERNEL = "one kernel for all parameters, as in torch.optim; torch has no public function of many tensors"
RESIZE = "torch.nn.functional.interpolate lacks `out`, which saves a copy of each image"
PRIVATE = {
    "_foreach_add": ONE_KERNEL,
    "_foreach_add_": ONE_KERNEL,
    "_foreach_addcmul_": ONE_KERNEL,
    "_foreach_mul_": ONE_KERNEL,
    "_foreach_norm": ONE_KERNEL,
    "_dynamo": "mark_dynamic: one program for any batch size; torch.compile(dynamic=True) frees every dimension",
    "_upsample_bicubic2d_aa": RESIZE,
    "_upsample_bilinear2d_aa": RESIZE,
    "_batches_that_stepped": "the step that Lightning gives loggers, which differs from global_step",
    "_logger_connector": "which metrics were logged in this step; callback_metrics keeps older ones beside them",
}
"""Of torch, torchvision, Lightning and jsonargparse: at most ten."""

OTHERS = {"_fingerprint": "what `datasets` knows a table by; a hash of its own would read all rows"}

STANDARD = {"_make", "_asdict", "_replace", "_fields", "_exit"}
"""Names that Python documents: of named tuples, and os._exit."""


def own_names() -> set[str]:
    """Names that recviz itself defines: functions, classes, variables and attributes of its objects."""
    found: set[str] = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    return found


def private_names() -> Iterator[str]:
    """Private attributes and imports in use that recviz does not define."""
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("recviz"):
            yield from [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            yield from (str(part.value) for part in node.args[1:2] if isinstance(part, ast.Constant))


def test_every_private_attribute_of_a_library_has_a_reason() -> None:
    found = {name for name in private_names() if re.match(r"_[a-z]", name)} - own_names() - STANDARD
    assert found == {*PRIVATE, *OTHERS}
    assert len(PRIVATE) <= 10


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(SRC)))
def test_nothing_of_a_library_is_patched(path: Path) -> None:
    nodes = list(ast.walk(TREES[path]))
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] in LIBRARIES
    }
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            assert ast.unparse(node).partition(".")[0] not in imported, ast.unparse(node)


def test_no_class_overrides_what_is_private_to_a_library() -> None:
    for module in pkgutil.walk_packages(recviz.__path__, "recviz."):
        if module.name.endswith("__main__"):
            continue
        for made in vars(import_module(module.name)).values():
            if inspect.isclass(made) and made.__module__ == module.name:
                foreign = [base for base in made.__mro__[1:] if base.__module__.partition(".")[0] in LIBRARIES]
                taken = {name for base in foreign for name in vars(base) if re.match(r"_[a-z]", name)}
                assert not taken & {name for name, value in vars(made).items() if inspect.isfunction(value)}, made
