"""Every shell and Python block of the README and the docs is run, as a newcomer would type it."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recviz.cli
from recviz.commands import measured
from recviz.probes.protocol import EvaluationProtocol
from tests.datasets import make_cifar, make_flat, make_folder, trust_cifar

Command = Callable[..., tuple[int, str, str]]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    ".": "the shell's own",
    "make": "the Makefile's targets: CI runs them",
    "pip": "installs: tests/cli/test_install.py does",
    "git": "needs the network",
    "sbatch": "needs SLURM: tests/cli/test_slurm.py runs the file with a stand-in",
    "torchrun": "needs several machines",
    "python": "benchmarks, which take minutes",
}
"""Commands that blocks hold besides recviz, and why they are not run here."""

NOT_RUN_WITH = {
    "vicreg": "downloads the authors' weights: tests/weights/test_weights.py reads files of that form",
    "ddp": "starts processes: tests/cli/test_probe.py and tests/ddp do",
    "s3://bucket/packed": "needs a bucket: tests/data/packed/test_packed.py reads addresses",
    "--replay": "needs a run that ended at NaN or Inf: tests/cli/test_replay.py",
    "NAME": "needs a dataset of the hub: tests/data/test_huggingface.py reads one from a disk",
}
"""Words of recviz commands that are not run here, and why; those of fit are still parsed."""

TINY = "--trainer.accelerator cpu --trainer.devices 1 --trainer.strategy auto --trainer.precision 32-true"
SMALL = {
    "folder.yaml": f"--trainer.max_epochs 1 --data.batch_size 4 --data.num_workers 0 --data.views.size 32 {TINY}",
    "quickstart.yaml": f"--trainer.max_epochs 2 --data.train_size 40 --data.val_size 20 --data.batch_size 10 {TINY} "
    "--trainer.callbacks null --model.backbone.width 0.125",
}
"""By recipe, what makes a run short; runs of other recipes are parsed and set up no further."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's shell blocks, in order."""
    text = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if shlex.split(line, comments=True)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, two runs that were probed, and a classifier: what the pages speak of."""
    root = tmp_path_factory.mktemp("docs")
    make_folder(root / "photos", classes=2, per_class=24)
    make_flat(root / "flat", 12)
    make_cifar(root / "data", "cifar10", 300)
    shutil.copy(root / "flat/000.png", root / "photo.png")
    (root / "scenes").mkdir()
    for i in range(3):
        np.save(root / f"scenes/{i}.npy", np.random.default_rng(i).integers(0, 9000, (6, 12, 12)).astype(np.uint16))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        fit = "fit --config folder.yaml --data.root photos --model.backbone.stem cifar --model.backbone.width 0.125 "
        fit += f"--model.projector_dims [16,16] {SMALL['folder.yaml']}"
        for name in "ab":
            assert recviz.cli.main([*fit.split(), "--run_dir", f"runs/{name}"]) == 0
        probe = "probe --ckpt_path runs/a/checkpoints/last.ckpt --no-cache --save probe.ckpt"
        assert recviz.cli.main(probe.split()) == 0
    return root


def as_tested(words: list[str]) -> list[str]:
    """A command of recviz, made short."""
    words = words[1:]
    if words[0] == "study":
        return [*words, "--dry_run", "true"]
    if words[0] == "probe" and {"official", "finetune"} & {*words} and "--epochs" not in words:
        return [*words, "--epochs", "1", *(["--data.fraction", "0.5"] if "finetune" in words else [])]
    if words[0] not in ("fit", "views") or "--print_config" in words or "--resume" in words:
        return words
    recipe = words[words.index("--config") + 1]
    small = SMALL.get(recipe, SMALL["quickstart.yaml"] if recipe.startswith("runs/first") else None)
    if small is None or set(words) & NOT_RUN_WITH.keys():
        return [*words, "--print_config"]
    return [*words, *small.split()]


SHELL = [
    pytest.param(page, marks=() if page.stem in ("README", "index") else pytest.mark.slow, id=page.stem)
    for page in PAGES
    if commands(page)
]


@pytest.mark.parametrize("page", SHELL)
def test_shell_blocks(page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_cifar(monkeypatch)
    shutil.copytree(world, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(measured, "TRIAL", 5)
    for words in commands(page):
        if words[0] != "recviz":
            assert words[0] in NOT_RUN, f"nobody says why {words[0]} is not run"
            continue
        if "--replay" in words or (words[1] != "fit" and set(words) & NOT_RUN_WITH.keys()):
            continue
        words, to = (words[:-2], words[-1]) if words[-2] == ">" else (words, None)
        out, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
            code = recviz.cli.main(as_tested(words))
        judged = "too few steps" in out.getvalue() and words[1] == "check"  # of the run of this test
        assert code == judged, f"{' '.join(words)}\n{out.getvalue()}{said.getvalue()}"
        if to is not None:
            Path(to).write_text(out.getvalue())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_blocks(page: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "runs", "runs")
    shutil.copytree("runs/a", "runs/first")
    shutil.copy(world / "scenes/0.npy", "scene.npy")
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)
    if page.stem == "contributing":
        assert all(hasattr(names["NearestMean"], name) for name in EvaluationProtocol.__annotations__)


def test_examples_of_additions_are_short() -> None:
    for block in blocks(ROOT / "docs/contributing.md", "python"):
        assert block.count("\n") < 60


def test_every_block_has_a_language_that_is_tested() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for language in re.findall(r"^```(.*)\n(?:.*\n)*?```", text, re.MULTILINE):
            assert language in ("sh", "python", "text"), f"{page.name}: a block of {language or 'no language'}"


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if not link.startswith("http"):
            target, _, anchor = link.partition("#")
            assert (ROOT / target).exists(), link
            assert not anchor or anchor in headings(ROOT / target), link


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as a forge names them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "site" / f"{page.stem}.html").is_file()
