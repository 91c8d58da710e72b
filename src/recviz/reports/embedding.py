"""Features of many images, with what people want to see beside them: names, labels, thumbnails."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.augment.preparation import Preparation
from recviz.data.batches import report
from recviz.data.dataset import Split
from recviz.data.images import shown as as_text
from recviz.data.listing import counted
from recviz.data.lists import list_text
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import whole_file
from recviz.probes.functional import Neighbours, extract_features, nearest_neighbours
from recviz.progress import shown

THUMBNAIL = 96
"""Side of the pictures in a page, in pixels; smaller images are enlarged there without smoothing."""

_FEW = 5000
"""So many images have thumbnails of full size; of more, each is of 40 pixels, so that a page stays small."""


class Embedded(NamedTuple):
    """N images."""

    features: Tensor
    """float32 [N, D]."""
    labels: Tensor | None
    """int64 [N]."""
    names: list[str]
    """Of files, their paths, in which bytes that are not UTF-8 stand as surrogates."""
    class_names: list[str]
    thumbnails: Tensor
    """uint8 [N, 3, S, S], S at most THUMBNAIL."""
    indices: Tensor
    """int64 [N], which images of the split these are: all but those that could not be read."""
    skipped: tuple[str, ...] = ()
    """One line for each image that could not be read."""
    left_out: str = ""
    """Numbers of files that are no images, by extension."""

    def name(self, index: int) -> str:
        """The name of an image, for people."""
        return as_text(self.names[index])

    def label(self, index: int) -> str:
        """The name of an image's class; "" without labels."""
        return "" if self.labels is None else self.class_names[int(self.labels[index])]


def embed(backbone: nn.Module, data: DataModule, split: Split, preparation: Preparation) -> Embedded:
    """Encode a split, in its order, without augmentation, with progress on stderr.

    Where `data.on_error` is "skip", images that cannot be read are reported and left out.

    Raises:
        InputError: images that the backbone cannot take, or of which none can be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    thumbnails: list[Tensor] = []
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
            thumbnails.append(_thumbnails(images, THUMBNAIL if len(split.images) <= _FEW else 40))
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
    thumbs = torch.cat(thumbnails)
    left_out = counted(split.left_out)
    return Embedded(found.features.cpu(), labels, names, split.class_names, thumbs, indices, tuple(skipped), left_out)


def skipped_too(embedded: Embedded) -> str:
    """Numbers of images that could not be read and of other files, to be added to a line; "" where there are none."""
    skipped = f"; {len(embedded.skipped):,} skipped, since they cannot be read" if embedded.skipped else ""
    return skipped + (f"; left out: {embedded.left_out}" if embedded.left_out else "")


def _thumbnails(images: Tensor, side: int) -> Tensor:
    """Images [N, 3, H, W] as squares of `side` pixels, or of their own short side where that is less."""
    side = min(side, *images.shape[2:])
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def save(embedded: Embedded, folder: Path) -> None:
    """features.safetensors (features, and labels where there are any), names.txt and classes.txt."""
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


def precision_at(embedded: Embedded, ks: tuple[int, ...]) -> dict[int, float]:
    """Of each image's k nearest others, in cosine similarity, the share of its own class; mean over the images."""
    assert embedded.labels is not None
    own = others(embedded.features, min(max(ks), len(embedded.features) - 1)).indices
    same = embedded.labels[own] == embedded.labels[:, None]  # [N, k]
    return {k: float(same[:, :k].float().mean()) for k in ks if k <= own.shape[1]}


def others(features: Tensor, k: int) -> Neighbours:
    """The k nearest other rows of each, nearest first; [N, k]."""
    found = nearest_neighbours(features, features, k + 1)  # [N, k + 1], the row itself among them or not
    itself = found.indices == torch.arange(len(features))[:, None]
    itself[~itself.any(dim=1), -1] = True  # of more than k equal rows, drop the last
    return Neighbours(*(part[~itself].view(len(features), -1) for part in found))


def sprite(thumbnails: Tensor) -> tuple[str, int]:
    """All thumbnails in one JPEG picture, as a data: address, and how many stand in a row."""
    across = math.ceil(math.sqrt(len(thumbnails)))
    down = math.ceil(len(thumbnails) / across)
    side = thumbnails.shape[2]
    sheet = torch.full((down * across, 3, side, side), 255, dtype=torch.uint8)
    sheet[: len(thumbnails)] = thumbnails
    picture = sheet.view(down, across, 3, side, side).permute(0, 3, 1, 4, 2).reshape(down * side, across * side, 3)
    out = io.BytesIO()
    Image.fromarray(picture.numpy()).save(out, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}", across
