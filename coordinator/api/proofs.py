"""Build a job's proof of execution from the coordinator's record of it."""

from __future__ import annotations

from msgspec.structs import replace

from coordinator.core.batching import list_posted
from coordinator.core.canaries import open_canaries
from coordinator.core.epoch_state import Check, Epoch
from coordinator.core.epochs import get_document
from coordinator.core.lifecycle import EpochState
from coordinator.core.pools import list_checks
from coordinator.core.state import Job, State, get_receipt
from gpumarket.protocol.audit_claims import make_claim
from gpumarket.protocol.ids import ZERO_HASH
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution, SettlementProof


def make_proof(state: State, job: Job) -> ProofOfExecution:
    """Collect everything that an auditor needs about one job; settled or not yet."""
    epochs = [state.epochs[number] for number in job.epochs if number in state.epochs]
    proof = ProofOfExecution(
        domain=state.settings.domain,
        order=job.order,
        job=job.spec,
        epochs=tuple(_make_epoch(state, job, epoch) for epoch in epochs if _is_proven(epoch)),
        settlements=_list_settlements(state, job),
    )
    return replace(proof, claim=make_claim(proof))


def _is_proven(epoch: Epoch) -> bool:
    return epoch.state is EpochState.CLOSED and epoch.seed is not None


def _make_epoch(state: State, job: Job, epoch: Epoch) -> EpochProof:
    # What is sampled with the job's own results is judged with them.
    shared = [
        check
        for part in epoch.parts.values()
        for pool in part.pools
        if job.order_hash in pool.order_hashes
        for check in list_checks(epoch, pool)
    ]
    checks = tuple(proof for check in shared if (proof := _make_check(state, check)) is not None)
    checked = {proof.attestation.body.receipt_hash for proof in checks}
    # An epoch may hold receipts of other jobs, and old ended jobs are forgotten with their leases.
    known = (
        state.leases.get(lease_id) for part in epoch.parts.values() for lease_id in part.lease_ids
    )
    leases = [lease for lease in known if lease and lease.order_hash == job.order_hash]
    rejected = {lease_id for part in epoch.parts.values() for lease_id in part.rejected}
    return EpochProof(
        committer=state.settings.coordinator,
        sequence=epoch.sequence or 0,
        document=get_document(epoch),
        nonces=epoch.seed_nonces,
        header=epoch.header_rlp,
        seed=epoch.seed or ZERO_HASH,
        checks=checks,
        openings=tuple(
            lease.opening
            for lease in leases
            if lease.opening is not None and lease.opening.body.receipt_hash not in checked
        ),
        rejected_receipts=tuple(
            get_receipt(lease).body.compute_struct_hash()
            for lease in leases
            if lease.lease_id in rejected
        ),
        canaries=open_canaries(epoch),
    )


def _make_check(state: State, check: Check) -> CheckProof | None:
    # A job that shared a sample may be forgotten earlier.
    lease = state.leases.get(check.lease_id)
    opening = lease.opening if lease else None
    if check.seal is None or opening is None or check.attestation is None:
        return None
    if check.evidence is None:
        return None
    return CheckProof(
        seal=check.seal, opening=opening, attestation=check.attestation, evidence=check.evidence
    )


def _list_settlements(state: State, job: Job) -> tuple[SettlementProof, ...]:
    return tuple(
        SettlementProof(sequence=record.sequence or 0, batch=record.document)
        for record in list_posted(state, job)
        if record.tx is not None
    )
