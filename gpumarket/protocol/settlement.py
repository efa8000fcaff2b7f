"""
Settlement: from receipts and attestations to lanes, sums and one batch for the chain.

A lane is one (requester, payee) pair with the Merkle-sum tree of its payment leaves; the lanes'
roots and amounts are the leaves of one tree more, whose root the batch carries. So the chain moves
totals while every single leaf stays provable by its lane and index.
`contracts/src/disputes/Records.sol` opens the same trees; `tests/vectors` holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple

import msgspec

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.merkle import check_places
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import Signed, keccak256
from gpumarket.protocol.units import U32, U64, Amount

LANES_MAX = 256
"""The most lanes in one batch; the contract refuses more."""
LANE_LEAVES_MAX = 2**20
LANE_BYTES = 16
"""Of a packed lane: two u16 indices (requester, payee), u32 leaves, u64 amount, big endian."""
_AMOUNT_MAX = 2**64 - 1
_LEAF_TAG = b"\x00"
_NODE_TAG = b"\x01"
_FEE_TAG = b"gpumarket.fee.v1"


class PaymentLeaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One payment line of one order: which line, on which evidence, how much."""

    order_hash: Hash32
    line: U32
    evidence_hash: Hash32
    """Struct hash of the receipt (work) or attestation (check); the tagged order (fee)."""
    price: U64

    def compute_hash(self) -> Hash32:
        """Return the leaf hash as the contract computes it."""
        return keccak256(
            _LEAF_TAG
            + self.order_hash
            + self.line.to_bytes(4, "big")
            + self.evidence_hash
            + self.price.to_bytes(8, "big")
        )


class Lane(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one requester pays one payee in a batch, and the leaves behind the sum."""

    requester: Address
    payee: Address
    leaves: tuple[PaymentLeaf, ...]

    @property
    def leaf_count(self) -> int:
        """How many leaves the lane has, shown or not."""
        return len(self.leaves)

    @property
    def leaf_places(self) -> Sequence[int]:
        """Where the leaves that are shown stand in the lane's tree."""
        return range(len(self.leaves))

    @property
    def amount(self) -> Amount:
        """The sum of the leaves' prices."""
        return Amount(sum(leaf.price for leaf in self.leaves))

    def compute_root(self) -> Hash32:
        """Return the Merkle-sum root over the leaves."""
        return compute_sum_root([(leaf.compute_hash(), leaf.price) for leaf in self.leaves])[0]


class OpenedLane(Lane, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A lane of which some leaves are shown; the others are bound by its root and sum."""

    places: tuple[U32, ...]
    """Of the leaves in the lane's tree, rising."""
    siblings: tuple[tuple[Hash32, int], ...]
    """What the leaves need for the root, as `compute_sum_multipath` lists it."""
    count: U32

    @property
    def leaf_count(self) -> int:
        """How many leaves the lane has, shown or not."""
        return self.count

    @property
    def leaf_places(self) -> Sequence[int]:
        """Where the leaves that are shown stand in the lane's tree."""
        return self.places

    @property
    def amount(self) -> Amount:
        """The sum under the lane's root."""
        return Amount(_climb_lane(self)[1])

    def compute_root(self) -> Hash32:
        """Return the Merkle-sum root that leaves and siblings give."""
        return _climb_lane(self)[0]


@lru_cache(maxsize=512)
def _climb_lane(lane: OpenedLane) -> tuple[Hash32, int]:
    nodes = [(leaf.compute_hash(), leaf.price) for leaf in lane.leaves]
    opened = list(zip(lane.places, nodes, strict=True))
    return climb_sum_multipath(opened, count=lane.count, path=lane.siblings)


class Bill(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The evidence behind one order's lines in a batch, each kind in the order of its lines."""

    KIND: ClassVar[str] = "gpumarket.bill.v1"

    order: Signed[Order]
    receipts: tuple[Signed[Receipt], ...]
    attestations: tuple[Signed[Attestation], ...]


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The document behind a batch's `dataHash`: every payment line, and where its evidence is.

    It stays small however many jobs are paid: evidence is in bills of its own, one for each
    order, so that whoever checks one order needs its own bill and not the others'.
    """

    KIND: ClassVar[str] = "gpumarket.batch.v1"

    coordinator: Address
    lanes: tuple[Lane, ...]
    bills: tuple[Hash32, ...]
    """Content hashes, in the order of the order hashes in the leaves."""


def compute_fee_evidence(order_hash: Hash32) -> Hash32:
    """Return what stands in a fee leaf for evidence: the order itself, tagged."""
    return keccak256(_FEE_TAG + order_hash)


def compute_sum_root(leaves: Sequence[tuple[Hash32, int]]) -> tuple[Hash32, int]:
    """Return the root hash and sum over (hash, amount) leaves, padded to a power of two."""
    if not leaves:
        raise InvalidInput("a tree has at least one leaf")
    if sum(amount for _, amount in leaves) > _AMOUNT_MAX:
        raise InvalidInput("the sum does not fit the chain's 64 bits")
    return _build_levels(leaves)[-1][0]


def compute_sum_path(
    leaves: Sequence[tuple[Hash32, int]], index: int
) -> tuple[tuple[Hash32, int], ...]:
    """Return the sibling (hash, sum) pairs from leaf `index` up to the root."""
    path = []
    for level in _build_levels(leaves)[:-1]:
        path.append(level[index ^ 1])
        index //= 2
    return tuple(path)


def climb_sum_path(
    node: tuple[Hash32, int], index: int, path: Sequence[tuple[Hash32, int]]
) -> tuple[Hash32, int]:
    """Return what a (hash, sum) at `index` comes to, along its siblings from below."""
    for sibling in path:
        node = _join(node, sibling) if index % 2 == 0 else _join(sibling, node)
        index //= 2
    return node


def compute_sum_multipath(
    leaves: Sequence[tuple[Hash32, int]], indexes: Sequence[int]
) -> tuple[tuple[Hash32, int], ...]:
    """
    Return the (hash, sum) pairs that the leaves at `indexes`, which rise, need for the root.

    Level by level from below, left to right; with no index it is the root itself.
    """
    levels = _build_levels(leaves)
    known = list(indexes)
    if not known:
        return (levels[-1][0],)
    path: list[tuple[Hash32, int]] = []
    for level in levels[:-1]:
        have = frozenset(known)
        path += (level[each ^ 1] for each in known if each ^ 1 not in have)
        known = sorted({index // 2 for index in known})
    return tuple(path)


def climb_sum_multipath(
    opened: Sequence[tuple[int, tuple[Hash32, int]]],
    *,
    count: int,
    path: Sequence[tuple[Hash32, int]],
) -> tuple[Hash32, int]:
    """
    Return root and sum over `count` leaves of which `opened` (index, (hash, amount)) are shown.

    Raises `RemoteProtocolError` unless the indexes rise and are below `count`, each pair of the
    path is used, in order, and the sum fits the chain's 64 bits.
    """
    check_places([index for index, _ in opened], count)
    rest, level = iter(path), list(opened)
    try:
        if not level:
            level = [(0, next(rest))]
        else:
            for _ in range((count - 1).bit_length()):
                level = _climb_level(level, rest)
    except StopIteration:
        raise RemoteProtocolError("a Merkle path is too short") from None
    if next(rest, None) is not None:
        raise RemoteProtocolError("a Merkle path is too long")
    _, top = level[0]
    if top[1] > _AMOUNT_MAX:
        raise RemoteProtocolError("a lane's sum does not fit the chain's 64 bits")
    return top


def _climb_level(
    level: Sequence[tuple[int, tuple[Hash32, int]]], rest: Iterator[tuple[Hash32, int]]
) -> list[tuple[int, tuple[Hash32, int]]]:
    above: list[tuple[int, tuple[Hash32, int]]] = []
    place = 0
    while place < len(level):
        index, node = level[place]
        place += 1
        if index % 2:
            above.append((index // 2, _join(next(rest), node)))
        elif place < len(level) and level[place][0] == index + 1:
            above.append((index // 2, _join(node, level[place][1])))
            place += 1
        else:
            above.append((index // 2, _join(node, next(rest))))
    return above


def make_lanes(payments: Iterable[tuple[Address, Address, PaymentLeaf]]) -> tuple[Lane, ...]:
    """
    Group (requester, payee, leaf) into lanes in one order that anybody can repeat.

    Raises `InvalidInput` when a payment line appears twice: one line pays once.
    """
    grouped: dict[tuple[Address, Address], list[PaymentLeaf]] = {}
    seen: set[tuple[Hash32, int]] = set()
    for requester, payee, leaf in payments:
        if (leaf.order_hash, leaf.line) in seen:
            raise InvalidInput(f"line {leaf.line} of order 0x{leaf.order_hash.hex()} pays twice")
        seen.add((leaf.order_hash, leaf.line))
        grouped.setdefault((requester, payee), []).append(leaf)
    return tuple(
        Lane(
            requester=requester,
            payee=payee,
            leaves=tuple(sorted(leaves, key=lambda leaf: (leaf.order_hash, leaf.line))),
        )
        for (requester, payee), leaves in sorted(grouped.items())
    )


class PackedBatch(NamedTuple):
    """Lanes as `postBatch` takes them and `BatchPosted` shows them."""

    requesters: tuple[Address, ...]
    payees: tuple[Address, ...]
    lanes: bytes
    """`LANE_BYTES` for each."""
    root: Hash32
    """Merkle-sum root over each lane's root and amount."""


def pack_lanes(lanes: Sequence[Lane]) -> PackedBatch:
    """
    Pack lanes as the contract reads them.

    Raises `InvalidInput` for no lane, more than a batch holds, and an empty or too large one.
    """
    if len(lanes) > LANES_MAX:
        raise InvalidInput(f"{len(lanes)} lanes do not fit one batch, the limit is {LANES_MAX}")
    root, _ = compute_sum_root(_list_lane_nodes(lanes))
    requesters = sorted({lane.requester for lane in lanes})
    payees = sorted({lane.payee for lane in lanes})
    packed = b"".join(
        requesters.index(lane.requester).to_bytes(2, "big")
        + payees.index(lane.payee).to_bytes(2, "big")
        + lane.leaf_count.to_bytes(4, "big")
        + lane.amount.to_bytes(8, "big")
        for lane in lanes
    )
    return PackedBatch(tuple(requesters), tuple(payees), packed, root)


def compute_leaf_path(
    lanes: Sequence[Lane], lane: int, index: int
) -> tuple[tuple[Hash32, int], ...]:
    """
    Return the sibling (hash, sum) pairs of a leaf: up its lane's tree, then up the lanes'.

    `index` may lie beyond the leaves up to the next power of two: there the tree is empty.
    """
    leaves = [(leaf.compute_hash(), leaf.price) for leaf in lanes[lane].leaves]
    return compute_sum_path(leaves, index) + compute_sum_path(_list_lane_nodes(lanes), lane)


def _list_lane_nodes(lanes: Sequence[Lane]) -> list[tuple[Hash32, int]]:
    return [(lane.compute_root(), lane.amount) for lane in lanes]


def _build_levels(leaves: Sequence[tuple[Hash32, int]]) -> list[list[tuple[Hash32, int]]]:
    width = 1 << (len(leaves) - 1).bit_length()
    levels = [list(leaves) + [(ZERO_HASH, 0)] * (width - len(leaves))]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_join(below[i], below[i + 1]) for i in range(0, len(below), 2)])
    return levels


def _join(left: tuple[Hash32, int], right: tuple[Hash32, int]) -> tuple[Hash32, int]:
    # A sum that passed 64 bits is hashed cut and kept whole, so it never equals an amount again.
    packed = b"".join(
        name + (amount & _AMOUNT_MAX).to_bytes(8, "big") for name, amount in (left, right)
    )
    return keccak256(_NODE_TAG + packed), left[1] + right[1]
