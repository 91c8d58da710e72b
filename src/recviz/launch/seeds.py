"""Derived seeds."""

from __future__ import annotations

import hashlib


def mixed_seed(*parts: int) -> int:
    """A well-mixed 63-bit seed from integers, the same on every host."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
