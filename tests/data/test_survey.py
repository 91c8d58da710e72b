"""What `recviz check --stats` finds in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recviz import cli
from recviz.augment.preparation import Reading
from recviz.data.images import FileImages
from recviz.data.survey import Look, Surveyed, alike, duplicates, look_of, near_duplicates, summed_up, survey


def scene(seed: int, size: tuple[int, int] = (60, 80)) -> Image.Image:
    """A smooth random image in colour."""
    rough = np.random.default_rng(seed).integers(0, 256, size=(7, 9, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size[::-1], Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images, an equal copy, a smaller recompressed one, a misnamed and a broken file."""
    root = tmp_path / "images"
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for i in range(10):
            scene(10 * (label == "dog") + i).save(root / label / f"{i}.png")
    shutil.copy(root / "cat/3.png", root / "dog/copy.png")
    scene(5).resize((50, 40)).save(root / "dog/small.jpg", quality=80)
    scene(40).save(root / "cat/wrong.jpg", "PNG")
    Image.new("L", (80, 60), 128).save(root / "cat/flat.png")
    Image.new("L", (80, 60), 20).save(root / "cat/flat2.png")
    (root / "cat/broken.png").write_bytes((root / "cat/1.png").read_bytes()[:200])
    return root


def surveyed(root: Path) -> list[Surveyed]:
    images = FileImages(sorted(root.rglob("*.*")))
    return [survey(images, index, root) for index in range(len(images))]


def test_equal_similar_misnamed_and_broken_files_are_found(folder: Path) -> None:
    files = surveyed(folder)
    assert duplicates(files) == [["cat/3.png", "dog/copy.png"]]
    assert [set(group) for group in near_duplicates(files)] == [{"cat/5.png", "dog/small.jpg"}]
    found = summed_up(files)
    assert [file.name for file in found.misnamed] == ["cat/wrong.jpg"]
    assert [file.name for file in found.broken] == ["cat/broken.png"]


def test_facts_are_those_of_the_files(folder: Path) -> None:
    rows = dict(summed_up(surveyed(folder)).rows)
    assert rows["images"] == "25"
    assert rows["formats"] == "PNG (24), JPEG (1)"
    assert rows["width"] == "50 to 80, median 80 pixels"
    assert rows["channels"] == "3 (23), 1 (2)"
    assert rows["bits per channel"] == "8"
    pixels = [
        np.asarray(Image.open(path).convert("RGB")) / 255 for path in folder.rglob("*.*") if "broken" not in str(path)
    ]
    mean = np.mean([each.mean(axis=(0, 1)) for each in pixels], axis=0)
    std = np.sqrt(np.mean([(each**2).mean(axis=(0, 1)) for each in pixels], axis=0) - mean**2)
    assert [float(x) for x in rows["mean in 0..1"].strip("[]").split(",")] == pytest.approx(mean, abs=1e-4)
    assert [float(x) for x in rows["standard deviation"].strip("[]").split(",")] == pytest.approx(std, abs=1e-4)
    assert rows["equal files"].startswith("2 files in 1 group, such as cat/3.png = dog/copy.png")
    assert rows["misnamed"] == "1, such as cat/wrong.jpg is PNG"


def look(seed: int) -> Look:
    found = look_of(torch.from_numpy(np.asarray(scene(seed)).copy()).permute(2, 0, 1))
    assert found is not None
    return found


def named(*looks: Look) -> list[Surveyed]:
    return [Surveyed(str(i), None, None, str(i), each) for i, each in enumerate(looks)]


def test_other_images_are_not_alike() -> None:
    assert near_duplicates(named(*(look(seed) for seed in range(200)))) == []


@pytest.mark.parametrize(("flipped", "same"), [(0, True), (4, True), (5, False)])
def test_near_duplicates_differ_in_four_bits_at_most(flipped: int, same: bool) -> None:
    one = look(0)
    for start in range(0, 64, 7):
        bits = one.bits
        for bit in range(flipped):
            bits ^= 1 << (start + 17 * bit) % 64
        assert bool(near_duplicates(named(one, Look(bits, one.cells)))) == same


@pytest.mark.parametrize(("levels", "same"), [(15, True), (18, False)])
def test_equal_outlines_of_other_levels_are_not_alike(levels: int, same: bool) -> None:
    one = Look(look(0).bits, bytes([100] * 216))
    assert alike(one, Look(one.bits, bytes([100 + levels] * 216))) == same


def test_the_command_prints_the_facts_and_writes_a_page(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert cli.main(["check", str(folder), "--stats", "--page", str(page)]) == 1  # a broken file
    out = capsys.readouterr().out
    assert "near-duplicates" in out
    assert "26 images, 1 cannot be read" in out
    text = page.read_text()
    assert "broken.png" in text
    assert "2 equal" in text
    assert "2 similar" in text
    assert text.count('role="img"') == 25 + 4
    assert "http" not in text.partition("</title>")[2]


def test_arrays_of_six_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", rng.integers(0, 1100, size=(6, 9, 12)).astype(np.uint16))
    page = tmp_path / "page.html"
    argv = ["check", str(tmp_path), "--stats", "--page", str(page), "--reading.channels", "6"]
    assert cli.main([*argv, "--reading.value_range", "[0, 1000]"]) == 0
    out = capsys.readouterr().out
    assert "channels" in out
    assert "outside the value range" in out
    assert "channels 0, 1, 2 of 6" in page.read_text()
    assert survey(FileImages([tmp_path / "0.npy"], Reading(5)), 0, tmp_path).problem is not None
    page.unlink()
    assert cli.main(argv) == 0
    assert "3 of 16 bits with values of 11 bits" in capsys.readouterr().out


def test_a_folder_without_readable_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    page = tmp_path / "page.html"
    assert cli.main(["check", str(tmp_path), "--stats", "--page", str(page)]) == 1
    assert "0 images" in page.read_text()


def test_files_of_another_depth_than_the_first_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, dtype in enumerate((np.uint16, np.uint8, np.uint16)):
        np.save(tmp_path / f"{i}.npy", np.full((6, 9, 12), 200, dtype=dtype))
    for more in ([], ["--stats", "--page", str(tmp_path / "page.html")]):
        assert cli.main(["check", str(tmp_path), "--reading.channels", "6", *more]) == 1
        assert "1.npy: its values have 8 bits, and those of the first image 16" in capsys.readouterr().out
