"""Strangers' files: nothing in them is executed, and each costs one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

import recviz.cli
from tests.cli.bad_inputs import bad_world

pytestmark = [  # torch.jit makes a hostile file, and jsonargparse warns of the modules that these name
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]

Command = Callable[..., tuple[int, str, str]]

watched: list[str] = []
"""Programs that were started and code that was compiled while a test had the trap set."""


class Executes:
    """A pickle that runs a command where it is loaded."""

    def __init__(self, function: Any = os.system, argument: str = "touch executed") -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> Any:
        return self.function, (self.argument,)


class Fills:
    """A pickle that runs a command by what it does to an object after making it."""

    def __reduce__(self) -> Any:
        return dict, (), {}, None, iter([("x", Executes())])


def audit(event: str, args: Any) -> None:
    if TRAP and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"):
        if "sys.path" in str(args):  # torch asks Python for its own
            return
        watched.append(f"{event} {args}")


TRAP: list[bool] = []
sys.addaudithook(audit)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    bad_world(root)
    return root


@pytest.fixture
def trap() -> Iterator[None]:
    watched.clear()
    TRAP.append(True)
    yield
    TRAP.clear()


# Checkpoints, made from a good one


def with_extra(extra: Any) -> Callable[[Path, Path], None]:
    def make(good: Path, bad: Path) -> None:
        torch.save({**torch.load(good, weights_only=True), "extra": extra}, bad)

    return make


def with_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    """Harmless tensors, and settings that are not."""

    def make(good: Path, bad: Path) -> None:
        content = torch.load(good, weights_only=True)
        settings = yaml.safe_load(content["recviz"]["config"])
        changed = change(settings)
        content["recviz"]["config"] = changed if isinstance(changed, str) else yaml.safe_dump(settings)
        torch.save(content, bad)

    return make


def bare_pickle(good: Path, bad: Path) -> None:
    bad.write_bytes(pickle.dumps(Executes()))


def old_format(good: Path, bad: Path) -> None:
    content = {"state_dict": {"w": torch.zeros(2)}, "x": Executes()}
    torch.save(content, bad, _use_new_zipfile_serialization=False)


def tar_format(good: Path, bad: Path) -> None:
    with tarfile.open(bad, "w") as tar:
        for name in ("../climbs", "storages", "tensors", "pickle"):
            data = pickle.dumps(Executes())
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def program(good: Path, bad: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(str(bad))


def zip_bomb(good: Path, bad: Path) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for part in source.infolist():
            if part.filename.endswith("data.pkl"):
                with target.open(zipfile.ZipInfo(part.filename), "w", force_zip64=True):
                    pass
            else:
                target.writestr(part, source.read(part))
    with zipfile.ZipFile(bad, "a", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/bomb.pkl", bytes(20_000_000))


def deflated(good: Path, bad: Path) -> None:
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part) + bytes(5_000_000))


def two_lists(good: Path, bad: Path) -> None:
    """An archive that Python's reader takes for stored parts, and torch's for compressed ones."""
    deflated(good, bad)
    data = bytearray(bad.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    size, offset = struct.unpack("<II", data[end + 12 : end + 20])
    stored = bytearray(data[offset : offset + size])
    at = 0
    while at < len(stored):
        stored[at + 10 : at + 12] = b"\0\0"
        stored[at + 42 : at + 46] = struct.pack("<I", max(0, struct.unpack("<I", stored[at + 42 : at + 46])[0]))
        name, extra, comment = struct.unpack("<HHH", stored[at + 28 : at + 34])
        at += 46 + name + extra + comment
    bad.write_bytes(bytes(data[:end]) + bytes(stored) + bytes(data[end:]))


def climbing_zip(good: Path, bad: Path) -> None:
    with zipfile.ZipFile(bad, "w") as target:
        target.writestr("../../climbs/data.pkl", pickle.dumps(Executes()))
        target.writestr("../../climbs/version", "3")


def backbone(path: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        settings["model"]["init_args"]["backbone"] = {"class_path": path, "init_args": options}

    return change


def data(path: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    def change(settings: dict[str, Any]) -> None:
        settings["data"] = {"class_path": path, "init_args": options}

    return change


def tagged(settings: dict[str, Any]) -> str:
    return "model: !!python/object/apply:os.system ['touch executed']\ndata: {class_path: x}\n"


def laughs(settings: dict[str, Any]) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    return "\n".join([*lines, "data: *a11", "model: *a11"])


CHECKPOINTS: dict[str, Callable[[Path, Path], None]] = {
    "a pickle that calls os.system": with_extra(Executes()),
    "a pickle that calls eval": with_extra(Executes(eval, "__import__('os').system('touch executed')")),
    "a pickle that calls exec": with_extra(Executes(exec, "open('executed', 'w')")),
    "a pickle that opens a file": with_extra(Executes(open, "executed")),
    "a pickle that fills": with_extra(Fills()),
    "a whole module": with_extra(nn.Linear(2, 2)),
    "a bare pickle": bare_pickle,
    "torch's old format": old_format,
    "torch's oldest format": tar_format,
    "a program": program,
    "a zip bomb beside": zip_bomb,
    "a zip bomb within": deflated,
    "a zip of two lists": two_lists,
    "a zip that climbs": climbing_zip,
    "os.system for a backbone": with_config(backbone("os.system", command="touch executed")),
    "subprocess.Popen for a backbone": with_config(backbone("subprocess.Popen", args=["touch", "executed"])),
    "a class that is no module": with_config(backbone("collections.OrderedDict")),
    "a program for a backbone": with_config(backbone("torch.jit.load", f="x.pt")),
    "the hub for a backbone": with_config(backbone("torch.hub.load", repo_or_dir="a/b", model="c")),
    "subprocess.Popen for data": with_config(data("subprocess.Popen", args=["touch", "executed"])),
    "os.system for data": with_config(data("os.system", command="touch executed")),
    "YAML that calls": with_config(tagged),
    "YAML of many laughs": with_config(laughs),
    "YAML that is none": with_config(lambda settings: "model: ["),
}

READERS = {
    "resume": "fit --resume {run}",
    "fit": "fit --config {run}/config.yaml --ckpt_path {run}/checkpoints/last.ckpt --run_dir new",
    "probe": "probe --ckpt_path {run}/checkpoints/last.ckpt --no-cache",
    "export": "export --ckpt_path {run} --out new.safetensors",
    "embed": "embed --ckpt_path {run} --images photos --out new",
    "neighbours": "neighbours --ckpt_path {run} --images photos --query flat/000.png --out new.png",
    "predict": "predict photos --ckpt_path {run}/checkpoints/last.ckpt --out new.csv",
    "weights": "probe --backbone recviz.backbones.resnet18 --backbone.weights {run}/checkpoints/last.ckpt --no-cache "
    "--config {run}/config.yaml",
}
LIKE = ("fit", "embed", "export", "neighbours", "predict")
"""Readers that read as others of READERS do."""

LONG = {(reader, name) for reader in ("weights", "probe") for name in CHECKPOINTS if "zip" in name}
"""Checks of large archives, as `resume` has them."""

HARMLESS = {("weights", name) for name in CHECKPOINTS if "pickle that" in name or "module" in name} | {
    ("weights", name)  # which takes the tensors, and does not read the settings in the file
    for name in CHECKPOINTS
    if "YAML" in name or "for a backbone" in name or "for data" in name or name == "a class that is no module"
}
"""What is loaded without what is hostile in it, or refused for another reason."""


def refused(code: int, err: str) -> None:
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert err.count("\n") == 1, err
    assert len(err) < 600


@pytest.mark.parametrize(
    ("reader", "name"),
    [
        pytest.param(reader, name, marks=pytest.mark.slow if reader in LIKE or (reader, name) in LONG else ())
        for reader in READERS
        for name in CHECKPOINTS
    ],
)
def test_a_hostile_checkpoint_does_nothing(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trap: None, name: str, reader: str
) -> None:
    run = world / "stranger"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(world / "run", run)
    TRAP.clear()
    (run / "checkpoints/last.ckpt").unlink()
    CHECKPOINTS[name](world / "run/checkpoints/last.ckpt", run / "checkpoints/last.ckpt")
    TRAP.append(True)
    monkeypatch.chdir(world)
    before = set(world.rglob("*"))
    capsys.readouterr()
    code = recviz.cli.main(READERS[reader].format(run="stranger").split())
    _, err = capsys.readouterr()
    assert not watched
    assert not (world / "executed").exists()
    assert not list(world.parent.glob("climbs*"))
    assert "Traceback" not in err
    if (reader, name) not in HARMLESS:
        if reader == "resume":  # it names the file, and that no other is left
            err = err.splitlines(keepends=True)[-1]
        refused(code, err)
        assert set(world.rglob("*")) - before == set()
    for path in set(world.rglob("*")) - before:
        if path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


# Settings, exports, images


CONFIGS = {
    "a backbone": ("model: {init_args: {backbone: {class_path: os.system}}}", "os.system"),
    "a backbone with arguments": (
        "model: {init_args: {backbone: {class_path: subprocess.Popen, init_args: {args: [touch, executed]}}}}",
        "subprocess.Popen",
    ),
    "the model": ("model: {class_path: os.system, init_args: {command: touch executed}}", "os.system"),
    "the data": ("data: {class_path: subprocess.Popen, init_args: {args: [touch, executed]}}", "subprocess.Popen"),
    "the optimiser": ("model: {init_args: {optimizer: {class_path: os.system}}}", "os.system"),
    "a callback": ("trainer: {callbacks: [{class_path: os.system}]}", "os.system"),
    "a logger": ("trainer: {logger: {class_path: os.system}}", "os.system"),
    "a plugin": ("trainer: {plugins: [{class_path: os.system}]}", "trainer.plugins"),
    "a strategy": ("trainer: {strategy: {class_path: os.system}}", "os.system"),
    "the views": ("data: {init_args: {views: {class_path: os.system}}}", "os.system"),
    "the probe's data": ("probe: {data: {class_path: os.system}}", "os.system"),
    "a tag": ("model: !!python/object/apply:os.system ['touch executed']", "cannot be read as YAML"),
    "many laughs": (laughs({}), "holds over"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_does_nothing(recviz_command: Command, trap: None, name: str) -> None:
    text, said = CONFIGS[name]
    Path("hostile.yaml").write_text(text)
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", "--config", "hostile.yaml")
    refused(code, err)
    assert said in err
    assert not watched
    assert os.listdir() == ["hostile.yaml"]


@pytest.mark.parametrize("path", ["os.system", "subprocess.Popen", "collections.OrderedDict"])
def test_a_hostile_export_does_nothing(recviz_command: Command, trap: None, world: Path, path: str) -> None:
    about = {
        "backbone": {"class_path": path, "init_args": {}},
        "preparation": {"size": 32, "mean": [0.0] * 3, "std": [1.0] * 3},
    }
    save_file({"w": torch.zeros(2)}, "a.safetensors", {"recviz": json.dumps(about)})
    code, _, err = recviz_command("embed", "--ckpt_path", "a.safetensors", "--images", str(world / "photos"))
    refused(code, err)
    assert path in err
    assert not watched


def png(width: int, height: int) -> bytes:
    """A PNG of so many black pixels, in few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packed = zlib.compressobj(9)
    rows = b"".join(packed.compress(bytes(width + 1)) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """The beginning of a JPEG that claims so many pixels."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


IMAGES = {
    "a bomb": png(18_000, 18_000),
    "a JPEG that claims the most": jpeg(65_000, 65_000),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch executed) system\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>',
    "a program": b"#!/bin/sh\ntouch executed\n",
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_hostile_image_is_named(
    recviz_command: Command, trap: None, world: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    shutil.copytree(world / "photos", "photos")
    Path("photos/class0/hostile.png").write_bytes(IMAGES[name])
    code, out, err = recviz_command("check", "photos")
    assert code == 1
    assert "class0/hostile.png: " in out
    code, _, err = recviz_command("predict", "photos", "--ckpt_path", str(world / "probe.ckpt"))
    assert code == 0, err
    assert "hostile.png" in caplog.text  # on stderr where no test listens
    assert not watched
    assert "hostile.png" not in Path("predictions.csv").read_text()


@pytest.mark.slow
def test_names_with_html_are_escaped_in_every_page(recviz_command: Command, world: Path, tmp_path: Path) -> None:
    name = "<script>alert(1)</script>".replace("/", "∕")  # a folder's name has no slash
    shutil.copytree(world / "photos", "photos")
    Path("photos/class0").rename(f"photos/{name}")
    shutil.copytree(world / "run", f"{name}-run")
    assert recviz_command("embed", "--ckpt_path", f"{name}-run", "--images", "photos", "--out", "e")[0] == 0
    assert recviz_command("compare", f"{name}-run", "--out", "c.html")[0] == 0
    pages = [Path("e/projection.html"), Path("e/neighbours.html"), Path("c.html")]
    for page in pages:
        text = page.read_text()
        assert "alert(1)" in text, "the name is shown"
        assert not re.search(r"<script>alert", text)


@pytest.mark.slow
def test_commands_write_below_their_out_only(
    recviz_command: Command, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And below the cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("photos", "flat", "run"):
        shutil.copytree(world / name, name)
    shutil.copy(world / "probe.ckpt", "probe.ckpt")
    commands = {
        "out/fit": "fit --config run/config.yaml --data.root photos --run_dir out/fit",
        "run/results.json": "probe --ckpt_path run/checkpoints/last.ckpt --data.root photos",
        "out/p.json": "probe --ckpt_path run/checkpoints/last.ckpt --data.root photos --results out/p.json",
        "out/bad.txt": "check photos --out out/bad.txt",
        "out/packed": "pack photos out/packed",
        "out/c": "compare run --out out/c.html",
        "out/e": "embed --ckpt_path run --images photos --out out/e",
        "out/n.png": "neighbours --ckpt_path run --images photos --query flat/000.png --out out/n.png",
        "out/predicted.csv": "predict photos --ckpt_path probe.ckpt --out out/predicted.csv",
        "out/x": "export --ckpt_path run --out out/x.safetensors",
        "out/v.png": "views --config quickstart.yaml --data.train_size 64 --data.batch_size 16 --out out/v.png",
    }
    Path("out").mkdir()
    for target, command in commands.items():
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        code, _, err = recviz_command(*command.split())
        assert code == 0, f"{command}: {err}"
        changed = [p for p in tmp_path.rglob("*") if p.is_file() and before.get(p) != p.stat().st_mtime_ns]
        assert changed, command
        for path in changed:
            name = str(path.relative_to(tmp_path))
            assert name.startswith((target, "cache/recviz/", "cache/torchinductor")), f"{command} wrote {name}"
