"""
Trials: a jury drawn on chain does a disputed task again, blind, and its votes decide.

A juror is asked as a verifier is: it seals its own result before it is shown the accused one, and
its attestation is its vote. Each step on chain may be taken by anybody; what stands there is read
back after each, so that an appeal, or a jury seated by others, is only another thing seen.

The payment goes by the first jury's verdict, since it cannot wait for appeals that take days; the
stake is slashed, or given back, by the last one.
"""

from __future__ import annotations

from typing import Final

from msgspec import structs

from coordinator.core.assigning import lose_checks, make_check_request
from coordinator.core.checking import verify_seal
from coordinator.core.effects import (
    CaseStep,
    CaseVote,
    Effect,
    MoveCase,
    PublishDocument,
)
from coordinator.core.epoch_state import Check, Epoch, Trial, move_check, move_trial
from coordinator.core.events import CaseOpened, CaseRefused, CaseSeen
from coordinator.core.judging import check_verdict, judge_part, make_result_shown
from coordinator.core.lifecycle import CheckState, TrialOutcome, TrialState
from coordinator.core.relaying import relay_matches
from coordinator.core.rulings import end_unheard, make_accusation
from coordinator.core.state import Lease, State, set_timer, write_log
from gpumarket.protocol import juries, messages
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.signing import Signed, verify
from gpumarket.protocol.units import Timestamp

_JUROR_TURN = 2
"""No check of a sample has it: a juror's check is found by its trial."""
_OUTCOMES: Final = {
    Verdict.MATCH: TrialOutcome.ACQUITTED,
    Verdict.MISMATCH: TrialOutcome.CONVICTED,
}


# ---- the case on chain ---------------------------------------------------------------------


def take_opened(state: State, event: CaseOpened) -> list[Effect]:
    """Note the chain's number of a case and have its jury drawn."""
    found = _find_open(state, event.receipt_hash)
    if found is None or found[1].state is not TrialState.OPENING:
        return []
    trial = found[1]
    trial.case, trial.problem = event.case, ""
    move_trial(trial, TrialState.SEATING)
    return [_make_move(trial, "seat")]


def take_seen(state: State, event: CaseSeen) -> list[Effect]:
    """Go on from where a case stands on chain, whoever brought it there."""
    found = _find_open(state, event.receipt_hash)
    if found is None or found[1].case == 0:
        return []
    epoch, trial = found
    trial.level, trial.jury, trial.voters = event.level, event.jury, event.voters
    trial.deadline, trial.problem = Timestamp(event.deadline), ""
    trial.verdict = Verdict(event.verdict) if event.verdict else None
    if event.is_over:
        return _close(state, epoch, trial)
    if not event.jury:
        move_trial(trial, TrialState.SEATING)
        return [_make_move(trial, "seat")]
    set_timer(state, trial.deadline + 1, "trial", key=trial.receipt_hash)
    if trial.verdict is None:
        move_trial(trial, TrialState.VOTING)
        return _ask_jurors(state, epoch, trial) + _try_decide(epoch, trial)
    move_trial(trial, TrialState.DECIDED)
    return _rule(state, epoch, trial)


def refuse_step(state: State, event: CaseRefused) -> list[Effect]:
    """Try a step again later; a case that cannot be opened leaves the verifiers' words standing."""
    found = _find_open(state, event.receipt_hash)
    if found is None:
        return []
    epoch, trial = found
    trial.problem = event.text
    if trial.state is TrialState.OPENING and event.is_final:
        return _give_up(state, epoch, trial)
    set_timer(state, state.now + state.settings.retry_seconds, "trial", key=trial.receipt_hash)
    return []


def expire_trial(state: State, key: bytes) -> list[Effect]:
    """Take the step that is due: a retry, or what follows when a deadline has passed."""
    found = _find_open(state, key)
    if found is None:
        return []
    return list_steps(state, *found)


def list_steps(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    """Return the step on chain that a case waits for, now or again; none while others act."""
    is_late = trial.deadline < state.now
    match trial.state:
        case TrialState.OPENING:
            return [make_accusation(state, state.leases[trial.lease_id])]
        case TrialState.SEATING:
            return [_make_move(trial, "seat")]
        case TrialState.VOTING if not is_late:
            return _try_decide(epoch, trial)
        case TrialState.VOTING if trial.level < juries.LAST_LEVEL:
            return [_make_move(trial, "escalate")]
        case TrialState.VOTING:
            return [_make_move(trial, "close")]
        case TrialState.DECIDED if is_late:
            return [_make_move(trial, "close")]
        case TrialState.DECIDED | TrialState.CLOSED:
            return []


def list_open(state: State) -> list[tuple[Epoch, Trial]]:
    """Return the cases that are not closed, and their epochs."""
    return [
        (state.epochs[number], state.epochs[number].trials[receipt_hash])
        for receipt_hash, number in state.trials.items()
    ]


def _find_open(state: State, receipt_hash: Hash32) -> tuple[Epoch, Trial] | None:
    number = state.trials.get(receipt_hash)
    if number is None:
        return None
    return state.epochs[number], state.epochs[number].trials[receipt_hash]


def _make_move(trial: Trial, step: CaseStep) -> MoveCase:
    return MoveCase(
        receipt_hash=trial.receipt_hash,
        case=trial.case,
        level=trial.level,
        step=step,
        voters=trial.voters,
    )


# ---- jurors --------------------------------------------------------------------------------


def ask_juror(state: State, juror: Address) -> list[Effect]:
    """Return what a verifier that joined is, or was, asked as a juror."""
    return [
        effect
        for epoch, trial in list_open(state)
        if trial.state is TrialState.VOTING and juror in trial.jury
        for effect in _ask(state, epoch, trial, juror)
    ]


def is_juror(state: State, sender: Address, receipt_hash: Hash32) -> bool:
    """Say whether a verifier's word on a receipt is awaited as a juror's."""
    found = _find_open(state, receipt_hash)
    return found is not None and _find_vote(found[1], sender) is not None


def _find_vote(trial: Trial, juror: Address) -> Check | None:
    return next((vote for vote in trial.votes if vote.verifier == juror), None)


def _ask_jurors(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    return [effect for juror in trial.jury for effect in _ask(state, epoch, trial, juror)]


def _ask(state: State, epoch: Epoch, trial: Trial, juror: Address) -> list[Effect]:
    verifier = state.verifiers.get(juror)
    if verifier is None or not verifier.session or _find_word(epoch, trial, juror) is not None:
        return []
    vote = _find_vote(trial, juror) or _add_vote(state, trial, juror)
    if vote.state is CheckState.ASKED:
        vote.deadline = trial.deadline
        return [make_check_request(state, vote, case=trial.case)]
    if vote.state is CheckState.SHOWN:
        return [make_result_shown(state, vote)]
    return []


def _add_vote(state: State, trial: Trial, juror: Address) -> Check:
    lease = state.leases[trial.lease_id]
    vote = Check(
        receipt_hash=trial.receipt_hash,
        turn=_JUROR_TURN,
        lease_id=lease.lease_id,
        order_hash=lease.order_hash,
        unit=lease.unit,
        provider=lease.provider,
        verifier=juror,
    )
    move_check(vote, CheckState.ASKED)
    trial.votes.append(vote)
    return vote


def take_seal(state: State, sender: Address, message: messages.CheckSealed) -> list[Effect]:
    """Show a juror the accused result once it has sealed its own."""
    seal = verify_seal(state, sender, message.seal)
    found = _find_open(state, seal.receipt_hash)
    vote = None if found is None else _find_vote(found[1], sender)
    if vote is None or vote.state is not CheckState.ASKED:
        return []
    if (seal.order_hash, seal.unit) != (vote.order_hash, vote.unit):
        raise RemoteProtocolError("a seal is about another task than its receipt")
    vote.seal = message.seal
    move_check(vote, CheckState.SEALED)
    move_check(vote, CheckState.SHOWN)
    return [make_result_shown(state, vote)]


def take_vote(state: State, sender: Address, message: messages.CheckDone) -> list[Effect]:
    """Take a juror's attestation: with those of a quorum it decides."""
    attestation = verify(message.attestation, state.settings.domain)
    if attestation.signer != sender:
        raise RemoteProtocolError("an attestation is signed by somebody else than its sender")
    found = _find_open(state, attestation.body.receipt_hash)
    vote = None if found is None else _find_vote(found[1], sender)
    if found is None or vote is None or vote.state is not CheckState.SHOWN:
        return []
    epoch, trial = found
    vote.verdict = check_verdict(state, vote, attestation.body, evidence=message.evidence)
    vote.attestation, vote.evidence = message.attestation, message.evidence
    move_check(vote, CheckState.DONE)
    publish = PublishDocument(data=encode_document(message.evidence))
    is_voting = trial.state is TrialState.VOTING
    return [publish, *(_try_decide(epoch, trial) if is_voting else ())]


# ---- deciding ------------------------------------------------------------------------------


def _find_word(epoch: Epoch, trial: Trial, juror: Address) -> Signed[Attestation] | None:
    # Who checked the result before it was accused has said what it has to say.
    spoken = [*epoch.checks.values(), *trial.votes]
    return next(
        (
            check.attestation
            for check in spoken
            if check.receipt_hash == trial.receipt_hash and check.verifier == juror
        ),
        None,
    )


def _try_decide(epoch: Epoch, trial: Trial) -> list[Effect]:
    quorum = juries.compute_quorum(trial.level, len(trial.jury))
    words = [(seat, _find_word(epoch, trial, juror)) for seat, juror in enumerate(trial.jury)]
    for verdict in (Verdict.MATCH, Verdict.MISMATCH):
        votes = tuple(
            CaseVote(seat=seat, attestation=word)
            for seat, word in words
            if word is not None and word.body.verdict == verdict
        )
        if quorum and len(votes) >= quorum:
            move = _make_move(trial, "decide")
            return [structs.replace(move, jury=trial.jury, votes=votes)]
    return []


def _rule(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    """Act on the first verdict that a jury came to."""
    if trial.outcome is not TrialOutcome.OPEN:
        return []
    if trial.verdict is None:
        raise LocalProtocolError("a case is ruled on without a verdict")
    trial.outcome = _OUTCOMES[trial.verdict]
    said = "false" if trial.verdict is Verdict.MISMATCH else "right"
    text = f"{len(trial.voters)} of {len(trial.jury)} jurors, drawn on chain, call it {said}"
    lease = _log(state, trial, trial.outcome.value, text)
    effects = _bar_contradicted(state, epoch, trial)
    effects += judge_part(state, epoch, trial.provider)
    words = [
        word
        for juror in trial.voters
        if (word := _find_word(epoch, trial, juror)) and word.body.verdict == Verdict.MATCH
    ]
    return effects + relay_matches(state, [(lease, word) for word in words[:1]])


def _bar_contradicted(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    """Give no more checks to whoever said the opposite of a jury: it lied, or did not look."""
    effects: list[Effect] = []
    for check in epoch.checks.values():
        is_word = check.receipt_hash == trial.receipt_hash and check.verdict in _OUTCOMES
        verifier = state.verifiers.get(check.verifier or b"") if is_word else None
        if verifier is None or check.verifier is None:
            continue
        if check.verdict is not trial.verdict:
            trial.bar = Timestamp(state.now + state.settings.bar_seconds)
            verifier.barred_until = max(verifier.barred_until, trial.bar)
            effects += lose_checks(state, check.verifier)
        elif verifier.barred_until == trial.bar:
            # An earlier jury had contradicted it, and this one does not.
            verifier.barred_until = Timestamp(0)
    return effects


def _give_up(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    del state.trials[trial.receipt_hash]
    end_unheard(trial)
    _log(
        state, trial, "no-jury", f"no jury can be had, the verifier's word stands: {trial.problem}"
    )
    return judge_part(state, epoch, trial.provider)


def _close(state: State, epoch: Epoch, trial: Trial) -> list[Effect]:
    """Note the last verdict: the stake is slashed by it, or given back."""
    move_trial(trial, TrialState.CLOSED)
    del state.trials[trial.receipt_hash]
    match trial.verdict:
        case Verdict.MISMATCH:
            text = "the provider's stake is slashed"
        case Verdict.MATCH:
            text = "the provider's stake is free again"
        case _:
            text = "no jury decided; everything goes back"
    _log(state, trial, "case-closed", text)
    if trial.verdict is not None and trial.outcome is TrialOutcome.OPEN:
        return _rule(state, epoch, trial)
    if trial.verdict is not None and trial.outcome is not _OUTCOMES[trial.verdict]:
        return _bar_contradicted(state, epoch, trial)
    if trial.outcome is not TrialOutcome.OPEN:
        return []
    trial.outcome = TrialOutcome.UNHEARD
    return judge_part(state, epoch, trial.provider)


def _log(state: State, trial: Trial, type_: str, text: str) -> Lease:
    lease = state.leases[trial.lease_id]
    job = state.jobs[lease.order_hash]
    write_log(state, job, type_, text=text, task=lease.unit, actor=trial.provider)
    return lease
