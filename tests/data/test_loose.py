"""Images that lie below a folder, encoded: broken ones are named and left out, and the others keep their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from recviz.augment.preparation import Preparation
from recviz.data import DataModule
from recviz.data.folder import LooseImages
from recviz.data.lists import read_list
from recviz.errors import InputError
from recviz.reports.embedding import embed, save
from tests.datasets import make_flat, make_folder
from tests.tiny import TinyBackbone

HALF = Preparation(32, [0.5] * 3, [0.5] * 3)


def features(folder: Path) -> torch.Tensor:
    torch.manual_seed(0)
    data = DataModule(LooseImages(folder), batch_size=4, on_error="skip")
    return embed(TinyBackbone(), data, data.dataset.train(), HALF).features


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_images_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    make_folder(tmp_path / "good", classes=2, per_class=7)
    make_folder(tmp_path / "all", classes=2, per_class=7)
    for index in (0, 4, 5, 6):  # of the first batch one, of the second all but one
        (tmp_path / "all" / "class0" / f"{index:03d}a.png").write_bytes(b"x")
    (tmp_path / "all" / "class1" / "empty.png").touch()
    data = DataModule(LooseImages(tmp_path / "all"), batch_size=2, num_workers=workers, on_error="skip")
    torch.manual_seed(0)
    found = embed(TinyBackbone(), data, data.dataset.train(), HALF)
    torch.testing.assert_close(found.features, features(tmp_path / "good"))
    assert [Path(name).relative_to(tmp_path / "all") for name in found.names] == [
        Path(f"class{label}/{index:03d}.png") for label in (0, 1) for index in range(7)
    ]
    assert "5 skipped" in found.left_out
    assert len(found.thumbnails) == 0  # nobody asked for them
    assert caplog.text.count("recviz: skipped: cannot read the image") == 5
    paths = data.dataset.train().images.paths[found.indices]  # type: ignore[attr-defined]
    assert [os.fsdecode(path) for path in paths] == found.names


def test_a_folder_of_broken_images_is_refused(tmp_path: Path) -> None:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=r"none of 2 images can be read, the last because: .*b\.jpg"):
        features(tmp_path)


def test_any_name_of_a_file_stands_in_names_txt(tmp_path: Path) -> None:
    make_flat(tmp_path / "d", 1)
    names = [b"a\xff.png", b" b.png", b"c\nd.png"]
    for name in names:
        (tmp_path / "d" / os.fsdecode(name)).write_bytes((tmp_path / "d" / "000.png").read_bytes())
    data = DataModule(LooseImages(tmp_path / "d"), on_error="skip")
    (tmp_path / "out").mkdir()
    save(embed(TinyBackbone(), data, data.dataset.train(), HALF), tmp_path / "out")
    listed = read_list(tmp_path / "out" / "names.txt")
    assert {os.path.basename(os.fsencode(name)) for name in listed} == {b"000.png", *names}
    assert all(os.path.isfile(name) for name in listed)
