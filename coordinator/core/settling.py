"""
Settling: what a job pays to whom, made into bills, and what is left to do once they are paid.

The money follows from the record alone: accepted receipts, verdicts that decided something,
and a fee only where the whole job came through. `batching.py` puts bills into batches.
"""

from __future__ import annotations

import msgspec

from coordinator.core.canaries import is_missed
from coordinator.core.checking import drop_order
from coordinator.core.effects import Effect, ReadEscrow
from coordinator.core.epoch_state import Check
from coordinator.core.leases import end_lease, stop_job
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.placing import note_stall
from coordinator.core.relaying import forget_unheard
from coordinator.core.settlement_pool import is_in_pool, put_into_pool
from coordinator.core.state import (
    BillRecord,
    Job,
    Lease,
    State,
    get_receipt,
    make_bill_key,
    move_job,
    set_timer,
)
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.bills import make_bill
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.settlement import LANES_MAX, Bill, PaymentLeaf, compute_fee_evidence
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, Timestamp

BILL_LINES_MAX = 2_000
"""Lines of one bill: its evidence must fit one block of the content store."""

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
        and not is_missed(state.epochs[number], check)
    ]
    # Second checks last: an order with too few lines for both pays each first one.
    decided.sort(key=lambda pair: (pair[0].turn, pair[0].receipt_hash))
    return decided[: job.order.body.checks]


def compute_fee(state: State, job: Job) -> Amount:
    """Return the coordinator's fee: only a job whose every task was accepted pays one."""
    is_complete = job.counts[UnitState.ACCEPTED] == len(job.units)
    return Amount(min(state.settings.fee, job.order.body.max_fee) if is_complete else 0)


def compute_money(state: State, job: Job) -> Money:
    """Return where a job's money is now."""
    exposure = job.order.body.compute_exposure()
    spent = sum(record.amount for record in job.bills if is_posted(state, record))
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


def is_posted(state: State, record: BillRecord) -> bool:
    """Say whether the batch that a bill is in is on chain."""
    return record.batch is not None and state.batches[record.batch].tx is not None


def make_bills(state: State, job: Job) -> list[BillRecord]:
    """Return what a job pays with its evidence: one bill, or as many as its size takes."""
    payments = [(payee, leaf) for _, payee, leaf in list_payments(state, job)]
    payments.sort(key=lambda payment: (payment[0], payment[1].line))
    groups: list[list[tuple[Address, PaymentLeaf]]] = []
    lanes = 0
    for payment in payments:
        is_new_lane = not groups or groups[-1][-1][0] != payment[0]
        is_full = not groups or len(groups[-1]) == BILL_LINES_MAX
        if is_full or (is_new_lane and lanes == LANES_MAX):
            groups.append([])
            lanes, is_new_lane = 0, True
        lanes += is_new_lane
        groups[-1].append(payment)
    return [
        BillRecord(bill=_make_bill(state, job, group), payments=tuple(group)) for group in groups
    ]


def _make_bill(state: State, job: Job, group: list[tuple[Address, PaymentLeaf]]) -> Bill:
    checks = list_paid_checks(state, job)
    leases = list_accepted(state, job) + [state.leases[check.lease_id] for check, _ in checks]
    receipts = [get_receipt(lease) for lease in leases]
    return make_bill(
        job.order,
        [leaf for _, leaf in group],
        receipts={receipt.body.compute_struct_hash(): receipt for receipt in receipts},
        attestations={signed.body.compute_struct_hash(): signed for _, signed in checks},
    )


# ---- a job's way ---------------------------------------------------------------------------


def advance_job(state: State, job: Job) -> list[Effect]:
    """Move a job on to where its tasks say it is, until it has bills."""
    if job.is_over or job.bills:
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
    job.bills = make_bills(state, job)
    if not job.bills:
        return _end_job(state, job)
    move_job(state, job, JobState.SETTLING)
    requester, settings = job.order.body.requester, state.settings
    # One reading serves all that a requester has in the pool.
    is_first = not is_in_pool(state, requester)
    for part in range(len(job.bills)):
        key = make_bill_key(job.order_hash, part)
        put_into_pool(state, key, state.now)
        set_timer(state, find_post_end(state, job), "unpaid", key=key)
    cut_at = min(state.now + settings.settle_interval_seconds, job.settle_at)
    set_timer(state, cut_at, "cut")
    state.is_cut_wanted |= cut_at <= state.now
    return [ReadEscrow(requester=requester)] if is_first else []


def find_post_end(state: State, job: Job) -> Timestamp:
    """Return when a batch with this job must have been sent: a later one breaks the order."""
    return Timestamp(job.order.body.settle_by - state.settings.post_margin_seconds)


def end_if_settled(state: State, job: Job) -> list[Effect]:
    """End a job once each of its bills is on chain or will never be."""
    if any(not record.is_dropped and not is_posted(state, record) for record in job.bills):
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
    if job is None or job.is_over or job.bills:
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
    if len(state.over) <= state.settings.jobs_kept_max:
        return
    in_use = {
        state.leases[lease_id].order_hash
        for number in {*state.open_epochs, *state.trials.values()}
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
    forget_unheard(state, job.order_hash)
    for batch_number in {record.batch for record in job.bills if record.batch is not None}:
        keys = state.batches[batch_number].bill_keys
        if not any(key[:32] in state.jobs for key in keys):
            del state.batches[batch_number]
            state.posted_batches.remove(batch_number)
    still_named = {number for other in state.jobs.values() for number in other.epochs}
    for number in job.epochs:
        if number not in still_named and number not in state.open_epochs:
            del state.epochs[number]
