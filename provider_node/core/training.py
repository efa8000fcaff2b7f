"""
A training task at its provider: checkpoints become a chain that is handed out as it grows.

The chain goes on over a restart of this node, and over the loss of an earlier provider, whose part
is in the lease. Only states of our own segments are signed here.
"""

from __future__ import annotations

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Cid
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.training import (
    SegmentState,
    TrainingClaim,
    check_next_state,
    compute_chain_start,
    count_segments,
    make_claim,
    make_state,
)
from provider_node.core.effects import PrepareUnit, SignCheckpoint
from provider_node.core.events import CheckpointStored
from provider_node.core.state import Lease
from provider_node.core.terms import Terms


def take_checkpoint(lease: Lease, stored: CheckpointStored, terms: Terms) -> list[SignCheckpoint]:
    """
    Put a checkpoint at the end of its lease's chain.

    One that does not continue it changes nothing: after a restart the program may show some
    again, and a chain that ends too early fails with the run.
    """
    plan, order = lease.offer.job.checkpoint, lease.offer.order.body
    if plan is None:
        return []
    before, start = lease.last_segment, compute_chain_start(order.job_hash, lease.offer.unit)
    state = make_state(
        stored.facts,
        before=before,
        start=start,
        step_from=0 if before is None else before.step_to,
        order_hash=order.compute_struct_hash(),
        unit=lease.offer.unit,
        provider=terms.provider,
        repro_class=terms.repro_class,
    )
    try:
        check_next_state(state, before=before, start=start, plan=plan)
    except RemoteProtocolError:
        return []
    lease.segments.append(state)
    return [_sign(lease, state)]


def sign_again(lease: Lease) -> list[SignCheckpoint]:
    """Return what a coordinator must hear again of a lease's checkpoints."""
    return [_sign(lease, state) for state in lease.segments]


def prepare(lease: Lease) -> PrepareUnit:
    """Return the effect that gets everything a lease needs to run."""
    return PrepareUnit(lease=lease.offer, resume=find_resume(lease))


def find_resume(lease: Lease) -> Cid | None:
    """Return the checkpoint that the next run of a lease goes on from."""
    last = lease.last_segment
    return None if last is None else last.folder


def find_claim(lease: Lease) -> TrainingClaim | None:
    """Return what a result says of its chain; None for a task that has none."""
    last = lease.last_segment
    return None if last is None else make_claim(last)


def find_gap(lease: Lease) -> Reason | None:
    """Return why a run that ended well is worth nothing, or None where its chain is whole."""
    plan, last = lease.offer.job.checkpoint, lease.last_segment
    if plan is None:
        return None
    wanted, taken = count_segments(plan), 0 if last is None else last.index
    if last is not None and taken == wanted:
        return None
    text = f"the program left {taken} of {wanted} checkpoints after the first, in their order"
    return Reason(code="GM-5105", text=text, fault="requester")


def _sign(lease: Lease, state: SegmentState) -> SignCheckpoint:
    return SignCheckpoint(coordinator=lease.coordinator, lease_id=lease.lease_id, state=state)
