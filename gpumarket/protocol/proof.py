"""
The proof of execution: one file with everything needed to check a job without its coordinator.

It holds claims only. `audit.py` recomputes each of them from the chain's facts; nothing in the
file is believed because it is there.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, Seal
from gpumarket.protocol.canaries import CanaryOpening
from gpumarket.protocol.chain_proof import ChainProof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.merkle import climb_multipath, compute_root
from gpumarket.protocol.offer import VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.pools import SamplePool
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.protocol.settlement import Batch
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.units import U32, U64


class ProviderWork(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One provider's part of an epoch: its signed root and the receipts under it, in order."""

    root: Signed[ProviderRoot]
    receipts: tuple[Signed[Receipt], ...]
    pools: tuple[SamplePool, ...]
    """What is sampled together, in the order of the receipts."""
    stake: U64 = 0
    """What a conviction takes from the provider, in base units; zero where it has no stake."""
    audited: U32 = 0
    """Its units that were checked and matched before, by the coordinator's count."""


class OpenedWork(ProviderWork, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's part of which some receipts are shown; its root binds the results of all."""

    places: tuple[U32, ...]
    """Of the receipts among the provider's leaves, rising."""
    siblings: tuple[Hash32, ...]
    """What their result hashes need for the root, as `compute_multipath` lists it."""


class EpochDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a commitment's `dataHash` names: all work of one epoch, providers by address."""

    KIND: ClassVar[str] = "gpumarket.epoch.v1"

    coordinator: Address
    epoch: U64
    work: tuple[ProviderWork, ...]
    verifiers: tuple[Signed[VerifierCard], ...] = ()
    """Those eligible at commitment, by address: the draw of verifiers is among these."""
    canaries: Hash32
    """Commitment to what is forged in it on purpose: of a salt alone where nothing is."""


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
    """Of all units that were sampled with the job's own, whatever job they are of."""
    openings: tuple[Signed[Opening], ...]
    """The opened results of the job's accepted units that were not sampled."""
    rejected_receipts: tuple[Hash32, ...]
    """Receipts of the job in this epoch that are not paid."""
    canaries: CanaryOpening | None = None
    """What opens the document's commitment to canaries."""


class SettlementProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the job was paid, or a part of it: a batch, whole, and its place on chain."""

    sequence: U64
    """The coordinator's number of the batch on chain."""
    batch: Batch
    """It pays other jobs too; their evidence is in it by hash only."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the proof comes to, in numbers that every auditor computes again."""

    units: U64
    """Committed results in the pools of which the job's own are part."""
    checked: U64
    """Those that were done again by a verifier."""
    forged_share_ppm: U32
    """The share of forged results that the policy is to find, in millionths."""
    miss_ppb: U64
    """The largest chance, in parts per billion, that a pool's sample has none of them."""


class ProofOfExecution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job from order to payment."""

    domain: Domain
    order: Signed[Order]
    job: JobSpec
    epochs: tuple[EpochProof, ...]
    settlements: tuple[SettlementProof, ...]
    """One for each batch that pays a line of the job, nearly always a single one; none before
    it is settled."""
    claim: Claim | None = None
    """None until it is complete: `make_claim`."""
    chain: ChainProof | None = None
    """Headers and state proofs, for an audit without a network."""


def compute_epoch_root(document: EpochDocument) -> Hash32:
    """
    Return the root a commitment carries: over what is said of each provider, then all the rest.

    It holds all of a document but the receipts, which are under the providers' own roots: so who
    has some of them only can still tell what was committed.
    """
    heads = [
        compute_content_hash((work.root.body, work.pools, work.stake, work.audited))
        for work in document.work
    ]
    last = compute_content_hash(
        (document.coordinator, document.epoch, document.verifiers, document.canaries)
    )
    return compute_root([*heads, last])


def count_leaves(work: ProviderWork) -> int:
    """Return how many results a provider committed to, shown or not."""
    return work.root.body.count if isinstance(work, OpenedWork) else len(work.receipts)


def compute_work_root(work: ProviderWork) -> Hash32:
    """
    Return the root over a provider's result hashes.

    Raises `RemoteProtocolError` where those that are shown and the others give none.
    """
    hashes = [receipt.body.result_hash for receipt in work.receipts]
    if not isinstance(work, OpenedWork):
        return compute_root(hashes)
    opened = list(zip(work.places, hashes, strict=True))
    return climb_multipath(opened, count=work.root.body.count, path=work.siblings)
