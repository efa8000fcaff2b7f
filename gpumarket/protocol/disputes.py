"""
Disputes: what can be said against a payment, and whether the contract would agree.

Pure and equal to `contracts/src/disputes` and `contracts/src/libraries/LeafFaults.sol`, check for
check and in the same order; `tests/vectors` and `tests/integration/test_settlement_agrees.py` hold
both to it. Amounts are base units, times unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Hash32
from gpumarket.protocol.ledger import ROLE_VERIFIER
from gpumarket.protocol.openings import Place, Reason, WouldRefuse
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import PaymentLeaf, compute_fee_evidence
from gpumarket.protocol.signing import (
    Domain,
    encode_address,
    encode_uint,
    keccak256,
    recover_signer,
)
from gpumarket.protocol.units import U64, Amount, Timestamp

REPORTER_BONDS_MAX: Final = 10
"""A reporter gets at most so many challenge bonds, however large the slash."""
IMMATURE_EPOCHS: Final = 2
"""Credit of epoch e can be claimed from epoch e + 2 on."""

_ACCEPTANCE_TYPE = keccak256(b"Acceptance(bytes32 receiptHash)")
_CLAIM_TYPE = keccak256(b"Claim(address payee,address to,uint256 nonce,uint256 deadline)")


# ---- what is signed ------------------------------------------------------------------------


class Acceptance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A requester's word that it takes the work of a receipt: `Hashing.acceptance`."""

    receipt_hash: Hash32

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash."""
        return keccak256(_ACCEPTANCE_TYPE + self.receipt_hash)


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A payout address's wish to be paid elsewhere: `Hashing.claim`, for `claimTo`."""

    payee: Address
    to: Address
    nonce: U64
    """How often `claimTo` has paid for this payee."""
    deadline: U64

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash."""
        return keccak256(
            _CLAIM_TYPE
            + encode_address(self.payee)
            + encode_address(self.to)
            + encode_uint(self.nonce)
            + encode_uint(self.deadline)
        )


# ---- faults that an order alone shows ------------------------------------------------------


class LeafFault(IntEnum):
    """What is wrong with a leaf by its order alone: `IDisputes.LeafFault`."""

    NONE = 0
    WRONG_REQUESTER = 1
    WRONG_COORDINATOR = 2
    WRONG_PROVIDER = 3
    NO_SUCH_LINE = 4
    PRICE_TOO_HIGH = 5
    TOO_LATE = 6
    WRONG_FEE = 7


def find_leaf_fault(place: Place, leaf: PaymentLeaf, order: Order) -> LeafFault:
    """
    Return the first fault of a leaf in the order of the enum: `LeafFaults.find`.

    `order` must be the leaf's: the caller compares the hashes, as the contract does.
    """
    if place.requester != order.requester:
        return LeafFault.WRONG_REQUESTER
    if place.coordinator != order.coordinator:
        return LeafFault.WRONG_COORDINATOR
    is_work = leaf.line < order.units
    if is_work and order.provider not in (ZERO_ADDRESS, place.payee):
        return LeafFault.WRONG_PROVIDER
    cap = order.find_line_cap(leaf.line)
    if cap is None:
        return LeafFault.NO_SUCH_LINE
    if leaf.price > cap:
        return LeafFault.PRICE_TOO_HIGH
    if place.posted_at > order.settle_by:
        return LeafFault.TOO_LATE
    if leaf.line == order.fee_line and not _is_fee(place, leaf):
        return LeafFault.WRONG_FEE
    return LeafFault.NONE


def _is_fee(place: Place, leaf: PaymentLeaf) -> bool:
    evidence = compute_fee_evidence(leaf.order_hash)
    return place.payee == place.coordinator and leaf.evidence_hash == evidence


# ---- evidence that a leaf is right ---------------------------------------------------------


class LeafEvidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    All that makes a leaf right: `IDisputes.Evidence`.

    Work needs order and receipt; a check needs the attestation too; a fee the order only. What is
    not needed may be anything.
    """

    order: Order
    order_signature: bytes
    """Not looked at where the order is presigned."""
    receipt: Receipt
    receipt_signature: bytes = b""
    attestation: Attestation
    attestation_signature: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What the contract knows besides: its domain, and what it keeps of the parties."""

    domain: Domain
    roles: Mapping[Address, int]
    """What operators are registered as; absent is no operator."""
    is_presigned: bool = False
    """Whether the requester signed this order by transaction."""


def check_evidence(
    place: Place, leaf: PaymentLeaf, evidence: LeafEvidence, *, standing: Standing
) -> None:
    """Raise `WouldRefuse` unless evidence makes a leaf right: `Evidences._checkEvidence`."""
    order, receipt = evidence.order, evidence.receipt
    _check_hash("order", leaf.order_hash, order.compute_struct_hash())
    fault = find_leaf_fault(place, leaf, order)
    if fault is not LeafFault.NONE:
        raise WouldRefuse(Reason.FAULTY_LEAF, fault=int(fault))
    if not standing.is_presigned:
        signature = evidence.order_signature
        _check_signer(order.requester, leaf.order_hash, signature, standing.domain)
    if leaf.line < order.units:
        _check_hash("receipt", leaf.evidence_hash, receipt.compute_struct_hash())
        _check_receipt(evidence, leaf.order_hash, leaf.line, standing.domain)
        _check_party("provider", place.payee, receipt.provider)
        if receipt.price != leaf.price:
            raise WouldRefuse(Reason.WRONG_PRICE, expected=receipt.price, actual=leaf.price)
    elif leaf.line < order.fee_line:
        _check_hash("attestation", leaf.evidence_hash, evidence.attestation.compute_struct_hash())
        _check_receipt(evidence, leaf.order_hash, receipt.unit, standing.domain)
        _check_attestation(evidence, place.payee, standing)


def _check_receipt(evidence: LeafEvidence, order_hash: Hash32, unit: int, domain: Domain) -> None:
    """Raise `WouldRefuse` unless the receipt is of this unit and signed: `_checkReceipt`."""
    receipt = evidence.receipt
    _check_hash("receipt.orderHash", order_hash, receipt.order_hash)
    if receipt.unit != unit or unit >= evidence.order.units:
        raise WouldRefuse(Reason.WRONG_UNIT, expected=unit, actual=receipt.unit)
    signature = evidence.receipt_signature
    _check_signer(receipt.provider, receipt.compute_struct_hash(), signature, domain)


def _check_attestation(evidence: LeafEvidence, verifier: Address, standing: Standing) -> None:
    """Raise `WouldRefuse` unless a registered verifier decided: `_checkAttestation`."""
    attestation, receipt = evidence.attestation, evidence.receipt
    name = "attestation.receiptHash"
    _check_hash(name, receipt.compute_struct_hash(), attestation.receipt_hash)
    if attestation.verdict not in (Verdict.MATCH, Verdict.MISMATCH):
        expected = int(Verdict.MATCH)
        raise WouldRefuse(Reason.WRONG_VERDICT, expected=expected, actual=int(attestation.verdict))
    if verifier == receipt.provider:
        raise WouldRefuse(Reason.NOT_INDEPENDENT, verifier=verifier)
    role = standing.roles.get(verifier, 0)
    if role != ROLE_VERIFIER:
        raise WouldRefuse(Reason.WRONG_ROLE, expected=ROLE_VERIFIER, actual=role)
    signature = evidence.attestation_signature
    _check_signer(verifier, attestation.compute_struct_hash(), signature, standing.domain)


def _check_signer(expected: Address, struct_hash: Hash32, signature: bytes, domain: Domain) -> None:
    """Raise `WouldRefuse` unless `expected` signed: `Judge._checkSigner`. Zero signs nothing."""
    actual = recover_signer(domain.compute_digest(struct_hash), signature) or ZERO_ADDRESS
    if actual != expected or expected == ZERO_ADDRESS:
        raise WouldRefuse(Reason.WRONG_SIGNER, expected=expected, actual=actual)


def _check_hash(what: str, expected: Hash32, actual: Hash32) -> None:
    """Raise `WouldRefuse` unless two hashes are the same: `Judge._checkHash`."""
    if expected != actual:
        raise WouldRefuse(Reason.WRONG_HASH, what=what, expected=expected, actual=actual)


def _check_party(what: str, expected: Address, actual: Address) -> None:
    """Raise `WouldRefuse` unless two accounts are the same: `Judge._checkSame`."""
    if expected != actual:
        raise WouldRefuse(Reason.WRONG_PARTY, what=what, expected=expected, actual=actual)


# ---- money ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlashSplit:
    """Where a slash goes, in base units; the parts add up to what was taken."""

    to_reporter: Amount
    to_harmed: Amount
    to_each_juror: Amount
    to_jurors: Amount
    """All of them together."""
    burnt: Amount


def split_slash(taken: int, *, challenge_bond: int, has_harmed: bool, jurors: int) -> SlashSplit:
    """Share out a slash of `taken` base units: `Judge._splitSlash`. At least half is burnt."""
    to_reporter = min(taken // 8, REPORTER_BONDS_MAX * challenge_bond)
    to_harmed = taken // 4 if has_harmed else 0
    to_each = taken // 8 // jurors if jurors else 0
    to_jurors = to_each * jurors
    burnt = taken - to_reporter - to_harmed - to_jurors
    return SlashSplit(
        Amount(to_reporter), Amount(to_harmed), Amount(to_each), Amount(to_jurors), Amount(burnt)
    )


# ---- time ----------------------------------------------------------------------------------


def compute_maturity(earned_at: int, *, epoch: int) -> Timestamp:
    """Return the first second at which credit can be claimed and no longer be disputed."""
    return Timestamp((earned_at // epoch + IMMATURE_EPOCHS) * epoch)


def find_last_challenge(posted_at: int, *, open_seconds: int) -> Timestamp:
    """Return the last second at which a leaf of a batch can be challenged."""
    return Timestamp(posted_at + open_seconds)


def find_last_proof(posted_at: int, *, epoch: int) -> Timestamp:
    """
    Return the last second at which a fault of a leaf can be proven, or its work accused.

    Later only while a dispute over the leaf holds its price.
    """
    return Timestamp(compute_maturity(posted_at, epoch=epoch) - 1)
