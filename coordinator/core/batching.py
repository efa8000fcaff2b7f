"""
Batching: bills of many jobs wait in one pool and are settled in one transaction, lane by lane.

A batch is cut when a bill has waited long enough, when the pool fills a batch, or when an order's
end comes near. Who cannot pay is left out and nobody else waits for it; what the chain refuses is
taken apart until the bad bill is alone. Where the coordinator itself lacks something, no bill is to
blame: posting pauses, one batch is tried again and again, and the others wait in the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.core.effects import Effect, PostBatch, ReadEscrow
from coordinator.core.events import BatchPosted, ChainRefused
from coordinator.core.lifecycle import JobState
from coordinator.core.order_book import compute_posted
from coordinator.core.settlement_pool import (
    get_bill,
    hold_in_pool,
    put_into_pool,
    take_from_pool,
)
from coordinator.core.settling import end_if_settled, find_post_end
from coordinator.core.state import (
    BatchRecord,
    BillRecord,
    Escrow,
    Job,
    Pause,
    State,
    find_bill,
    set_timer,
    write_log,
)
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.settlement import LANES_MAX, Batch, make_lanes
from gpumarket.protocol.units import Amount, Timestamp, format_money

BATCH_LINES_MAX = 12_000
"""Lines of one batch: its document must fit one block of the content store."""
INSOLVENT = "GM-3011"
LATE = "GM-1202"
OWN_FAULTS = ("GM-3012", "GM-3020", "GM-3036", "GM-3038")
"""Refusals that no bill brings about: no gas, wrong network, too small a bond, a broken token."""
_LATE = Reason(
    code=LATE, text="the order's time to settle has come before it could be paid", fault="none"
)


# ---- the pool ------------------------------------------------------------------------------


def want_cut(state: State, key: bytes) -> list[Effect]:
    """Look at the settlement pool once everything else has followed from this event."""
    state.is_cut_wanted = True
    return []


def cut_batches(state: State) -> list[Effect]:
    """Make as many batches of the pool as are due now."""
    # Nothing is due before its timer: between timers only a full pool is a reason to look.
    is_wanted = state.is_cut_wanted or (state.pool_sums.has_grown and _may_fill_batch(state))
    state.is_cut_wanted = state.pool_sums.has_grown = False
    if not is_wanted:
        return []
    effects: list[Effect] = []
    choice = _choose(state)
    while choice.is_due and not is_waiting_for_pause(state):
        effects.append(_open_batch(state, choice.keys))  # at least one bill leaves the pool
        choice = _choose(state)
    return effects + _hold_insolvent(state, choice.insolvent)


def is_waiting_for_pause(state: State) -> bool:
    """Say whether no batch is made because the one that finds out when posting works is there."""
    return state.pause is not None and bool(state.open_batches)


def _may_fill_batch(state: State) -> bool:
    """Say whether the pool might have more than one batch takes; False is certain."""
    sums = state.pool_sums
    return (
        sums.bills >= state.settings.settle_jobs_max
        or len(sums.lanes) >= LANES_MAX
        or sums.lines > BATCH_LINES_MAX
        or sums.later_bills > 0
    )


def give_up_bill(state: State, key: bytes) -> list[Effect]:
    """Drop a bill that is in no batch when the last moment to send one has come."""
    found = find_bill(state, key)
    if found is None or key not in state.due:
        return []
    job, record = found
    _drop_bill(state, key, record.problem or _LATE)
    return end_if_settled(state, job)


@dataclass(slots=True)
class _Choice:
    """What of the pool goes into one batch."""

    keys: list[bytes] = field(default_factory=list)
    insolvent: list[bytes] = field(default_factory=list)
    """Those that are due, and more than what their requester has left."""
    is_due: bool = False
    """Whether one of `keys` must not wait longer, or the pool has enough for a batch."""
    orders: set[Hash32] = field(default_factory=set)
    lanes: set[tuple[Address, Address]] = field(default_factory=set)
    lines: int = 0
    left: dict[Address, int | None] = field(default_factory=dict)
    """What each requester has left after its bills in `keys`."""


def _choose(state: State) -> _Choice:
    """Fill a batch from the pool, the most pressing bills first."""
    choice = _Choice()
    is_full = False
    for key in sorted(state.due, key=lambda key: _rank(state, key)):
        job, record = get_bill(state, key)
        if record.hold_until <= state.now < find_post_end(state, job):
            is_full |= not _take(state, choice, key)
    is_full |= len(choice.lanes) == LANES_MAX
    is_full |= len(choice.orders) == state.settings.settle_jobs_max
    choice.is_due |= is_full and bool(choice.keys)
    return choice


def _rank(state: State, key: bytes) -> tuple[bool, int]:
    job, _ = get_bill(state, key)
    return (state.now < job.settle_at, state.due[key])


def _take(state: State, choice: _Choice, key: bytes) -> bool:
    """Take a bill, or leave it to its requester's escrow; False where there is no room for it."""
    job, record = get_bill(state, key)
    requester = job.order.body.requester
    waits_until = min(state.due[key] + state.settings.settle_interval_seconds, job.settle_at)
    is_due = waits_until <= state.now
    if requester not in choice.left:
        choice.left[requester] = find_left(state, requester)
    left = choice.left[requester]
    if left is not None and left < record.amount:
        if is_due:
            choice.insolvent.append(key)
        return True
    lanes = {(requester, payee) for payee, _ in record.payments} - choice.lanes
    lines = choice.lines + len(record.payments)
    # Two bills of one job go into two batches: an auditor finds one bill for each order.
    has_room = (
        job.order_hash not in choice.orders
        and len(choice.orders) < state.settings.settle_jobs_max
        and len(choice.lanes) + len(lanes) <= LANES_MAX
        and lines <= BATCH_LINES_MAX
    )
    if not has_room:
        return False
    choice.keys.append(key)
    choice.is_due |= is_due
    choice.orders.add(job.order_hash)
    choice.lanes |= lanes
    choice.lines = lines
    if left is not None:
        choice.left[requester] = left - record.amount
    return True


def find_left(state: State, requester: Address) -> int | None:
    """Return what a requester's escrow has left for further batches; None where not known."""
    escrow = state.escrows.get(requester)
    if escrow is None:
        return None
    claimed = sum(state.batches[n].totals.get(requester, 0) for n in state.open_batches)
    posted = compute_posted(state, requester, after=escrow.block)
    # What was asked back is not gone: else a requester could take the work and leave.
    return escrow.balance + escrow.withdrawing - claimed - posted


def _hold_insolvent(state: State, keys: list[bytes]) -> list[Effect]:
    requesters: dict[Address, None] = {}
    for key in keys:
        job, record = get_bill(state, key)
        requester = job.order.body.requester
        left = max(0, find_left(state, requester) or 0)
        text = f"the escrow has {format_money(left)} left, {format_money(record.amount)} is due"
        _hold_bill(state, key, text)
        requesters[requester] = None
    return [ReadEscrow(requester=requester) for requester in requesters]


def _hold_bill(state: State, key: bytes, text: str) -> None:
    job, record = get_bill(state, key)
    reason = Reason(code=INSOLVENT, text=text, fault="requester")
    if record.problem != reason:
        write_log(state, job, "unpaid", reason=reason, actor=job.order.body.requester)
    record.problem = reason
    hold_in_pool(state, key, Timestamp(state.now + state.settings.retry_seconds))
    set_timer(state, record.hold_until, "cut")


def _drop_bill(state: State, key: bytes, reason: Reason) -> None:
    job, record = get_bill(state, key)
    take_from_pool(state, key)
    record.batch, record.problem, record.is_dropped = None, reason, True
    job.outcome, job.reason = JobState.FAILED, reason
    write_log(state, job, "unpaid", reason=reason)


# ---- batches -------------------------------------------------------------------------------


def _open_batch(state: State, keys: list[bytes]) -> PostBatch:
    """Take bills out of the pool and make them a batch, each order at most once."""
    keys = sorted(keys)
    bills = [get_bill(state, key) for key in keys]
    record = BatchRecord(
        number=state.next_batch,
        bill_keys=tuple(keys),
        document=_make_document(state, bills),
        totals=_sum_requesters(bills),
        post_by=min(find_post_end(state, job) for job, _ in bills),
    )
    state.next_batch += 1
    state.batches[record.number] = record
    state.open_batches.append(record.number)
    for key, (_, bill) in zip(keys, bills, strict=True):
        take_from_pool(state, key)
        bill.batch = record.number
    return _make_post(state, record)


def _make_document(state: State, bills: list[tuple[Job, BillRecord]]) -> Batch:
    payments = [
        (job.order.body.requester, payee, leaf)
        for job, bill in bills
        for payee, leaf in bill.payments
    ]
    return Batch(
        coordinator=state.settings.coordinator,
        lanes=make_lanes(payments),
        bills=tuple(compute_content_hash(bill.bill) for _, bill in bills),
    )


def _sum_requesters(bills: list[tuple[Job, BillRecord]]) -> dict[Address, Amount]:
    totals: dict[Address, Amount] = {}
    for job, bill in bills:
        requester = job.order.body.requester
        totals[requester] = Amount(totals.get(requester, 0) + bill.amount)
    return totals


def _make_post(state: State, record: BatchRecord) -> PostBatch:
    return PostBatch(
        number=record.number,
        batch=record.document,
        bills=tuple(get_bill(state, key)[1].bill for key in record.bill_keys),
        post_by=record.post_by,
    )


def list_unposted(state: State) -> list[Effect]:
    """Return the effects that post what is not on chain yet and does not wait for its retry."""
    records = (state.batches[number] for number in state.open_batches)
    return [_make_post(state, record) for record in records if record.retry_at is None]


def list_posted(state: State, job: Job) -> list[BatchRecord]:
    """Return the batches on chain that pay a job, as the chain counts them."""
    numbers = [bill.batch for bill in job.bills if bill.batch is not None]
    records = [state.batches[number] for number in numbers if number not in state.open_batches]
    return sorted(records, key=lambda record: record.sequence or 0)


def take_batch(state: State, event: BatchPosted) -> list[Effect]:
    """Note that a batch has moved its money; jobs that wait for no other are over."""
    record = _find_open(state, event.number)
    if record is None:
        return []
    record.sequence, record.block, record.tx = event.sequence, event.block, event.tx
    record.posted_at, record.retry_at, record.problem = state.now, None, ""
    state.open_batches.remove(record.number)
    state.posted_batches.append(record.number)
    _end_pause(state)
    others = len(record.bill_keys) - 1
    tail = f", with {others} other jobs" if others else ""
    effects: list[Effect] = []
    for key in record.bill_keys:
        job, bill = get_bill(state, key)
        lanes = len({payee for payee, _ in bill.payments})
        text = f"one batch pays {format_money(bill.amount)} in {lanes} lanes, block {event.block}"
        write_log(state, job, "posted", text=text + tail, actor=state.settings.coordinator)
        effects += end_if_settled(state, job)
    return list(dict.fromkeys(effects))


def retry_batch(state: State, key: bytes) -> list[Effect]:
    """Post a batch again after a pause."""
    record = _find_open(state, int.from_bytes(key, "big"))
    if record is None or record.retry_at is None or record.retry_at > state.now:
        return []
    record.retry_at = None
    return [_make_post(state, record)]


def _find_open(state: State, number: int) -> BatchRecord | None:
    return state.batches[number] if number in state.open_batches else None


# ---- refusals ------------------------------------------------------------------------------


def refuse_batch(state: State, event: ChainRefused) -> list[Effect]:
    """Try a batch again later, or take it apart where the chain will never take it as it is."""
    record = _find_open(state, event.number)
    # Only one try is under way at a time: a second could come through after the refusal of the
    # first, when its lines are in other batches.
    if record is None or record.retry_at is not None:
        return []
    if record.problem != event.text:
        for key in record.bill_keys:
            job, _ = get_bill(state, key)
            write_log(state, job, "chain-refused", text=f"batch: {event.text}")
    record.problem = event.text
    if event.code in OWN_FAULTS:
        if state.pause is None or state.pause.code != event.code:
            state.pause = Pause(code=event.code, text=event.text, since=state.now)
    elif event.is_final and event.code != LATE:
        # The chain has looked at the bills, so nothing else is amiss.
        _end_pause(state)
    if not event.is_final or event.code in OWN_FAULTS:
        record.retry_at = Timestamp(state.now + state.settings.retry_seconds)
        set_timer(state, record.retry_at, "batch", key=record.number.to_bytes(8, "big"))
        return []
    return _take_apart(state, record, event)


def _end_pause(state: State) -> None:
    # Whose timer went off during the pause is cut now.
    state.is_cut_wanted |= state.pause is not None
    state.pause = None


def _take_apart(state: State, record: BatchRecord, event: ChainRefused) -> list[Effect]:
    # Every way out leaves fewer bills together, or waits: nothing goes round and round.
    state.open_batches.remove(record.number)
    del state.batches[record.number]
    for key in record.bill_keys:
        get_bill(state, key)[1].batch = None
    # By the chain's clock it may be late before it is by ours.
    time = max(state.now, record.post_by) if event.code == LATE else state.now
    late = [key for key in record.bill_keys if _is_late(state, key, time)]
    effects = _drop_bills(state, late, _LATE)
    keys = [key for key in record.bill_keys if key not in late]
    insolvent = _list_insolvent(state, record, event)
    if event.code == INSOLVENT and insolvent:
        return effects + _set_aside(state, keys, insolvent, event)
    if late:
        _return_bills(state, keys)
        return effects
    if event.code == INSOLVENT:
        # Whose escrow it is was not said: all are read again while the halves are tried.
        effects += [ReadEscrow(requester=requester) for requester in record.totals]
    if len(keys) == 1:
        text = f"the batch cannot be posted: {event.text}"
        return effects + _drop_bills(state, keys, Reason(code=event.code, text=text, fault="chain"))
    middle = len(keys) // 2
    return [*effects, _open_batch(state, keys[:middle]), _open_batch(state, keys[middle:])]


def _list_insolvent(state: State, record: BatchRecord, event: ChainRefused) -> list[Address]:
    named = [requester for requester in record.totals if requester == event.account]
    return named or (list(record.totals) if len(record.totals) == 1 else [])


def _set_aside(
    state: State, keys: list[bytes], insolvent: list[Address], event: ChainRefused
) -> list[Effect]:
    """Hold the bills of a requester that cannot pay; the others go into the next batch."""
    _return_bills(state, keys)
    for key in keys:
        job, _ = get_bill(state, key)
        if job.order.body.requester in insolvent:
            _hold_bill(state, key, event.text)
    for requester in insolvent:
        known = state.escrows.get(requester)
        # Whatever we believed is wrong; until it is read again, nothing counts as there.
        state.escrows[requester] = Escrow(balance=Amount(0), block=known.block if known else 0)
    return [ReadEscrow(requester=requester) for requester in insolvent]


def _return_bills(state: State, keys: list[bytes]) -> None:
    # They waited once and go with the next batch, and so does what waited for this one in a pause.
    for key in keys:
        put_into_pool(state, key, Timestamp(state.now - state.settings.settle_interval_seconds))
    state.is_cut_wanted = True


def _drop_bills(state: State, keys: list[bytes], reason: Reason) -> list[Effect]:
    effects: list[Effect] = []
    for key in keys:
        _drop_bill(state, key, reason)
        effects += end_if_settled(state, get_bill(state, key)[0])
    return list(dict.fromkeys(effects))


def _is_late(state: State, key: bytes, time: int) -> bool:
    job, _ = get_bill(state, key)
    return time >= find_post_end(state, job)
