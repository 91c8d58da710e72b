"""What it costs to get photographs in, beside the authors' pipeline, on one core; and what the shortcuts change.

    python benchmarks/input.py PHOTOS [--repeats 5] [--only TABLE]

PHOTOS is a folder of JPEG files (a hundred ImageNet photographs in docs/results). "The authors' pipeline" is theirs:
torchvision.transforms on PIL images, both views, PIL's blur, ToTensor, Normalize. recviz's ends with batches of uint8
crops that are ready for the device, where all that is photometric happens (benchmarks/views.py times it). Ways are
timed by turns in one process with one thread; a ratio is the median of the pairs' ratios. Files are in the page cache.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from views import ratio, timed, torchvision_view

from recviz import DataModule, ImageFolderDataModule, PackedDataModule, Views
from recviz.augment.functional import random_crop_boxes
from recviz.augment.preparation import Preparation
from recviz.backbones import resnet18
from recviz.data.dataset import Dataset, Split
from recviz.data.folder import load_folder
from recviz.data.images import EncodedImages, over_threads
from recviz.data.listing import read_folder
from recviz.data.packed.dataset import Packed
from recviz.data.packed.writing import Packing, encode, pack
from recviz.data.photo import Photo, resized
from recviz.launch.machine import usable_cores
from recviz.reports.embedding import embed

Way = Callable[[], object]


def photographs(folder: Path) -> Split:
    """The folder's images."""
    return load_folder(read_folder(folder))


def packed(split: Split, size: int | None = 256, quality: int = 90, shard: int = 4096) -> PackedDataModule:
    """The images packed into a temporary folder."""
    folder = tempfile.mkdtemp()
    pack({"train": split}, Path(folder) / "set", Packing(size, quality, shard), 1, "raise")
    data = PackedDataModule(f"{folder}/set", views=Views.vicreg(), batch_size=50, num_workers=0)
    data.train = data.dataset.train()  # all of it, without holding any out
    return data


def images_of(split: Split | None) -> EncodedImages:
    """The images of a split that are decoded when they are due."""
    assert split is not None
    assert isinstance(split.images, EncodedImages)
    return split.images


def speed(folder: Path, repeats: int) -> None:
    """Photographs a second on one core, from the files and from packed ones."""
    torch.set_num_threads(1)
    split = photographs(folder)
    images, small = images_of(split), images_of(packed(split).train)
    contents = {"originals": [images.read(i) for i in range(len(images))]}
    contents["packed"] = [small.read(i) for i in range(len(small))]
    views = Views.vicreg()
    make = [torchvision_view(view, 224, transforms, crop=True, pil_blur=True) for view in (views.a, views.b)]
    every, sizes = torch.arange(len(images)), [(view, size) for _, view, size in views.each()]

    def authors() -> None:
        for data in contents["originals"]:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            for view in make:
                view(image)

    def decoded(name: str) -> None:
        for data in contents[name]:
            decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)

    ways: dict[str, Way] = {
        "the authors' pipeline": authors,
        "PIL decodes only": lambda: [Image.open(io.BytesIO(data)).convert("RGB") for data in contents["originals"]],
        "decoding only, originals": partial(decoded, "originals"),
        "recviz, originals": lambda: images.crops(every, 0, sizes),
        "decoding only, packed": partial(decoded, "packed"),
        "recviz, packed": lambda: small.crops(every, 0, sizes),
        "recviz, evaluation, originals": lambda: images.clean(every, views.preparation),
    }
    for module, name in (("simplejpeg", "simplejpeg decodes only"), ("cv2", "OpenCV decodes only")):
        if way := other_decoder(module, contents["originals"]):
            ways[name] = way
    times = timed(ways, repeats)
    print("| photographs, one core | ms | images/s | times the authors' | of decoding alone |\n|---|---|---|---|---|")
    for name, spent in times.items():
        median = statistics.median(spent) / len(images)
        gain = ratio(times, "the authors' pipeline", name)
        alone = f"decoding only, {name.removeprefix('recviz, ')}"
        share = f"{ratio(times, alone, name):.0%}" if alone in times and name != alone else ""
        print(f"| {name} | {median * 1e3:.3f} | {1 / median:,.0f} | {gain:.1f} | {share} |")
    print("\ntargets: originals 5 times, packed 12 times, 55% of decoding alone for both\n", flush=True)


def other_decoder(module: str, contents: list[bytes]) -> Way | None:
    """Decoding by another library, where it is installed."""
    try:
        library = __import__(module)
    except ImportError:
        return None
    if module == "simplejpeg":
        return lambda: [library.decode_jpeg(data) for data in contents]
    import numpy as np

    library.setNumThreads(1)
    return lambda: [library.imdecode(np.frombuffer(data, np.uint8), 1) for data in contents]


def packing(folder: Path, repeats: int) -> None:
    """Packing on one core, and what it takes on disk."""
    torch.set_num_threads(1)
    split = photographs(folder)
    images = images_of(split)
    source = sum(len(images.read(i)) for i in range(len(images)))
    print(f"| packed as | images/s per core | kB an image | of the {source / len(images) / 1e3:.0f} kB before |")
    print("|---|---|---|---|")
    for size, quality in ((256, 90), (256, 95), (None, 90)):
        spent, folders = [], []
        for _ in range(repeats):
            start = time.perf_counter()
            folders.append(Path(packed(split, size, quality).root))
            spent.append(time.perf_counter() - start)
        taken = sum(path.stat().st_size for path in folders[0].glob("*"))
        for made in folders:
            shutil.rmtree(made.parent)
        name = f"{size} pixels, quality {quality}" if size else "the files as they are"
        rate = len(images) / statistics.median(spent)
        print(f"| {name} | {rate:.0f} | {taken / len(images) / 1e3:.1f} | {taken / source:.0%} |", flush=True)
    print()


def differences(folder: Path, repeats: int) -> None:
    """Pixels of crops, beside the exact ones: PIL decodes in full, cuts out and resizes."""
    images = images_of(photographs(folder))
    photos = [images.open(i) for i in range(len(images))]
    heights, widths = (torch.tensor([getattr(photo, side) for photo in photos]) for side in ("height", "width"))
    boxes = random_crop_boxes(heights, widths, generator=torch.Generator().manual_seed(0)).tolist()
    found: dict[str, list[Tensor]] = {}
    for photo, box in zip(photos, boxes, strict=True):
        exact = pil_crop(photo.data, box)
        found.setdefault("torch's crop and resize instead of PIL's", []).append(cut(photo.pixels(), box) - exact)
        found.setdefault("bilinear instead of bicubic", []).append(cut(photo.pixels(), box, "bilinear") - exact)
        found.setdefault("resized without antialias", []).append(cut(photo.pixels(), box, antialias=False) - exact)
        for quality in (90, 95):
            small = Photo(encode(photo, Packing(256, quality))[1])
            scale = small.height / photo.height
            found.setdefault(f"from 256 pixels, quality {quality}", []).append(
                pil_box(small.data, [side * scale for side in box]) - pil_box(photo.data, box)
            )
        large = larger(photo.data)
        for factor in (4, 8):
            side = 224 * factor
            middle = [(large.height - side) // 2 // 8 * 8, (large.width - side) // 2 // 8 * 8, side, side]
            reduced = cut(large.pixels(factor), [edge // factor for edge in middle])
            name = f"decoded at 1/{factor}, box of {factor} × 224 (photographs enlarged to 8 times)"
            found.setdefault(name, []).append(reduced - cut(large.pixels(), middle))
    print("| crops of 224×224, difference in levels of 0..255 | mean | root mean square | largest |\n|---|---|---|---|")
    for name, parts in found.items():
        all_of_it = torch.stack(parts)
        mean, rms = all_of_it.abs().mean(), all_of_it.pow(2).mean().sqrt()
        print(f"| {name} | {mean:.2f} | {rms:.2f} | {all_of_it.abs().max():.0f} |", flush=True)
    print()


def pil_crop(data: bytes, box: list[int]) -> Tensor:
    """As torchvision's RandomResizedCrop does it on a PIL image."""
    top, left, height, width = box
    image = Image.open(io.BytesIO(data)).convert("RGB").crop((left, top, left + width, top + height))
    return transforms.functional.pil_to_tensor(image.resize((224, 224), Image.Resampling.BICUBIC)).float()


def cut(pixels: Tensor, box: list[int], interpolation: str = "bicubic", antialias: bool = True) -> Tensor:
    """As recviz does it."""
    top, left, height, width = box
    part = pixels[:, top : top + height, left : left + width]
    if antialias:
        return resized(part, 224, 224, interpolation).float()
    return F.interpolate(part[None].float(), (224, 224), mode=interpolation).clamp(0, 255)[0]


def pil_box(data: bytes, box: Sequence[float]) -> Tensor:
    """A box whose edges may lie between pixels, so that two sizes of one picture show the same."""
    top, left, height, width = box
    image = Image.open(io.BytesIO(data)).convert("RGB")
    edges = (left, top, min(left + width, image.width), min(top + height, image.height))
    return transforms.functional.pil_to_tensor(image.resize((224, 224), Image.Resampling.BICUBIC, box=edges)).float()


def larger(data: bytes) -> Photo:
    """The photograph at 8 times 256 pixels, as a camera would store it."""
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((2048, 2048), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92)
    return Photo(out.getvalue())


def memory(folder: Path, repeats: int) -> None:
    """Resident memory of all processes after each of six epochs, with 8 workers."""
    split = photographs(folder)
    root = Path(tempfile.mkdtemp())
    images = images_of(split)
    for i in range(len(images)):
        for copy in range(8):
            os.link(os.fsdecode(images.paths[i]), root / f"{i:03}-{copy}.JPEG")  # type: ignore[attr-defined]
    data = ImageFolderDataModule(str(root), batch_size=64, num_workers=8)
    data.setup()
    loader = data.train_dataloader()
    print("| epoch | MiB of the loader and its 8 workers (proportional set size) |\n|---|---|")
    for epoch in range(1, 7):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            del batch
        children = [
            os.getpid(),
            *map(int, Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()),
        ]
        print(f"| {epoch} | {sum(map(proportional, children)):.0f} |", flush=True)
    print()
    shutil.rmtree(root)


def proportional(pid: int) -> float:
    """MiB of a process, shared pages in shares (Linux)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1]) / 1024


def many(folder: Path, repeats: int) -> None:
    """100,000 small files: the scan, and the time to the first batch after it."""
    root = Path(tempfile.mkdtemp())
    out = io.BytesIO()
    Image.effect_noise((32, 32), 50).convert("RGB").save(out, "PNG")
    for label in range(100):
        (root / f"class{label:03}").mkdir()
        for index in range(1000):
            (root / f"class{label:03}" / f"{index:04}.png").write_bytes(out.getvalue())
    scans, firsts = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        data = ImageFolderDataModule(str(root), views=Views.cifar(32), num_workers=2)
        data.setup()
        scanned = time.perf_counter()
        next(iter(data.train_dataloader()))
        scans.append(scanned - start)
        firsts.append(time.perf_counter() - scanned)
    print(f"100,000 files: scan {statistics.median(scans):.2f} s, then first batch after ", end="")
    print(f"{statistics.median(firsts):.2f} s (target 3 s), two workers\n", flush=True)
    shutil.rmtree(root)


def formats(folder: Path, repeats: int) -> None:
    """4,000 packed images in four shards, read but not decoded: by index, and by the readers of other libraries."""
    split = photographs(folder)
    data = packed(split.subset(torch.arange(4000) % len(split.images)), shard=1000)
    images, root = images_of(data.train), Path(data.root)
    rows = [images.read(i) for i in range(len(images))]
    shuffled = torch.randperm(len(rows)).tolist()
    ways: dict[str, Way] = {
        "recviz, in order": lambda: [images.read(i) for i in range(len(rows))],
        "recviz, at random": lambda: [images.read(i) for i in shuffled],
    }
    try:
        import webdataset

        shards = [str(path) for path in root.glob("*.tar")]
        ways["webdataset, in order"] = lambda: list(webdataset.WebDataset(shards, shardshuffle=False))
    except ImportError:
        pass
    try:
        import litdata
        from litdata.streaming.writer import BinaryWriter

        (root / "lit").mkdir()
        writer = BinaryWriter(str(root / "lit"), chunk_size=1000)
        for i, row in enumerate(rows):
            writer[i] = {"image": row, "label": 0}
        writer.done()
        writer.merge()
        in_order, at_random = (litdata.StreamingDataset(str(root / "lit")) for _ in range(2))
        ways["litdata, in order"] = lambda: list(in_order)
        ways["litdata, at random"] = lambda: [at_random[i] for i in shuffled]
    except ImportError:
        pass
    print("| reader | images/s |\n|---|---|")
    for name, spent in timed(ways, repeats).items():
        print(f"| {name} | {len(rows) / statistics.median(spent):,.0f} |", flush=True)
    print()


def arrow(folder: Path, repeats: int) -> None:
    """Packed photographs on one core: packed shards beside the Arrow and Parquet files of Hugging Face's datasets."""
    import datasets

    from recviz.data.huggingface import HuggingFaceImages

    torch.set_num_threads(1)
    split = photographs(folder)
    data = packed(split.subset(torch.arange(2000) % len(split.images)), shard=500)
    images, root = images_of(data.train), Path(data.root)
    shuffled = torch.randperm(len(images)).tolist()
    rows = [{"bytes": images.read(i), "path": None} for i in range(len(images))]
    table = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    table.save_to_disk(str(root / "arrow"))
    for part in range(4):
        table.shard(4, part, contiguous=True).to_parquet(str(root / f"part-{part}.parquet"))
    of_arrow = HuggingFaceImages(datasets.load_from_disk(str(root / "arrow")), "image", "arrow")
    parts = [f"file://{root}/part-{part}.parquet" for part in range(4)]

    def copied() -> list[bytes]:
        with tempfile.TemporaryDirectory() as cache:
            remote = images_of(Packed(f"file://{root}", cache_dir=cache).train())
            return [remote.read(i) for i in range(len(remote))]

    def streamed() -> list[object]:
        stream = datasets.load_dataset("parquet", data_files=parts, split="train", streaming=True)
        return list(stream.cast_column("image", datasets.Image(decode=False)))

    sizes = [(view, 224) for view in (Views.vicreg().a, Views.vicreg().b)]
    some = torch.arange(200)
    ways: dict[str, Way] = {
        "packed shards, at random": lambda: [images.read(i) for i in shuffled],
        "Arrow, at random": lambda: [of_arrow.read(i) for i in shuffled],
        "packed shards of an address, copied and checked first": copied,
        "Parquet of an address, streamed in order": streamed,
        "decoded and cut to two views of 224": lambda: [images.crops(some, seed, sizes) for seed in range(10)],
    }
    print("| 2,000 photographs, one core | images/s |\n|---|---|")
    for name, spent in timed(ways, repeats).items():
        print(f"| {name} | {len(rows) / statistics.median(spent):,.0f} |", flush=True)
    print()


def encoding(folder: Path, repeats: int) -> None:
    """What recviz predict, embed and neighbours take on all cores, beside decoding alone and the network alone."""
    split = photographs(folder)
    split = split.subset(torch.arange(800) % len(split.images))
    images, preparation = images_of(split), Preparation(224)
    contents = [images.read(int(row)) for row in images.rows]
    data = DataModule(Photographs(split), batch_size=64, on_error="skip")
    pool, network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), resnet18().eval()
    batch = torch.randn(64, 3, 224, 224)

    def decode(index: int) -> None:
        decode_jpeg(torch.frombuffer(bytearray(contents[index]), dtype=torch.uint8), ImageReadMode.RGB)

    def network_alone() -> None:
        with torch.inference_mode():
            for _ in range(len(contents) // 64):
                network(batch)

    ways: dict[str, Way] = {
        "decoding alone, a thread per core": lambda: over_threads(decode, len(contents), ""),
        "recviz predict, with a backbone that only pools": lambda: embed(pool, data, split, preparation),
        "ResNet-18 alone, on ready images": network_alone,
        "recviz predict, with ResNet-18": lambda: embed(network, data, split, preparation),
    }
    print(f"| {len(contents)} photographs, {usable_cores()} cores | images/s |\n|---|---|")
    for name, spent in timed(ways, repeats).items():
        print(f"| {name} | {len(contents) / statistics.median(spent):,.0f} |", flush=True)
    print()


class Photographs(Dataset):
    """A split as a dataset."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def train(self) -> Split:
        """The split."""
        return self.split


TABLES = {
    "arrow": arrow,
    "encoding": encoding,
    "formats": formats,
    "speed": speed,
    "packing": packing,
    "differences": differences,
    "memory": memory,
    "many": many,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=list(TABLES), help="one table")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, Pillow {Image.__version__}\n")
    for name, table in TABLES.items():
        if args.only in (None, name):
            table(args.photos, args.repeats)
