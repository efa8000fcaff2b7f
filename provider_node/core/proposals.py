"""
Proposals: what happens between a coordinator's word that it has work and our yes or no.

What needs nobody is decided at once. Whether the money is there only the chain can say: the
proposal waits for a reading, which then serves all proposals of that requester for some seconds.
"""

from __future__ import annotations

from gpumarket.protocol import messages
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.units import Timestamp
from provider_node.core import training
from provider_node.core.admission import Refused, check_admission, check_funds
from provider_node.core.effects import Effect, ReadFunds, SendMessage
from provider_node.core.epochs import make_declined
from provider_node.core.events import FundsSeen, FundsUnknown
from provider_node.core.state import WAITING_MAX, Funds, Lease, Proposal, ProviderState

FUNDS_KEPT_MAX = 256
"""Readings remembered; more requesters than this at once read more often."""


def consider(state: ProviderState, proposal: Proposal, *, at: Timestamp) -> list[Effect]:
    """Decide on a proposed lease that is not known yet, or ask the chain about its money first."""
    offer = proposal.lease.body
    if offer.lease_id in state.waiting:
        return []
    verdict = check_admission(proposal, state, now=at)
    if isinstance(verdict, Refused):
        return _decline(state, proposal, verdict, at)
    if state.find_funds(proposal, at) is not None:
        return _decide(state, proposal, at)
    if len(state.waiting) >= WAITING_MAX:
        busy = Refused("leases", f"under {WAITING_MAX} open proposals", str(len(state.waiting)))
        return _decline(state, proposal, busy, at)
    is_asked = any(other.funds_key == proposal.funds_key for other in state.waiting.values())
    state.waiting[offer.lease_id] = proposal
    if is_asked:
        return []
    return [
        ReadFunds(requester=offer.order.body.requester, coordinator=offer.order.body.coordinator)
    ]


def take_funds(state: ProviderState, event: FundsSeen) -> list[Effect]:
    """Remember a reading and decide on all proposals that waited for it."""
    key = event.requester + event.coordinator
    state.funds.pop(key, None)
    while len(state.funds) >= FUNDS_KEPT_MAX:
        del state.funds[next(iter(state.funds))]
    state.funds[key] = Funds(escrow=event.escrow, bond=event.bond, seen_at=event.at)
    effects: list[Effect] = []
    for proposal in _take_waiting(state, key):
        effects += _decide(state, proposal, event.at)
    return effects


def decline_unfunded(state: ProviderState, event: FundsUnknown) -> list[Effect]:
    """Decline what waited for a reading that the chain did not give: unseen money is none."""
    unknown = Refused(event.code, "a chain that says what the escrow holds", "no answer")
    effects: list[Effect] = []
    for proposal in _take_waiting(state, event.requester + event.coordinator):
        effects += _decline(state, proposal, unknown, event.at)
    return effects


def distrust(state: ProviderState, coordinator: Address) -> list[Effect]:
    """Take no more leases of a coordinator that was caught; work under way goes on."""
    if coordinator not in state.distrusted:
        state.distrusted = (*state.distrusted, coordinator)
    return []


def _take_waiting(state: ProviderState, key: bytes) -> list[Proposal]:
    ids: list[Hash32] = [i for i, each in state.waiting.items() if each.funds_key == key]
    return [state.waiting.pop(lease_id) for lease_id in ids]


def _decide(state: ProviderState, proposal: Proposal, at: Timestamp) -> list[Effect]:
    """Say yes or no; what was free when the proposal came may be taken by now."""
    offer = proposal.lease.body
    verdict = check_admission(proposal, state, now=at)
    if isinstance(verdict, Refused):
        return _decline(state, proposal, verdict, at)
    refused = check_funds(proposal, state, now=at)
    if refused is not None:
        return _decline(state, proposal, refused, at)
    state.tally.note_seen(at, "accepted")
    state.leases[offer.lease_id] = Lease(
        coordinator=proposal.coordinator,
        offer=offer,
        assignment=proposal.assignment,
        devices=verdict.devices,
        accepted_at=at,
        phase_at=at,
    )
    accepted = messages.LeaseAccepted(lease_id=offer.lease_id)
    return [
        SendMessage(coordinator=proposal.coordinator, message=accepted),
        training.prepare(state.leases[offer.lease_id]),
    ]


def _decline(
    state: ProviderState, proposal: Proposal, refused: Refused, at: Timestamp
) -> list[Effect]:
    state.tally.note_seen(at, refused.code)
    declined = make_declined(
        proposal.lease.body.lease_id, refused.code, need=refused.need, have=refused.have
    )
    return [SendMessage(coordinator=proposal.coordinator, message=declined)]
