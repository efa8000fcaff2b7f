"""
The proof of execution: one file with everything needed to check a job without its coordinator.

It holds claims only. `audit.py` recomputes each of them from the chain's facts; nothing in the
file is believed because it is there.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, Seal
from gpumarket.protocol.codec import (
    compute_content_hash,
    decode_document_untrusted,
    from_dag_json_untrusted,
)
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.protocol.settlement import Batch
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.units import U64

PROOF_BYTES_MAX = 64 * 2**20


class ProviderWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider's part of an epoch: its signed root and the receipts under it, in order."""

    root: Signed[ProviderRoot]
    receipts: tuple[Signed[Receipt], ...]


class EpochDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a commitment's `dataHash` names: all work of one epoch, providers by address."""

    KIND: ClassVar[str] = "gpumarket.epoch.v1"

    coordinator: Address
    epoch: U64
    work: tuple[ProviderWork, ...]
    verifiers: tuple[Signed[VerifierCard], ...] = ()
    """Those connected at commitment, by address: the draw of verifiers is among these."""


class CheckProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One re-execution: sealed, then opened by the provider, then judged."""

    seal: Signed[Seal]
    opening: Signed[Opening]
    attestation: Signed[Attestation]
    evidence: Evidence


class EpochProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One epoch in which units of the job were committed, sampled and checked."""

    committer: Address
    sequence: U64
    """The committer's number of the commitment on chain."""
    document: EpochDocument
    nonces: bytes
    header: bytes
    """RLP of the seed block's header."""
    seed: Hash32
    checks: tuple[CheckProof, ...]
    openings: tuple[Signed[Opening], ...]
    """The opened results of the job's accepted units that were not sampled."""
    rejected_receipts: tuple[Hash32, ...]
    """Receipts of the job in this epoch that are not paid."""


class SettlementProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the job was paid, or a part of it: a batch, whole, and its place on chain."""

    sequence: U64
    """The coordinator's number of the batch on chain."""
    tx_hash: Hash32
    batch: Batch
    """It pays other jobs too; their evidence is in it by hash only."""


class ProofOfExecution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job from order to payment."""

    KIND: ClassVar[str] = "gpumarket.proof.v1"

    domain: Domain
    order: Signed[Order]
    job: JobSpec
    epochs: tuple[EpochProof, ...]
    settlements: tuple[SettlementProof, ...]
    """One for each batch that pays a line of the job, nearly always a single one; none before
    it is settled."""


def compute_epoch_root(document: EpochDocument) -> Hash32:
    """Return the root a commitment carries: over the content hashes of the provider roots."""
    return compute_root([compute_content_hash(part.root.body) for part in document.work])


def decode_proof_untrusted(data: bytes) -> ProofOfExecution:
    """Decode a proof from DAG-CBOR or DAG-JSON; raise `RemoteProtocolError` GM-7001."""
    try:
        # No DAG-CBOR map begins with the byte of a brace.
        if data.lstrip()[:1] == b"{":
            return from_dag_json_untrusted(data, ProofOfExecution, bytes_max=PROOF_BYTES_MAX)
        return decode_document_untrusted(data, ProofOfExecution, bytes_max=PROOF_BYTES_MAX)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(
            "this is not a proof of execution", code="GM-7001", why=error.message[:300]
        ) from error
