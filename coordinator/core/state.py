"""
Everything a coordinator knows, as one value that can be written down and read back.

Only `decide` changes any of it, and only along the tables of `lifecycle.py`. Money is base
units, times unix seconds.
"""

from __future__ import annotations

import heapq
from bisect import insort

import msgspec

from coordinator.core.canary_state import CanaryBook
from coordinator.core.epoch_state import Epoch
from coordinator.core.hardware_state import HardwareBook
from coordinator.core.lifecycle import (
    ENDS,
    NEXT_JOB,
    NEXT_UNIT,
    JobState,
    UnitState,
)
from coordinator.core.reputation import DayFacts, Standing, find_today
from coordinator.core.settings import Settings
from gpumarket.protocol.approvals import Approval
from gpumarket.protocol.attestation import Opening
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32, Multiaddr, format_hex
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.lease import Fault, LeaseState, Reason, check_transition
from gpumarket.protocol.offer import Offer, VerifierCard
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Batch, Bill, PaymentLeaf
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.training import SegmentState
from gpumarket.protocol.units import Amount, Timestamp

# ---- peers ---------------------------------------------------------------------------------


class Provider(msgspec.Struct, kw_only=True):
    """A provider in the book, connected or not."""

    offer: Signed[Offer]
    session: int
    """The session it has now; zero is none."""
    stake: Amount
    payout: Address
    """Where its claims go."""
    lost_at: Timestamp | None = None
    """Since when it has no session."""
    lease_ids: list[Hash32] = []
    """Leases that take a slot: proposed or active."""


class Verifier(msgspec.Struct, kw_only=True):
    """A verifier in the book, connected or not."""

    card: Signed[VerifierCard]
    session: int
    stake: Amount
    lost_at: Timestamp | None = None
    payout: Address
    """Where its claims go."""
    asked: list[bytes] = []
    """Keys of the checks it is at: each takes a slot."""
    barred_until: Timestamp = Timestamp(0)
    """Until when it is given no checks, because its word proved false."""
    found_canaries: int = 0
    missed_canaries: int = 0
    """Results forged on purpose that it called a match."""


class Escrow(msgspec.Struct, frozen=True, kw_only=True):
    """What a requester had on chain at some block."""

    balance: Amount
    """Less what it asked to withdraw: what new work may cost."""
    withdrawing: Amount = Amount(0)
    """Asked back and still there: it pays for finished work until it is taken."""
    block: int


# ---- work ----------------------------------------------------------------------------------


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a task that came to nothing."""

    provider: Address
    reason: Reason
    at: Timestamp
    exit_code: int = 0
    log_tail: str = ""


class Unit(msgspec.Struct, kw_only=True):
    """One task of a job."""

    index: int
    state: UnitState = UnitState.WAITING
    attempts: int = 0
    """Leases so far: the next lease's attempt number."""
    lease_id: Hash32 | None = None
    """The lease it is on, finished by or accepted from."""
    failures: list[Failure] = []
    avoided: dict[Address, Timestamp] = {}
    """Providers that do not get it before a time."""
    segments: list[Signed[SegmentState]] = []
    """Of a training task: the chain up to the last checkpoint that is here."""


class Lease(msgspec.Struct, kw_only=True):
    """One task on one provider, with all that came of it."""

    lease_id: Hash32
    order_hash: Hash32
    unit: int
    attempt: int
    provider: Address
    state: LeaseState = LeaseState.PROPOSED
    price_per_device_hour: Amount
    price_max: Amount
    proposed_at: Timestamp
    accept_by: Timestamp
    deadline: Timestamp
    accepted_at: Timestamp | None = None
    finished_at: Timestamp | None = None
    duration_ms: int = 0
    receipt: Signed[Receipt] | None = None
    epoch: int | None = None
    opening: Signed[Opening] | None = None
    is_output_here: bool = False
    fetch_attempts: int = 0
    fetch_by: Timestamp | None = None
    """When to give up or try again; None while no fetch is wanted."""
    output_problem: str = ""
    """Why the output cannot be had; empty while it may still come."""
    reason: Reason | None = None
    segments: list[Signed[SegmentState]] = []
    """Of a training task: its chain, with what an earlier provider left."""
    inherited: int = 0
    """How many of them are an earlier provider's."""
    kept: int = 0
    """How many of their checkpoints are here."""
    phase: str = ""
    progress_done: int = 0
    progress_total: int = 0
    line: str = ""
    """Phase, progress and last line are for display: they may be lost in a crash."""


class LogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to a job, for people and for scripts."""

    sequence: int
    at: Timestamp
    type: str
    """A short name: `submitted`, `leased`, `started`, `finished`, `lost`, `match`, `settled` …"""
    task: int | None = None
    actor: Address | None = None
    fault: Fault = "none"
    code: str = ""
    text: str = ""


class BillRecord(msgspec.Struct, kw_only=True):
    """Lines of one job that are paid together; nearly every job has one such record."""

    bill: Bill
    payments: tuple[tuple[Address, PaymentLeaf], ...]
    """Who gets what, by payee and line."""
    batch: int | None = None
    """The batch that it is in; None while it waits in the settlement pool, and once dropped."""
    hold_until: Timestamp = Timestamp(0)
    """When it may be tried again after its requester could not pay."""
    problem: Reason | None = None
    """Why it was not paid so far."""
    is_dropped: bool = False
    """Whether it will never be paid."""

    @property
    def amount(self) -> Amount:
        """The sum of its lines."""
        return Amount(sum(leaf.price for _, leaf in self.payments))


class BatchRecord(msgspec.Struct, kw_only=True):
    """One batch: made once, then posted as it is or taken apart."""

    number: int
    bill_keys: tuple[bytes, ...]
    """One bill of each of its jobs, in the order of the document."""
    document: Batch
    """Kept whole, so that jobs in it can be forgotten one by one."""
    totals: dict[Address, Amount]
    """What each requester pays."""
    post_by: Timestamp
    """When it must have been sent: later, a line would break its order."""
    sequence: int | None = None
    """The chain's number of it."""
    block: int = 0
    tx: Hash32 | None = None
    posted_at: Timestamp | None = None
    retry_at: Timestamp | None = None
    """When it is posted again; None while it is being posted, and afterwards."""
    problem: str = ""


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why no batch can be posted, through no fault of any job."""

    code: str
    text: str
    since: Timestamp


class Job(msgspec.Struct, kw_only=True):
    """One job and its record."""

    order_hash: Hash32
    job_id: str
    order: Signed[Order]
    spec: JobSpec
    idempotency_key: str
    created_at: Timestamp
    queue_by: Timestamp
    """When it ends unless a task has started, or, where all stand still, starts again."""
    capacity_by: Timestamp | None
    """Until when some provider must fit at all; None where one did at submission."""
    settle_at: Timestamp
    """When the job is cut off and settled as it stands."""
    state: JobState = JobState.QUEUED
    outcome: JobState = JobState.SETTLED
    """What it becomes when its money has moved."""
    reason: Reason | None = None
    """Set once the job is ending early: from then on no task is placed."""
    started_at: Timestamp | None = None
    stalled_at: Timestamp | None = None
    """Since when tasks are open and none is running, finished or being checked."""
    running: int = 0
    """How many leases are active."""
    ended_at: Timestamp | None = None
    units: list[Unit]
    counts: dict[UnitState, int]
    waiting: list[int]
    """Indexes of waiting units, rising."""
    excluded: list[Address] = []
    """Providers that get no more of this job."""
    epochs: list[int] = []
    bills: list[BillRecord] = []
    """What it pays, once that is known."""
    log: list[LogEntry] = []
    log_next: int = 1

    @property
    def is_over(self) -> bool:
        """Whether nothing more will change."""
        return self.state in ENDS


# ---- what is paid --------------------------------------------------------------------------


class PoolSums(msgspec.Struct, kw_only=True):
    """Running sums over bills in no batch that were never held; `settlement_pool.py` keeps them."""

    bills: int = 0
    later_bills: int = 0
    """Those that are not the first of their job."""
    lines: int = 0
    requesters: dict[Address, int] = {}
    """Bills of each."""
    lanes: dict[bytes, int] = {}
    """Bills in each, by requester and payee."""
    has_grown: bool = False
    """Whether to look if they fill a batch before `decide` returns; False in between."""


# ---- all of it -----------------------------------------------------------------------------


class State(msgspec.Struct, kw_only=True):
    """A coordinator's whole memory; `decide.py` gives it its two methods."""

    settings: Settings
    now: Timestamp = Timestamp(0)
    sources: tuple[Multiaddr, ...] = ()
    providers: dict[Address, Provider] = {}
    verifiers: dict[Address, Verifier] = {}
    standings: dict[Address, Standing] = {}
    escrows: dict[Address, Escrow] = {}
    """Of requesters with live jobs, as last seen."""
    jobs: dict[Hash32, Job] = {}
    live: dict[Hash32, None] = {}
    """Jobs that are not over, oldest first."""
    over: list[Hash32] = []
    """Jobs that are over, in the order they ended."""
    keys: dict[str, Hash32] = {}
    """Idempotency keys and the order each belongs to."""
    leases: dict[Hash32, Lease] = {}
    pool: dict[Hash32, Timestamp] = {}
    """Finished leases in no epoch yet, oldest first, with when they finished."""
    epochs: dict[int, Epoch] = {}
    open_epochs: list[int] = []
    next_epoch: int = 1
    check_epochs: dict[Hash32, int] = {}
    """Where the checks of a receipt are found, for open epochs."""
    waiting_checks: dict[bytes, None] = {}
    """By key."""
    trials: dict[Hash32, int] = {}
    """Receipts whose case is not closed, and the epoch of each."""
    due: dict[bytes, Timestamp] = {}
    """The settlement pool: keys of bills in no batch yet, with when they came."""
    pool_sums: PoolSums = msgspec.field(default_factory=PoolSums)
    is_cut_wanted: bool = False
    """Whether to look at each bill of the pool before `decide` returns; False in between."""
    batches: dict[int, BatchRecord] = {}
    """By our own number, as long as one of its jobs is kept."""
    open_batches: list[int] = []
    """Made and not on chain yet."""
    posted_batches: list[int] = []
    """In the order in which their news came."""
    next_batch: int = 1
    unheard: dict[Hash32, Approval] = {}
    """By word: what providers have not said that they keep, oldest first; `relaying.py`."""
    pause: Pause | None = None
    """Set while batches are refused for what the coordinator lacks itself."""
    hardware: HardwareBook = msgspec.field(default_factory=HardwareBook)
    """What is known of the providers' devices."""
    canaries: CanaryBook = msgspec.field(default_factory=CanaryBook)
    """Results that are forged on purpose, in no epoch yet, and their share."""
    touched: dict[Hash32, None] = {}
    """Jobs to look at before `decide` returns; empty in between."""
    timers: list[tuple[int, str, bytes]] = []
    """A heap of (when, kind, key). A timer whose cause is gone does nothing when it fires."""


def set_timer(state: State, at: int, kind: str, *, key: bytes = b"") -> None:
    """Ask to be woken at a time; `decide.py` names what each kind does."""
    heapq.heappush(state.timers, (at, kind, key))


def write_log(
    state: State,
    job: Job,
    type_: str,
    *,
    text: str = "",
    task: int | None = None,
    actor: Address | None = None,
    reason: Reason | None = None,
) -> None:
    """Add an entry to a job's log; the oldest entries beyond the limit go."""
    entry = LogEntry(
        sequence=job.log_next,
        at=state.now,
        type=type_,
        task=task,
        actor=actor,
        fault=reason.fault if reason else "none",
        code=reason.code if reason else "",
        text=text or (reason.text if reason else ""),
    )
    job.log.append(entry)
    job.log_next += 1
    del job.log[: -state.settings.log_entries_max]


def move_job(state: State, job: Job, to: JobState) -> None:
    """Change a job's state as `NEXT_JOB` allows; the same state again is no change."""
    if job.state is to:
        return
    if to not in NEXT_JOB[job.state]:
        raise LocalProtocolError(f"a job cannot go from {job.state.value} to {to.value}")
    job.state = to
    write_log(state, job, to.value, reason=job.reason if to in ENDS else None)


def move_unit(state: State, job: Job, unit: Unit, *, to: UnitState) -> None:
    """Change a unit's state as `NEXT_UNIT` allows, and the job's counts with it."""
    if to not in NEXT_UNIT[unit.state]:
        raise LocalProtocolError(f"a unit cannot go from {unit.state.value} to {to.value}")
    job.counts[unit.state] -= 1
    job.counts[to] += 1
    if unit.state is UnitState.WAITING:
        job.waiting.remove(unit.index)
    if to is UnitState.WAITING:
        insort(job.waiting, unit.index)
        unit.lease_id = None
    unit.state = to
    state.touched[job.order_hash] = None


def move_lease(state: State, lease: Lease, to: LeaseState) -> None:
    """Change a lease's state as the protocol's table allows, and free its slot when it is done."""
    check_transition(lease.state, to)
    provider = state.providers.get(lease.provider)
    if provider and to is not LeaseState.ACTIVE and lease.lease_id in provider.lease_ids:
        provider.lease_ids.remove(lease.lease_id)
    if to is LeaseState.ENDED:
        state.pool.pop(lease.lease_id, None)
    job = state.jobs[lease.order_hash]
    job.running += (to is LeaseState.ACTIVE) - (lease.state is LeaseState.ACTIVE)
    state.touched[job.order_hash] = None
    lease.state = to


def make_bill_key(order_hash: Hash32, part: int) -> bytes:
    """Return the key of a job's bill in the settlement pool, in batches and in timers."""
    return order_hash + part.to_bytes(4, "big")


def find_bill(state: State, key: bytes) -> tuple[Job, BillRecord] | None:
    """Return a bill with its job, or None where the job is forgotten."""
    job = state.jobs.get(key[:32])
    return None if job is None else (job, job.bills[int.from_bytes(key[32:], "big")])


def get_receipt(lease: Lease) -> Signed[Receipt]:
    """Return the receipt of a lease that is finished."""
    if lease.receipt is None:
        raise LocalProtocolError(f"lease {format_hex(lease.lease_id)} has no receipt")
    return lease.receipt


def find_standing(state: State, provider: Address) -> Standing:
    """Return what is known about a provider, to be added to."""
    return state.standings.setdefault(provider, Standing(first_seen_at=state.now))


def note_facts(state: State, provider: Address) -> DayFacts:
    """Return today's facts of a provider, to be added to."""
    return find_today(find_standing(state, provider), state.now)
