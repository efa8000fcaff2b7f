"""
The table: memory that must be there, because leaving parts of it out costs more than having them.

In each stage entry i takes in entry (c - i) mod N, with a c of the stage's own, so pairs change
places and the whole table is filled in place. After k stages an entry follows from 2^k entries of
the beginning, which lie all over the table: what is kept elsewhere must travel once a stage, and
what is not kept costs 2^k mixings each time a walk comes by.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from gpumarket.hardware.arrays import (
    Array,
    Backend,
    derive_key,
    generate,
    generate_at,
    mix_pair,
    shift,
)
from gpumarket.hardware.product import NUMPY
from gpumarket.protocol.hardware import WALK_BYTES, HardwareTask, refuse_answer
from gpumarket.protocol.ids import Hash32

CHUNK: Final = 1 << 16
"""Entries at a time: small enough for a cache, large enough to hide Python."""
GPU_CHUNK: Final = 1 << 24

Lookup = Callable[[Array], Array]


def fill_table(
    backend: Backend, task: HardwareTask, check_wanted: Callable[[], None] = lambda: None
) -> Array:
    """Return the filled table; takes eight bytes an entry and little more."""
    entries, chunk = task.shape.table_entries, _choose_chunk(backend)
    table = backend.make_empty(entries)
    for start in range(0, entries, chunk):
        stop = min(entries, start + chunk)
        table[start:stop] = generate(backend, task.seed, range(start, stop), "table")
    for stage in range(task.shape.stages):
        check_wanted()
        turn = find_turn(task, stage)
        _fold(backend, table[: turn + 1], chunk)
        _fold(backend, table[turn + 1 :], chunk)
    return table


def find_turn(task: HardwareTask, stage: int) -> int:
    """Return the c of a stage: entry i meets entry (c - i) mod N."""
    return derive_key(task.seed, "stage", stage) % task.shape.table_entries


def _fold(backend: Backend, part: Array, chunk: int) -> None:
    length = len(part)
    for start in range(0, length // 2, chunk):
        stop = min(length // 2, start + chunk)
        low = part[start:stop]
        high = backend.reverse(part[length - stop : length - start])
        mixed = mix_pair(low, high)
        part[length - stop : length - start] = backend.reverse(mix_pair(high, low))
        part[start:stop] = mixed
    if length % 2:
        middle = part[length // 2 : length // 2 + 1]
        part[length // 2 : length // 2 + 1] = mix_pair(middle, middle)


def compute_entry(task: HardwareTask, index: int) -> int:
    """Return one entry without the table, in two to the power of the stages steps."""
    entries = task.shape.table_entries
    places: Any = np.array([index], dtype=np.int64)
    for stage in reversed(range(task.shape.stages)):
        places = np.concatenate([places, (find_turn(task, stage) - places) % entries])
    values = generate_at(task.seed, places, "table")
    while len(values) > 1:
        half = len(values) // 2
        values = mix_pair(values[:half], values[half:])
    return int(values[0])


def _choose_chunk(backend: Backend) -> int:
    return CHUNK if backend.device is None else GPU_CHUNK


# ---- walks ---------------------------------------------------------------------------------


def walk(backend: Backend, task: HardwareTask, *, second: Hash32, lookup: Lookup) -> bytes:
    """Walk through the table from where the second seed says; return where each walk ended."""
    state = generate(backend, second, range(task.shape.walkers), "walk")
    for _ in range(task.shape.steps):
        state = mix_pair(state, lookup(shift(state, 8) % task.shape.table_entries))
    ends = backend.to_bytes(state)
    return b"".join(ends[at : at + WALK_BYTES] for at in range(0, len(ends), 8))


def check_walks(task: HardwareTask, *, second: Hash32, check_seed: Hash32, walks: bytes) -> None:
    """Do some walks again without a table; raises `RemoteProtocolError` GM-4052."""
    shape = task.shape
    for number in range(shape.checked_walks):
        walker = derive_key(check_seed, "walker", number) % shape.walkers
        state = generate(NUMPY, second, range(walker, walker + 1), "walk")
        for _ in range(shape.steps):
            place = int((shift(state, 8) % shape.table_entries)[0])
            state = mix_pair(state, np.array([compute_entry(task, place)], dtype=np.int64))
        end = NUMPY.to_bytes(state)[:WALK_BYTES]
        if walks[walker * WALK_BYTES : (walker + 1) * WALK_BYTES] != end:
            raise refuse_answer("a walk through the table ended elsewhere")
