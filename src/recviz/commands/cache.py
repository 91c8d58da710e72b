"""Where the commands keep what may be worked out once: under the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """recviz's own folder in XDG_CACHE_HOME, or in ~/.cache; not made yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recviz"


def keep_compiled_code() -> None:
    """Have torch.compile keep its code there, where TORCHINDUCTOR_CACHE_DIR names no other folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
