"""
Training tasks: checkpoints are kept while they come, so that a lost provider costs one segment.

A provider hands out the state of each checkpoint, signed and chained. It counts only if it
continues the chain, and is gone on from only if its checkpoint is here and is what the state says:
who keeps the checkpoints sees an update that is longer than was said. Nobody else is shown a chain
before the verifiers have sealed what they got.
"""

from __future__ import annotations

from coordinator.core.effects import Effect, FetchCheckpoint
from coordinator.core.epoch_state import Check
from coordinator.core.events import CheckpointKept, CheckpointRefused
from coordinator.core.leases import (
    cancel_at_provider,
    end_with_failure,
    find_own_lease,
    finish_lease,
    get_job,
    get_unit,
    start_lease,
)
from coordinator.core.pools import get_seed
from coordinator.core.state import Job, Lease, State, get_receipt, write_log
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Evidence
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Address, Multiaddr
from gpumarket.protocol.job import CheckpointPlan
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.training import (
    SegmentAudit,
    SegmentStart,
    SegmentState,
    check_next_state,
    compute_chain_start,
    count_segments,
    draw_segments,
    make_claim,
    make_starts,
)

_LIVE = (LeaseState.PROPOSED, LeaseState.ACTIVE)
TEXT_CHARACTERS_MAX = 300


# ---- while it runs -------------------------------------------------------------------------


def take_checkpoint(
    state: State, sender: Address, message: messages.CheckpointTaken
) -> list[Effect]:
    """Put a signed state at the end of its lease's chain, and fetch its checkpoint."""
    lease = find_own_lease(state, sender, message.lease_id)
    if lease is None or lease.state is LeaseState.ENDED:
        return [cancel_at_provider(sender, message.lease_id, lease)]
    signed = verify(message.state, state.settings.domain)
    segment, plan = signed.body, _get_plan(get_job(state, lease))
    if not sender == signed.signer == segment.provider:
        raise RemoteProtocolError("a segment is signed by somebody else than its provider")
    if segment.index < len(lease.segments):
        # Sent again after a lost session; two different ones for one place are an offense.
        if lease.segments[segment.index].body != segment:
            raise RemoteProtocolError("a provider states two ends of one segment")
        return []
    if lease.state not in _LIVE:
        return []
    _check_place(state, lease, segment)
    before = lease.segments[-1].body if lease.segments else None
    start = compute_chain_start(get_job(state, lease).order.body.job_hash, lease.unit)
    check_next_state(segment, before=before, start=start, plan=plan)
    if lease.state is LeaseState.PROPOSED:
        start_lease(state, lease)
    lease.segments.append(message.state)
    return [make_fetch(state, lease)]


def _check_place(state: State, lease: Lease, segment: SegmentState) -> None:
    if (segment.order_hash, segment.unit) != (lease.order_hash, lease.unit):
        raise RemoteProtocolError("a segment is of another task than its lease")
    known = state.providers.get(lease.provider)
    # Another class would be judged with a tolerance instead of by its bytes.
    if known is not None and known.offer.body.repro_class != segment.repro_class:
        raise RemoteProtocolError("a segment names another class than its provider's offer")


def make_fetch(state: State, lease: Lease) -> FetchCheckpoint:
    """Return the effect that brings a lease's newest checkpoint here, now or again."""
    known = state.providers.get(lease.provider)
    segments = [signed.body for signed in lease.segments]
    return FetchCheckpoint(
        lease_id=lease.lease_id,
        order_hash=lease.order_hash,
        segment=segments[-1],
        before=segments[-2] if len(segments) > 1 else None,
        bytes_max=_get_plan(get_job(state, lease)).bytes_max,
        sources=known.offer.body.addresses if known else (),
    )


def list_unkept(state: State) -> list[Effect]:
    """Return the fetches that a stopped process has not finished."""
    return [
        make_fetch(state, lease)
        for lease in state.leases.values()
        if lease.state is LeaseState.ACTIVE and len(lease.segments) > lease.kept
    ]


def keep_checkpoint(state: State, event: CheckpointKept) -> list[Effect]:
    """Note that a checkpoint is here: the task goes on from it if its provider is lost."""
    lease = state.leases.get(event.lease_id)
    if lease is None or event.index >= len(lease.segments):
        return []
    lease.kept = max(lease.kept, event.index + 1)
    job, unit = get_job(state, lease), get_unit(state, lease)
    if job.is_over or _get_plan(job).does_resume is False or unit.lease_id != lease.lease_id:
        return []
    if lease.state in _LIVE and lease.kept > len(unit.segments):
        unit.segments = lease.segments[: lease.kept]
        segment = unit.segments[-1].body
        text = f"at step {segment.step_to}, loss {segment.loss}"
        write_log(state, job, "checkpoint", text=text, task=lease.unit, actor=lease.provider)
    return []


def refuse_checkpoint(state: State, event: CheckpointRefused) -> list[Effect]:
    """End the lease of a provider whose checkpoint is not what it says."""
    lease = state.leases.get(event.lease_id)
    if lease is None or lease.state not in _LIVE:
        return []
    reason = Reason(code="GM-7106", text=event.text[:TEXT_CHARACTERS_MAX], fault="provider")
    effects = end_with_failure(state, lease, reason)
    return [cancel_at_provider(lease.provider, lease.lease_id, lease), *effects]


def finish_training(state: State, sender: Address, message: messages.UnitFinished) -> list[Effect]:
    """Take a receipt; one of a training task counts only with its whole chain."""
    lease = find_own_lease(state, sender, message.lease_id)
    if lease is not None and lease.state in _LIVE:
        plan = get_job(state, lease).spec.checkpoint
        if plan is not None and len(lease.segments) != count_segments(plan) + 1:
            raise RemoteProtocolError("a training task is finished without its last checkpoint")
    return finish_lease(state, sender, message)


# ---- going on ------------------------------------------------------------------------------


def take_over(lease: Lease, segments: list[Signed[SegmentState]]) -> None:
    """Let a new lease begin where the kept checkpoints of a lost one end."""
    lease.segments = list(segments)
    lease.inherited = lease.kept = len(segments)


def find_resume(lease: Lease) -> SegmentState | None:
    """Return the state that a lease goes on from, or None where it begins at the beginning."""
    return lease.segments[lease.inherited - 1].body if lease.inherited else None


# ---- checking ------------------------------------------------------------------------------


def check_claim(state: State, lease: Lease, result: UnitResult) -> None:
    """Raise `RemoteProtocolError` unless an opened result ends the chain that was handed out."""
    claim = make_claim(lease.segments[-1].body) if lease.segments else None
    if result.training != claim:
        raise RemoteProtocolError("an opened result ends another chain than was handed out")


def find_audit(state: State, check: Check) -> SegmentAudit | None:
    """Return a checked task's chain and the segments that the seed picks of it; None for others."""
    job, lease = state.jobs[check.order_hash], state.leases[check.lease_id]
    plan = job.spec.checkpoint
    if plan is None:
        return None
    if lease.epoch is None:
        raise LocalProtocolError("a check is of no epoch")
    states = tuple(signed.body for signed in lease.segments)
    drawn = draw_segments(
        states,
        plan=plan,
        seed=get_seed(state.epochs[lease.epoch]),
        receipt_hash=get_receipt(lease).body.compute_struct_hash(),
        is_full=job.spec.verify.mode == "full",
    )
    return SegmentAudit(states=states, drawn=drawn)


def list_starts(state: State, check: Check) -> tuple[SegmentStart, ...]:
    """Return what a verifier is told of the segments it does again: where each begins."""
    audit = find_audit(state, check)
    if audit is None:
        return ()
    return make_starts(audit.states, audit.drawn, _get_plan(state.jobs[check.order_hash]))


def list_states(state: State, check: Check) -> tuple[SegmentState, ...]:
    """Return the chain that a verifier is shown once it has sealed."""
    audit = find_audit(state, check)
    return () if audit is None else audit.states


def check_evidence(state: State, check: Check, evidence: Evidence) -> None:
    """Raise `RemoteProtocolError` unless a verdict rests on the segments that were drawn."""
    if evidence.segments != find_audit(state, check):
        raise RemoteProtocolError("the evidence is about other segments than were drawn")


def list_checkpoint_sources(state: State, lease: Lease) -> tuple[Multiaddr, ...]:
    """Return where checkpoints can be had: here, where all are kept, then their provider."""
    known = state.providers.get(lease.provider)
    return (*state.sources, *(known.offer.body.addresses if known else ()))


def _get_plan(job: Job) -> CheckpointPlan:
    if job.spec.checkpoint is None:
        raise RemoteProtocolError("a checkpoint of a task that has none")
    return job.spec.checkpoint
