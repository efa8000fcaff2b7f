"""
The product: matrices that follow from a seed, and a digest of each row of what they make.

Values lie in -16..15, so every sum is a small whole number and exact in float32, in TF32 and with
integers, in whatever order a device adds. A row's digest mixes each pair of values by itself
before adding: unlike a linear fingerprint it cannot be had without the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from gpumarket.hardware.arrays import Array, Backend, generate, mix, shift
from gpumarket.protocol.hardware import HardwareTask, refuse_answer
from gpumarket.protocol.ids import Hash32

NUMPY: Final = Backend(name="numpy", xp=np)
PRIME: Final = (1 << 31) - 1
"""A wrong row passes one check with a chance of one in this."""
BLOCK_ROWS: Final = 2_048
_VALUES_PER_WORD: Final = 8
_LOW_BITS: Final = 31
_HALF: Final = 16


def make_rows(
    backend: Backend, task: HardwareTask, *, turn: int, matrix: str, rows: range
) -> Array:
    """Return rows of matrix `left` or `right` of a round, values of 8 bits."""
    width = task.shape.size // _VALUES_PER_WORD
    span = range(rows.start * width, rows.stop * width)
    words = generate(backend, task.seed, span, "matrix", matrix, turn)
    values = words.view(backend.xp.int8)
    return ((values & _LOW_BITS) - _HALF).reshape(len(rows), task.shape.size)


def compute_digests(backend: Backend, task: HardwareTask, turn: int) -> bytes:
    """Multiply the matrices of one round; return the digest of each row, eight bytes each."""
    size, parts = task.shape.size, []
    right = make_rows(backend, task, turn=turn, matrix="right", rows=range(size))
    for start in range(0, size, BLOCK_ROWS):
        block = range(start, min(size, start + BLOCK_ROWS))
        left = make_rows(backend, task, turn=turn, matrix="left", rows=block)
        rows = backend.multiply(left, right)
        parts.append(backend.to_bytes(digest_rows(backend, task, turn=turn, rows=rows)))
    return b"".join(parts)


def digest_rows(backend: Backend, task: HardwareTask, *, turn: int, rows: Array) -> Array:
    """Return the digest of each row of 32-bit values."""
    keys = generate(backend, task.seed, range(task.shape.size // 2), "fold", turn)
    return backend.sum_rows(mix(rows.view(backend.xp.int64) ^ keys))


def compute_rows(
    backend: Backend, task: HardwareTask, drawn: Sequence[tuple[int, int]]
) -> tuple[bytes, ...]:
    """Return the values of drawn rows, four bytes each."""
    values: dict[tuple[int, int], bytes] = {}
    for turn in sorted({turn for turn, _ in drawn}):
        every = range(task.shape.size)
        right = make_rows(backend, task, turn=turn, matrix="right", rows=every)
        for row in (row for at, row in drawn if at == turn):
            left = make_rows(backend, task, turn=turn, matrix="left", rows=range(row, row + 1))
            values[turn, row] = backend.to_bytes(backend.multiply(left, right).reshape(-1))
    return tuple(values[place] for place in drawn)


# ---- the challenger's side: NumPy, about one pass over a matrix for each round opened ------------


def check_rows(
    task: HardwareTask,
    check_seed: Hash32,
    *,
    drawn: Sequence[tuple[int, int]],
    values: Sequence[bytes],
    digests: Sequence[bytes],
) -> None:
    """
    Check that opened rows are rows of the products, and have the digests committed to.

    Freivalds: row times a secret vector equals the left row times (right matrix times vector),
    modulo a prime; the cost is that of generating the matrix. Raises `RemoteProtocolError` GM-4052.
    """
    rows = [np.frombuffer(content, dtype="<i4") for content in values]
    for (turn, _), row, digest in zip(drawn, rows, digests, strict=True):
        native = np.ascontiguousarray(row, dtype=np.int32).reshape(1, -1)
        if NUMPY.to_bytes(digest_rows(NUMPY, task, turn=turn, rows=native)) != digest:
            raise refuse_answer("a row is not the one that was committed to")
    for turn in sorted({turn for turn, _ in drawn}):
        vector = _draw_vector(task, check_seed, turn)
        image = _multiply_right(task, turn, vector)
        for (at, number), row in zip(drawn, rows, strict=True):
            if at != turn:
                continue
            one = range(number, number + 1)
            left = make_rows(NUMPY, task, turn=turn, matrix="left", rows=one)[0]
            wanted = int((left.astype(np.int64) * image).sum()) % PRIME
            found = int((row.astype(np.int64) * vector % PRIME).sum()) % PRIME
            if wanted != found:
                raise refuse_answer("a row is not a row of the product")


def _draw_vector(task: HardwareTask, check_seed: Hash32, turn: int) -> npt.NDArray[np.int64]:
    words = generate(NUMPY, check_seed, range(task.shape.size), "vector", turn)
    vector: npt.NDArray[np.int64] = shift(words, 1) % PRIME
    return vector


def _multiply_right(
    task: HardwareTask, turn: int, vector: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    # At most 2^14 products of 2^4 and 2^31: exact in float64, which is what BLAS is fast at.
    columns = vector.astype(np.float64)
    parts = []
    for start in range(0, task.shape.size, BLOCK_ROWS):
        rows = range(start, min(task.shape.size, start + BLOCK_ROWS))
        block = make_rows(NUMPY, task, turn=turn, matrix="right", rows=rows)
        parts.append((block.astype(np.float64) @ columns).astype(np.int64) % PRIME)
    return np.concatenate(parts)
