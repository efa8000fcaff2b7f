"""
Recovery: everything outstanding, to be asked for again after a crash or a lost session.

Nothing here changes the state: an effect that was performed before is performed twice, which
is harmless, and one that was lost is performed at last.
"""

from __future__ import annotations

from typing import Final

from coordinator.core.assigning import make_check_request
from coordinator.core.batching import list_unposted
from coordinator.core.checking import list_unopened, make_openings_request
from coordinator.core.effects import DrawNonce, Effect, PublishDocument, ReadEscrow, SendMessage
from coordinator.core.epoch_state import Epoch
from coordinator.core.epochs import make_commit, make_seed_request, request_root
from coordinator.core.judging import find_awaited, make_fetch, make_result_shown
from coordinator.core.lifecycle import CheckState, EpochState, PartStage
from coordinator.core.placing import make_proposal
from coordinator.core.relaying import list_unheard
from coordinator.core.state import State
from coordinator.core.training import list_unkept
from coordinator.core.trials import list_open, list_steps
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.messages import LeaseCancelled

_OVER: Final = Reason(code="GM-5303", text="this lease is over or unknown", fault="none")


def list_outstanding(state: State) -> list[Effect]:
    """Return every effect on chain and content that has not been answered."""
    effects: list[Effect] = [ReadEscrow(requester=who) for who in state.escrows]
    for number in state.open_epochs:
        effects += _list_for_epoch(state, state.epochs[number])
    for epoch, trial in list_open(state):
        effects += list_steps(state, epoch, trial)
    return effects + list_unkept(state) + list_unposted(state)


def _list_for_epoch(state: State, epoch: Epoch) -> list[Effect]:
    if epoch.state is EpochState.COLLECTING:
        return [DrawNonce(epoch=epoch.number)] if epoch.nonce is None else []
    if epoch.state is EpochState.COMMITTING:
        return [make_commit(epoch)]
    if epoch.state is EpochState.SEEDING:
        return [make_seed_request(epoch)]
    effects: list[Effect] = []
    for part in epoch.parts.values():
        for lease_id in part.lease_ids:
            lease = find_awaited(state, lease_id)
            if lease is not None and lease.opening is not None:
                effects.append(make_fetch(state, lease))
    effects += [
        PublishDocument(data=encode_document(check.evidence))
        for check in epoch.checks.values()
        if check.evidence is not None
    ]
    return effects


def list_for_provider(state: State, provider: Address) -> list[Effect]:
    """Return what a provider that joined again may not have heard."""
    effects: list[Effect] = [
        make_proposal(state, state.leases[lease_id])
        for lease_id in state.providers[provider].lease_ids
        if state.leases[lease_id].state is LeaseState.PROPOSED
    ]
    for number in state.open_epochs:
        epoch = state.epochs[number]
        part = epoch.parts.get(provider)
        if part is not None and part.stage is PartStage.SIGNING:
            effects.append(request_root(epoch, provider))
        if part is not None and part.stage is PartStage.OPENING and list_unopened(state, part):
            effects.append(make_openings_request(state, epoch, provider))
    return effects + list_unheard(state, provider)


def list_for_verifier(state: State, verifier: Address) -> list[Effect]:
    """Return what a verifier that joined again may not have heard."""
    effects: list[Effect] = []
    for number in state.open_epochs:
        for check in state.epochs[number].checks.values():
            if check.verifier == verifier and check.state is CheckState.ASKED:
                effects.append(make_check_request(state, check))
            elif check.verifier == verifier and check.state is CheckState.SHOWN:
                effects.append(make_result_shown(state, check))
    return effects


def list_news(state: State, provider: Address, running: tuple[bytes, ...]) -> list[Effect]:
    """Return an end for every lease that a provider still holds and that is over for us."""
    effects: list[Effect] = []
    for lease_id in running:
        lease = state.leases.get(lease_id)
        reason = _OVER
        if lease is not None and lease.provider == provider:
            if lease.state not in (LeaseState.ENDED, LeaseState.ACCEPTED):
                continue
            reason = lease.reason or _OVER
        message = LeaseCancelled(lease_id=lease_id, reason=reason)
        effects.append(SendMessage(recipient=provider, message=message))
    return effects
