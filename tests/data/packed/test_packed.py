"""Packed datasets: what is written, read back, resumed, streamed, refused."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from recviz import PackedDataModule
from recviz.augment.views import Views
from recviz.commands.pack import read_source
from recviz.data.batches import OnError
from recviz.data.packed import writing as packing_module
from recviz.data.packed.writing import Packing, encode, pack
from recviz.data.photo import Photo
from recviz.data.sampler import shard_order
from recviz.errors import InputError
from tests.datasets import make_flat, make_folder, make_splits, picture


def packed(source: Path, target: Path, shard: int = 5, size: int | None = 32, on_error: OnError = "raise") -> Path:
    pack(read_source(source), target, Packing(size, 90, shard), 2, on_error)
    return target


def module(root: Path | str, **settings: Any) -> PackedDataModule:
    settings = {"batch_size": 4, "num_workers": 0, "seed": 0, **settings}
    data = PackedDataModule(str(root), views=Views.vicreg(size=32), **settings)
    data.setup()
    return data


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("source"), classes=3, per_class=8, val_per_class=2)


@pytest.fixture(scope="module")
def target(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed(source, tmp_path_factory.mktemp("packed") / "set")


def test_every_image_and_label_comes_back(source: Path, target: Path) -> None:
    """Images that need no resizing keep their bytes, so each one is found again, with its label."""
    data = module(target)
    assert data.class_names == ["class0", "class1", "class2"]
    for split, first, count in ((data.train, 0, 8), (data.val, 1000, 2)):
        assert split is not None
        assert split.labels is not None
        expected = {picture(label, first + i).tobytes(): label for label in range(3) for i in range(count)}
        images = split.images.clean(torch.arange(len(split.images)), data.preparation)
        found = {
            image.permute(1, 2, 0).numpy().tobytes(): int(y) for image, y in zip(images, split.labels, strict=True)
        }
        assert found == expected
        assert split.labels.tolist() != sorted(split.labels.tolist())  # shards hold a random mixture


def test_shards_are_webdatasets(target: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(map(str, target.glob("train-*.tar")))
    assert len(shards) == 5
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8").to_tuple("png", "cls"))
    data = module(target)
    assert data.train is not None
    assert data.train.labels is not None
    assert [label for _, label in samples] == data.train.labels.tolist()
    images = data.train.images.clean(torch.arange(24), data.preparation).permute(0, 2, 3, 1).numpy()
    assert all(np.array_equal(image, ours) for (image, _), ours in zip(samples, images, strict=True))


def test_the_manifest_tells_what_was_done(source: Path, target: Path) -> None:
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["settings"] == {"size": 32, "quality": 90, "images_per_shard": 5, "on_error": "raise"}
    assert [shard["images"] for shard in manifest["splits"]["train"]["shards"]] == [5, 5, 5, 5, 4]
    index = load_file(target / "train.safetensors")
    ends = [0, *index["path_end"].tolist()]
    blob = index["path"].numpy().tobytes()
    names = [blob[a:b].decode() for a, b in pairwise(ends)]
    assert sorted(names) == [f"class{label}/{i:03}.png" for label in range(3) for i in range(8)]
    assert [int(name[5]) for name in names] == index["label"].tolist()


def test_larger_images_are_resized_and_small_ones_keep_their_bytes() -> None:
    def photo(size: tuple[int, int], kind: str, **options: Any) -> Photo:
        out = io.BytesIO()
        smooth = Image.fromarray(picture(0, 0, (8, 6))).resize(size, Image.Resampling.BICUBIC)
        smooth.save(out, kind, **options)
        return Photo(out.getvalue())

    large = photo((96, 64), "JPEG", quality=95)
    suffix, data = encode(large, Packing(32))
    assert suffix == "jpg"
    small = Photo(data)
    assert (small.width, small.height) == (48, 32)
    expected = Image.open(io.BytesIO(large.data)).resize((48, 32), Image.Resampling.BICUBIC)
    difference = np.asarray(expected).astype(float) - small.pixels().permute(1, 2, 0).numpy()
    assert np.abs(difference).mean() < 3
    for kept, ending in ((photo((40, 32), "JPEG"), "jpg"), (photo((32, 40), "PNG"), "png")):
        assert encode(kept, Packing(32)) == (ending, kept.data)
    assert encode(large, Packing(None)) == ("jpg", large.data)
    exif = Image.Exif()
    exif[0x0112] = 6
    suffix, data = encode(photo((40, 32), "JPEG", exif=exif), Packing(None))
    turned = Photo(data)
    assert (turned.width, turned.height, turned.upright) == (32, 40, True)
    assert encode(photo((40, 32), "BMP"), Packing(None))[0] == "jpg"


def test_a_packing_that_was_stopped_goes_on(source: Path, target: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole = {path.name: path.read_bytes() for path in target.iterdir()}
    encoded: list[Photo] = []

    def stopping(photo: Photo, packing: Packing) -> tuple[str, bytes]:
        encoded.append(photo)
        if stop and len(encoded) > 12:  # in the third shard of five images
            raise KeyboardInterrupt
        return encode(photo, packing)

    stop = True
    monkeypatch.setattr(packing_module, "encode", stopping)
    with pytest.raises(KeyboardInterrupt):
        packed(source, tmp_path / "set")
    assert not (tmp_path / "set" / "manifest.json").exists()
    with pytest.raises(InputError, match=r"manifest\.json.*recviz pack writes"):
        module(tmp_path / "set")
    encoded.clear()
    stop = False
    packed(source, tmp_path / "set")
    assert len(encoded) == 24 + 6 - 10
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == whole


def test_a_folder_of_something_else_is_refused(source: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        packed(source, tmp_path)
    with pytest.raises(InputError, match="other images, with other settings"):
        packed(source, target, size=16)


def test_broken_images_are_named_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_folder(tmp_path / "in", classes=2, per_class=4)
    broken = tmp_path / "in" / "class1" / "002.png"
    broken.write_bytes(broken.read_bytes()[:70])
    with pytest.raises(InputError, match=r"class1/002\.png"):
        packed(tmp_path / "in", tmp_path / "raise")
    data = module(packed(tmp_path / "in", tmp_path / "skip", on_error="skip"), val_fraction=0.3, batch_size=2)
    assert data.train is not None
    assert data.val is not None
    assert len(data.train.images) + len(data.val.images) == 7
    assert "class1/002.png" in caplog.text
    assert data.train.labels is not None
    colours = [picture(label, 0).mean(axis=(0, 1)) for label in (0, 1)]
    for image, label in zip(data.train.images.clean(torch.arange(5), data.preparation), data.train.labels, strict=True):
        mean = image.float().mean(dim=(1, 2)).numpy()
        assert np.argmin([np.abs(mean - colour).sum() for colour in colours]) == label


def test_unlabelled_images(tmp_path: Path) -> None:
    data = module(packed(make_flat(tmp_path / "in", 6), tmp_path / "out"))
    assert data.train is not None
    assert (len(data.train.images), data.train.labels, data.val, data.class_names) == (6, None, None, [])


@pytest.mark.parametrize("workers", [0, 2])
def test_classes_fractions_and_workers(target: Path, workers: int) -> None:
    data = module(target, classes="1-2", fraction=0.5, num_workers=workers)
    assert data.train is not None
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [4, 4]
    batches, again = list(data.train_dataloader()), list(module(target, classes="1-2", fraction=0.5).train_dataloader())
    assert len(batches) == 2
    for batch, other in zip(batches, again, strict=True):
        assert all(map(torch.equal, batch.images, other.images))
        assert torch.equal(batch.labels, other.labels)


@pytest.mark.parametrize("window", [1, 3, 100])
def test_by_shards_each_sample_comes_once_and_each_process_has_its_own_shards(window: int) -> None:
    shards = torch.repeat_interleave(torch.arange(12), torch.tensor([10] * 11 + [4]))  # 114 samples
    for epoch in range(3):
        parts = [shard_order(shards, window, 36, rank, torch.Generator().manual_seed(epoch)) for rank in range(3)]
        drawn = torch.cat(parts)
        assert len(drawn.unique()) == 3 * 36
        of_rank = [set(shards[part].tolist()) for part in parts]
        for i in range(3):
            for j in range(i):
                assert len(of_rank[i] & of_rank[j]) <= 1  # the one that was cut in two
    first = shard_order(shards, window, 36, 0, torch.Generator().manual_seed(0))
    assert not torch.equal(first, shard_order(shards, window, 36, 0, torch.Generator().manual_seed(1)))
    assert torch.equal(first, shard_order(shards, window, 36, 0, torch.Generator().manual_seed(0)))


def test_the_window_says_how_many_shards_are_open_at_once() -> None:
    shards = torch.arange(4000) // 100
    for window in (1, 4, 16):
        order = shards[shard_order(shards, window, 4000, 0, torch.Generator().manual_seed(0))]
        last = {int(shard): place for place, shard in enumerate(order)}
        first = {int(shard): place for place, shard in reversed(list(enumerate(order)))}
        alive = [sum(first[s] <= place <= last[s] for s in first) for place in range(1000, 3000, 50)]
        assert max(alive) <= window + 1
        assert min(alive) >= 0.7 * window
        batch = order[2000:2064].unique()
        assert len(batch) >= 0.7 * window


@pytest.fixture
def address(target: Path) -> Iterator[str]:
    """The packed dataset behind HTTP."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(target)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_address_is_read_like_the_folder(address: str, target: Path, tmp_path: Path, workers: int) -> None:
    local = list(module(target, shuffle_shards=16).train_dataloader())
    data = module(address, cache_dir=str(tmp_path / "cache"), num_workers=workers)
    for batch, other in zip(data.train_dataloader(), local, strict=True):
        assert all(map(torch.equal, batch.images, other.images))
        assert torch.equal(batch.labels, other.labels)
    copies = sorted(path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock")
    assert len([path for path in copies if path.suffix == ".tar"]) == 5
    assert not [path for path in copies if path.suffix == ".part"]


def test_copies_are_kept_within_their_limit(address: str, target: Path, tmp_path: Path) -> None:
    size = max(path.stat().st_size for path in target.glob("train-*.tar"))
    data = module(address, cache_dir=str(tmp_path / "cache"), cache_gb=2.5 * size / 1e9)
    for _ in range(2):
        assert len(list(data.train_dataloader())) == 6
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*.tar")) <= 2.5 * size


def test_a_shard_with_another_checksum_is_refused(source: Path, tmp_path: Path) -> None:
    target = packed(source, tmp_path / "set")
    shard = target / "train-00001.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1  # within the first image
    shard.write_bytes(content)
    with pytest.raises(InputError, match=r"class\d/\d+\.\w+ of .*train-00001\.tar: its checksum differs"):
        list(module(target).train_dataloader())
    data = module(target)
    (target / "train.safetensors").unlink()  # the disk fails after the start
    with pytest.raises(InputError, match=r" \d+ of .*train-00001\.tar: its checksum differs"):
        list(data.train_dataloader())
    packed(source, tmp_path / "again")
    shutil.copy(tmp_path / "again/train.safetensors", target)
    with pytest.raises(InputError, match=r"train-00001\.tar has the checksum"):
        list(module(f"file://{target}", cache_dir=str(tmp_path / "cache")).train_dataloader())
    assert not list((tmp_path / "cache").glob("*.part"))


def hostile(target: Path, change: str) -> None:
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    train = manifest["splits"]["train"]
    if change == "climbs":
        train["shards"][0]["file"] = "../../secret.tar"
    elif change == "no images":
        train["shards"][0]["images"] = -5
    elif change == "another format":
        manifest["format"] = "other"
    elif change == "index beyond":
        index = load_file(target / "train.safetensors")
        index["offset"][0] = 10**12
        save_file(index, target / "train.safetensors")
    elif change == "unknown class":
        index = load_file(target / "train.safetensors")
        index["label"][0] = 99
        save_file(index, target / "train.safetensors")
    elif change == "no index":
        (target / "train.safetensors").write_bytes(b"\xff" * 50)
    elif change == "a list":
        manifest = []
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("climbs", "'../../secret.tar' is not the name of a file"),
        ("no images", "is no entry of a file"),
        ("another format", "format 'other'"),
        ("index beyond", "points outside"),
        ("unknown class", "points outside"),
        ("no index", "is not the index"),
        ("a list", "is not of a packed dataset"),
    ],
)
def test_hostile_files_are_refused(source: Path, tmp_path: Path, change: str, said: str) -> None:
    target = packed(source, tmp_path / "set")
    hostile(target, change)
    with pytest.raises(InputError, match=said.replace("(", r"\(")) as error:
        module(target)
    assert "\n" not in str(error.value)


def test_no_packed_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: .*recviz pack writes"):
        module(tmp_path)
    with pytest.raises(InputError, match="nonsense://"):
        module("nonsense://bucket/set")


def test_shards_read_alone_by_tar(target: Path) -> None:
    with tarfile.open(target / "val-00000.tar") as tar:
        names = tar.getnames()
    assert [name.partition(".")[2] for name in names[:4]] == ["png", "cls", "png", "cls"]
