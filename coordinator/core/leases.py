"""
Leases: what a provider says about a task it was given, and how a lease ends.

A message is checked whole before anything changes; what contradicts itself or a signature
raises `RemoteProtocolError`, what merely comes late or twice changes nothing.
"""

from __future__ import annotations

from typing import Final

from coordinator.core.canaries import check_note, keep_note
from coordinator.core.effects import Effect, SendMessage
from coordinator.core.events import ProgressReported
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.state import (
    Failure,
    Job,
    Lease,
    State,
    Unit,
    move_lease,
    move_unit,
    note_facts,
    set_timer,
    write_log,
)
from gpumarket.protocol import messages
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.messages import CLOCK_SKEW_SECONDS
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import Timestamp, compute_price

ATTEMPTS_MAX = 100
"""Failures of one task after which its job ends, whatever its own limit says."""
BLAMED_PROVIDERS_MIN = 2
"""Providers that must agree that a program is at fault."""
TEXT_CHARACTERS_MAX = 500
LOG_TAIL_CHARACTERS_MAX = 4_000
_REQUESTER_CODES: Final = frozenset(
    {"GM-5101", "GM-5102", "GM-5103", "GM-5104", "GM-5105", "GM-5203", "GM-5204", "GM-6012"}
)
"""What a provider may say is the requester's fault."""
_LIVE: Final = (LeaseState.PROPOSED, LeaseState.ACTIVE)
_UNKNOWN = Reason(code="GM-5303", text="the coordinator knows no such lease", fault="none")


# ---- messages ------------------------------------------------------------------------------


def accept_lease(state: State, sender: Address, message: messages.LeaseAccepted) -> list[Effect]:
    """Start a proposed lease; a lease that ended meanwhile is cancelled at the provider."""
    lease = find_own_lease(state, sender, message.lease_id)
    if lease is None or lease.state is LeaseState.ENDED:
        return [cancel_at_provider(sender, message.lease_id, lease)]
    if lease.state is LeaseState.PROPOSED:
        start_lease(state, lease)
    return []


def decline_lease(state: State, sender: Address, message: messages.Declined) -> list[Effect]:
    """Take a task back from a provider that will not do it; others are asked first."""
    lease = find_own_lease(state, sender, message.about)
    if lease is None or lease.state not in _LIVE:
        return []
    text = f"declined: needs {message.need}, has {message.have}"
    reason = Reason(code=message.code, text=text[:TEXT_CHARACTERS_MAX], fault="none")
    write_log(state, get_job(state, lease), "declined", text=text, task=lease.unit, actor=sender)
    end_lease(state, lease, reason)
    return []


def finish_lease(state: State, sender: Address, message: messages.UnitFinished) -> list[Effect]:
    """Take a receipt; the task is finished, and paid only once its epoch passes."""
    lease = find_own_lease(state, sender, message.lease_id)
    if lease is None or lease.state is LeaseState.ENDED:
        return [cancel_at_provider(sender, message.lease_id, lease)]
    receipt = verify(message.receipt, state.settings.domain)
    if receipt.signer != sender:
        raise RemoteProtocolError("a receipt is signed by somebody else than its provider")
    if lease.state not in _LIVE:
        return []
    _check_receipt(state, lease, receipt.body, message.duration_ms)
    check_note(state, lease, receipt.body, note=message.canary)
    if lease.state is LeaseState.PROPOSED:
        start_lease(state, lease)
    job = get_job(state, lease)
    move_lease(state, lease, LeaseState.FINISHED)
    move_unit(state, job, job.units[lease.unit], to=UnitState.FINISHED)
    lease.receipt = message.receipt
    lease.duration_ms = message.duration_ms
    lease.finished_at = state.now
    put_in_pool(state, lease)
    keep_note(state, lease, message.canary)
    write_log(
        state,
        job,
        "finished",
        text=f"in {message.duration_ms / 1000:.1f} s",
        task=lease.unit,
        actor=sender,
    )
    return []


def fail_lease(state: State, sender: Address, message: messages.UnitFailed) -> list[Effect]:
    """Take the news that a task failed; whoever is to blame decides what happens next."""
    lease = find_own_lease(state, sender, message.lease_id)
    if lease is None or lease.state not in _LIVE:
        return []
    return end_with_failure(
        state,
        lease,
        _sanitize_reason(message.reason),
        exit_code=message.exit_code,
        log_tail=message.log_tail[-LOG_TAIL_CHARACTERS_MAX:],
    )


def show_progress(state: State, event: ProgressReported) -> list[Effect]:
    """Keep the last line of a running task for display; nothing else may depend on it."""
    message = event.progress
    lease = state.leases.get(message.lease_id)
    if lease is not None and lease.provider == event.sender and lease.state is LeaseState.ACTIVE:
        lease.phase = message.phase
        lease.progress_done = message.done
        lease.progress_total = message.total
        lease.line = message.line
    return []


def find_own_lease(state: State, sender: Address, lease_id: Hash32) -> Lease | None:
    """Return the sender's lease, or None for an unknown one; another's lease is an offense."""
    lease = state.leases.get(lease_id)
    if lease is not None and lease.provider != sender:
        raise RemoteProtocolError("a provider speaks about another provider's lease")
    return lease


def cancel_at_provider(provider: Address, lease_id: Hash32, lease: Lease | None) -> SendMessage:
    """Return the message that tells a provider to stop a lease that is over or unknown."""
    reason = (lease.reason if lease else None) or _UNKNOWN
    return SendMessage(
        recipient=provider, message=messages.LeaseCancelled(lease_id=lease_id, reason=reason)
    )


def _check_receipt(state: State, lease: Lease, receipt: Receipt, duration_ms: int) -> None:
    if (receipt.order_hash, receipt.unit, receipt.provider) != (
        lease.order_hash,
        lease.unit,
        lease.provider,
    ):
        raise RemoteProtocolError("a receipt is not for its lease")
    devices = max(1, get_job(state, lease).spec.resources.devices.count)
    price = compute_price(
        duration_ms=duration_ms,
        devices=devices,
        price_per_device_hour=lease.price_per_device_hour,
    )
    if receipt.price > min(price, lease.price_max):
        raise RemoteProtocolError(
            f"a receipt asks {receipt.price}, its time and lease allow "
            f"{min(price, lease.price_max)}",
            code="GM-4040",
        )
    # Whole seconds on both ends: one may be cut off at each.
    if duration_ms > (state.now - lease.proposed_at + 2) * 1_000:
        raise RemoteProtocolError("a receipt claims more time than has passed", code="GM-4040")
    if abs(receipt.finished_at - state.now) > CLOCK_SKEW_SECONDS and not (
        lease.proposed_at - CLOCK_SKEW_SECONDS <= receipt.finished_at <= state.now
    ):
        raise RemoteProtocolError("a receipt's time is outside its lease", code="GM-8204")


def _sanitize_reason(reason: Reason) -> Reason:
    # A provider may blame the program only for what programs do; anything else is its own.
    fault = reason.fault
    if fault == "requester" and reason.code not in _REQUESTER_CODES:
        fault = "provider"
    if fault not in ("requester", "network"):
        fault = "provider"
    return Reason(code=reason.code, text=reason.text[:TEXT_CHARACTERS_MAX], fault=fault)


# ---- changes -------------------------------------------------------------------------------


def get_job(state: State, lease: Lease) -> Job:
    """Return the job of a lease."""
    return state.jobs[lease.order_hash]


def get_unit(state: State, lease: Lease) -> Unit:
    """Return the unit of a lease."""
    return state.jobs[lease.order_hash].units[lease.unit]


def start_lease(state: State, lease: Lease) -> None:
    """Make a proposed lease active."""
    job = get_job(state, lease)
    move_lease(state, lease, LeaseState.ACTIVE)
    lease.accepted_at = state.now
    set_timer(state, lease.deadline, "lease", key=lease.lease_id)
    if job.started_at is None:
        job.started_at = state.now
    write_log(state, job, "started", task=lease.unit, actor=lease.provider)


def put_in_pool(state: State, lease: Lease) -> None:
    """Let a finished lease wait for an epoch."""
    state.pool[lease.lease_id] = state.now
    set_timer(state, state.now + state.settings.epoch_seconds, "pool")


def end_lease(state: State, lease: Lease, reason: Reason) -> None:
    """End a lease unpaid; its task waits again, and for a while not for the same provider."""
    job, unit = get_job(state, lease), get_unit(state, lease)
    move_lease(state, lease, LeaseState.ENDED)
    lease.reason = reason
    move_unit(state, job, unit, to=UnitState.WAITING)
    if lease.receipt is not None:
        # A finished chain that was not accepted is nothing to go on from.
        unit.segments = []
    if reason.fault == "provider" and lease.accepted_at is not None and lease.receipt is None:
        note_facts(state, lease.provider).lost += 1
    unit.avoided = {who: until for who, until in unit.avoided.items() if until > state.now}
    until = state.now + state.settings.avoid_seconds
    unit.avoided[lease.provider] = Timestamp(until)
    set_timer(state, until, "place")


def end_with_failure(
    state: State,
    lease: Lease,
    reason: Reason,
    *,
    exit_code: int = 0,
    log_tail: str = "",
    log_type: str = "failed",
) -> list[Effect]:
    """End a lease that was tried and failed; too many failures end the job."""
    job, unit = get_job(state, lease), get_unit(state, lease)
    end_lease(state, lease, reason)
    unit.failures.append(
        Failure(
            provider=lease.provider,
            reason=reason,
            at=state.now,
            exit_code=exit_code,
            log_tail=log_tail,
        )
    )
    write_log(state, job, log_type, task=lease.unit, actor=lease.provider, reason=reason)
    blamed = list_blames(unit)
    if blamed:
        set_timer(
            state,
            state.now + state.settings.alone_seconds,
            "alone",
            key=job.order_hash + unit.index.to_bytes(4, "big"),
        )
    tries_max = min(job.spec.retry.attempts_max + 1, ATTEMPTS_MAX)
    if len({failure.provider for failure in blamed}) >= BLAMED_PROVIDERS_MIN:
        return stop_job(state, job, _sum_up(unit, blamed[-1].reason))
    if len(unit.failures) >= tries_max:
        return stop_job(state, job, _sum_up(unit, blamed[-1].reason if blamed else reason))
    return []


def list_blames(unit: Unit) -> list[Failure]:
    """Return the failures that were the program's own."""
    return [failure for failure in unit.failures if failure.reason.fault == "requester"]


def _sum_up(unit: Unit, reason: Reason) -> Reason:
    tries = len(unit.failures)
    providers = len({failure.provider for failure in unit.failures})
    text = f"task {unit.index} failed {tries} times on {providers} providers: {reason.text}"
    return Reason(code=reason.code, text=text[:TEXT_CHARACTERS_MAX], fault=reason.fault)


def cancel_lease(state: State, lease: Lease, reason: Reason) -> list[Effect]:
    """End a lease and tell its provider to stop."""
    end_lease(state, lease, reason)
    return [cancel_at_provider(lease.provider, lease.lease_id, lease)]


def stop_job(
    state: State, job: Job, reason: Reason, *, outcome: JobState = JobState.FAILED
) -> list[Effect]:
    """End a job early: nothing more is placed, what is finished is still checked and settled."""
    if job.reason is not None or job.is_over:
        return []
    job.reason = reason
    job.outcome = outcome
    state.touched[job.order_hash] = None
    write_log(state, job, "stopped", reason=reason)
    effects: list[Effect] = []
    for unit in job.units:
        if unit.state is UnitState.LEASED and unit.lease_id is not None:
            lease = state.leases[unit.lease_id]
            stopped = Reason(code=reason.code, text=f"the job ended: {reason.text}", fault="none")
            effects += cancel_lease(state, lease, stopped)
    return effects


# ---- time ----------------------------------------------------------------------------------


def expire_proposal(state: State, key: bytes) -> list[Effect]:
    """Give a task to somebody else when its provider did not answer."""
    lease = state.leases.get(key)
    if lease is None or lease.state is not LeaseState.PROPOSED or lease.accept_by > state.now:
        return []
    reason = Reason(code="GM-5303", text="the provider did not answer", fault="provider")
    write_log(
        state, get_job(state, lease), "declined", task=lease.unit, actor=lease.provider,
        reason=reason,
    )  # fmt: skip
    return cancel_lease(state, lease, reason)


def expire_lease(state: State, key: bytes) -> list[Effect]:
    """End a running lease whose receipt is overdue."""
    lease = state.leases.get(key)
    if lease is None or lease.state is not LeaseState.ACTIVE or lease.deadline > state.now:
        return []
    reason = Reason(code="GM-5304", text="no receipt came before the deadline", fault="provider")
    effects = end_with_failure(state, lease, reason)
    return [cancel_at_provider(lease.provider, lease.lease_id, lease), *effects]


def lose_leases(state: State, provider: Address) -> list[Effect]:
    """End all leases of a provider that was gone too long."""
    reason = Reason(code="GM-5301", text="the provider was lost", fault="provider")
    effects: list[Effect] = []
    for lease_id in list(state.providers[provider].lease_ids):
        lease = state.leases[lease_id]
        if lease.state is LeaseState.ACTIVE:
            effects += end_with_failure(state, lease, reason)
        elif lease.state is LeaseState.PROPOSED:
            end_lease(state, lease, reason)
    return effects
