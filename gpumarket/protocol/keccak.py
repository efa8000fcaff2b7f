"""
Keccak-256, as the chain hashes.

An audit hashes thousands of short strings, for which the library's hash object costs more than the
hash. Its C functions are called directly where they are to be had, else through the object.
"""

from __future__ import annotations

from typing import Any, Final

from Crypto.Hash import keccak as _keccak
from Crypto.Util import _raw_api

_ROUNDS: Final = 24
_PADDING: Final = 1
_BYTES: Final = 32

_lib: Any = getattr(_keccak, "_raw_keccak_lib", None)
_ffi: Any = getattr(_raw_api, "ffi", None)


def hash_plainly(data: bytes) -> bytes:
    """Hash through the library's public object."""
    return _keccak.new(digest_bits=8 * _BYTES, data=data).digest()


def hash_directly(data: bytes) -> bytes:
    """Hash through the library's C functions."""
    place = _ffi.new("void*[1]")
    if _lib.keccak_init(place, 2 * _BYTES, _ROUNDS):
        raise MemoryError("no memory for a hash")
    try:
        found = _ffi.new("uint8_t[32]")
        if _lib.keccak_absorb(place[0], data, len(data)) or _lib.keccak_digest(
            place[0], found, _BYTES, _PADDING
        ):
            raise ValueError("a hash failed")
        return bytes(_ffi.buffer(found))
    finally:
        _lib.keccak_destroy(place[0])


def _can_be_direct() -> bool:
    try:
        return hash_directly(b"gpumarket") == hash_plainly(b"gpumarket")
    except (AttributeError, TypeError, ValueError):
        return False


hash_keccak = hash_directly if _can_be_direct() else hash_plainly
