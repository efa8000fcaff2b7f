"""
Sessions: providers and verifiers come, go, and come back with what they still hold.

A hello is believed only after its signature, its sender and its sequence are checked. Whoever
is gone for less than the grace finds everything as it was; after that, its work is given away.
"""

from __future__ import annotations

from typing import Final

from coordinator.core import hardware_checks
from coordinator.core.assigning import lose_checks
from coordinator.core.effects import CloseSession, Effect, SendMessage
from coordinator.core.events import (
    ProcessStarted,
    ProviderJoined,
    ProviderLeft,
    VerifierJoined,
    VerifierLeft,
)
from coordinator.core.leases import end_with_failure, lose_leases, start_lease
from coordinator.core.order_book import allows_simulated
from coordinator.core.recovery import (
    list_for_provider,
    list_for_verifier,
    list_news,
    list_outstanding,
)
from coordinator.core.state import Provider, State, Verifier, set_timer
from coordinator.core.trials import ask_juror
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import ZERO_ADDRESS, Address
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.messages import CLOCK_SKEW_SECONDS, Declined, Welcome
from gpumarket.protocol.offer import Offer, VerifierCard, is_simulated
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import Timestamp

RUNNING_MAX = 4_096
"""Leases that one hello may list."""
_FORGOTTEN: Final = Reason(
    code="GM-5301", text="the provider came back without this task", fault="provider"
)


# ---- the process ---------------------------------------------------------------------------


def restart(state: State, event: ProcessStarted) -> list[Effect]:
    """
    Begin again after a crash: nobody is connected, everything outstanding is asked again.

    Nobody is blamed for what came due while we could not hear.
    """
    state.sources = event.sources
    grace = state.settings.restart_grace_seconds
    _postpone(state, Timestamp(state.now + grace))
    hardware_checks.restart(state)
    for address, provider in state.providers.items():
        if provider.session:
            provider.session, provider.lost_at = 0, state.now
        set_timer(state, state.now + grace, "lost-provider", key=address)
    for address, verifier in state.verifiers.items():
        if verifier.session:
            verifier.session, verifier.lost_at = 0, state.now
        set_timer(state, state.now + grace, "lost-verifier", key=address)
    return list_outstanding(state)


def _postpone(state: State, until: Timestamp) -> None:
    for provider in state.providers.values():
        for lease in (state.leases[lease_id] for lease_id in provider.lease_ids):
            lease.accept_by = max(lease.accept_by, until)
            lease.deadline = max(lease.deadline, until)
            set_timer(state, lease.accept_by, "accept", key=lease.lease_id)
            set_timer(state, lease.deadline, "lease", key=lease.lease_id)
    for epoch in (state.epochs[number] for number in state.open_epochs):
        number = epoch.number.to_bytes(8, "big")
        epoch.root_by = max(epoch.root_by, until)
        set_timer(state, epoch.root_by, "root", key=number)
        for address, part in epoch.parts.items():
            part.deadline = max(part.deadline, until)
            set_timer(state, part.deadline, "opening", key=number + address)
        for check in epoch.checks.values():
            if check.deadline is not None:
                check.deadline = max(check.deadline, until)
                set_timer(state, check.deadline, "check", key=check.key)


# ---- providers -----------------------------------------------------------------------------


def join_provider(state: State, event: ProviderJoined) -> list[Effect]:
    """Take a provider into the book, or renew its offer; refuse an offer that breaks a rule."""
    known = state.providers.get(event.sender)
    if known is not None and event.session < known.session:
        return []
    try:
        _check_hello(state, event)
        if known is None:
            _make_room(state)
    except RemoteProtocolError as error:
        about = compute_content_hash(event.offer.body)
        return _refuse(event.sender, event.session, about, error)
    if known is None:
        known = Provider(offer=event.offer, session=0, stake=event.stake, payout=event.sender)
        state.providers[event.sender] = known
    is_new_session = event.session != known.session
    known.offer, known.stake = event.offer, event.stake
    known.payout = _get_payout(event)
    known.session, known.lost_at = event.session, None
    hardware_checks.note_joined(state, event.sender, is_new_session=is_new_session)
    if not is_new_session:
        return []
    effects: list[Effect] = [_make_welcome(state, event.sender)]
    effects += _reconcile(state, event)
    return effects + list_for_provider(state, event.sender)


def _check_hello(state: State, event: ProviderJoined) -> None:
    offer = verify(event.offer, state.settings.domain)
    if not event.sender == offer.signer == offer.body.provider:
        raise RemoteProtocolError("an offer is signed by somebody else than its provider")
    if event.sender in state.verifiers:
        raise RemoteProtocolError("one key has one role; this one is a verifier", code="GM-4031")
    known = state.providers.get(event.sender)
    _check_times(state, offer.body, known.offer.body if known else None)
    if is_simulated(offer.body) and not allows_simulated(state):
        raise RemoteProtocolError("simulated devices are sold on the devnet only", code="GM-4031")
    if len(event.running) > RUNNING_MAX:
        raise RemoteProtocolError(f"a hello lists {len(event.running)} leases")


def _check_times(
    state: State, new: Offer | VerifierCard, known: Offer | VerifierCard | None
) -> None:
    if new.expires_at <= state.now:
        raise RemoteProtocolError("the offer has expired; a clock may be off", code="GM-8204")
    if new.issued_at > state.now + CLOCK_SKEW_SECONDS:
        raise RemoteProtocolError("the offer is from the future", code="GM-8204")
    # An expired offer may be followed by a lower number: somebody lost its data folder.
    if known is None or known.expires_at <= state.now or new == known:
        return
    if new.sequence <= known.sequence:
        raise RemoteProtocolError(
            f"the offer's sequence {new.sequence} is not above {known.sequence}", code="GM-4031"
        )


def _reconcile(state: State, event: ProviderJoined) -> list[Effect]:
    # A provider that came back tells what it still has. What it started and does not have
    # goes to others at once; what it accepted unheard has started.
    effects = list_news(state, event.sender, event.running)
    running = set(event.running)
    for lease_id in list(state.providers[event.sender].lease_ids):
        lease = state.leases[lease_id]
        if lease.state is LeaseState.PROPOSED:
            lease.accept_by = Timestamp(state.now + state.settings.accept_seconds)
            set_timer(state, lease.accept_by, "accept", key=lease_id)
            if lease_id in running:
                start_lease(state, lease)
        elif lease.state is LeaseState.ACTIVE and lease_id not in running:
            effects += end_with_failure(state, lease, _FORGOTTEN)
    return effects


def leave_provider(state: State, event: ProviderLeft) -> list[Effect]:
    """Start the grace of a provider whose session ended; an old session's end means nothing."""
    provider = state.providers.get(event.provider)
    if provider is None or provider.session != event.session:
        return []
    provider.session, provider.lost_at = 0, state.now
    set_timer(state, state.now + state.settings.grace_seconds, "lost-provider", key=event.provider)
    return []


def expire_provider(state: State, key: bytes) -> list[Effect]:
    """Give a provider's leases to others when its grace is over."""
    provider = state.providers.get(key)
    if provider is None or provider.session or provider.lost_at is None:
        return []
    if provider.lost_at + state.settings.grace_seconds > state.now:
        return []
    return lose_leases(state, key)


def _make_room(state: State) -> None:
    if len(state.providers) < state.settings.peers_max:
        return
    for address, provider in state.providers.items():
        if not provider.session and not provider.lease_ids:
            del state.providers[address]
            return
    raise RemoteProtocolError("the coordinator's book is full", code="GM-8002")


# ---- verifiers -----------------------------------------------------------------------------


def join_verifier(state: State, event: VerifierJoined) -> list[Effect]:
    """Take a verifier into the book, or renew its card."""
    known = state.verifiers.get(event.sender)
    if known is not None and event.session < known.session:
        return []
    try:
        card = verify(event.card, state.settings.domain)
        if not event.sender == card.signer == card.body.verifier:
            raise RemoteProtocolError("a card is signed by somebody else than its verifier")
        if event.sender in state.providers:
            raise RemoteProtocolError(
                "one key has one role; this one is a provider", code="GM-4031"
            )
        _check_times(state, card.body, known.card.body if known else None)
        if known is None and len(state.verifiers) >= state.settings.peers_max:
            raise RemoteProtocolError("the coordinator's book is full", code="GM-8002")
    except RemoteProtocolError as error:
        about = compute_content_hash(event.card.body)
        return _refuse(event.sender, event.session, about, error)
    if known is None:
        known = Verifier(card=event.card, session=0, stake=event.stake, payout=event.sender)
        state.verifiers[event.sender] = known
    is_new_session = event.session != known.session
    known.card, known.stake = event.card, event.stake
    known.payout = _get_payout(event)
    known.session, known.lost_at = event.session, None
    if not is_new_session:
        return []
    effects = [_make_welcome(state, event.sender), *list_for_verifier(state, event.sender)]
    return effects + ask_juror(state, event.sender)


def leave_verifier(state: State, event: VerifierLeft) -> list[Effect]:
    """Start the grace of a verifier whose session ended."""
    verifier = state.verifiers.get(event.verifier)
    if verifier is None or verifier.session != event.session:
        return []
    verifier.session, verifier.lost_at = 0, state.now
    set_timer(state, state.now + state.settings.grace_seconds, "lost-verifier", key=event.verifier)
    return []


def expire_verifier(state: State, key: bytes) -> list[Effect]:
    """Give a verifier's checks to others when its grace is over."""
    verifier = state.verifiers.get(key)
    if verifier is None or verifier.session or verifier.lost_at is None:
        return []
    if verifier.lost_at + state.settings.grace_seconds > state.now:
        return []
    return lose_checks(state, key)


# ---- both ----------------------------------------------------------------------------------


def _get_payout(event: ProviderJoined | VerifierJoined) -> Address:
    return event.sender if event.payout == ZERO_ADDRESS else event.payout


def _make_welcome(state: State, peer: Address) -> SendMessage:
    message = Welcome(coordinator=state.settings.coordinator, content_peers=state.sources)
    return SendMessage(recipient=peer, message=message)


def _refuse(peer: Address, session: int, about: bytes, error: RemoteProtocolError) -> list[Effect]:
    declined = Declined(about=about, code=error.code, need=error.message[:200], have="")
    return [
        SendMessage(recipient=peer, message=declined),
        CloseSession(peer=peer, session=session, code=error.code, text=error.message),
    ]


def close_session(state: State, peer: Address, error: RemoteProtocolError) -> list[Effect]:
    """Return the effect that ends the session of a peer that broke the protocol."""
    known = state.providers.get(peer) or state.verifiers.get(peer)
    session = known.session if known else 0
    return [CloseSession(peer=peer, session=session, code=error.code, text=error.message)]
