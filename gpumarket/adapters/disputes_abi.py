"""
What a dispute says, in the shape that the contracts' functions take: tuples of ABI values.

Field for field the structs of `IDisputes`, `IJury` and `Hashing`; the field order of our own types
is theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eth_utils.address import to_checksum_address

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.openings import LeafOpening, Place, PostedBatch
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import PaymentLeaf
from gpumarket.protocol.signing import Signed

Tuple = tuple[Any, ...]


def encode_account(value: Address) -> str:
    """Return an address as web3 takes it."""
    return to_checksum_address(value)


def decode_account(text: str) -> Address:
    """Return an address as web3 gives it."""
    return bytes.fromhex(text[2:])


def encode_batch(batch: PostedBatch) -> Tuple:
    """Return `IDisputes.Batch`."""
    return (
        encode_account(batch.coordinator),
        batch.sequence,
        batch.posted_at,
        batch.data_hash,
        batch.root,
        [encode_account(each) for each in batch.requesters],
        [encode_account(each) for each in batch.payees],
        batch.lanes,
    )


def encode_leaf(leaf: PaymentLeaf) -> Tuple:
    """Return `Hashing.Leaf`."""
    return (leaf.order_hash, leaf.line, leaf.evidence_hash, leaf.price)


def encode_opening(opening: LeafOpening) -> Tuple:
    """Return `IDisputes.Opening`."""
    return (
        opening.lane,
        opening.index,
        encode_leaf(opening.leaf),
        [name for name, _ in opening.path],
        [amount for _, amount in opening.path],
    )


def encode_place(place: Place) -> Tuple:
    """Return `IDisputes.Place`."""
    return (
        encode_account(place.coordinator),
        place.sequence,
        place.posted_at,
        place.lane,
        place.index,
        encode_account(place.requester),
        encode_account(place.payee),
        place.lane_amount,
    )


def decode_place(values: Mapping[str, Any]) -> Place:
    """Return a place from an event, or from a call's named values."""
    return Place(
        coordinator=values["coordinator"],
        sequence=values["seq"],
        posted_at=values["postedAt"],
        lane=values["lane"],
        index=values["index"],
        requester=values["requester"],
        payee=values["payee"],
        lane_amount=values["laneAmount"],
    )


def encode_order(order: Order) -> Tuple:
    """Return `Hashing.Order`."""
    return (
        encode_account(order.requester),
        encode_account(order.coordinator),
        encode_account(order.provider),
        order.job_hash,
        order.verify_hash,
        order.units,
        order.checks,
        order.max_unit_price,
        order.max_check_price,
        order.max_fee,
        order.settle_by,
        order.expiry,
        int.from_bytes(order.nonce, "big"),
    )


def encode_receipt(receipt: Receipt) -> Tuple:
    """Return `Hashing.Receipt`."""
    return (
        receipt.order_hash,
        receipt.unit,
        encode_account(receipt.provider),
        receipt.result_hash,
        receipt.price,
        receipt.finished_at,
    )


def encode_attestation(attestation: Attestation) -> Tuple:
    """Return `Hashing.Attestation`."""
    return (
        attestation.receipt_hash,
        int(attestation.verdict),
        attestation.evidence_hash,
        attestation.issued_at,
    )


def encode_vote(seat: int, vote: Signed[Attestation]) -> Tuple:
    """Return `IJury.Vote`; `seat` is the juror's place in the jury, from 0."""
    return (seat, encode_attestation(vote.body), vote.signature)


def encode_assignment(assignment: Assignment) -> Tuple:
    """Return `Hashing.Assignment`."""
    return (
        assignment.order_hash,
        assignment.unit,
        encode_account(assignment.provider),
        assignment.max_price,
        assignment.reserved_until,
    )


def encode_evidence(evidence: LeafEvidence) -> Tuple:
    """Return `IDisputes.Evidence`."""
    return (
        encode_order(evidence.order),
        evidence.order_signature,
        encode_receipt(evidence.receipt),
        evidence.receipt_signature,
        encode_attestation(evidence.attestation),
        evidence.attestation_signature,
    )
