"""
Sixty-four-bit mixing that gives the same bits with NumPy on a processor and PyTorch on a GPU.

Everything is a signed integer of 64 bits whose products and sums wrap, which both libraries do
alike. Nothing here is a secret or a signature: the mixing must only be too irregular to be had
more cheaply than by doing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.signing import encode_uint, keccak256

Array = Any
"""A NumPy array or a PyTorch tensor of 64-bit signed integers, unless it says otherwise."""

_SPAN: Final = 1 << 64


def _signed(word: int) -> int:
    return word - _SPAN if word >= _SPAN // 2 else word


_FIRST: Final = _signed(0xBF58476D1CE4E5B9)
_SECOND: Final = _signed(0x94D049BB133111EB)
_LEFT: Final = _signed(0x9E3779B97F4A7C15)
_RIGHT: Final = _signed(0xC2B2AE3D27D4EB4F)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """The few operations in which NumPy and PyTorch differ."""

    name: str
    xp: Any
    """`numpy` or `torch`."""
    device: Any = None
    """Of a tensor; None is the processor."""

    def count(self, start: int, stop: int) -> Array:
        """Return the integers from start to stop."""
        if self.device is None:
            return self.xp.arange(start, stop, dtype=self.xp.int64)
        return self.xp.arange(start, stop, dtype=self.xp.int64, device=self.device)

    def make_empty(self, length: int) -> Array:
        """Return room for integers."""
        if self.device is None:
            return self.xp.empty(length, dtype=self.xp.int64)
        return self.xp.empty(length, dtype=self.xp.int64, device=self.device)

    def multiply(self, left: Array, right: Array) -> Array:
        """Multiply two matrices of small integers (8 bits) into 32-bit integers, exactly."""
        if self.device is None:
            float32 = self.xp.float32
            return (left.astype(float32) @ right.astype(float32)).astype(self.xp.int32)
        return (left.float() @ right.float()).int()

    def reverse(self, array: Array) -> Array:
        """Return a one-dimensional array from its end."""
        return array[::-1] if self.device is None else array.flip(0)

    def sum_rows(self, array: Array) -> Array:
        """Sum each row of a matrix, wrapping."""
        return array.sum(axis=1) if self.device is None else array.sum(dim=1)

    def to_bytes(self, array: Array) -> bytes:
        """Return an array's bytes, little-endian."""
        local = array if self.device is None else array.cpu().numpy()
        return bytes(local.astype(local.dtype.newbyteorder("<"), copy=False).tobytes())


def derive_key(seed: Hash32, *words: int | str) -> int:
    """Return a signed 64-bit key for one use of a seed."""
    parts = (encode_uint(word) if isinstance(word, int) else word.encode() for word in words)
    return int.from_bytes(keccak256(seed + b"".join(parts))[:8], "little", signed=True)


def shift(array: Array, bits: int) -> Array:
    """Shift to the right and fill with zeros."""
    return (array >> bits) & ((1 << (64 - bits)) - 1)


def mix(array: Array) -> Array:
    """Mix each integer by itself: the finalizer of SplitMix64 (Steele, Lea, Flood, 2014)."""
    array = (array ^ shift(array, 30)) * _FIRST
    array = (array ^ shift(array, 27)) * _SECOND
    return array ^ shift(array, 31)


def mix_pair(own: Array, other: Array) -> Array:
    """Mix each integer with another; not the same the other way round."""
    mixed = (own ^ shift(other, 29)) * _LEFT + (other ^ shift(own, 31)) * _RIGHT
    return mixed ^ shift(mixed, 32)


def generate(backend: Backend, seed: Hash32, span: range, *words: int | str) -> Array:
    """Return the integers of a span of a stream that has no shorter description."""
    return generate_at(seed, backend.count(span.start, span.stop), *words)


def generate_at(seed: Hash32, places: Array, *words: int | str) -> Array:
    """Return the integers at these places of a stream."""
    first, second = derive_key(seed, "first", *words), derive_key(seed, "second", *words)
    return mix(mix(places + first) + second)
