"""
The coordinator as one function: an event goes in, effects come out, the state moves on.

Deterministic: the same events give the same state and effects. Time and randomness are in the
events. What a peer sends is checked whole before it changes anything; a peer that breaks the
protocol loses its session and nothing else happens.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop
from typing import Final

from coordinator.core import (
    admission,
    assigning,
    batching,
    canaries,
    checking,
    epochs,
    events,
    hardware_checks,
    judging,
    leases,
    placing,
    relaying,
    sessions,
    settling,
    training,
    trials,
)
from coordinator.core.effects import Effect
from coordinator.core.events import Event, MessageReceived
from coordinator.core.lifecycle import EpochState
from coordinator.core.settings import Settings
from coordinator.core.state import State
from gpumarket.protocol import messages
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.units import Timestamp

_ROUNDS_MAX = 1_000
"""One event may close an epoch, free slots, end jobs …; more rounds than this is a bug."""

Timer = Callable[[State, bytes], list[Effect]]


def _wake(state: State, key: bytes) -> list[Effect]:
    # What is due then is found by `_settle_down`, as after every event.
    return []


TIMERS: Final[dict[str, Timer]] = {
    "accept": leases.expire_proposal,
    "lease": leases.expire_lease,
    "place": _wake,
    "alone": placing.give_up_alone,
    "queue": placing.expire_queue,
    "capacity": placing.expire_capacity,
    "settle": settling.cut_off,
    "cut": batching.want_cut,
    "unpaid": batching.give_up_bill,
    "batch": batching.retry_batch,
    "pool": _wake,
    "root": epochs.expire_roots,
    "chain": epochs.retry_call,
    "check": checking.expire_check,
    "class": _wake,
    "overlap": checking.expire_overlap,
    "opening": checking.expire_openings,
    "fetch": judging.expire_fetch,
    "refetch": judging.refetch,
    "lost-provider": sessions.expire_provider,
    "lost-verifier": sessions.expire_verifier,
    "trial": trials.expire_trial,
    "canaries": canaries.publish_canaries,
    "hardware": hardware_checks.begin_round,
    "hardware-step": hardware_checks.expire_step,
}
"""What each kind of timer does when it fires; one whose cause is gone does nothing."""


class CoordinatorState(State, kw_only=True):
    """A coordinator's memory with the two methods that the runtime calls."""

    def decide(self, event: Event) -> list[Effect]:
        """Apply one event; return what must be done about it."""
        return decide(self, event)

    def find_next_deadline(self) -> Timestamp | None:
        """Return when `TimePassed` is wanted next."""
        return find_next_deadline(self)


def make_state(settings: Settings) -> CoordinatorState:
    """Return the state of a coordinator that nothing has happened to yet."""
    return CoordinatorState(settings=settings)


def find_next_deadline(state: State) -> Timestamp | None:
    """Return the time of the earliest timer."""
    return Timestamp(state.timers[0][0]) if state.timers else None


def decide(state: State, event: Event) -> list[Effect]:
    """Apply one event to the state; return what must be done about it, in order."""
    state.now = Timestamp(max(state.now, event.at))
    if isinstance(event, events.ProgressReported):
        return leases.show_progress(state, event)
    effects: list[Effect] = []
    if isinstance(event, events.ProcessStarted):
        # First of all: it postpones what came due while nobody could be heard.
        effects += sessions.restart(state, event)
    effects += _fire_timers(state)
    effects += _apply(state, event)
    return effects + _settle_down(state)


def _fire_timers(state: State) -> list[Effect]:
    # Before every event, not only `TimePassed`: what is overdue is over, however late the
    # clock's own event comes.
    effects: list[Effect] = []
    while state.timers and state.timers[0][0] <= state.now:
        _, kind, key = heappop(state.timers)
        effects += TIMERS[kind](state, key)
    return effects


def _apply(state: State, event: Event) -> list[Effect]:  # noqa: C901  one case for each event
    match event:
        case events.TimePassed() | events.ProcessStarted() | events.ProgressReported():
            return []
        case events.JobSubmitted():
            return admission.submit_job(state, event)
        case events.JobCancelled():
            return admission.cancel_job(state, event)
        case events.WorkAccepted():
            return relaying.take_acceptances(state, event)
        case events.EscrowSeen():
            return admission.note_escrow(state, event)
        case events.ProviderJoined():
            return sessions.join_provider(state, event)
        case events.ProviderLeft():
            return sessions.leave_provider(state, event)
        case events.VerifierJoined():
            return sessions.join_verifier(state, event)
        case events.VerifierLeft():
            return sessions.leave_verifier(state, event)
        case events.MessageReceived():
            return _receive(state, event)
        case events.NonceDrawn():
            return epochs.take_nonce(state, event)
        case events.EpochCommitted():
            return epochs.take_commitment(state, event)
        case events.SeedFixed():
            return _begin_checks(state, event)
        case events.BatchPosted():
            return batching.take_batch(state, event)
        case events.CaseOpened():
            return trials.take_opened(state, event)
        case events.CaseSeen():
            return trials.take_seen(state, event)
        case events.CaseRefused():
            return trials.refuse_step(state, event)
        case events.ChainRefused():
            refuse = batching.refuse_batch if event.call == "batch" else epochs.refuse_call
            return refuse(state, event)
        case events.OutputFetched():
            return judging.take_output(state, event)
        case events.OutputMissing():
            return judging.miss_output(state, event)
        case events.CheckpointKept():
            return training.keep_checkpoint(state, event)
        case events.CheckpointRefused():
            return training.refuse_checkpoint(state, event)
        case events.HardwareSecretDrawn():
            return hardware_checks.take_secret(state, event)
        case events.HardwareJudged():
            return hardware_checks.take_judgement(state, event)


def _receive(state: State, event: MessageReceived) -> list[Effect]:
    try:
        return _hear(state, event.sender, event.message)
    except RemoteProtocolError as error:
        return sessions.close_session(state, event.sender, error)


def _hear(  # noqa: C901  one case for each message
    state: State, sender: Address, message: events.PeerMessage
) -> list[Effect]:
    match message:
        case messages.LeaseAccepted():
            return leases.accept_lease(state, sender, message)
        case messages.Declined() if message.about in state.leases:
            return leases.decline_lease(state, sender, message)
        case messages.Declined():
            return checking.decline_check(state, sender, message)
        case messages.CheckpointTaken():
            return training.take_checkpoint(state, sender, message)
        case messages.UnitFinished():
            return training.finish_training(state, sender, message)
        case messages.UnitFailed():
            return leases.fail_lease(state, sender, message)
        case messages.RootSigned():
            return epochs.take_root(state, sender, message)
        case messages.CheckSealed() if trials.is_juror(
            state, sender, message.seal.body.receipt_hash
        ):
            return trials.take_seal(state, sender, message)
        case messages.CheckSealed():
            return checking.take_seal(state, sender, message)
        case messages.ResultsOpened():
            return checking.take_openings(state, sender, message)
        case messages.CheckDone() if trials.is_juror(
            state, sender, message.attestation.body.receipt_hash
        ):
            return trials.take_vote(state, sender, message)
        case messages.CheckDone():
            return judging.take_verdict(state, sender, message)
        case messages.ApprovalsKept():
            return relaying.take_kept(state, sender, message)
        case messages.HardwareAnswered():
            return hardware_checks.take_answer(state, sender, message)
        case messages.HardwareReady():
            return hardware_checks.take_ready(state, sender, message)
        case messages.HardwareOpened():
            return hardware_checks.take_opening(state, sender, message)


def _begin_checks(state: State, event: events.SeedFixed) -> list[Effect]:
    if not epochs.take_seed(state, event):
        return []
    epoch = state.epochs[event.epoch]
    if epoch.state is not EpochState.CHECKING:
        raise LocalProtocolError("an epoch with a seed is not being checked")
    return checking.begin_checks(state, epoch)


def _settle_down(state: State) -> list[Effect]:
    """Let every consequence follow: places, epochs, checks and jobs, until nothing moves."""
    effects: list[Effect] = []
    for _ in range(_ROUNDS_MAX):
        new = placing.place_waiting(state)
        new += epochs.open_due_epochs(state)
        new += assigning.ask_verifiers(state)
        touched, state.touched = list(state.touched), {}
        for order_hash in touched:
            new += settling.advance_job(state, state.jobs[order_hash])
        # After all jobs: those that one event has finished share a batch.
        new += batching.cut_batches(state)
        effects += new
        if not new and not touched:
            return effects
    raise LocalProtocolError("one event has consequences without end")
