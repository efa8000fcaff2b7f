"""
Openings: where a payment stands in a posted batch, and the proof that it stands there.

The same checks in the same order as `contracts/src/disputes/Records.sol`, so that nobody pays for
a transaction only to learn what can be computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import msgspec

from gpumarket.protocol.errors import BrokenPrecondition, InvalidInput
from gpumarket.protocol.evidence import BatchFact
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import (
    LANE_BYTES,
    Lane,
    PaymentLeaf,
    climb_sum_path,
    compute_leaf_path,
)
from gpumarket.protocol.signing import encode_address, encode_uint, keccak256
from gpumarket.protocol.units import U32, U64

EMPTY_LEAF: Final = PaymentLeaf(order_hash=ZERO_HASH, line=0, evidence_hash=ZERO_HASH, price=0)
"""What stands at every index from a lane's count up to the next power of two."""


class Reason(Enum):
    """Why the contract would refuse; the value is its error's name in `ErrorsLib.sol`."""

    UNKNOWN_BATCH = "UnknownBatch"
    BAD_INDEX = "BadIndex"
    BAD_PATH_LENGTH = "BadPathLength"
    BAD_OPENING = "BadOpening"
    WRONG_HASH = "WrongHash"
    WRONG_PARTY = "WrongParty"
    WRONG_UNIT = "WrongUnit"
    WRONG_PRICE = "WrongPrice"
    WRONG_VERDICT = "WrongVerdict"
    WRONG_ROLE = "WrongRole"
    WRONG_SIGNER = "WrongSigner"
    NOT_INDEPENDENT = "NotIndependent"
    FAULTY_LEAF = "FaultyLeaf"


class WouldRefuse(BrokenPrecondition):
    """The contract would refuse this; nothing was sent."""

    def __init__(self, reason: Reason, **values: object) -> None:
        shown = (f"{name}={_show(value)}" for name, value in values.items())
        super().__init__(
            f"the contract would refuse: {reason.value}({', '.join(shown)})",
            money="nothing was sent",
        )
        self.reason = reason
        self.values = values
        """By the names of the error's arguments; `what` as text, hashes and addresses as bytes."""


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a leaf stands and between whom it moves money: `IDisputes.Place`."""

    coordinator: Address
    sequence: U64
    posted_at: U64
    """Unix seconds."""
    lane: U32
    index: U32
    requester: Address
    payee: Address
    lane_amount: U64
    """Base units that the whole lane moved."""


class PostedBatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A batch as `BatchPosted` shows it: `IDisputes.Batch`.

    `coordinator` is the Disputes contract for a direct settlement.
    """

    coordinator: Address
    sequence: U64
    posted_at: U64
    data_hash: Hash32
    root: Hash32
    requesters: tuple[Address, ...]
    payees: tuple[Address, ...]
    lanes: bytes

    def compute_hash(self) -> Hash32:
        """Return what `batchOf` keeps of it: the hash of all but coordinator and sequence."""
        # abi.encode(uint64, bytes32, bytes32, address[], address[], bytes): six words, then the
        # three lists where the last three words say.
        requesters, payees = _encode_list(self.requesters), _encode_list(self.payees)
        start = 6 * 32
        places = (start, start + len(requesters), start + len(requesters) + len(payees))
        padding = bytes(-len(self.lanes) % 32)
        return keccak256(
            encode_uint(self.posted_at)
            + self.data_hash
            + self.root
            + b"".join(encode_uint(place) for place in places)
            + requesters
            + payees
            + (encode_uint(len(self.lanes)) + self.lanes + padding)
        )

    def list_amounts(self) -> list[int]:
        """Return what each lane moved, in base units."""
        return [lane[3] for lane in self.list_lanes()]

    def list_lanes(self) -> list[tuple[int, int, int, int]]:
        """Return each whole lane: indices of requester and payee, count of leaves, base units."""
        packed = self.lanes
        starts = range(0, len(packed) - LANE_BYTES + 1, LANE_BYTES)
        bounds = ((0, 2), (2, 4), (4, 8), (8, 16))
        return [
            tuple(int.from_bytes(packed[start + a : start + b], "big") for a, b in bounds)  # type: ignore[misc]  # four bounds, four numbers
            for start in starts
        ]


class LeafOpening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A leaf and its siblings, up its lane's tree, then up the lanes': `IDisputes.Opening`."""

    lane: U32
    index: U32
    leaf: PaymentLeaf
    path: tuple[tuple[Hash32, U64], ...]


def describe_posted(coordinator: Address, sequence: int, fact: BatchFact) -> PostedBatch:
    """Return a posted batch as a dispute names it."""
    return PostedBatch(
        coordinator=coordinator,
        sequence=sequence,
        posted_at=fact.posted_at,
        data_hash=fact.data_hash,
        root=fact.root,
        requesters=fact.requesters,
        payees=fact.payees,
        lanes=fact.lanes,
    )


def make_direct_batch(
    disputes: Address, sequence: int, *, posted_at: int, order: Order, receipt: Receipt
) -> PostedBatch:
    """Return the batch of one leaf that a direct settlement is: `Direct._post`."""
    evidence = receipt.compute_struct_hash()
    leaf = PaymentLeaf(
        order_hash=order.compute_struct_hash(),
        line=receipt.unit,
        evidence_hash=evidence,
        price=receipt.price,
    )
    return PostedBatch(
        coordinator=disputes,
        sequence=sequence,
        posted_at=posted_at,
        data_hash=evidence,
        root=leaf.compute_hash(),
        requesters=(order.requester,),
        payees=(receipt.provider,),
        lanes=bytes(4) + (1).to_bytes(4, "big") + receipt.price.to_bytes(8, "big"),
    )


def make_opening(lanes: Sequence[Lane], lane: int, index: int) -> LeafOpening:
    """
    Open a leaf of a batch document; beyond the lane's leaves, the empty one.

    Raises `InvalidInput` for an index that no challenge can name.
    """
    if not 0 <= lane < len(lanes):
        raise InvalidInput(f"the batch has {len(lanes)} lanes, none is number {lane}")
    leaves = lanes[lane].leaves
    if not 0 <= index < compute_width(len(leaves)):
        raise InvalidInput(f"lane {lane} has {len(leaves)} leaves, none is number {index}")
    return LeafOpening(
        lane=lane,
        index=index,
        leaf=leaves[index] if index < len(leaves) else EMPTY_LEAF,
        path=compute_leaf_path(lanes, lane, index),
    )


def compute_width(count: int) -> int:
    """Return how many indices a tree of `count` leaves has, padding included."""
    return 1 << (count - 1).bit_length()


def locate(batch: PostedBatch, lane: int, index: int, *, stored: Hash32) -> Place:
    """
    Return the place of an index, as `challengeWithheld` names it: `Records._locate`.

    `stored` is what the contract keeps of the batch (`batchOf`, `directOf`), zero for none. Raises
    `WouldRefuse`: another batch than the one posted, no such lane or index.
    """
    _check_posted(batch, stored)
    lanes = batch.list_lanes()
    if lane >= len(lanes):
        raise WouldRefuse(Reason.BAD_INDEX, bound=len(lanes), actual=lane)
    requester, payee, leaves, amount = lanes[lane]
    if index >= compute_width(leaves):
        raise WouldRefuse(Reason.BAD_INDEX, bound=compute_width(leaves), actual=index)
    return Place(
        coordinator=batch.coordinator,
        sequence=batch.sequence,
        posted_at=batch.posted_at,
        lane=lane,
        index=index,
        requester=batch.requesters[requester],
        payee=batch.payees[payee],
        lane_amount=amount,
    )


def open_leaf(batch: PostedBatch, opening: LeafOpening, *, stored: Hash32) -> Place:
    """
    Return the place of a leaf that is there in a posted batch: `Records._open`.

    Raises `WouldRefuse` as `locate` does, and for a leaf that is not there.
    """
    place = locate(batch, opening.lane, opening.index, stored=stored)
    lanes = batch.list_lanes()
    leaves = lanes[opening.lane][2]
    is_padding = opening.index >= leaves
    if is_padding and opening.leaf != EMPTY_LEAF:
        raise WouldRefuse(Reason.BAD_INDEX, bound=leaves, actual=opening.index)
    levels, above = (leaves - 1).bit_length(), (len(lanes) - 1).bit_length()
    if len(opening.path) != levels + above:
        raise WouldRefuse(Reason.BAD_PATH_LENGTH, expected=levels + above, actual=len(opening.path))
    name = ZERO_HASH if is_padding else opening.leaf.compute_hash()
    low, high = opening.path[:levels], opening.path[levels:]
    node = climb_sum_path((name, opening.leaf.price), opening.index, low)
    if node[1] == place.lane_amount:
        node = climb_sum_path(node, opening.lane, high)
        if node == (batch.root, sum(batch.list_amounts())):
            return place
    raise WouldRefuse(Reason.BAD_OPENING, expectedRoot=batch.root, actualRoot=node[0])


def _check_posted(batch: PostedBatch, stored: Hash32) -> None:
    actual = batch.compute_hash()
    if stored == ZERO_HASH or stored != actual:
        raise WouldRefuse(Reason.UNKNOWN_BATCH, expected=stored, actual=actual)


def _encode_list(accounts: Sequence[Address]) -> bytes:
    return encode_uint(len(accounts)) + b"".join(encode_address(each) for each in accounts)


def _show(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
