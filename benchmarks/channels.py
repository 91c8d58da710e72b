"""Images of other channels than colours: what a band is worth, and how fast files are read.

    python benchmarks/channels.py [--rows bands speed] [--epochs 60] [--photos DIR]

bands: draws 7,000 images of six bands in 16 bits. Four classes show in one band only, as stripes in four directions.
Runs satellite.yaml on all bands and on the first three, and microscopy.yaml on the telling band alone.

speed: millions of values a second that one thread reads, beside the reading library alone, medians of 5: 16-bit TIFF of
one and six channels, and 8-bit JPEG of --photos.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from recviz import Reading
from recviz.data.photo import Photo
from recviz.data.raster import Raster

BANDS, TELLING, SIDE = 6, 4, 32


def smooth(draw: np.random.Generator, count: int) -> Any:
    """Smooth random fields [count, SIDE, SIDE] of standard deviation 1."""
    ky, kx = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    spectrum = np.fft.rfft2(draw.normal(size=(count, SIDE, SIDE))) * np.exp(-64 * (ky**2 + kx**2))
    fields = np.fft.irfft2(spectrum, s=(SIDE, SIDE))
    return fields / fields.std(axis=(1, 2), keepdims=True)


def draw_bands(root: Path, train: int = 1500, test: int = 250) -> None:
    """Write ROOT/train and ROOT/test of four classes, as TIFF."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for split, count in (("train", train), ("test", test)):
        for label in range(4):
            folder = root / split / f"direction{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                bands, angle = smooth(draw, BANDS), label * np.pi / 4
                phase = 2 * np.pi * ((x * np.cos(angle) + y * np.sin(angle)) / 8 + draw.uniform())
                bands[TELLING] = 0.7 * bands[TELLING] + 0.8 * np.sin(phase)
                values = 3000 + 800 * bands + draw.normal(0, 100, size=bands.shape)
                kept = values.clip(0, 10_000).astype(np.uint16)
                tifffile.imwrite(folder / f"{i:04}.tif", kept, photometric="minisblack")


def bands(epochs: int) -> None:
    """Train and probe with and without the telling band."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bands"
        draw_bands(root)
        growth = "[[0, 16, 4], [0.6, 24, 4], [0.9, 32, 2]]"
        small = ["--data.memory_size", "32", "--data.views.size", "32", "--data.views.growth", growth]
        small += ["--data.views.a.vertical_flip", "0", "--data.views.a.rotate90", "0"]  # classes are directions
        network = ["--model.backbone.widths", "[48, 96, 144]", "--model.backbone.features", "1024"]
        print("| recipe | channels | linear | k-NN |\n|---|---|---|---|")
        for recipe, channels in (("satellite", BANDS), ("satellite", [0, 1, 2]), ("microscopy", [TELLING])):
            count = channels if isinstance(channels, int) else len(channels)
            run = Path(folder) / f"{recipe}-{count}"
            command = [sys.executable, "-m", "recviz", "fit", "--config", f"{recipe}.yaml", "--data.root", str(root)]
            command += ["--data.reading.channels", json.dumps(channels), "--data.reading.value_range", "[0, 10000]"]
            command += ["--model.backbone.in_channels", str(count), *small, *network, "--trainer.accelerator", "cpu"]
            command += ["--trainer.max_epochs", str(epochs), "--model.warmup_epochs", str(epochs / 20)]
            command += ["--trainer.check_val_every_n_epoch", str(epochs), "--run_dir", str(run)]
            probe = [sys.executable, "-m", "recviz", "probe", "--ckpt_path", str(run)]
            for each in (command, probe):
                subprocess.run(each, check=True, stdout=subprocess.DEVNULL)
            found = json.loads((run / "results.json").read_text())
            print(
                f"| {recipe} | {channels} | {percent(found, 'top1')} | {percent(found, 'knn/k=20, T=0.07')} |",
                flush=True,
            )


def percent(results: Any, metric: str) -> str:
    """The last value of a metric, with its interval."""
    found = results[-1]["metrics"][metric]
    return f"{found['value']:.1%} ({found['low']:.1%} to {found['high']:.1%})"


def rate(work: Callable[[], Any], values: int) -> float:
    """Millions of values a second, median of 5."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return values / statistics.median(times[1:]) / 1e6


def speed(photos: Path | None) -> None:
    """Read on one thread."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    print("| file | recviz | library alone | of its speed |\n|---|---|---|---|")

    def show(name: str, own: Callable[[], Any], alone: Callable[[], Any], values: int) -> None:
        mine, other = rate(own, values), rate(alone, values)
        print(f"| {name} | {mine:.0f} | {other:.0f} | {mine / other:.0%} |", flush=True)

    for channels, side, compression in itertools.product((1, BANDS), (256, 1024), (None, "zlib")):
        values = draw.integers(0, 10_000, size=(channels, side, side)).astype(np.uint16)
        out = io.BytesIO()
        tifffile.imwrite(out, values, photometric="minisblack", compression=compression)
        data = out.getvalue()
        name = f"16-bit TIFF, {channels}×{side}×{side}{', zlib' if compression else ''}"

        def alone(data: bytes = data) -> Any:
            return tifffile.imread(io.BytesIO(data))

        for scaled in (None, (0.0, 10_000.0)):
            own = functools.partial(read, data, Reading(channels, scaled))
            show(f"{name}{', value range' if scaled else ''}", own, alone, values.size)
    if photos is not None:
        files = [path.read_bytes() for path in sorted(photos.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")][
            :20
        ]
        tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        total = 3 * sum(Photo(data).height * Photo(data).width for data in files)
        show(
            "8-bit JPEG", lambda: [Photo(data).pixels() for data in files],
            lambda: [decode_jpeg(tensor, ImageReadMode.RGB) for tensor in tensors], total,
        )  # fmt: skip


def read(data: bytes, reading: Reading) -> torch.Tensor:
    """Decode one raster."""
    return Raster(data, reading).pixels()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", default=["speed", "bands"], choices=["speed", "bands"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--photos", type=Path, default=None)
    args = parser.parse_args()
    if "speed" in args.rows:
        speed(args.photos)
    if "bands" in args.rows:
        bands(args.epochs)


if __name__ == "__main__":
    main()
