"""Trials of data roots and image files: what a folder is taken for, and what is read."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from recviz.data.imagenet100 import imagenet100_classes
from tests.datasets import make_flat, make_folder
from tests.trials.trial import Trial

Maker = Callable[[Path], object]

PROBED = "fit $F --data.root d --run_dir r\nprobe --ckpt_path r --data.num_workers 0"
"""A probe needs labels and a held-out split, so that it shows whether these were found."""


def splits(*names: str) -> Maker:
    """A maker of d/<name>/{cat,dog} for each name."""
    return lambda here: [make_folder(here / "d" / name, names=["cat", "dog"], per_class=6) for name in names]


def imagenet100(here: Path) -> None:
    """d/train with ImageNet-100's class folders."""
    make_folder(here / "d" / "train", names=imagenet100_classes(), per_class=1)


def flat(*names: str) -> Maker:
    """A maker of d/<name>/*.png for each name."""
    return lambda here: [make_flat(here / "d" / name, 6, label=label) for label, name in enumerate(names)]


def accents(here: Path) -> None:
    """Splits that spell the accent of a class differently, as archives of macOS do."""
    for split, form in {"train": "NFC", "val": "NFD"}.items():
        make_folder(here / "d" / split, names=["cat", unicodedata.normalize(form, "café")])  # type: ignore[arg-type]


def both(*makers: Maker) -> Maker:
    """One maker after the other."""
    return lambda here: [maker(here) for maker in makers]


def other_files(here: Path) -> None:
    """10 images, and 15 files that are none."""
    make_folder(here / "d", names=["cat", "dog"], per_class=5, suffix=".jpg")
    for suffix in (".cr2", ".npy", ".pdf"):
        for index in range(5):
            (here / "d" / "cat" / f"{index}{suffix}").write_bytes(b"x")


def other_images(here: Path) -> None:
    """Images under other extensions of the formats that are read."""
    for suffix in (".jfif", ".JPE", ".avif", ".webp", ".TIFF", ".pbm"):
        make_flat(here / "d", 1, suffix=suffix)


def twelve_bits(here: Path) -> None:
    """12-bit values in 16-bit PNG files."""
    for name in ("cat", "dog"):
        (here / "d" / name).mkdir(parents=True)
        for index in range(6):
            values = np.random.default_rng(index).integers(0, 4096, (32, 32)).astype(np.uint16)
            Image.fromarray(values).save(here / "d" / name / f"{index}.png")


def strange_names(here: Path) -> None:
    """Good images, and broken ones of names that lists find hard."""
    make_flat(here / "d", 8)
    for name in (b" a.png", b"a\nb.png", b"c\xff.png", b"#d.png", b"e\x85f.png", b'"g".png', b"h\\n.png", b"i\r.png"):
        with open(os.fsencode(here) + b"/d/" + name, "wb") as file:
            file.write(b"broken")


def broken_among_good(here: Path) -> None:
    """Labelled images, of which some are broken, and a list of these by paths that others do not have."""
    splits("train", "test")(here)
    make_folder(here / "photos", names=["x"], per_class=8)
    (here / "photos/x/bad.png").write_bytes(b"broken")
    (here / "bad.txt").write_text("x/bad.png\n")


def probe_file(here: Path) -> None:
    """A folder for predict, one file of which is broken."""
    splits("train", "test")(here)
    make_flat(here / "photos", 3)
    (here / "photos/bad.png").write_bytes(b"broken")


def predicted(here: Path) -> None:
    rows = list(csv.reader((here / "predictions.csv").open()))
    assert [Path(row[0]).name for row in rows[1:]] == ["000.png", "001.png", "002.png"]


def recorded(here: Path) -> None:
    data = json.loads((here / "r/run.json").read_text())["data"]
    assert (data["source"], data["held_out"]["source"]) == ("d/Training", "d/Testing")
    assert data["class_names"] == ["cat", "dog"]


def large(width: int, height: int) -> Maker:
    """A JPEG of many pixels among small ones."""

    def make(here: Path) -> None:
        make_flat(here / "d", 3, suffix=".jpg")
        Image.new("L", (width, height)).save(here / "d" / "large.jpg", quality=10)

    return make


def at_home(here: Path) -> None:
    """A recipe with home folders in its values, and what these name."""
    home = Path(os.environ["HOME"])
    make_folder(home / "photos", names=["cat", "dog"], per_class=6)
    (home / "bad.txt").write_text("cat/000.png\n")
    data = {"root": "~/photos", "exclude": "~/bad.txt"}
    (home / "own.yaml").write_text(json.dumps({"data": {"init_args": data}, "run_dir": "~/runs/r"}))


def left_at_home(here: Path) -> None:
    home = Path(os.environ["HOME"])
    assert (home / "results.json").is_file()
    assert (home / "runs/r/run.json").is_file()
    assert os.listdir(here) == []


CLASSES = r"of 2 classes \(cat, dog\) from d/"

TRIALS = {
    "Training and Testing": Trial(
        PROBED, (f"{CLASSES}Training\n", "held out: 12 images from d/Testing\n"), given=splits("Training", "Testing")
    ),
    "stand in run.json": Trial("fit $F --data.root d --run_dir r", given=splits("Training", "Testing"), check=recorded),
    "train and valid": Trial(
        PROBED, (f"{CLASSES}train\n", "held out: 12 images from d/valid\n"), given=splits("train", "valid")
    ),
    "TRAIN, VAL and TEST": Trial(
        PROBED, ("from d/VAL\n", "note: d/TEST is not used"), given=splits("TRAIN", "VAL", "TEST")
    ),
    "train_images and test_images": Trial(PROBED, "from d/test_images\n", given=splits("train_images", "test_images")),
    "splits one level down": Trial(PROBED, "from d/images/val\n", given=splits("images/train", "images/val")),
    "a single top folder": Trial(PROBED, f"{CLASSES}only\n", given=splits("only")),
    "a class that is called test": Trial(
        "fit $F --data.root d", r"4 classes \(cat, dog, owl, test\)", given=flat("cat", "dog", "owl", "test")
    ),
    "train beside other folders": Trial(
        "fit $F --data.root d", "beside it owl", code=2, given=both(splits("train"), flat("owl"))
    ),
    "unknown names of splits": Trial(
        "fit $F --data.root d",
        (r"2 classes \(part1, part2\)", "if the first are splits and not classes"),
        given=splits("part1", "part2"),
    ),
    "splits within classes": Trial(
        "fit $F --data.root d",
        "holds the splits test, train",
        code=2,
        given=lambda here: [make_folder(here / "d" / name, names=["train", "test"]) for name in ("cat", "dog")],
    ),
    "a flat val": Trial(
        "fit $F --data.root d --run_dir r",
        ("d/val has no class folders or labels", "held out: nothing", "probe .* --data.root LABELLED_IMAGES"),
        given=both(splits("train"), flat("val")),
    ),
    "a flat val, packed": Trial(
        "pack d set --size 16", "d/val has no class folders", given=both(splits("train"), flat("val"))
    ),
    "a flat val of ImageNet-100": Trial(
        "fit $F --data recviz.ImageNet100DataModule --data.root d",
        "d/val holds images and no class folders, as ILSVRC's validation images come",
        code=2,
        given=both(imagenet100, flat("val")),
    ),
    "other files are counted by check": Trial(
        "check d", "25 files: 10 images, 0 cannot be read; left out: 5 .cr2, 5 .npy, 5 .pdf", given=other_files
    ),
    "other files are counted in the header": Trial(
        "fit $F --data.root d", "left out: 5 .cr2, 5 .npy, 5 .pdf", given=other_files
    ),
    "images under other extensions": Trial("check d", "6 images, 0 cannot be read", given=other_images),
    "12 bits of 16, in check": Trial("check d", "12 of 16 bits .* values of 12 bits: nearly black", given=twelve_bits),
    "12 bits of 16, in the header": Trial("fit $F --data.root d", "values of 12 bits, such as d/", given=twelve_bits),
    "any name in a list": Trial(
        "1: check d --out bad.txt\nfit $F --data.root d --data.exclude bad.txt",
        ("8 images without labels", "8 named by data.exclude"),
        given=strange_names,
    ),
    "probe on another folder after an exclusion": Trial(
        "fit $F --data.root photos --data.exclude bad.txt --run_dir r\nprobe --ckpt_path r --data.root d",
        "linear probe",
        given=broken_among_good,
    ),
    "embed of another folder after an exclusion": Trial(
        "fit $F --data.root photos --data.exclude bad.txt --run_dir r\nembed --ckpt_path r --data.root d --out e",
        "12 images, 64 features",
        given=broken_among_good,
    ),
    "predict with a broken file": Trial(
        "fit $F --data.root d --run_dir r\nprobe --ckpt_path r --save p.ckpt\npredict photos --ckpt_path p.ckpt",
        "3 images in predictions.csv; 1 skipped, since they cannot be read",
        given=probe_file,
        check=predicted,
    ),
    "neighbours with a broken file": Trial(
        "fit $F --data.root d --run_dir r\nneighbours --ckpt_path r --images photos --query photos/000.png",
        ("photos/001.png", "1 skipped"),
        given=probe_file,
    ),
    "predict with other files beside the images": Trial(
        "fit $F --data.root d --run_dir r\nprobe --ckpt_path r --save p.ckpt\npredict d --ckpt_path p.ckpt",
        "10 images in predictions.csv; left out: 5 .cr2, 5 .npy, 5 .pdf",
        given=other_files,
    ),
    "flat training images beside a labelled val": Trial(
        "fit $F --data.root d",
        "no probe can run on d/val, since the training images have no labels",
        given=both(flat("train"), splits("val")),
    ),
    "one class in two spellings of Unicode": Trial(
        "fit $F --data.root d", (r"of 2 classes \(café, cat\)", "held out: 8 images from d/val"), given=accents
    ),
    "home folders on the command line and in a recipe": Trial(
        "fit $F --config=~/own.yaml\nprobe --ckpt_path=~/runs/r --data.num_workers 0 --results=~/results.json",
        r"of 2 classes \(cat, dog\) from .*/home/photos",
        given=at_home,
        check=left_at_home,
    ),
    "a photograph of 200 megapixels": Trial(
        "check d", "4 images, 0 cannot be read", given=large(20000, 10000), never=("Traceback", "Warning")
    ),
    "an image of 400 megapixels": Trial(
        "check d", "400,000,000 pixels, and more than .* RECVIZ_MAX_PIXELS", code=1, given=large(20000, 20000)
    ),
}
