"""Features of images with names, labels and thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import make_grid

from recviz.augment.picture import pictured
from recviz.augment.preparation import Preparation
from recviz.data.batches import report
from recviz.data.dataset import Split
from recviz.data.images import printable
from recviz.data.listing import counted
from recviz.data.lists import list_text
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import whole_file
from recviz.probes.functional import Neighbours, extract_features, nearest_neighbours
from recviz.progress import shown

THUMBNAIL = 96
"""Side of thumbnails in pixels; the page enlarges smaller images without smoothing."""

_FEW = 5000
"""Up to this number of images, thumbnails have full size; beyond it 40 pixels, to keep the page small."""


class Embedded(NamedTuple):
    """N images."""

    features: Tensor
    """float32 [N, D]."""
    labels: Tensor | None
    """int64 [N]."""
    names: list[str]
    """For files, their paths, with surrogates for bytes that are not UTF-8."""
    class_names: list[str]
    thumbnails: Tensor
    """uint8 [N, 3, S, S], S at most THUMBNAIL and the short side of the images; [0, 3, 1, 1] if not asked for."""
    indices: Tensor
    """int64 [N], indices in the split; unreadable images are missing."""
    left_out: str = ""
    """Numbers of unreadable images and other files, to append to a line."""

    def name(self, index: int) -> str:
        """The name of an image, for display."""
        return printable(self.names[index])

    def label(self, index: int) -> str:
        """The name of an image's class; "" without labels."""
        return "" if self.labels is None else self.class_names[int(self.labels[index])]


def embed(
    backbone: nn.Module, data: DataModule, split: Split, preparation: Preparation, thumbnails: bool = False
) -> Embedded:
    """Encode a split in order, without augmentation, with progress on stderr.

    With `data.on_error` "skip", unreadable images are reported and left out.

    Args:
        backbone: images [N, 3, H, W] to features [N, D].
        data: reads the images.
        split: of the data.
        preparation: of the images, as the backbone expects.
        thumbnails: keep small copies of the images, for a page.

    Raises:
        InputError: images that the backbone does not accept, or no readable image.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small: list[Tensor] = []
    kept: list[Tensor] = []
    skipped: list[str] = []

    def batches() -> Iterator[Any]:
        loader = data.clean_dataloader(split, preparation, drop_unreadable=data.on_error == "skip")
        size = len(split.images)
        for batch in shown(loader, "encoding", size, lambda batch: len(batch.images) + len(batch.skipped)):
            images = batch.images
            for problem in batch.skipped:
                report(problem)
                skipped.append(problem)
            if not len(images):
                continue
            kept.append(batch.indices)
            assert isinstance(images, Tensor)  # of evaluation
            if thumbnails:
                side = min(THUMBNAIL if size <= _FEW else 40, *images.shape[2:])
                pictures = pictured(images, preparation)
                reduced = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True)
                small.append((reduced * 255).round().clamp(0, 255).to(torch.uint8))
            labels = torch.zeros(len(images), dtype=torch.int64) if batch.labels is None else batch.labels
            yield images, labels

    try:
        found = extract_features(backbone.to(device), batches(), preparation, device)
    except InputError as error:
        if kept or not skipped:
            raise
        raise InputError(f"none of {len(skipped):,} images can be read, the last because: {skipped[-1]}") from error
    indices = torch.cat(kept)
    names = [split.images.name(index) for index in indices.tolist()]
    labels = None if split.labels is None else found.labels.cpu()
    left_out = f"; {len(skipped):,} skipped, since they cannot be read" if skipped else ""
    left_out += f"; left out: {counted(split.left_out)}" if split.left_out else ""
    thumbs = torch.cat(small) if thumbnails else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return Embedded(found.features.cpu(), labels, names, split.class_names, thumbs, indices, left_out)


def save(embedded: Embedded, folder: Path) -> None:
    """Write features.safetensors (features, and labels if any), names.txt and classes.txt."""
    tensors = {"features": embedded.features.contiguous()}
    if embedded.labels is not None:
        tensors["labels"] = embedded.labels
        with whole_file(folder / "classes.txt") as part:
            part.write_bytes(list_text(embedded.class_names))
    with whole_file(folder / "features.safetensors") as part:
        save_file(tensors, part)
        part.chmod(0o644)
    with whole_file(folder / "names.txt") as part:
        part.write_bytes(list_text(embedded.names))


def others(features: Tensor, k: int) -> Neighbours:
    """The k nearest other rows of each row, nearest first; [N, k]."""
    found = nearest_neighbours(features, features, k + 1)  # [N, k + 1], usually with the row itself
    itself = found.indices == torch.arange(len(features))[:, None]
    itself[~itself.any(dim=1), -1] = True  # with more than k equal rows, drop the last
    return Neighbours(*(part[~itself].view(len(features), -1) for part in found))


def sprite(thumbnails: Tensor) -> tuple[dict[str, str], int]:
    """All thumbnails in one picture: the page parts with which an element <i> shows one, and the number per row.

    The element's background-position says which, in units of THUMBNAIL.
    """
    across = math.ceil(math.sqrt(len(thumbnails)))
    out = io.BytesIO()
    sheet = to_pil_image(make_grid(thumbnails, across, padding=0, pad_value=255))
    sheet.save(out, "JPEG", quality=90, subsampling=0)
    sharp = "image-rendering: pixelated" if thumbnails.shape[2] < THUMBNAIL else ""
    address = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return {"sprite": address, "width": str(across * THUMBNAIL), "sharp": sharp}, across
