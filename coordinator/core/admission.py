"""Admission: whether a submitted job is taken, and why not."""

from __future__ import annotations

from coordinator.core.constraints import Demand
from coordinator.core.effects import Effect
from coordinator.core.events import EscrowSeen, JobCancelled, JobSubmitted
from coordinator.core.leases import stop_job
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.matching import Funnel, describe_funnel, explain
from coordinator.core.order_book import allows_simulated, compute_exposure, list_candidates
from coordinator.core.placing import note_stall
from coordinator.core.state import Escrow, Job, State, Unit, set_timer, write_log
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Hash32, make_job_id
from gpumarket.protocol.job import SPEC_BYTES_MAX, JobSpec
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.order import Order, check_order_fits
from gpumarket.protocol.settlement import LANE_LEAVES_MAX
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import Timestamp, format_money

_NOTHING_CHARGED = "nothing was charged or locked"


class NoProviderFits(InvalidInput):
    """Nobody online can run the job; the funnel counts why."""

    default_code = "GM-4021"

    def __init__(self, funnel: Funnel) -> None:
        super().__init__(
            "no provider can run this job now",
            why=describe_funnel(funnel),
            money=_NOTHING_CHARGED,
            hints=tuple(str(relaxation) for relaxation in funnel.relaxations),
            fault="network",
        )
        self.funnel = funnel


def submit_job(state: State, event: JobSubmitted) -> list[Effect]:
    """Take a job into the book, or change nothing where `check_submission` refuses it."""
    order = event.order.body
    order_hash = order.compute_struct_hash()
    if order_hash in state.jobs:
        return []
    try:
        check_submission(state, event)
    except InvalidInput:
        return []
    job = _make_job(state, event, order_hash)
    state.jobs[order_hash] = job
    state.live[order_hash] = None
    if event.idempotency_key:
        state.keys[event.idempotency_key] = order_hash
    state.escrows[order.requester] = Escrow(balance=event.escrow_balance, block=event.escrow_block)
    note_stall(state, job)
    set_timer(state, job.settle_at, "settle", key=order_hash)
    if job.capacity_by is not None:
        set_timer(state, job.capacity_by, "capacity", key=order_hash)
    exposure = format_money(order.compute_exposure())
    write_log(
        state,
        job,
        "submitted",
        text=f"{order.units} tasks, at most {exposure}",
        actor=order.requester,
    )
    return []


def check_submission(state: State, event: JobSubmitted) -> None:
    """
    Raise `InvalidInput` with the reason why a job is not taken.

    A job that is known under the same order and key is no mistake: the caller shows it.
    """
    now = Timestamp(max(state.now, event.at))
    order, spec = event.order.body, event.spec
    order_hash = order.compute_struct_hash()
    _check_signature(state, event)
    check_order_fits(order, spec, now=now)
    known = state.keys.get(event.idempotency_key, order_hash)
    if known != order_hash:
        raise InvalidInput(
            "the idempotency key was used for another order",
            code="GM-1203",
            why=f"it belongs to job {make_job_id(known)}",
            money=_NOTHING_CHARGED,
        )
    if order_hash in state.jobs:
        return
    _check_bounds(state, order, spec, now=now)
    _check_escrow(state, event)
    if event.wait_for_capacity_seconds == 0:
        funnel = explain_demand(state, order, spec)
        if funnel.feasible == 0:
            raise NoProviderFits(funnel)


def explain_demand(state: State, order: Order, spec: JobSpec) -> Funnel:
    """Count who could run a job, submitted or not: the answer to a quote."""
    demand = Demand(spec=spec, order=order, allows_simulated=allows_simulated(state))
    return explain(demand, list_candidates(state))


def cancel_job(state: State, event: JobCancelled) -> list[Effect]:
    """Stop a job for its requester; what is finished is still checked and paid."""
    job = state.jobs.get(event.order_hash)
    if job is None or job.reason is not None or job.state not in _CANCELLABLE:
        return []
    reason = Reason(code="GM-5401", text="the requester cancelled the job", fault="requester")
    return stop_job(state, job, reason, outcome=JobState.CANCELLED)


_CANCELLABLE = (JobState.QUEUED, JobState.RUNNING, JobState.CHECKING)
"""In SETTLING the batch is made and may be on its way."""


def note_escrow(state: State, event: EscrowSeen) -> list[Effect]:
    """Remember a requester's escrow; an older reading than the known one is dropped."""
    known = state.escrows.get(event.requester)
    if known is not None and known.block <= event.block:
        state.escrows[event.requester] = Escrow(
            balance=event.balance, withdrawing=event.withdrawing, block=event.block
        )
    return []


def _check_signature(state: State, event: JobSubmitted) -> None:
    order = event.order.body
    try:
        signer = verify(event.order, state.settings.domain).signer
    except RemoteProtocolError as error:
        domain = state.settings.domain
        raise InvalidInput(
            "the order's signature is not by its requester on this network",
            code="GM-1204",
            why=f"this is chain {domain.chain_id}, contract 0x{domain.contract.hex()}",
            money=_NOTHING_CHARGED,
        ) from error
    if signer != order.requester:
        raise InvalidInput(
            "the order is signed by somebody else than its requester", code="GM-1204"
        )
    if order.coordinator != state.settings.coordinator:
        raise InvalidInput(
            "the order names another coordinator",
            code="GM-1201",
            why=f"this is 0x{state.settings.coordinator.hex()}",
            money=_NOTHING_CHARGED,
        )


def _check_bounds(state: State, order: Order, spec: JobSpec, *, now: Timestamp) -> None:
    settings = state.settings
    if len(state.live) >= settings.jobs_open_max:
        raise InvalidInput("the coordinator has too many jobs open", code="GM-8002")
    if len(encode_document(spec)) > SPEC_BYTES_MAX:
        raise InvalidInput(f"the job is larger than {SPEC_BYTES_MAX} bytes", code="GM-6013")
    if order.fee_line >= LANE_LEAVES_MAX or order.compute_exposure() >= 2**63:
        raise InvalidInput("the order promises more than can be settled", code="GM-1201")
    if order.settle_by - settings.settle_margin_seconds <= now:
        raise InvalidInput(
            "the order leaves no time to settle",
            code="GM-1202",
            why=f"a job is cut off {settings.settle_margin_seconds} s before settleBy",
            money=_NOTHING_CHARGED,
        )
    if order.expiry > now + settings.order_lifetime_seconds:
        raise InvalidInput(
            "the order binds longer than its escrow is sure to last",
            code="GM-1205",
            why=f"its expiry may be {settings.order_lifetime_seconds} s from now at most",
            money=_NOTHING_CHARGED,
        )
    if order.max_fee < settings.fee:
        raise InvalidInput(
            "the order pays less than the coordinator's fee",
            code="GM-1201",
            why=f"the fee is {format_money(settings.fee)}, "
            f"the order allows {format_money(order.max_fee)}",
            money=_NOTHING_CHARGED,
        )


def _check_escrow(state: State, event: JobSubmitted) -> None:
    order = event.order.body
    claimed = compute_exposure(state, order.requester, block=event.escrow_block)
    free, need = event.escrow_balance - claimed, order.compute_exposure()
    if free < need:
        raise InvalidInput(
            "there is not enough in escrow for this job",
            code="GM-3011",
            why=f"the job may cost {format_money(need)}, {format_money(max(0, free))} is free: "
            f"{format_money(event.escrow_balance)} in block {event.escrow_block} "
            f"less {format_money(claimed)} for live jobs",
            money=_NOTHING_CHARGED,
            hints=("gpumarket wallet deposit AMOUNT",),
            fault="requester",
        )


def _make_job(state: State, event: JobSubmitted, order_hash: Hash32) -> Job:
    order, spec = event.order.body, event.spec
    settle_at = order.settle_by - state.settings.settle_margin_seconds
    capacity_by = None
    if explain_demand(state, order, spec).feasible == 0:
        capacity_by = Timestamp(min(state.now + event.wait_for_capacity_seconds, settle_at))
    return Job(
        order_hash=order_hash,
        job_id=make_job_id(order_hash),
        order=event.order,
        spec=spec,
        idempotency_key=event.idempotency_key,
        created_at=state.now,
        queue_by=Timestamp(min(state.now + spec.limits.queue_seconds, settle_at)),
        capacity_by=capacity_by,
        settle_at=Timestamp(settle_at),
        units=[Unit(index=index) for index in range(spec.units)],
        counts=dict.fromkeys(UnitState, 0) | {UnitState.WAITING: spec.units},
        waiting=list(range(spec.units)),
    )
