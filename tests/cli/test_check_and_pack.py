"""`recviz check` and `recviz pack` through the real entry point, on hostile and broken files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recviz import ImageFolderDataModule, PackedDataModule, Views
from tests.datasets import make_flat, make_folder, make_splits, picture
from tests.rows import table

Command = Callable[..., tuple[int, str, str]]


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def hostile_folder(root: Path) -> Path:
    """Good images, unusual ones and broken ones."""
    make_flat(root, 4, size=(48, 40), suffix=".jpg")
    photo = Image.fromarray(picture(0, 9, (48, 40)))
    photo.save(root / "lying.jpg", "PNG")
    photo.convert("CMYK").save(root / "cmyk.jpg")
    photo.convert("L").save(root / "grey.jpg")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(root / "deep.png")
    palette = photo.convert("P")
    palette.save(root / "palette.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(root / "turned.jpg", exif=exif)
    photo.save(root / "moving.webp", save_all=True, append_images=[photo.rotate(90)], lossless=True)
    with open(os.fsencode(root) + b"/caf\xe9.png", "wb") as file:
        photo.save(file, "PNG")
    # and now what cannot be read
    whole = (root / "000.jpg").read_bytes()
    (root / "torn.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.png").write_text("hello")
    (root / "bomb.png").write_bytes(bomb(60000, 60000))
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "loops").symlink_to(root)
    with open(os.fsencode(root) + b"/bad\xff.gif", "wb") as file:
        file.write(b"GIF89a")
    return root


def test_check_lists_every_broken_file_and_why(recviz_command: Command, tmp_path: Path) -> None:
    hostile_folder(tmp_path / "photos")
    code, out, err = recviz_command("check", "photos", "--out", "bad.txt")
    assert (code, err) == (1, "")
    broken = dict(line.split(": ", 1) for line in out.splitlines() if ": " in line and not line[0].isdigit())
    assert set(broken) == {"torn.jpg", "empty.jpg", "text.png", "bomb.png", "loop.jpg", r"bad\xff.gif"}
    assert broken["empty.jpg"] == "the file is empty"
    assert broken["text.png"].startswith("it is none of JPEG")
    assert "3,600,000,000 pixels, and more than 268,435,456 are refused" in broken["bomb.png"]
    assert broken["loop.jpg"] == "Too many levels of symbolic links"
    assert "18 images, 6 cannot be read" in out
    listed = Path("bad.txt").read_bytes().splitlines()
    assert sorted(listed) == [b"bad\xff.gif", b"bomb.png", b"empty.jpg", b"loop.jpg", b"text.png", b"torn.jpg"]


def test_what_check_lists_can_be_left_out(recviz_command: Command, tmp_path: Path) -> None:
    hostile_folder(tmp_path / "photos")
    recviz_command("check", "photos", "--out", "bad.txt")
    settings = ["--data.views.size", "32", "--data.batch_size", "12", "--data.num_workers", "0", "--rows", "1"]
    folder = ["views", "--config", "folder.yaml", "--data.root", "photos", *settings]
    code, _, err = recviz_command(*folder, "--data.exclude", "bad.txt")
    assert (code, err) == (0, "")
    code, _, err = recviz_command(*folder, "--data.batch_size", "18")
    assert code == 2
    assert err.count("\n") == 1


STRANGE = [b" a.png", b"a\nb.png", b"c\xff.png", b"#d.png", b"e\x85f.png", b'"g".png', b"h\\n.png", b"i\r.png"]


def test_a_list_of_any_names_leaves_these_out(recviz_command: Command, tmp_path: Path) -> None:
    make_folder(tmp_path / "d", per_class=4)
    for name in STRANGE:
        (tmp_path / "d/class1" / os.fsdecode(name)).write_bytes(b"broken")
    code, out, _ = recviz_command("check", "d", "--out", "bad.txt")
    assert code == 1
    assert len(out.splitlines()) == len(STRANGE) + 2  # each in one line
    assert r"class1/a\nb.png: it is none of" in out
    data = ImageFolderDataModule("d", views=Views.cifar(size=32), exclude="bad.txt", batch_size=2, val_fraction=0.25)
    data.setup()
    assert data.train is not None
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [3, 3]
    assert data.train.left_out == {"named by data.exclude": len(STRANGE)}


def test_check_counts_what_is_no_image_and_says_what_is_nearly_black(recviz_command: Command, tmp_path: Path) -> None:
    make_flat(tmp_path / "d", 3)
    for name in ("a.CR2", "b.cr2", "c.npy", "LICENSE", ".hidden", "sub/d.pdf"):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_bytes(b"x")
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "d" / "dim.png")
    photo = Image.fromarray(picture(0, 0))
    photo.save(tmp_path / "d" / "pages.tif", save_all=True, append_images=[photo])
    Image.new("1", (9000, 8000)).save(tmp_path / "d" / "large.png")
    code, out, err = recviz_command("check", "d")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "1 of 16 bits a channel with values of 12 bits: nearly black, since the upper 8 are used",
        "11 files: 6 images, 0 cannot be read; left out: 2 .cr2, 1 without extension, 1 .npy, 1 .pdf",
    ]


def test_packing_takes_what_training_takes(recviz_command: Command, tmp_path: Path) -> None:
    make_folder(tmp_path / "d/Training", names=["cat", "dog"], per_class=3)
    make_folder(tmp_path / "d/Testing", names=["dog"], per_class=2)
    (tmp_path / "d/Training/cat/a.cr2").touch()
    code, out, _ = recviz_command("pack", "d", "set", "--size", "16")
    assert code == 0
    assert (
        "train: 6 images, 0 skipped, from d/Training; left out: 1 .cr2\nval: 2 images, 0 skipped, from d/Testing" in out
    )
    data = PackedDataModule("set", views=Views.cifar(size=16), batch_size=2)
    data.setup()
    assert data.val is not None
    assert data.val.labels is not None
    assert (data.class_names, data.val.labels.tolist()) == (["cat", "dog"], [1, 1])
    make_flat(tmp_path / "flat/val", 2)
    make_folder(tmp_path / "flat/train", names=["cat", "dog"], per_class=2)
    code, out, _ = recviz_command("pack", "flat", "set2", "--size", "16")
    assert code == 0
    assert "note: flat/val has no class folders and hence no labels: it is not packed" in out
    assert "val:" not in out


def test_check_of_good_images_and_of_packed_ones(recviz_command: Command, tmp_path: Path) -> None:
    make_splits(tmp_path / "photos", classes=2, per_class=4)
    code, out, err = recviz_command("check", "photos")
    assert (code, out, err) == (0, "12 images, 0 cannot be read\n", "")
    code, out, err = recviz_command("pack", "photos", "set", "--size", "16", "--images_per_shard", "5")
    assert (code, err) == (0, "")
    assert "train: 8 images, 0 skipped" in out
    assert "val: 4 images, 0 skipped" in out
    assert "recviz fit --config folder.yaml --data recviz.PackedDataModule --data.root set" in out
    code, out, err = recviz_command("check", "set")
    assert (code, out) == (0, "12 images in 5 files, 0 files are broken\n")
    shard = Path("set/train-00001.tar")
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    Path("set/val-00000.tar").unlink()
    code, out, _ = recviz_command("check", "set")
    assert code == 1
    assert "train-00001.tar: its checksum differs" in out
    assert "val-00000.tar: it is missing" in out


def test_packing_hostile_files(recviz_command: Command, tmp_path: Path) -> None:
    hostile_folder(tmp_path / "photos")
    code, _, err = recviz_command("pack", "photos", "set", "--size", "16")
    assert code == 2
    assert err.count("\n") == 1
    assert "cannot read the image" in err
    code, out, _ = recviz_command("pack", "photos", "other", "--size", "16", "--on_error", "skip")
    assert code == 0
    assert "train: 12 images, 6 skipped" in out
    code, _, err = recviz_command("views", *TRAIN, "--data.root", "other", "--data.batch_size", "12", "--rows", "1")
    assert (code, err) == (0, "")


TRAIN = ["--config", "folder.yaml", "--data", "recviz.PackedDataModule", "--data.views.size", "16"]
TRAIN += ["--data.num_workers", "0"]
SMALL = ["--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]", "--trainer.max_epochs", "2"]
SMALL += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--run_dir", "run"]


def test_training_on_packed_images_and_probing(
    recviz_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_folder(tmp_path / "photos", classes=2, per_class=12)
    recviz_command("pack", "photos", "set", "--size", "16", "--images_per_shard", "6")
    code, out, err = recviz_command("fit", *TRAIN, "--data.root", "set", "--data.batch_size", "8", *SMALL)
    assert (code, err) == (0, "")
    code, out, err = recviz_command("probe", "--ckpt_path", "run/checkpoints/last.ckpt", "--data.num_workers", "0")
    assert (code, err) == (0, "")
    assert "linear probe" in out


def test_a_run_that_skips_says_so_and_counts(
    recviz_command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_flat(tmp_path / "photos", 16)
    torn = tmp_path / "photos" / "015.png"
    torn.write_bytes(torn.read_bytes()[:60])
    settings = ["--data.root", "photos", "--data.on_error", "skip", "--data.batch_size", "8", *SMALL]
    settings += ["--data.num_workers", "0", "--data.views.size", "32"]
    code, _, _ = recviz_command("fit", "--config", "folder.yaml", *settings)
    assert code == 0
    assert caplog.text.count("photos/015.png") == 1  # on stderr where no test listens
    assert [row["data/skipped"] for row in table(Path("run/metrics.csv")) if row["data/skipped"]] == ["1.0", "1.0"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["check"], "required: dir"),
        (["check", "nowhere"], "nowhere is not a folder"),
        (["check", "empty"], "empty holds no images"),
        (["check", "photos", "--num_workers", "0"], "--num_workers must be at least 1"),
        (["check", "photos", "--out", "empty"], "cannot write empty"),
        (["check", "photos", "--outt", "x"], "--outt"),
        (["pack", "photos"], "required: dst"),
        (["pack", "nowhere", "set"], "nowhere is not a folder"),
        (["pack", "photos", "photos/set"], "lies in photos"),
        (["pack", "photos", "set", "--size", "0"], "--size must be at least 1"),
        (["pack", "photos", "set", "--quality", "101"], "--quality must be in 1..100"),
        (["pack", "photos", "set", "--images_per_shard", "0"], "--images_per_shard must be at least 1"),
        (["pack", "photos", "set", "--on_error", "ignore"], "on_error"),
        (["pack", "photos", "full"], "full is not empty"),
        (["pack", "empty", "set"], "empty holds no images"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, args: list[str], said: str) -> None:
    Path("empty").mkdir()
    make_flat(Path("photos"), 2)
    make_flat(Path("full"), 1)
    code, _, err = recviz_command(*args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert not Path("set").exists()
