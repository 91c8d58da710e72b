"""What the commands keep between runs, in recviz's cache folder."""

from __future__ import annotations

import os

from recviz.machine import cache_folder


def keep_compiled_code() -> None:
    """Have torch.compile keep its code there, where TORCHINDUCTOR_CACHE_DIR names no other folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
