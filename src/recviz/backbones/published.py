"""The weights that VICReg's authors published: downloaded once, with a checksum of that download."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from recviz.errors import InputError
from recviz.files import sha256_of, write_whole
from recviz.weights.matching import load_backbone_weights

PUBLISHED = "https://dl.fbaipublicfiles.com/vicreg/{name}.pth"
"""Where VICReg's authors publish resnet50, resnet50x2 and resnet200x2, without checksums."""

PUBLISHED_SIZE = 224
"""Size of the images that they were trained on, in pixels."""

Network = TypeVar("Network", bound=nn.Module)


def filled(backbone: Network, name: str, width: float, weights: str | None) -> Network:
    """The backbone with the requested weights.

    Args:
        backbone: a network of this name and width.
        name: such as resnet50.
        width: factor of its channels.
        weights: None, "vicreg", or a path, see weights.load_backbone_weights.

    Raises:
        InputError: no weights of this network, a failed download, or a file that changed since its download.
    """
    if weights == "vicreg":
        weights = str(_downloaded(name + ("" if width == 1 else f"x{width:g}")))
    if weights is not None:
        load_backbone_weights(backbone, weights)
    return backbone


def _downloaded(name: str) -> Path:
    """The published file in torch's hub folder; its SHA-256 of the first use stands beside it."""
    if name not in ("resnet50", "resnet50x2", "resnet200x2"):
        raise InputError(f"VICReg's authors published resnet50, resnet50x2 and resnet200x2, not {name}")
    url, path = PUBLISHED.format(name=name), Path(torch.hub.get_dir()) / f"checkpoints/vicreg_{name}.pth"
    recorded = path.with_name(f"{path.name}.sha256")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            torch.hub.download_url_to_file(url, str(path), progress=False)
            recorded.unlink(missing_ok=True)
        found = sha256_of(path)
        if not recorded.is_file():
            with contextlib.suppress(OSError):  # of a shared folder that others fill
                write_whole(recorded, f"{found}  {path.name}\n")
        first = recorded.read_text(encoding="utf-8").split()[:1] if recorded.is_file() else [found]
    except OSError as error:
        raise InputError(f"cannot download {url} ({error}): put the file at {path}, or give its path") from error
    if first != [found]:
        raise InputError(f"{path} is not the file of its first use ({recorded}): remove both to download it again")
    return path
