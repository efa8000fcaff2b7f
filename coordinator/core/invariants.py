"""
What must be true of the state after every event, whatever came before.

Tests call `check_state` after each event. A violation is a bug of ours, never a peer's doing.
"""

from __future__ import annotations

from collections.abc import Iterator

from coordinator.core.batching import BATCH_LINES_MAX, is_waiting_for_pause
from coordinator.core.canaries import SET_ASIDE, is_set_aside, open_canaries
from coordinator.core.epoch_state import Epoch
from coordinator.core.lifecycle import (
    CheckState,
    EpochState,
    JobState,
    PartStage,
    TrialOutcome,
    TrialState,
    UnitState,
)
from coordinator.core.pools import find_pool, list_checks
from coordinator.core.relaying import UNHEARD_MAX
from coordinator.core.rulings import is_clear, is_proven_right
from coordinator.core.settlement_pool import count_pool
from coordinator.core.settling import compute_money, is_posted, list_payments
from coordinator.core.state import BatchRecord, Job, Lease, State, find_bill, make_bill_key
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.settlement import LANES_MAX, PaymentLeaf, compute_fee_evidence

_TAKES_SLOT = (LeaseState.PROPOSED, LeaseState.ACTIVE)
_UNIT_OF_LEASE = {
    LeaseState.PROPOSED: UnitState.LEASED,
    LeaseState.ACTIVE: UnitState.LEASED,
    LeaseState.FINISHED: UnitState.FINISHED,
    LeaseState.ACCEPTED: UnitState.ACCEPTED,
}


def check_state(state: State) -> None:
    """Raise `LocalProtocolError` naming everything that is not as it must be."""
    problems = [
        *_check_jobs(state),
        *_check_leases(state),
        *_check_peers(state),
        *_check_epochs(state),
        *_check_trials(state),
        *_check_bills(state),
        *_check_batches(state),
        *_check_timers(state),
        *_check_unheard(state),
        *_check_canaries(state),
    ]
    if problems:
        raise LocalProtocolError("; ".join(problems))


def _check_jobs(state: State) -> Iterator[str]:
    if state.touched:
        yield "jobs are left to look at"
    if set(state.live) | set(state.over) != set(state.jobs) or set(state.live) & set(state.over):
        yield "jobs are not split into live and over"
    for order_hash, job in state.jobs.items():
        if job.is_over is (order_hash in state.live):
            yield f"{job.job_id} is {job.state.value} and in the wrong list"
        yield from _check_units(state, job)
        yield from _check_money(state, job)


def _check_units(state: State, job: Job) -> Iterator[str]:
    for unit_state in UnitState:
        if job.counts[unit_state] != sum(unit.state is unit_state for unit in job.units):
            yield f"{job.job_id} miscounts {unit_state.value} tasks"
    if job.waiting != [unit.index for unit in job.units if unit.state is UnitState.WAITING]:
        yield f"{job.job_id} has lost a waiting task"
    if (job.reason is None) and job.outcome is not JobState.SETTLED:
        yield f"{job.job_id} ends early without a reason"
    active = (LeaseState.ACTIVE, job.order_hash)
    if job.running != sum((le.state, le.order_hash) == active for le in state.leases.values()):
        yield f"{job.job_id} miscounts its running tasks"
    for unit in job.units:
        lease = state.leases.get(unit.lease_id or b"")
        if unit.state is UnitState.WAITING:
            if unit.lease_id is not None:
                yield f"{job.job_id} task {unit.index} waits with a lease"
        elif lease is None or (lease.order_hash, lease.unit) != (job.order_hash, unit.index):
            yield f"{job.job_id} task {unit.index} is {unit.state.value} without its lease"
        elif _UNIT_OF_LEASE.get(lease.state) is not unit.state:
            yield f"{job.job_id} task {unit.index} and its lease disagree"


def _check_money(state: State, job: Job) -> Iterator[str]:
    order, money = job.order.body, compute_money(state, job)
    payments = list_payments(state, job)
    lines = [leaf.line for _, _, leaf in payments]
    total = sum(leaf.price for _, _, leaf in payments)
    if len(set(lines)) != len(lines):
        yield f"{job.job_id} pays a line twice"
    for _, _, leaf in payments:
        cap = order.find_line_cap(leaf.line)
        if cap is None or leaf.price > cap:
            yield f"{job.job_id} pays {leaf.price} on line {leaf.line}, the order allows {cap}"
    if total > money.exposure or money.spent > money.exposure:
        yield f"{job.job_id} costs {total} and spent {money.spent} of {money.exposure}"
    if total != money.payable + money.checks + money.fee:
        yield f"{job.job_id} has payments that its money does not show"
    if job.is_over and money.spent + money.returned != money.exposure:
        yield f"{job.job_id} is over and its money does not add up"
    if job.bills:
        billed = [(order.requester, *payment) for bill in job.bills for payment in bill.payments]
        if sorted(billed, key=_get_line) != sorted(payments, key=_get_line):
            yield f"{job.job_id} has bills that do not say what is due"
    if job.state is JobState.SETTLED and job.counts[UnitState.ACCEPTED] != len(job.units):
        yield f"{job.job_id} is settled with tasks that are not accepted"
    yield from _check_evidence(state, job)


def _check_evidence(state: State, job: Job) -> Iterator[str]:
    evidence = {
        lease.receipt.body.compute_struct_hash(): lease
        for lease in state.leases.values()
        if lease.receipt is not None and lease.order_hash == job.order_hash
    }
    for _, payee, leaf in list_payments(state, job):
        if leaf.line < job.order.body.units:
            lease = evidence.get(leaf.evidence_hash)
            if lease is None or lease.provider != payee or not _has_passed(state, lease):
                yield f"{job.job_id} pays task {leaf.line} without a verified receipt"
        elif leaf.line == job.order.body.fee_line:
            if leaf.evidence_hash != compute_fee_evidence(job.order_hash):
                yield f"{job.job_id} pays a fee on no evidence"


def _get_line(payment: tuple[Address, Address, PaymentLeaf]) -> int:
    return payment[2].line


def _check_bills(state: State) -> Iterator[str]:
    if state.is_cut_wanted:
        yield "the settlement pool is left to look at"
    pooled = set()
    for order_hash, job in state.jobs.items():
        for part, record in enumerate(job.bills):
            key = make_bill_key(order_hash, part)
            if record.is_dropped:
                if record.batch is not None or record.problem is None:
                    yield f"{job.job_id} dropped a bill of a batch, or without a reason"
            elif record.batch is None:
                pooled.add(key)
            elif key not in state.batches[record.batch].bill_keys:
                yield f"{job.job_id} has a bill that its batch does not know"
            is_open = not record.is_dropped and not is_posted(state, record)
            if is_open and job.state is not JobState.SETTLING:
                yield f"{job.job_id} is {job.state.value} with a bill unpaid"
    if pooled != set(state.due):
        yield "the settlement pool and the bills in no batch differ"
    else:
        yield from _check_pool(state)


def _check_pool(state: State) -> Iterator[str]:
    timers = {(kind, key) for _, kind, key in state.timers}
    if state.due and ("cut", b"") not in timers and not is_waiting_for_pause(state):
        yield "the settlement pool waits for ever"
    if any(("unpaid", key) not in timers for key in state.due):
        yield "a bill waits for ever"
    if count_pool(state) != state.pool_sums:
        yield "the settlement pool is miscounted, or left to look at"


def _check_batches(state: State) -> Iterator[str]:
    if set(state.open_batches) | set(state.posted_batches) != set(state.batches):
        yield "batches are not split into open and posted"
    lines: set[tuple[bytes, int]] = set()
    timers = {(kind, key) for _, kind, key in state.timers}
    for number, record in state.batches.items():
        leaves = [leaf for lane in record.document.lanes for leaf in lane.leaves]
        names = {(leaf.order_hash, leaf.line) for leaf in leaves}
        if len(names) != len(leaves) or names & lines:
            yield f"batch {number} pays a line that is paid elsewhere"
        lines |= names
        if (record.tx is None) is not (number in state.open_batches):
            yield f"batch {number} is in the wrong list"
        if sum(record.totals.values()) != sum(leaf.price for leaf in leaves):
            yield f"batch {number} misses some of what its requesters pay"
        if len(record.document.lanes) > LANES_MAX or len(leaves) > BATCH_LINES_MAX:
            yield f"batch {number} is too large"
        if record.retry_at is not None and ("batch", number.to_bytes(8, "big")) not in timers:
            yield f"batch {number} waits for ever"
        yield from _check_contents(state, record, names)


def _check_contents(
    state: State, record: BatchRecord, names: set[tuple[bytes, int]]
) -> Iterator[str]:
    own = set()
    known = [found for key in record.bill_keys if (found := find_bill(state, key)) is not None]
    for job, bill in known:
        own |= {(job.order_hash, leaf.line) for _, leaf in bill.payments}
        if bill.batch != record.number:
            yield f"batch {record.number} holds a bill of {job.job_id} that is elsewhere"
        if record.tx is None and job.is_over:
            yield f"{job.job_id} is over before batch {record.number} is posted"
    # Of jobs that are forgotten the lines stay in the document.
    is_whole = len(known) == len(record.bill_keys)
    if not own <= names or (is_whole and own != names):
        yield f"batch {record.number} does not pay the lines of its bills"


def _has_passed(state: State, lease: Lease) -> bool:
    if lease.epoch is None or lease.opening is None or not lease.is_output_here:
        return False
    epoch = state.epochs[lease.epoch]
    pool = find_pool(epoch.parts[lease.provider], lease.order_hash)
    checks = list_checks(epoch, pool)
    own = [check for check in checks if check.lease_id == lease.lease_id]
    is_undecided = bool(own) and not any(is_proven_right(epoch, check) for check in own)
    is_clean = is_clear(state, epoch, pool) and all(check.verdict for check in checks)
    is_sound = is_clean and not is_undecided and not is_set_aside(epoch, lease)
    return epoch.seed is not None and pool.is_cleared and is_sound


def _check_leases(state: State) -> Iterator[str]:
    for lease_id, lease in state.leases.items():
        name = f"lease {lease_id.hex()[:8]}"
        unit = state.jobs[lease.order_hash].units[lease.unit]
        if lease.state is not LeaseState.ENDED and unit.lease_id != lease_id:
            yield f"{name} is {lease.state.value} and its task does not know it"
        if (lease.state is LeaseState.ENDED) is not (lease.reason is not None):
            yield f"{name} is {lease.state.value} with reason {lease.reason}"
        has_receipt = lease.state in (LeaseState.FINISHED, LeaseState.ACCEPTED)
        if has_receipt and lease.receipt is None:
            yield f"{name} is {lease.state.value} without a receipt"
        is_loose = lease.state is LeaseState.FINISHED and lease.epoch is None
        if is_loose is not (lease_id in state.pool):
            yield f"{name} is {lease.state.value} in epoch {lease.epoch}, in the pool or not"
        if lease.state is LeaseState.FINISHED and lease.epoch is not None:
            if lease.epoch not in state.open_epochs:
                yield f"{name} is left over from epoch {lease.epoch}"


def _check_peers(state: State) -> Iterator[str]:
    taken = [i for i, lease in state.leases.items() if lease.state in _TAKES_SLOT]
    held = [lease_id for provider in state.providers.values() for lease_id in provider.lease_ids]
    if sorted(taken) != sorted(held):
        yield "slots taken and leases running differ"
    for address, provider in state.providers.items():
        if any(state.leases[lease_id].provider != address for lease_id in provider.lease_ids):
            yield "a provider holds another's lease"
        if (provider.lost_at is None) is not (provider.session > 0):
            yield "a provider is both connected and lost"
    asked = {
        check.key: check.verifier
        for number in state.open_epochs
        for check in state.epochs[number].checks.values()
        if check.state is CheckState.ASKED
    }
    held_checks = {key: address for address, v in state.verifiers.items() for key in v.asked}
    if asked != held_checks:
        yield "checks asked and verifiers' slots differ"


def _check_epochs(state: State) -> Iterator[str]:
    for number, epoch in state.epochs.items():
        if (epoch.state is EpochState.CLOSED) is (number in state.open_epochs):
            yield f"epoch {number} is {epoch.state.value} and in the wrong list"
        yield from _check_parts(state, epoch)
    waiting = {
        check.key
        for number in state.open_epochs
        for check in state.epochs[number].checks.values()
        if check.state is CheckState.WAITING
    }
    if waiting != set(state.waiting_checks):
        yield "checks that wait and the list of them differ"


def _check_parts(state: State, epoch: Epoch) -> Iterator[str]:
    closed = all(part.stage is PartStage.CLOSED for part in epoch.parts.values())
    if closed is not (epoch.state is EpochState.CLOSED):
        yield f"epoch {epoch.number} is {epoch.state.value} and its parts are not"
    for part in epoch.parts.values():
        pooled = [lease_id for pool in part.pools for lease_id in pool.lease_ids]
        if pooled != list(part.lease_ids):
            yield f"epoch {epoch.number} has pools that are not its leaves"
        if part.stage is PartStage.CLOSED and part.open_orders:
            yield f"epoch {epoch.number} has closed a part with work left"
        if part.stage not in (PartStage.SIGNING, PartStage.CLOSED) and part.signed is None:
            yield f"epoch {epoch.number} goes on without a root"


def _check_trials(state: State) -> Iterator[str]:
    trials = [trial for epoch in state.epochs.values() for trial in epoch.trials.values()]
    open_trials = {trial.receipt_hash for trial in trials if trial.state is not TrialState.CLOSED}
    if open_trials != set(state.trials):
        yield "cases that are open and the list of them differ"
    timers = {(kind, key) for _, kind, key in state.timers}
    for trial in trials:
        name = f"case {trial.case}"
        # After an appeal it stands open again, and what was paid for stays paid for.
        is_ruled = trial.outcome is not TrialOutcome.OPEN
        if trial.state in (TrialState.DECIDED, TrialState.CLOSED) and not is_ruled:
            yield f"{name} is {trial.state.value} and for the payment {trial.outcome.value}"
        # Once its deadline has passed, the step that follows is under way.
        is_timed = trial.state in (TrialState.VOTING, TrialState.DECIDED)
        waits = is_timed and trial.deadline >= state.now
        if waits and ("trial", trial.receipt_hash) not in timers:
            yield f"{name} waits for ever"
        if any(vote.verdict and vote.seal is None for vote in trial.votes):
            yield f"{name} has a vote that was not blind"


def _check_timers(state: State) -> Iterator[str]:
    # Everything that waits for somebody must end by itself.
    timers = {(kind, key) for _, kind, key in state.timers}
    for lease_id, lease in state.leases.items():
        if lease.state is LeaseState.PROPOSED and ("accept", lease_id) not in timers:
            yield f"lease {lease_id.hex()[:8]} is proposed for ever"
        if lease.state is LeaseState.ACTIVE and ("lease", lease_id) not in timers:
            yield f"lease {lease_id.hex()[:8]} is active for ever"
        if lease.fetch_by is not None and ("fetch", lease_id) not in timers:
            yield f"lease {lease_id.hex()[:8]} is fetched for ever"
    if state.pool and not any(kind == "pool" for kind, _ in timers):
        yield "receipts wait for ever"
    for order_hash in state.live:
        job = state.jobs[order_hash]
        if not job.bills and ("settle", order_hash) not in timers:
            yield f"{job.job_id} may never end"
        if job.stalled_at is not None and ("queue", order_hash) not in timers:
            yield f"{job.job_id} stands still for ever"
    for number in state.open_epochs:
        for check in state.epochs[number].checks.values():
            waits = check.state in (CheckState.ASKED, CheckState.SHOWN)
            if waits and ("check", check.key) not in timers:
                yield f"a check of epoch {number} may never end"


def _check_unheard(state: State) -> Iterator[str]:
    if len(state.unheard) > UNHEARD_MAX:
        yield "too much is kept for providers that do not answer"
    receipts = {lease.receipt for lease in state.leases.values()}
    for word, approval in state.unheard.items():
        if approval.list_words() != (word,):
            yield "a word for a provider has another's name"
        if approval.receipt not in receipts:
            yield "a word is kept for a receipt that is forgotten"


def _check_canaries(state: State) -> Iterator[str]:
    for lease_id in state.canaries.notes:
        lease = state.leases.get(lease_id)
        if lease is not None and lease.receipt is None:
            yield "a lease without a receipt is noted as a canary"
    # A result goes into a second epoch only where the first one had no seed.
    seeded = [name for epoch in state.epochs.values() if epoch.seed for name in epoch.canaries]
    if len(seeded) != len(set(seeded)):
        yield "a canary is in two epochs"
    told = {lease.epoch for lease in state.leases.values() if lease.reason == SET_ASIDE}
    for epoch in state.epochs.values():
        is_open = any(check.state is not CheckState.DONE for check in epoch.checks.values())
        if is_open and epoch.number in told:
            yield f"a canary of epoch {epoch.number} is known while verdicts are open"
        document = epoch.document
        if document is not None and document.canaries != open_canaries(epoch).compute_hash():
            yield f"epoch {epoch.number} was committed with other canaries than it has"
