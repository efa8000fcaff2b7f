"""Proving: a job's record as the proof document that an auditor checks without us."""

from __future__ import annotations

from coordinator.core.lifecycle import EpochState, UnitState
from coordinator.core.state import Check, Epoch, Job, Lease, State, get_receipt
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import InvalidInput, LocalProtocolError
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution, SettlementProof


def make_proof(state: State, job: Job) -> ProofOfExecution:
    """Return the proof of a job that is over; raise `InvalidInput` (GM-5003) before that."""
    if not job.is_over:
        raise InvalidInput(
            f"{job.job_id} is {job.state.value}: there is no receipt yet", code="GM-5003"
        )
    epochs = [state.epochs[number] for number in job.epochs]
    return ProofOfExecution(
        domain=state.settings.domain,
        order=job.order,
        job=job.spec,
        epochs=tuple(_make_epoch(state, job, e) for e in epochs if e.seed is not None),
        settlement=_make_settlement(job),
    )


def _make_epoch(state: State, job: Job, epoch: Epoch) -> EpochProof:
    if epoch.state is not EpochState.CLOSED and not job.is_over:
        raise LocalProtocolError(f"epoch {epoch.number} is not closed")
    if epoch.document is None or epoch.sequence is None or epoch.seed is None:
        raise LocalProtocolError(f"epoch {epoch.number} has a seed and no commitment")
    sampled = [check for check in epoch.checks.values() if check.order_hash == job.order_hash]
    checked = {check.lease_id for check in sampled}
    leases = _list_leases(state, job, epoch)
    checks = (_make_check(state, check) for check in sampled)
    return EpochProof(
        committer=state.settings.coordinator,
        sequence=epoch.sequence,
        document=epoch.document,
        nonces=epoch.seed_nonces,
        header=epoch.header_rlp,
        seed=epoch.seed,
        checks=tuple(check for check in checks if check is not None),
        openings=tuple(
            lease.opening
            for lease in leases
            if lease.opening is not None
            and lease.lease_id not in checked
            and lease.state is LeaseState.ACCEPTED
        ),
        rejected_receipts=tuple(
            get_receipt(lease).body.compute_struct_hash()
            for lease in leases
            if lease.state is LeaseState.ENDED
        ),
    )


def _list_leases(state: State, job: Job, epoch: Epoch) -> list[Lease]:
    return [
        state.leases[lease_id]
        for part in epoch.parts.values()
        if part.signed is not None
        for lease_id in part.lease_ids
        if lease_id in state.leases and state.leases[lease_id].order_hash == job.order_hash
    ]


def _make_check(state: State, check: Check) -> CheckProof | None:
    # A check that nobody decided proves nothing; its receipt is among the rejected.
    opening = state.leases[check.lease_id].opening
    if check.seal is None or opening is None or check.attestation is None:
        return None
    if check.evidence is None:
        raise LocalProtocolError("an attestation is kept without its evidence")
    return CheckProof(
        seal=check.seal, opening=opening, attestation=check.attestation, evidence=check.evidence
    )


def _make_settlement(job: Job) -> SettlementProof | None:
    posted = [record for record in job.batches if record.tx is not None]
    if not posted:
        return None
    # A job with more payees than one batch holds has several; the first is shown.
    record = posted[0]
    if record.sequence is None or record.tx is None:
        raise LocalProtocolError("a posted batch has no number")
    return SettlementProof(
        coordinator=record.batch.coordinator,
        sequence=record.sequence,
        data_hash=compute_content_hash(record.batch),
        tx_hash=record.tx,
        lanes=record.batch.lanes,
    )


def count_units(job: Job) -> dict[str, int]:
    """Return how many tasks are in each state, by its name, and in all."""
    return {"total": len(job.units)} | {s.value: job.counts[s] for s in UnitState}
