"""
Settling: what a job pays to whom, posted once on chain, and what is then left to do.

The money follows from the record alone: accepted receipts, verdicts that decided something,
and a fee only where the whole job came through. Anybody recomputes it from the batch document.
"""

from __future__ import annotations

import msgspec

from coordinator.core.checking import drop_order
from coordinator.core.effects import Effect, PostBatch, ReadEscrow
from coordinator.core.events import BatchPosted, ChainRefused
from coordinator.core.leases import end_lease, stop_job
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.placing import note_stall
from coordinator.core.state import (
    BatchRecord,
    Check,
    Job,
    Lease,
    State,
    get_receipt,
    move_job,
    set_timer,
    write_log,
)
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Fault, LeaseState, Reason
from gpumarket.protocol.settlement import (
    LANES_MAX,
    Batch,
    Lane,
    PaymentLeaf,
    compute_fee_evidence,
    make_lanes,
)
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, format_money

_CUT_OFF = Reason(
    code="GM-1202",
    text="the order's time to settle has come before the work was done",
    fault="none",
)


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """Where a job's money is, in base units; locked = spent + returned once it is over."""

    exposure: Amount
    """The most that the order can cost."""
    locked: Amount
    """The part of it that is not free in escrow; zero once the job is over."""
    payable: Amount
    """For accepted tasks, paid or about to be."""
    checks: Amount
    fee: Amount
    spent: Amount
    """What batches on chain have moved."""
    returned: Amount
    """What the job did not need, free again."""


# ---- payments ------------------------------------------------------------------------------


def list_accepted(state: State, job: Job) -> list[Lease]:
    """Return the leases that are paid, by unit."""
    return [
        state.leases[unit.lease_id]
        for unit in job.units
        if unit.state is UnitState.ACCEPTED and unit.lease_id is not None
    ]


def list_paid_checks(state: State, job: Job) -> list[tuple[Check, Signed[Attestation]]]:
    """Return the checks that decided something, as many as the order pays, by receipt hash."""
    decided = [
        (check, check.attestation)
        for number in job.epochs
        for check in state.epochs[number].checks.values()
        if check.order_hash == job.order_hash
        and check.attestation is not None
        and check.verdict in (Verdict.MATCH, Verdict.MISMATCH)
    ]
    decided.sort(key=lambda pair: pair[0].receipt_hash)
    return decided[: job.order.body.checks]


def compute_fee(state: State, job: Job) -> Amount:
    """Return the coordinator's fee: only a job whose every task was accepted pays one."""
    is_complete = job.counts[UnitState.ACCEPTED] == len(job.units)
    return Amount(min(state.settings.fee, job.order.body.max_fee) if is_complete else 0)


def compute_money(state: State, job: Job) -> Money:
    """Return where a job's money is now."""
    exposure = job.order.body.compute_exposure()
    spent = sum(lane.amount for record in job.batches if record.tx for lane in record.batch.lanes)
    return Money(
        exposure=exposure,
        locked=Amount(0) if job.is_over else exposure,
        payable=Amount(sum(get_receipt(le).body.price for le in list_accepted(state, job))),
        checks=Amount(sum(check.price for check, _ in list_paid_checks(state, job))),
        fee=compute_fee(state, job),
        spent=Amount(spent),
        returned=Amount(exposure - spent) if job.is_over else Amount(0),
    )


def list_payments(state: State, job: Job) -> list[tuple[Address, Address, PaymentLeaf]]:
    """Return every payment of a job as (requester, payee, leaf); no line pays twice."""
    order = job.order.body
    payments: list[tuple[Address, PaymentLeaf]] = []
    for lease in list_accepted(state, job):
        receipt = get_receipt(lease).body
        leaf = _make_leaf(job, lease.unit, receipt.compute_struct_hash(), receipt.price)
        payments.append((lease.provider, leaf))
    for index, (check, attestation) in enumerate(list_paid_checks(state, job)):
        evidence = attestation.body.compute_struct_hash()
        leaf = _make_leaf(job, order.units + index, evidence, check.price)
        payments.append((attestation.signer, leaf))
    fee = compute_fee(state, job)
    if fee:
        leaf = _make_leaf(job, order.fee_line, compute_fee_evidence(job.order_hash), fee)
        payments.append((state.settings.coordinator, leaf))
    return [(order.requester, payee, leaf) for payee, leaf in payments]


def _make_leaf(job: Job, line: int, evidence_hash: Hash32, price: int) -> PaymentLeaf:
    return PaymentLeaf(
        order_hash=job.order_hash, line=line, evidence_hash=evidence_hash, price=price
    )


def _make_batch(state: State, job: Job, lanes: tuple[Lane, ...]) -> Batch:
    lines = {leaf.line for lane in lanes for leaf in lane.leaves}
    units = job.order.body.units
    checks = list_paid_checks(state, job)
    return Batch(
        coordinator=state.settings.coordinator,
        lanes=lanes,
        orders=(job.order,),
        receipts=tuple(get_receipt(le) for le in list_accepted(state, job) if le.unit in lines),
        attestations=tuple(
            attestation for i, (_, attestation) in enumerate(checks) if units + i in lines
        ),
    )


# ---- a job's way ---------------------------------------------------------------------------


def advance_job(state: State, job: Job) -> list[Effect]:
    """Move a job on to where its tasks and batches say it is."""
    if job.is_over or job.batches:
        return []
    note_stall(state, job)
    counts = job.counts
    if counts[UnitState.LEASED] or (job.reason is None and counts[UnitState.WAITING]):
        if job.started_at is not None:
            move_job(state, job, JobState.RUNNING)
        return []
    if counts[UnitState.FINISHED]:
        move_job(state, job, JobState.CHECKING)
        return []
    return _settle(state, job)


def _settle(state: State, job: Job) -> list[Effect]:
    lanes = make_lanes(list_payments(state, job))
    if not lanes:
        return _end_job(state, job)
    move_job(state, job, JobState.SETTLING)
    job.batches = [
        BatchRecord(batch=_make_batch(state, job, lanes[start : start + LANES_MAX]))
        for start in range(0, len(lanes), LANES_MAX)
    ]
    return list_unposted(job)


def list_unposted(job: Job) -> list[Effect]:
    """Return the effects that post what is not on chain yet of a job's batches."""
    return [
        PostBatch(order_hash=job.order_hash, part=part, batch=record.batch)
        for part, record in enumerate(job.batches)
        if record.tx is None and not record.is_refused
    ]


def take_batch(state: State, event: BatchPosted) -> list[Effect]:
    """Note that a batch has moved its money; with the last one the job is over."""
    record = _find_batch(state, event.order_hash, event.part)
    if record is None:
        return []
    job = state.jobs[event.order_hash]
    record.sequence, record.block, record.tx = event.sequence, event.block, event.tx
    record.problem = ""
    amount = format_money(sum(lane.amount for lane in record.batch.lanes))
    text = f"one batch pays {amount} in {len(record.batch.lanes)} lanes, block {event.block}"
    write_log(state, job, "posted", text=text, actor=state.settings.coordinator)
    return _end_if_posted(state, job)


def refuse_batch(state: State, event: ChainRefused) -> list[Effect]:
    """Try a batch again later, or end the job where the chain will never take it."""
    record = _find_batch(state, event.order_hash, event.part)
    if record is None:
        return []
    job = state.jobs[event.order_hash]
    if record.problem != event.text:
        write_log(state, job, "chain-refused", text=f"batch: {event.text}")
    record.problem = event.text
    if not event.is_final:
        key = event.order_hash + event.part.to_bytes(4, "big")
        set_timer(state, state.now + state.settings.retry_seconds, "batch", key=key)
        return []
    record.is_refused = True
    job.outcome = JobState.FAILED
    fault: Fault = "requester" if event.code == "GM-3011" else "chain"
    text = f"the batch cannot be posted: {event.text}"
    job.reason = Reason(code=event.code, text=text, fault=fault)
    return _end_if_posted(state, job)


def retry_batch(state: State, key: bytes) -> list[Effect]:
    """Post a batch again after a pause."""
    part = int.from_bytes(key[32:], "big")
    record = _find_batch(state, key[:32], part)
    if record is None:
        return []
    return [PostBatch(order_hash=key[:32], part=part, batch=record.batch)]


def _find_batch(state: State, order_hash: Hash32, part: int) -> BatchRecord | None:
    job = state.jobs.get(order_hash)
    if job is None or job.is_over or part >= len(job.batches):
        return None
    record = job.batches[part]
    return None if record.tx is not None or record.is_refused else record


def _end_if_posted(state: State, job: Job) -> list[Effect]:
    if any(record.tx is None and not record.is_refused for record in job.batches):
        return []
    return _end_job(state, job)


def _end_job(state: State, job: Job) -> list[Effect]:
    job.ended_at = state.now
    move_job(state, job, job.outcome)
    del state.live[job.order_hash]
    state.over.append(job.order_hash)
    requester = job.order.body.requester
    has_more = any(state.jobs[order].order.body.requester == requester for order in state.live)
    if not has_more:
        state.escrows.pop(requester, None)
    _forget_old_jobs(state)
    return [ReadEscrow(requester=requester)] if has_more else []


# ---- time ----------------------------------------------------------------------------------


def cut_off(state: State, key: bytes) -> list[Effect]:
    """Settle a job as it stands when its order's time runs out."""
    job = state.jobs.get(key)
    if job is None or job.is_over or job.batches:
        return []
    effects = stop_job(state, job, _CUT_OFF)
    for number in job.epochs:
        epoch = state.epochs[number]
        for provider in list(epoch.parts):
            effects += drop_order(
                state, epoch, provider=provider, order_hash=job.order_hash, reason=_CUT_OFF
            )
    for lease_id in list(state.pool):
        lease = state.leases[lease_id]
        if lease.order_hash == job.order_hash and lease.state is LeaseState.FINISHED:
            end_lease(state, lease, _CUT_OFF)
    state.touched[job.order_hash] = None
    return effects


def _forget_old_jobs(state: State) -> None:
    in_use = {
        state.leases[lease_id].order_hash
        for number in state.open_epochs
        for part in state.epochs[number].parts.values()
        for lease_id in part.lease_ids
    }
    while len(state.over) > state.settings.jobs_kept_max and state.over[0] not in in_use:
        _forget_job(state, state.jobs.pop(state.over.pop(0)))


def _forget_job(state: State, job: Job) -> None:
    if job.idempotency_key:
        state.keys.pop(job.idempotency_key, None)
    for lease_id in [i for i, le in state.leases.items() if le.order_hash == job.order_hash]:
        del state.leases[lease_id]
    still_named = {number for other in state.jobs.values() for number in other.epochs}
    for number in job.epochs:
        if number not in still_named and number not in state.open_epochs:
            del state.epochs[number]
