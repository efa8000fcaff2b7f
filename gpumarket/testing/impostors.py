"""Devices that are not what they are offered as: solvers that cheat at a hardware challenge."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from gpumarket.hardware.answering import Solver
from gpumarket.hardware.arrays import Array, Backend
from gpumarket.hardware.product import NUMPY, digest_rows
from gpumarket.hardware.table import compute_entry
from gpumarket.protocol.hardware import HardwareTask, OpenedRow, compute_rows_root
from gpumarket.protocol.ids import Hash32

Opened = tuple[tuple[OpenedRow, ...], bytes]


class HalfTable(Solver):
    """Keeps a share of the table and computes the rest when a walk comes by."""

    def __init__(self, backend: Backend, task: HardwareTask, *, kept_ppm: int = 500_000) -> None:
        super().__init__(backend, task)
        self.kept = task.shape.table_entries * kept_ppm // 10**6
        self.recomputed = 0
        self._known: dict[int, int] = {}

    def fill(self) -> None:
        """Throw away what there is no room for."""
        super().fill()
        self.table = self.table[: self.kept].copy()

    def look_up(self, places: Array) -> Array:
        """Return what is kept, and compute what is not."""
        values = np.empty(len(places), dtype=np.int64)
        is_kept = places < self.kept
        values[is_kept] = self.table[places[is_kept]]
        missing = [self.compute_missing(int(place)) for place in places[~is_kept]]
        values[~is_kept] = np.array(missing, dtype=np.int64)
        return values

    def compute_missing(self, place: int) -> int:
        """Compute one entry from the beginning."""
        self.recomputed += 1
        return compute_entry(self.task, place)


class GuessingTable(HalfTable):
    """Keeps half of the table and guesses the rest."""

    def compute_missing(self, place: int) -> int:
        """Say anything."""
        self.recomputed += 1
        return 0


class LazyProduct(Solver):
    """Commits to rows it did not compute, and computes those that are drawn."""

    def multiply(self) -> Hash32:
        """Commit to digests of rows of zeros."""
        shape = self.task.shape
        parts = []
        for turn in range(shape.rounds):
            rows = np.zeros((shape.size, shape.size), dtype=np.int32)
            parts.append(NUMPY.to_bytes(digest_rows(NUMPY, self.task, turn=turn, rows=rows)))
        self.digests = b"".join(parts)
        return compute_rows_root(self.digests)


class ZeroProduct(LazyProduct):
    """Commits to rows of zeros, and opens them: everything fits but the product."""

    def open(self, second: Hash32) -> Opened:
        """Open what was committed to."""
        rows, walks = super().open(second)
        return tuple(_change(row, values=bytes(len(row.values))) for row in rows), walks


class ChangedRow(Solver):
    """Commits to the right rows and opens one with another value."""

    def open(self, second: Hash32) -> Opened:
        """Change one value of the first row."""
        rows, walks = super().open(second)
        first = rows[0].values
        changed = bytes([first[0] ^ 1]) + first[1:]
        return (_change(rows[0], values=changed), *rows[1:]), walks


class ChangedDigest(Solver):
    """Opens a row that was never in the tree, with digests of its own."""

    def open(self, second: Hash32) -> Opened:
        """Replace the digests of the first row."""
        rows, walks = super().open(second)
        return (_change(rows[0], digests=bytes(len(rows[0].digests))), *rows[1:]), walks


def _change(row: OpenedRow, **changes: Any) -> OpenedRow:
    return msgspec.structs.replace(row, **changes)
