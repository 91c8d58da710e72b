"""The package as a stranger gets it: a wheel in a fresh environment, used from an empty folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_wheel_works_outside_the_source_tree(tmp_path: Path) -> None:
    """Recipes, class list and type marker are in the wheel. Torch and the rest come from this environment."""
    sources = tmp_path / "source"
    sources.mkdir()
    for name in ("src", "configs"):
        shutil.copytree(SOURCE / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(SOURCE / name, sources / name)
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", str(sources)]
    subprocess.run(install, check=True, timeout=300, cwd=tmp_path)
    site = next((environment / "lib").glob("python*")) / "site-packages"
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*args: str) -> str:
        done = subprocess.run(
            [str(environment / "bin" / "recviz"), *args], capture_output=True, text=True, timeout=240, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    location = subprocess.run(
        [str(python), "-c", "import recviz; print(recviz.__file__)"], capture_output=True, text=True, cwd=tmp_path
    )
    assert str(environment) in location.stdout
    assert (site / "recviz" / "py.typed").is_file()
    assert (site / "recviz" / "data" / "imagenet100_classes.txt").is_file()
    assert run("--version").startswith("recviz ")
    metadata = [str(python), "-c", "from importlib.metadata import metadata; print(metadata('recviz-ssl')['Name'])"]
    assert subprocess.run(metadata, capture_output=True, text=True, cwd=tmp_path).stdout == "recviz-ssl\n"
    assert "PatternsDataModule" in run("fit", "--config", "quickstart.yaml", "--print_config")
    small = ["--data.train_size", "64", "--data.val_size", "20", "--data.batch_size", "16"]
    out = run("fit", "--config", "quickstart", *small, "--trainer.max_epochs", "1", "--run_dir", "run")
    assert "next:" in out
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
