"""Placing: waiting tasks become proposed leases as long as somebody fit has a free slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from coordinator.core.constraints import Candidate, Demand
from coordinator.core.effects import Effect, ProposeLease
from coordinator.core.leases import list_blames, stop_job
from coordinator.core.lifecycle import UnitState
from coordinator.core.matching import Funnel, describe_funnel, explain, find_feasible, rank
from coordinator.core.order_book import is_covered, list_candidates, make_demand
from coordinator.core.state import Job, Lease, State, Unit, move_unit, set_timer, write_log
from coordinator.core.training import find_resume, take_over
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import LeaseOffer, Reason, compute_lease_id
from gpumarket.protocol.units import Amount, Timestamp, compute_price, format_amount

_RUN_SECONDS_MAX = 10 * 365 * 86_400
"""Longer limits are cut for arithmetic only; an order's own end comes first."""


def place_waiting(state: State) -> list[Effect]:
    """Propose leases for waiting tasks, oldest job first, until slots or tasks run out."""
    if not any(state.jobs[order].waiting for order in state.live):
        return []
    free = {c.provider: c for c in list_candidates(state, free_only=True)}
    effects: list[Effect] = []
    covered: dict[Address, bool] = {}
    for order_hash in list(state.live):
        if not free:
            break
        job = state.jobs[order_hash]
        if not job.waiting or job.reason is not None:
            continue
        # A requester whose escrow shrank gets no new work done until it is filled again.
        requester = job.order.body.requester
        if requester not in covered:
            covered[requester] = is_covered(state, requester)
        if covered[requester]:
            effects += _place_job(state, job, free)
    return effects


def _place_job(state: State, job: Job, free: dict[Address, Candidate]) -> list[Effect]:
    effects: list[Effect] = []
    demand = make_demand(state, job)
    fits = find_feasible(demand, free.values(), free_only=True)
    for index in list(job.waiting):
        if not fits:
            break
        unit = job.units[index]
        chosen = _choose(state, job, unit, demand, fits)
        if chosen is None:
            continue
        effects.append(_propose(state, job, unit, chosen))
        taken = replace(
            chosen,
            slots_free=chosen.slots_free - 1,
            running=chosen.running + 1,
            devices_busy=chosen.devices_busy + job.spec.resources.devices.count,
        )
        fits.remove(chosen)
        fits += find_feasible(demand, (taken,), free_only=True)
        if taken.slots_free > 0:
            free[taken.provider] = taken
        else:
            del free[taken.provider]
    return effects


def _choose(
    state: State, job: Job, unit: Unit, demand: Demand, fits: Sequence[Candidate]
) -> Candidate | None:
    if unit.failures or unit.avoided:
        own_demand = make_demand(state, job, unit)
        fits = [
            candidate
            for candidate in find_feasible(own_demand, fits, free_only=True)
            if unit.avoided.get(candidate.provider, 0) <= state.now
        ]
    return min(fits, key=lambda candidate: rank(demand, candidate), default=None)


def _propose(state: State, job: Job, unit: Unit, candidate: Candidate) -> ProposeLease:
    settings, order = state.settings, job.order.body
    run_seconds = min(job.spec.limits.run_seconds, _RUN_SECONDS_MAX)
    longest = compute_price(
        duration_ms=run_seconds * 1_000,
        devices=max(1, job.spec.resources.devices.count),
        price_per_device_hour=candidate.offer.price_per_device_hour,
    )
    deadline = state.now + run_seconds + settings.lease_extra_seconds
    lease = Lease(
        lease_id=compute_lease_id(job.order_hash, unit.index, unit.attempts),
        order_hash=job.order_hash,
        unit=unit.index,
        attempt=unit.attempts,
        provider=candidate.provider,
        price_per_device_hour=candidate.offer.price_per_device_hour,
        price_max=Amount(min(order.max_unit_price, longest)),
        proposed_at=state.now,
        accept_by=Timestamp(state.now + settings.accept_seconds),
        deadline=Timestamp(min(deadline, job.settle_at)),
    )
    take_over(lease, unit.segments)
    state.leases[lease.lease_id] = lease
    state.providers[lease.provider].lease_ids.append(lease.lease_id)
    unit.attempts += 1
    unit.lease_id = lease.lease_id
    move_unit(state, job, unit, to=UnitState.LEASED)
    set_timer(state, lease.accept_by, "accept", key=lease.lease_id)
    price = format_amount(lease.price_per_device_hour)
    text = f"at {price} an hour, at most {format_amount(lease.price_max)}"
    write_log(state, job, "leased", text=text, task=unit.index, actor=lease.provider)
    return make_proposal(state, lease)


def make_proposal(state: State, lease: Lease) -> ProposeLease:
    """Return the effect that offers a lease to its provider, now or again."""
    job = state.jobs[lease.order_hash]
    return ProposeLease(
        lease=LeaseOffer(
            lease_id=lease.lease_id,
            provider=lease.provider,
            order=job.order,
            job=job.spec,
            unit=lease.unit,
            attempt=lease.attempt,
            price_per_device_hour=lease.price_per_device_hour,
            price_max=lease.price_max,
            deadline=lease.deadline,
            sources=state.sources,
            resume=find_resume(lease),
        )
    )


# ---- time ----------------------------------------------------------------------------------


def expire_queue(state: State, key: bytes) -> list[Effect]:
    """End a job whose tasks nobody took within its limit; what was accepted is settled."""
    job = state.jobs.get(key)
    if job is None or job.is_over or job.stalled_at is None or job.queue_by > state.now:
        return []
    funnel = explain_waiting(state, job)
    waited = state.now - job.stalled_at
    text = f"no task started within {waited} s; {describe_funnel(funnel)}"
    return stop_job(state, job, Reason(code="GM-4022", text=text, fault="network"))


def note_stall(state: State, job: Job) -> None:
    """Start the clock of a job when none of its open tasks moves, and stop it when one does."""
    counts = job.counts
    # A proposal is no move: nobody has taken it yet.
    is_open = counts[UnitState.WAITING] + counts[UnitState.LEASED] > 0
    moves = job.running > 0 or counts[UnitState.FINISHED] > 0
    if job.reason is not None or not is_open or moves:
        job.stalled_at = None
    elif job.stalled_at is None:
        job.stalled_at = state.now
        # The order's own end comes first, and says so.
        queue_by = min(state.now + job.spec.limits.queue_seconds, job.settle_at + 1)
        job.queue_by = Timestamp(queue_by)
        set_timer(state, job.queue_by, "queue", key=job.order_hash)


def explain_waiting(state: State, job: Job) -> Funnel:
    """Count who could take the first waiting task of a job, or any where none waits."""
    unit = job.units[job.waiting[0]] if job.waiting else None
    return explain(make_demand(state, job, unit), list_candidates(state))


def expire_capacity(state: State, key: bytes) -> list[Effect]:
    """End a job for which no provider that fits has come online in the time it would wait."""
    job = state.jobs.get(key)
    if job is None or job.is_over or job.started_at is not None:
        return []
    funnel = explain(make_demand(state, job), list_candidates(state))
    if funnel.feasible:
        return []
    text = f"no provider fits: {describe_funnel(funnel)}"
    return stop_job(state, job, Reason(code="GM-4021", text=text, fault="network"))


def give_up_alone(state: State, key: bytes) -> list[Effect]:
    """
    End a job whose program failed where no second provider can be asked.

    Somebody else must be online for this to count: after a restart nobody is, for a moment.
    """
    job = state.jobs.get(key[:32])
    if job is None or job.is_over or job.reason is not None:
        return []
    unit = job.units[int.from_bytes(key[32:], "big")]
    if unit.state is not UnitState.WAITING:
        return []
    candidates = list_candidates(state)
    if candidates and not find_feasible(make_demand(state, job, unit), candidates, free_only=False):
        blame = list_blames(unit)[-1].reason
        text = f"task {unit.index}: {blame.text}; no other provider fits to try it"
        return stop_job(state, job, Reason(code=blame.code, text=text, fault="requester"))
    set_timer(state, state.now + state.settings.alone_seconds, "alone", key=key)
    return []
