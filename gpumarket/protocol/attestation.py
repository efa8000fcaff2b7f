"""
The attestation: what a verifier found when it did the work again, without seeing the first result.

Order of events, each bound to the one before: the verifier seals its own output, the provider
opens its result naming that seal, the verifier opens the seal and states a verdict.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar

import msgspec

from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.signing import Document, encode_uint, keccak256
from gpumarket.protocol.training import SegmentAudit
from gpumarket.protocol.units import U32, U64

_ATTESTATION_TYPE = keccak256(
    b"Attestation(bytes32 receiptHash,uint8 verdict,bytes32 evidenceHash,uint64 issuedAt)"
)
_SEAL_TAG = b"gpumarket.seal.v1"


class Verdict(IntEnum):
    """What re-execution showed; INCONCLUSIVE never pays and never blames."""

    MATCH = 1
    MISMATCH = 2
    INCONCLUSIVE = 3


class OwnResult(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the verifier got; hashed into its seal, shown when the seal is opened."""

    order_hash: Hash32
    unit: U32
    verifier: Address
    output: Cid
    exit_code: U32
    repro_class: Hash32
    duration_ms: U64
    nonce: Hash32

    def compute_hash(self) -> Hash32:
        """Return the sealed hash."""
        return keccak256(_SEAL_TAG + encode_document(self))


class Seal(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verifier's promise that it has a result of its own, before it may see the provider's."""

    KIND: ClassVar[str] = "gpumarket.seal.v1"
    IS_SMALL: ClassVar[bool] = True

    order_hash: Hash32
    unit: U32
    verifier: Address
    receipt_hash: Hash32
    sealed: Hash32


class Opening(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's opened result; for a sampled unit it names each seal that came first."""

    KIND: ClassVar[str] = "gpumarket.opening.v1"
    IS_SMALL: ClassVar[bool] = True

    result: UnitResult
    receipt_hash: Hash32
    seal_hashes: tuple[Hash32, ...]
    """Content hashes of the verifiers' seals, rising; none for a unit that was not sampled."""


class Attestation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A verifier's signed verdict on one receipt."""

    receipt_hash: Hash32
    verdict: U32
    evidence_hash: Hash32
    """Content hash of the `Evidence` document."""
    issued_at: U64

    def compute_struct_hash(self) -> Hash32:
        """Return the EIP-712 struct hash."""
        return keccak256(
            _ATTESTATION_TYPE
            + self.receipt_hash
            + encode_uint(self.verdict)
            + self.evidence_hash
            + encode_uint(self.issued_at)
        )


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a verdict rests on: both results and how they were compared."""

    own: OwnResult
    opening_hash: Hash32
    """Content hash of the provider's `Opening`."""
    segments: SegmentAudit | None = None
    """For a training task: its chain, and which segments were done again."""
    comparison: str
    """One sentence for people: which rule, which file decided, by how much."""
