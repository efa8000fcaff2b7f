"""
Settlement: from receipts and attestations to lanes, sums and one batch for the chain.

A lane is one (requester, payee) pair with the Merkle-sum tree of its payment leaves; the lanes'
roots and amounts are the leaves of one tree more, whose root the batch carries. So the chain moves
totals while every single leaf stays provable by its lane and index.
`contracts/src/disputes/Records.sol` opens the same trees; `tests/vectors` holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import msgspec

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
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
    def amount(self) -> Amount:
        """The sum of the leaves' prices."""
        return Amount(sum(leaf.price for leaf in self.leaves))

    def compute_root(self) -> Hash32:
        """Return the Merkle-sum root over the leaves."""
        return compute_sum_root([(leaf.compute_hash(), leaf.price) for leaf in self.leaves])[0]


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
        + len(lane.leaves).to_bytes(4, "big")
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
