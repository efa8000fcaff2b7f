"""How the audit reads a proof: the parts that belong to its order, and the facts about them."""

from __future__ import annotations

from collections.abc import Iterator

from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.evidence import (
    BatchFact,
    ChainEvidence,
    CommitFact,
    MissingEvidence,
    SeedFact,
)
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.pools import SamplePool, iterate_spans
from gpumarket.protocol.proof import (
    CheckProof,
    EpochProof,
    OpenedWork,
    ProofOfExecution,
    ProviderWork,
    SettlementProof,
)
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane, OpenedLane, PaymentLeaf
from gpumarket.protocol.signing import Signed


def find_commit(epoch: EpochProof, evidence: ChainEvidence) -> CommitFact:
    """Return an epoch's commitment on chain, or raise `MissingEvidence`."""
    fact = evidence.commits.get((epoch.committer, epoch.sequence))
    if fact is None:
        raise MissingEvidence(
            f"commitment {epoch.sequence} is not among the chain's events read here"
        )
    return fact


def find_seed(epoch: EpochProof, evidence: ChainEvidence) -> SeedFact:
    """Return an epoch's seed on chain, or raise `MissingEvidence`."""
    fact = evidence.seeds.get((epoch.committer, epoch.sequence))
    if fact is None:
        raise MissingEvidence(
            f"the seed of commitment {epoch.sequence} is not among the events read here"
        )
    return fact


def find_batch(settlement: SettlementProof, evidence: ChainEvidence) -> BatchFact:
    """Return the batch on chain that a proof names, or raise `MissingEvidence`."""
    fact = evidence.batches.get((settlement.batch.coordinator, settlement.sequence))
    if fact is None:
        raise MissingEvidence(
            f"batch {settlement.sequence} is not among the chain's events read here"
        )
    return fact


def list_settlements(proof: ProofOfExecution) -> tuple[SettlementProof, ...]:
    """Return where the job was paid, one entry a batch, or raise `MissingEvidence`."""
    if not proof.settlements:
        raise MissingEvidence("the job is not settled yet")
    return proof.settlements


def list_own_work(proof: ProofOfExecution, work: ProviderWork) -> list[Signed[Receipt]]:
    """Return a provider's receipts of this order, in the order they were committed."""
    order_hash = proof.order.body.compute_struct_hash()
    return [receipt for receipt in work.receipts if receipt.body.order_hash == order_hash]


def index_receipts(proof: ProofOfExecution, epoch: EpochProof) -> dict[Hash32, Receipt]:
    """Return an epoch's receipts of this order by struct hash."""
    return {
        receipt.body.compute_struct_hash(): receipt.body
        for work in epoch.document.work
        for receipt in list_own_work(proof, work)
    }


def index_all_receipts(proof: ProofOfExecution) -> dict[Hash32, Signed[Receipt]]:
    """Return the receipts of this order in all epochs by struct hash."""
    return {
        receipt.body.compute_struct_hash(): receipt
        for epoch in proof.epochs
        for work in epoch.document.work
        for receipt in list_own_work(proof, work)
    }


def index_epoch_receipts(epoch: EpochProof) -> dict[Hash32, Receipt]:
    """Return all receipts of an epoch that are shown, of whatever order, by struct hash."""
    return {
        receipt.body.compute_struct_hash(): receipt.body
        for work in epoch.document.work
        for receipt in work.receipts
    }


def locate_receipts(work: ProviderWork) -> dict[int, Signed[Receipt]]:
    """Return the receipts of a provider that are shown by their places among its leaves."""
    places = work.places if isinstance(work, OpenedWork) else range(len(work.receipts))
    return dict(zip(places, work.receipts, strict=True))


def list_own_checks(proof: ProofOfExecution, epoch: EpochProof) -> list[CheckProof]:
    """Return the checks of an epoch that are of this order's results."""
    own = index_receipts(proof, epoch)
    return [check for check in epoch.checks if check.attestation.body.receipt_hash in own]


def index_checks(proof: ProofOfExecution) -> dict[Hash32, CheckProof]:
    """Return this order's checks by the struct hash of their attestation, which is paid for."""
    return {
        check.attestation.body.compute_struct_hash(): check
        for epoch in proof.epochs
        for check in list_own_checks(proof, epoch)
    }


def list_openings(epoch: EpochProof) -> list[Signed[Opening]]:
    """Return every opened result of an epoch, sampled or not; once where two checks show it."""
    return [*epoch.openings, *dict.fromkeys(check.opening for check in epoch.checks)]


def iterate_own_leaves(proof: ProofOfExecution) -> Iterator[tuple[Lane, PaymentLeaf]]:
    """Give the payment leaves of this order with their lanes."""
    for settlement in list_settlements(proof):
        yield from iterate_leaves_in(proof, settlement)


def iterate_leaves_in(
    proof: ProofOfExecution, settlement: SettlementProof
) -> Iterator[tuple[Lane, PaymentLeaf]]:
    """Give the payment leaves of this order in one batch with their lanes."""
    order_hash = proof.order.body.compute_struct_hash()
    for lane in settlement.batch.lanes:
        for leaf in lane.leaves:
            if leaf.order_hash == order_hash:
                yield lane, leaf


def list_paid(proof: ProofOfExecution) -> set[Hash32]:
    """Return the evidence that was paid: hashes of receipts, attestations and the fee."""
    return {leaf.evidence_hash for _, leaf in iterate_own_leaves(proof)}


def is_whole(settlement: SettlementProof) -> bool:
    """Say whether all lines of a batch are shown, so that its document is."""
    return not any(isinstance(lane, OpenedLane) for lane in settlement.batch.lanes)


def count_hidden(settlement: SettlementProof) -> int:
    """Return how many lines of a batch are not shown."""
    return sum(lane.leaf_count - len(lane.leaves) for lane in settlement.batch.lanes)


def find_own_pool(proof: ProofOfExecution, work: ProviderWork) -> tuple[SamplePool, range] | None:
    """
    Return the pool of a provider that has, or may have, results of this order, and its places.

    None where all results are shown and none is of this order.
    """
    if not isinstance(work, OpenedWork) and not list_own_work(proof, work):
        return None
    terms = proof.job.verify.pool()
    return next((found for found in iterate_spans(work.pools) if found[0].policy == terms), None)
