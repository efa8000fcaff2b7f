"""Both ends of a hardware challenge: `Solver` answers one, `check_answer` judges it."""

from __future__ import annotations

from collections.abc import Sequence

from gpumarket.hardware.arrays import Array, Backend
from gpumarket.hardware.product import check_rows, compute_digests, compute_rows
from gpumarket.hardware.table import check_walks, fill_table, walk
from gpumarket.protocol.hardware import (
    HardwareTask,
    OpenedRow,
    check_opened,
    compute_rows_root,
    draw_rows,
    open_rows,
)
from gpumarket.protocol.ids import Hash32


class Abandoned(Exception):
    """A newer challenge took the place of this one."""


class Solver:
    """Answers one challenge on one device, in three steps that are asked for one after another."""

    def __init__(self, backend: Backend, task: HardwareTask) -> None:
        self.backend = backend
        self.task = task
        self.digests = b""
        self.table: Array = None
        self.is_abandoned = False
        """Set from another thread, to make way for a newer challenge."""

    def multiply(self) -> Hash32:
        """Compute all products; return the root over their rows."""
        parts = []
        for turn in range(self.task.shape.rounds):
            self.check_wanted()
            parts.append(compute_digests(self.backend, self.task, turn))
        self.digests = b"".join(parts)
        return compute_rows_root(self.digests)

    def fill(self) -> None:
        """Fill the table, and keep it until the walks."""
        self.table = fill_table(self.backend, self.task, self.check_wanted)

    def check_wanted(self) -> None:
        """Raise `Abandoned` once nobody waits for the answer any more."""
        if self.is_abandoned:
            raise Abandoned

    def open(self, second: Hash32) -> tuple[tuple[OpenedRow, ...], bytes]:
        """Return the rows that the second seed draws, and the ends of its walks."""
        # The walks first: they are what the clock is about.
        walks = walk(self.backend, self.task, second=second, lookup=self.look_up)
        drawn = draw_rows(second, compute_rows_root(self.digests), self.task.shape)
        values = compute_rows(self.backend, self.task, drawn)
        return open_rows(self.digests, rows=drawn, values=values, shape=self.task.shape), walks

    def look_up(self, places: Array) -> Array:
        """Return the table's entries at these places."""
        return self.table[places]


def check_answer(
    task: HardwareTask,
    *,
    root: Hash32,
    second: Hash32,
    check_seed: Hash32,
    rows: Sequence[OpenedRow],
    walks: bytes,
) -> None:
    """Judge an opened answer; raises `RemoteProtocolError` GM-4052 that says what is wrong."""
    digests = check_opened(task, root=root, second=second, rows=rows, walks=walks)
    drawn = draw_rows(second, root, task.shape)
    values = [row.values for row in rows]
    check_rows(task, check_seed, drawn=drawn, values=values, digests=digests)
    check_walks(task, second=second, check_seed=check_seed, walks=walks)
