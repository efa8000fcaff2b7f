"""The order book: who is there, what they sell, and what live orders have claimed already."""

from __future__ import annotations

from coordinator.core.constraints import Candidate, Demand
from coordinator.core.hardware_checks import is_being_checked, list_failed
from coordinator.core.reputation import START_PPM, compute_reputation
from coordinator.core.state import Job, Provider, State, Unit, Verifier
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.units import Amount, ShareInPpm

_STALE_SECONDS = 600
"""No reader of the chain is this far behind."""


def is_online(state: State, provider: Provider) -> bool:
    """Say whether a provider has a session and an offer that is still good."""
    return provider.session > 0 and provider.offer.body.expires_at > state.now


def is_eligible(state: State, verifier: Verifier) -> bool:
    """
    Say whether a verifier may be given checks.

    It is connected, has a stake to lose, and its word was not found false of late.
    """
    is_staked = verifier.stake >= state.settings.verifier_stake_min
    return verifier.session > 0 and is_staked and verifier.barred_until <= state.now


def get_reputation(state: State, provider: Address) -> ShareInPpm:
    """Return a provider's present reputation; `START_PPM` for one nobody has seen work."""
    standing = state.standings.get(provider)
    return START_PPM if standing is None else compute_reputation(standing, state.now)


def make_candidate(state: State, provider: Provider) -> Candidate:
    """Return a provider as matching sees it now."""
    offer = provider.offer.body
    running = len(provider.lease_ids)
    orders = (state.leases[lease_id].order_hash for lease_id in provider.lease_ids)
    return Candidate(
        offer=offer,
        reputation_ppm=get_reputation(state, offer.provider),
        stake=provider.stake,
        slots_free=min(offer.slots, state.settings.slots_max) - running,
        running=running,
        devices_busy=sum(state.jobs[order].spec.resources.devices.count for order in orders),
        failed=list_failed(state, provider),
        is_being_checked=is_being_checked(state, provider),
    )


def list_candidates(state: State, *, free_only: bool = False) -> list[Candidate]:
    """Return the providers that are online; `free_only` leaves out those without a free slot."""
    slots_max = state.settings.slots_max
    return [
        make_candidate(state, provider)
        for provider in state.providers.values()
        if is_online(state, provider)
        and (not free_only or len(provider.lease_ids) < min(provider.offer.body.slots, slots_max))
    ]


def allows_simulated(state: State) -> bool:
    """Say whether made-up devices may be sold here: on the devnet chain only."""
    return state.settings.domain.chain_id == DEVNET_CHAIN_ID


def make_demand(state: State, job: Job, unit: Unit | None = None) -> Demand:
    """Return what a job asks of a provider, or one of its tasks after earlier failures."""
    excluded = set(job.excluded)
    if unit is not None and job.spec.retry.avoid_failed_providers:
        excluded |= {failure.provider for failure in unit.failures if _has_to_go(failure.reason)}
    return Demand(
        spec=job.spec,
        order=job.order.body,
        allows_simulated=allows_simulated(state),
        excluded=frozenset(excluded),
    )


def _has_to_go(reason: Reason) -> bool:
    # A program that fails on one machine is tried on another. One that was lost and came back
    # may try again: only for a while is the task kept from it.
    return reason.fault in ("provider", "requester") and reason.code != "GM-5301"


def compute_exposure(state: State, requester: Address, *, block: int) -> Amount:
    """
    Return what a requester's orders may still cost, seen from its balance at `block`.

    A batch counts until the block that it is in: a balance read earlier still has that money.
    """
    total: int = sum(
        state.jobs[order].order.body.compute_exposure()
        for order in state.live
        if state.jobs[order].order.body.requester == requester
    )
    return Amount(total + compute_posted(state, requester, after=block))


def compute_posted(state: State, requester: Address, *, after: int) -> Amount:
    """Return what batches moved out of a requester's escrow in blocks after this one."""
    total = 0
    for number in reversed(state.posted_batches):
        record = state.batches[number]
        if (record.posted_at or 0) < state.now - _STALE_SECONDS:
            break
        if record.block > after:
            total += record.totals.get(requester, 0)
    return Amount(total)


def is_covered(state: State, requester: Address) -> bool:
    """Say whether the escrow last seen covers all live orders of a requester."""
    escrow = state.escrows.get(requester)
    if escrow is None:
        return True
    return compute_exposure(state, requester, block=escrow.block) <= escrow.balance
