"""The house: who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import recviz

SRC = Path(recviz.__file__).parent
FILES = sorted(SRC.rglob("*.py"))

FOUNDATION = {
    "errors", "distributed", "files", "launch.machine", "progress", "version"
}  # fmt: skip
MATH = {"losses", "augment", "backbones", "weights", "projector", "optim", "probes.functional"}
BELOW_RUNS = FOUNDATION | MATH | {"launch", "methods", "data", "callbacks", "probes"}
MAY_IMPORT = {
    "distributed": {"errors"},
    "files": {"errors"},
    **{name: set() for name in ("errors", "launch.machine", "progress", "version")},
    "launch": FOUNDATION,
    **dict.fromkeys(MATH, FOUNDATION | MATH),
    "methods": FOUNDATION | MATH | {"methods"},
    "data": FOUNDATION | MATH | {"launch", "data"},
    "probes": FOUNDATION | MATH | {"launch", "callbacks", "probes"},
    "callbacks": FOUNDATION | MATH | {"launch", "methods", "callbacks"},
    "runs": BELOW_RUNS | {"runs"},
    "reports": BELOW_RUNS | {"runs", "reports"},
}
LIGHTNING_FREE = FOUNDATION | MATH


def room(module: str) -> str:
    """The room of a dotted module name below recviz."""
    parts = module.split(".")
    if parts[0] == "probes" and parts[1:] in (["functional"], ["logistic"], ["spectra"], ["storage"]):
        return "probes.functional"
    return "launch.machine" if parts[:2] == ["launch", "machine"] else parts[0]


def imports(path: Path) -> list[str]:
    """Modules that a file imports, at its top and within, except for type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
            found += [f"{node.module}.{alias.name}" for alias in node.names if node.module == "recviz"]
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_follow_the_arrows(path: Path) -> None:
    here = room(module_name(path))
    if here in ("__init__", "__main__", "cli", "commands"):
        return
    allowed = MAY_IMPORT[here] if path.name != "__init__.py" else MAY_IMPORT[here] | {here}
    for name in imports(path):
        if name.startswith("recviz."):
            target = room(name.removeprefix("recviz."))
            assert target in allowed | {here}, f"{here} may not import {name}"
        if here in LIGHTNING_FREE:
            assert not name.startswith(("lightning", "wandb", "matplotlib", "jsonargparse")), f"{here} imports {name}"


def test_nothing_imports_the_command_line() -> None:
    importers = [module_name(p) for p in FILES if any(re.match(r"recviz\.(cli|commands)", n) for n in imports(p))]
    assert {room(name) for name in importers} <= {"__main__", "cli", "commands"}
    runners = [module_name(p) for p in FILES if any(re.match(r"recviz\.cli\b", n) for n in imports(p))]
    assert runners == ["__main__"], "the command line runs commands; no command runs it"


NAMES = {"config.yaml", "run.json", "metrics.csv", "results.json", "curves.png", "last.ckpt", "checkpoints"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_run_folder_alone_spells_the_names_of_a_runs_files(path: Path) -> None:
    if module_name(path) in ("runs.folder", "backbones.published"):  # the latter's is torch.hub's folder
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not [text for text in texts if " " not in text and set(text.split("/")) & NAMES]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_public_names_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if module_name(path) != "commands.recipes" and path.stat().st_size:
        assert ast.get_docstring(tree), "the module says what it holds"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_import_is_light() -> None:
    code = (
        "import sys, recviz\n"
        "heavy = ['torch', 'lightning', 'wandb', 'matplotlib', 'sklearn', 'torchvision']\n"
        "sys.exit(','.join(name for name in heavy if name in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys\nfrom recviz.cli import main\nmain({args!r})\nsys.exit('torch' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "recviz" in done.stdout


def test_every_public_name_loads() -> None:
    for name in recviz.__all__:
        assert getattr(recviz, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        recviz.nonsense  # noqa: B018


ADDITIONS = {  # each by a word of it: the files of src/recviz that know it
    "an objective": ("NTXent", {"losses/ntxent.py", "methods/simclr.py", "__init__.py"}),
    "a method": ("SimCLR", {"methods/simclr.py", "__init__.py"}),
    "a method with an EMA teacher": ("BYOL", {"methods/byol.py", "losses/byol.py", "__init__.py"}),
    "a dataset": ("ImageNet100", {"data/imagenet100.py", "__init__.py"}),
    "an evaluation protocol": ("Finetune", {"probes/sgd.py", "commands/probe.py"}),
}


def names(path: Path) -> set[str]:
    """Names in a file's code: of classes, functions, variables and imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    return {str(getattr(node, part)) for node in nodes for part in ("name", "id", "attr") if hasattr(node, part)}


@pytest.mark.parametrize("what", ADDITIONS)
def test_what_an_addition_costs(what: str) -> None:
    word, files = ADDITIONS[what]
    knowing = {path.relative_to(SRC).as_posix() for path in FILES if any(word in name for name in names(path))}
    assert knowing == files
