"""Published weights, downloaded once to torch's hub folder."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import torch

from recviz.errors import InputError

VICREG_URL = "https://dl.fbaipublicfiles.com/vicreg/{name}.pth"
"""Where VICReg's authors publish resnet50, resnet50x2 and resnet200x2, without checksums."""


def vicreg_weights(name: str) -> Path:
    """The authors' published weights, downloaded once to torch's hub folder.

    Args:
        name: resnet50, resnet50x2 or resnet200x2.

    Raises:
        InputError: a failed download.
    """
    url = VICREG_URL.format(name=name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"vicreg_{name}.pth"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, URLError) as error:
            raise InputError(f"cannot download {url} ({error}): put the file at {path}, or give its path") from error
    return path
