"""
The hardware challenge: whether a device computes as fast and holds as much as its offer claims.

The coordinator sends a fresh seed. The device multiplies matrices that follow from it and commits
to the rows of all products, then fills a table as large as the memory it claims. When all that are
asked at one time are ready, a second seed says which rows to open and where walks through the
table begin. Each of the three steps has a deadline that follows from the class of the claimed
device: `DEVICE_CLASSES` says how fast the slowest honest one is. What is found feeds matching,
never payment. The arithmetic is in `gpumarket/hardware/`; this module has the values, the bounds
and what needs no arithmetic.

Source: R. Freivalds, IFIP 1977, for the check of rows; Du, Jia, Mangal, Murugesan, ICDCS 2004,
for committing before the sample is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.gpu import Device, DeviceFacts, normalize_model
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.merkle import compute_path, compute_root, has_leaf
from gpumarket.protocol.signing import encode_uint, keccak256
from gpumarket.protocol.units import U32

ROWS_PER_LEAF = 64
"""Hashing each row by itself would take longer than computing it."""
DIGEST_BYTES = 8
VALUE_BYTES = 4
ENTRY_BYTES = 8
WALK_BYTES = 4
SIZE_MAX = 16_384
"""Of a matrix: sums of 16,384 products of two values in -16..15 are exact in float32 and TF32."""
NETWORK_SECONDS = 3
"""For two messages on a slow line; also what a whole second of clock hides."""
OPENING_SECONDS = 6
CPU_SECONDS = 30
"""For each step. A processor is offered as what it is: this says that it answers at all."""
PRODUCT_SECONDS = 4
"""How long the slowest honest device of a class multiplies."""
TABLE_PPM = 750_000
"""The share of the claimed memory that the table takes; half the memory does not hold it."""

_ID_TAG = b"gpumarket.hardware-challenge.v1"
_LEAF_TAG = b"gpumarket.hardware-rows.v1"
_ROWS_TAG = b"gpumarket.hardware-draw.v1"


class DeviceClass(msgspec.Struct, frozen=True, kw_only=True):
    """What the slowest honest device of a class does; arithmetic from data sheets, not measured."""

    name: str
    multiply_gflops: int
    """Multiplications and additions in 10^9 a second, with generating and folding the matrices."""
    fill_mega: int
    """Table entries, each brought through one stage, in 10^6 a second."""


CPU_CLASS = DeviceClass(name="cpu", multiply_gflops=1, fill_mega=1)
DEVICE_CLASSES: tuple[tuple[str, DeviceClass], ...] = tuple(
    (name, DeviceClass(name=name, multiply_gflops=gflops, fill_mega=mega))
    for name, gflops, mega in (
        ("h200", 60_000, 6_000),
        ("h100", 60_000, 5_000),
        ("a100", 30_000, 3_000),
        ("l40s", 25_000, 1_500),
        ("l40", 20_000, 1_500),
        ("rtx4090", 20_000, 1_800),
        ("rtx4080", 12_000, 1_200),
        ("rtx3090", 10_000, 1_600),
        ("a6000", 10_000, 1_200),
        ("v100", 8_000, 1_500),
        ("a10", 8_000, 1_000),
        ("l4", 6_000, 500),
        ("t4", 4_000, 500),
    )
)
"""By a part of the normalized model name, the first that fits."""
GPU_CLASS = DeviceClass(name="gpu", multiply_gflops=3_000, fill_mega=400)
"""Any other GPU: what a processor of a server hardly reaches."""


class HardwareShape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much work one challenge is."""

    size: Annotated[int, Meta(ge=ROWS_PER_LEAF, le=SIZE_MAX)]
    """Rows and columns of each matrix, a multiple of `ROWS_PER_LEAF`."""
    rounds: Annotated[int, Meta(ge=1, le=1_024)]
    """Products of matrices of their own."""
    opened_rows: Annotated[int, Meta(ge=1, le=16)]
    table_entries: Annotated[int, Meta(ge=2, le=1 << 38)]
    """Of eight bytes."""
    stages: Annotated[int, Meta(ge=1, le=24)]
    """An entry follows from two to this power entries of before: what leaving it out costs."""
    walkers: Annotated[int, Meta(ge=1, le=65_536)]
    steps: Annotated[int, Meta(ge=1, le=64)]
    """Of each walk; each goes where the one before led."""
    checked_walks: Annotated[int, Meta(ge=1, le=16)]

    @property
    def flops(self) -> int:
        """Multiplications and additions of all products."""
        return 2 * self.size**3 * self.rounds

    @property
    def entry_stages(self) -> int:
        """Entries of the table, each counted once a stage."""
        return self.table_entries * self.stages


class HardwareTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One challenge to one device of one offer."""

    challenge: Hash32
    device: U32
    """Which of the offer's devices, from zero."""
    seed: Hash32
    shape: HardwareShape


class OpenedRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row of a product; which one is drawn, not said."""

    values: bytes
    """Four bytes each, signed, little-endian."""
    digests: bytes
    """Of the `ROWS_PER_LEAF` rows that share a leaf with it, eight bytes each."""
    path: tuple[Hash32, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a device is asked for, and how many seconds it has for each step."""

    class_name: str
    shape: HardwareShape
    answer_seconds: int
    """For the products."""
    ready_seconds: int
    """For the table, from then on."""
    opening_seconds: int
    """For the walks."""


def find_class(device: Device) -> DeviceClass:
    """Return the class a device is measured by; a simulated one is a processor, and says so."""
    if device.simulated or device.vendor == "cpu":
        return CPU_CLASS
    if _is_part(device):
        return GPU_CLASS  # the whole card's bounds are not for a part of it
    model = normalize_model(device.model)
    return next((found for name, found in DEVICE_CLASSES if name in model), GPU_CLASS)


def _is_part(device: Device) -> bool:
    """Tell whether a part of a card is offered under a name that no whole card has."""
    partition = device.facts.partition if isinstance(device.facts, DeviceFacts) else ""
    return bool(partition) and device.model.endswith(f" MIG {partition}")


def plan_challenge(device: Device) -> Plan:
    """Return what to ask of a device, and its bounds in whole seconds."""
    found = find_class(device)
    if found is CPU_CLASS:
        shape = HardwareShape(
            size=512,
            rounds=2,
            opened_rows=4,
            table_entries=1 << 17,
            stages=10,
            walkers=64,
            steps=8,
            checked_walks=2,
        )
        return Plan(
            class_name=found.name,
            shape=shape,
            answer_seconds=CPU_SECONDS,
            ready_seconds=CPU_SECONDS,
            opening_seconds=CPU_SECONDS,
        )
    size = SIZE_MAX if found.multiply_gflops >= 20_000 else SIZE_MAX // 2
    shape = HardwareShape(
        size=size,
        rounds=_divide_up(PRODUCT_SECONDS * found.multiply_gflops * 10**9, 2 * size**3),
        opened_rows=8,
        table_entries=max(1 << 20, device.vram_bytes * TABLE_PPM // 10**6 // ENTRY_BYTES),
        stages=24,
        walkers=65_536,
        steps=16,
        checked_walks=1,
    )
    return Plan(
        class_name=found.name,
        shape=shape,
        answer_seconds=NETWORK_SECONDS + _divide_up(shape.flops, found.multiply_gflops * 10**9),
        ready_seconds=_divide_up(shape.entry_stages, found.fill_mega * 10**6),
        opening_seconds=OPENING_SECONDS,
    )


def _divide_up(work: int, rate: int) -> int:
    return -(-work // rate)


def make_task(
    secret: Hash32, *, coordinator: Address, provider: Address, device: int, shape: HardwareShape
) -> HardwareTask:
    """Return the challenge to one device that follows from the coordinator's secret."""
    where = coordinator + provider + encode_uint(device)
    seed = keccak256(_ID_TAG + b"seed" + secret + where)
    challenge = keccak256(_ID_TAG + where + seed)
    return HardwareTask(challenge=challenge, device=device, seed=seed, shape=shape)


def derive_second_seed(secret: Hash32, challenge: Hash32) -> Hash32:
    """Return the seed that says which rows to open and where walks begin; told after the root."""
    return keccak256(_ID_TAG + b"second" + secret + challenge)


def derive_check_seed(secret: Hash32, challenge: Hash32) -> Hash32:
    """Return the seed of the challenger's own checks; never told."""
    return keccak256(_ID_TAG + b"check" + secret + challenge)


def draw_rows(second: Hash32, root: Hash32, shape: HardwareShape) -> tuple[tuple[int, int], ...]:
    """Return the distinct (round, row) pairs that are opened, in order."""
    total, drawn, counter = shape.rounds * shape.size, list[int](), 0
    while len(drawn) < min(shape.opened_rows, total):
        word = keccak256(_ROWS_TAG + second + root + encode_uint(counter))
        counter += 1
        # 256 bits over at most 2^24 rows: the remainder's bias is nothing.
        index = int.from_bytes(word, "big") % total
        if index not in drawn:
            drawn.append(index)
    return tuple(divmod(index, shape.size) for index in drawn)


# ---- the tree over rows --------------------------------------------------------------------


def make_leaves(digests: bytes) -> list[Hash32]:
    """Return the leaves over the digests of all rows of all rounds, eight bytes a row."""
    step = ROWS_PER_LEAF * DIGEST_BYTES
    return [_hash_leaf(digests[at : at + step]) for at in range(0, len(digests), step)]


def compute_rows_root(digests: bytes) -> Hash32:
    """Return the root that a device commits to."""
    return compute_root(make_leaves(digests))


def open_rows(
    digests: bytes,
    *,
    rows: Sequence[tuple[int, int]],
    values: Sequence[bytes],
    shape: HardwareShape,
) -> tuple[OpenedRow, ...]:
    """Return the drawn rows with their values and their paths in the tree."""
    leaves, step = make_leaves(digests), ROWS_PER_LEAF * DIGEST_BYTES
    opened = []
    for (turn, row), content in zip(rows, values, strict=True):
        leaf = (turn * shape.size + row) // ROWS_PER_LEAF
        opened.append(
            OpenedRow(
                values=content,
                digests=digests[leaf * step : (leaf + 1) * step],
                path=compute_path(leaves, leaf),
            )
        )
    return tuple(opened)


def check_opened(
    task: HardwareTask,
    *,
    root: Hash32,
    second: Hash32,
    rows: Sequence[OpenedRow],
    walks: bytes,
) -> tuple[bytes, ...]:
    """
    Check the form of an opening and that its rows were committed to; return each row's digest.

    Raises `RemoteProtocolError` GM-4052. Whether the rows are right is for `gpumarket/hardware/`.
    """
    shape = task.shape
    drawn = draw_rows(second, root, shape)
    if len(rows) != len(drawn):
        raise refuse_answer(f"{len(rows)} rows were opened instead of {len(drawn)}")
    if len(walks) != shape.walkers * WALK_BYTES:
        raise refuse_answer("the walks have the wrong length")
    count = shape.rounds * shape.size // ROWS_PER_LEAF
    digests = []
    for (turn, row), opened in zip(drawn, rows, strict=True):
        index = turn * shape.size + row
        if len(opened.values) != shape.size * VALUE_BYTES:
            raise refuse_answer("a row has the wrong length")
        if len(opened.digests) != ROWS_PER_LEAF * DIGEST_BYTES or not has_leaf(
            root,
            _hash_leaf(opened.digests),
            index=index // ROWS_PER_LEAF,
            count=count,
            path=opened.path,
        ):
            raise refuse_answer("a row was not committed to")
        at = index % ROWS_PER_LEAF * DIGEST_BYTES
        digests.append(opened.digests[at : at + DIGEST_BYTES])
    return tuple(digests)


def refuse_answer(why: str) -> RemoteProtocolError:
    """Return the error for a wrong answer to a challenge."""
    return RemoteProtocolError(
        f"the answer to a hardware challenge is wrong: {why}", code="GM-4052"
    )


def _hash_leaf(digests: bytes) -> Hash32:
    return keccak256(_LEAF_TAG + digests)
