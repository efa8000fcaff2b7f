"""Keccak-256, as the chain hashes; SHA3-256 of Python's `hashlib` pads in another way."""

from __future__ import annotations

import sha3


def hash_keccak(data: bytes) -> bytes:
    """Return the 32 bytes of Keccak-256."""
    digest: bytes = sha3.keccak_256(data).digest()
    return digest
