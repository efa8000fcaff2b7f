"""
The file that holds a proof of execution: version 1, canonical DAG-CBOR, with DAG-JSON to read.

It holds nothing that follows from something else in it: of a check, for instance, the verifier's
result and three signatures, from which seal, opening and verdict are put together again. So a
value that was changed has no second place that could hide it, and the file stays small.
`proof_file.py` turns it into a `ProofOfExecution` and back.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import msgspec

from gpumarket.protocol.canaries import CanaryOpening
from gpumarket.protocol.chain_proof import ChainProof
from gpumarket.protocol.ids import Address, Cid, Hash32, Signature
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.pools import SamplePool
from gpumarket.protocol.proof import Claim
from gpumarket.protocol.receipt import ProviderRoot, Usage
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.training import SegmentAudit, TrainingClaim
from gpumarket.protocol.units import U32, U64


class CheckEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One re-execution: what the verifier got, and what it signed."""

    verifier: Address
    output: Cid | None = None
    """None where it is the provider's."""
    exit_code: U32 = 0
    repro_class: Hash32 | None = None
    """None where it is the provider's."""
    duration_ms: U64
    nonce: Hash32
    comparison: str
    segments: SegmentAudit | None = None
    verdict: U32
    issued_at: U64
    seal: Signature
    attestation: Signature


class ResultEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """An opened result."""

    output: Cid
    output_bytes: U64
    repro_class: Hash32
    duration_ms: U64
    salt: Hash32
    training: TrainingClaim | None = None
    usage: Usage | None = None
    input_hash: Hash32 | None = None
    """None where the result is of this job, whose hash gives it."""
    seals: tuple[Hash32, ...] = ()
    """Seals that the opening names and that led to no verdict."""
    opening: Signature


class UnitEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A receipt and all that is known of its unit."""

    order: U32 = 0
    """0 for this job's order, else the place in `orders`, from 1."""
    unit: U32
    price: U64
    finished_at: U64
    signature: Signature
    result_hash: Hash32 | None = None
    """Only where the result was not opened."""
    result: ResultEntry | None = None
    checks: tuple[CheckEntry, ...] = ()
    rejected: bool = False
    """Not paid, though this job's."""


class WorkEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One provider's part of an epoch."""

    root: Signed[ProviderRoot]
    pools: tuple[SamplePool, ...]
    stake: U64 = 0
    audited: U32 = 0
    units: tuple[UnitEntry, ...]
    places: tuple[U32, ...] = ()
    """Of the units among the provider's leaves; none where all are there."""
    siblings: bytes = b""
    """Hashes that the units need for the root, 32 bytes each."""


class EpochEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One epoch; its committer is the order's coordinator."""

    sequence: U64
    epoch: U64
    work: tuple[WorkEntry, ...]
    verifiers: tuple[Signed[VerifierCard], ...] = ()
    canaries: CanaryOpening | None = None
    canaries_hash: Hash32 | None = None
    """Only where what gives it is not here."""
    nonces: bytes = b""
    header: bytes
    """RLP of the seed block's header."""


class LeafEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A payment line."""

    order: U32 = 0
    line: U32
    evidence_hash: Hash32
    price: U64


class LaneEntry(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A lane: all of its leaves, or some and what the root needs besides."""

    requester: Address
    payee: Address
    leaves: tuple[LeafEntry, ...] = ()
    count: U32 = 0
    """Of all leaves; 0 where all are there."""
    places: tuple[U32, ...] = ()
    siblings: bytes = b""
    """Hash and sum of each sibling, 32 and 8 bytes."""


class SettlementEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch; it is of the order's coordinator."""

    sequence: U64
    lanes: tuple[LaneEntry, ...]
    bills: tuple[Hash32, ...]


class ProofFile(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The file."""

    KIND: ClassVar[str] = "gpumarket.proof.v1"

    version: Literal[1]
    domain: Domain
    order: Signed[Order]
    job: JobSpec
    orders: tuple[Hash32, ...] = ()
    """Other orders that units or payment lines are of, rising; `order` counts from 1 here."""
    epochs: tuple[EpochEntry, ...] = ()
    settlements: tuple[SettlementEntry, ...] = ()
    claim: Claim
    chain: ChainProof | None = None
