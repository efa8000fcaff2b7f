"""How a verifier's state changes: one event in, effects out."""

from __future__ import annotations

from msgspec.structs import replace

from gpumarket.comparing.judging import Outcome, judge
from gpumarket.protocol.attestation import (
    Attestation,
    Evidence,
    Opening,
    OwnResult,
    Seal,
    Verdict,
)
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import ProgramRule
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.signing import verify
from gpumarket.protocol.training import (
    SegmentAudit,
    SegmentState,
    check_chain,
    compute_chain_start,
    make_starts,
)
from gpumarket.protocol.units import Timestamp
from verifier.core.effects import (
    CompareOutputs,
    Effect,
    ReplayUnit,
    SendAttestation,
    SendDeclined,
    SendSeal,
)
from verifier.core.events import (
    CheckAsked,
    Event,
    OutputsCompared,
    ProcessStarted,
    ReplayFailed,
    ResultRevealed,
    TimePassed,
    UnitReplayed,
)
from verifier.core.state import CHECKS_MAX, FINISHED, Check, CheckState, VerifierState


class Verifier(VerifierState, kw_only=True):
    """A verifier's state with the two methods that the runtime calls."""

    def decide(self, event: Event) -> list[Effect]:
        """Apply one event."""
        return decide(self, event)

    def find_next_deadline(self) -> Timestamp | None:
        """Return when to be woken."""
        return find_next_deadline(self)


def decide(state: VerifierState, event: Event) -> list[Effect]:
    """Apply one event to the state and return what must be done about it."""
    match event:
        case ProcessStarted():
            return _resume(state)
        case TimePassed(at=now):
            return _drop_late(state, now) + _start_waiting(state)
        case CheckAsked():
            return _ask(state, event)
        case UnitReplayed():
            return _seal(state, event) + _start_waiting(state)
        case ReplayFailed():
            return _fail(state, event) + _start_waiting(state)
        case ResultRevealed():
            return _reveal(state, event)
        case OutputsCompared():
            return _attest(state, event)


def find_next_deadline(state: VerifierState) -> Timestamp | None:
    """Return when the oldest unfinished check that is not yet sealed comes too late."""
    pending = (CheckState.WAITING, CheckState.REPLAYING)
    deadlines = [
        check.request.deadline for check in state.checks.values() if check.state in pending
    ]
    return Timestamp(min(deadlines) + 1) if deadlines else None


def _ask(state: VerifierState, event: CheckAsked) -> list[Effect]:
    receipt_hash = event.request.receipt_hash
    known = state.checks.get(receipt_hash)
    if known is not None and known.state is not CheckState.DROPPED:
        # Asked again, by a coordinator that restarted or lost our answer.
        known.coordinator = event.coordinator
        if replace(event.request, case=0) == replace(
            known.request, case=0, deadline=event.request.deadline
        ):
            # What was sampled and sealed may come before a jury with the same verifier in it.
            known.request = event.request
        return _answer_again(known)
    if event.request.deadline <= event.at:
        return [_decline(event, "GM-7202", "a deadline in the future", "one that has passed")]
    if event.request.case and isinstance(event.request.job.verify.comparison, ProgramRule):
        # Its author could call anything different: that must cost nobody's stake.
        return [_decline(event, "GM-7204", "a rule of this market", "the requester's own program")]
    _forget_finished(state)
    if len(state.checks) >= CHECKS_MAX:
        return [_decline(event, "GM-7203", "room for a check", f"{CHECKS_MAX} unfinished")]
    state.checks[receipt_hash] = Check(coordinator=event.coordinator, request=event.request)
    return _start_waiting(state)


def _start_waiting(state: VerifierState) -> list[Effect]:
    free = state.slots - state.count(CheckState.REPLAYING)
    waiting = [c for c in state.checks.values() if c.state is CheckState.WAITING][: max(0, free)]
    for check in waiting:
        check.move(CheckState.REPLAYING)
    return [ReplayUnit(request=check.request) for check in waiting]


def _seal(state: VerifierState, event: UnitReplayed) -> list[Effect]:
    check = state.checks.get(event.receipt_hash)
    if check is None or check.state is not CheckState.REPLAYING:
        return []
    request = check.request
    check.own = OwnResult(
        order_hash=request.order_hash,
        unit=request.unit,
        verifier=state.verifier,
        output=event.output,
        exit_code=event.exit_code,
        repro_class=state.repro_class,
        duration_ms=event.duration_ms,
        nonce=event.nonce,
    )
    check.seal = Seal(
        order_hash=request.order_hash,
        unit=request.unit,
        verifier=state.verifier,
        receipt_hash=request.receipt_hash,
        sealed=check.own.compute_hash(),
    )
    check.move(CheckState.SEALED)
    return [SendSeal(coordinator=check.coordinator, seal=check.seal)]


def _fail(state: VerifierState, event: ReplayFailed) -> list[Effect]:
    check = state.checks.get(event.receipt_hash)
    if check is None or check.state is not CheckState.REPLAYING:
        return []
    check.move(CheckState.DROPPED)
    return [
        SendDeclined(
            coordinator=check.coordinator,
            receipt_hash=event.receipt_hash,
            code=event.code,
            need="a replay of the unit",
            have=event.text[:200],
        )
    ]


def _reveal(state: VerifierState, event: ResultRevealed) -> list[Effect]:
    opening = event.opening.body
    check = state.checks.get(opening.receipt_hash)
    if check is not None and check.state is CheckState.ATTESTED:
        return _answer_again(check)
    if check is None or check.state is not CheckState.SEALED:
        return []
    if not _is_about(check, event, state):
        return []
    try:
        check.segments = find_audit(check.request, opening.result, event.states)
    except RemoteProtocolError:
        return []
    check.opening, check.sources = event.opening, event.sources
    check.move(CheckState.COMPARING)
    if check.own is not None and check.own.exit_code != 0:
        # A program that works there and fails here proves nothing about who is right.
        failed = OutputsCompared(
            receipt_hash=opening.receipt_hash,
            verdict=Verdict.INCONCLUSIVE,
            rule="bytes",
            comparison=f"the program exited with {check.own.exit_code} here",
            at=event.at,
        )
        return _attest(state, failed)
    return [_compare(check)]


def _is_about(check: Check, event: ResultRevealed, state: VerifierState) -> bool:
    """
    Tell whether an opening is signed by its provider and came after our seal of this unit.

    A juror is asked about a result that is open already: nothing in it can name the juror's seal.
    """
    try:
        opening = verify(event.opening, state.domain)
    except RemoteProtocolError:
        return False
    result = opening.body.result
    return (
        opening.signer == result.provider
        and (check.request.case > 0 or _names_seal(check, opening.body))
        and result.order_hash == check.request.order_hash
        and result.unit == check.request.unit
    )


def _names_seal(check: Check, opening: Opening) -> bool:
    return compute_content_hash(check.seal) in opening.seal_hashes


def find_audit(
    request: CheckRequested, result: UnitResult, states: tuple[SegmentState, ...]
) -> SegmentAudit | None:
    """
    Return what a verdict on a training task rests on; None for another task.

    Raises `RemoteProtocolError` where the chain is not the one that the result ends, or its
    segments do not begin where ours began.
    """
    plan = request.job.checkpoint
    if plan is None:
        return None
    start = compute_chain_start(request.job.compute_hash(), request.unit)
    if result.training is None:
        raise RemoteProtocolError("the result of a training task ends no chain")
    check_chain(states, claim=result.training, start=start, plan=plan)
    drawn = tuple(segment.index for segment in request.segments)
    if not drawn or not set(drawn) <= set(range(1, len(states))):
        raise RemoteProtocolError("segments were asked for that the chain has not")
    if make_starts(states, drawn, plan) != request.segments:
        raise RemoteProtocolError("the chain has other starts than were given")
    return SegmentAudit(states=states, drawn=drawn)


def _attest(state: VerifierState, event: OutputsCompared) -> list[Effect]:
    check = state.checks.get(event.receipt_hash)
    if check is None or check.state is not CheckState.COMPARING:
        return []
    if check.own is None or check.opening is None:
        return []
    outcome = judge(
        Outcome(event.verdict, event.rule, event.comparison),
        is_same_class=check.own.repro_class == check.opening.body.result.repro_class,
    )
    check.evidence = Evidence(
        own=check.own,
        opening_hash=compute_content_hash(check.opening.body),
        segments=check.segments,
        comparison=outcome.sentence,
    )
    check.attestation = Attestation(
        receipt_hash=event.receipt_hash,
        verdict=int(outcome.verdict),
        evidence_hash=compute_content_hash(check.evidence),
        issued_at=event.at,
    )
    check.move(CheckState.ATTESTED)
    return _answer_again(check)


def _resume(state: VerifierState) -> list[Effect]:
    effects: list[Effect] = []
    for check in state.checks.values():
        effects += _answer_again(check)
    return effects + _start_waiting(state)


def _answer_again(check: Check) -> list[Effect]:
    """Return the effect that a check in its present state is waiting for."""
    match check.state:
        case CheckState.REPLAYING:
            return [ReplayUnit(request=check.request)]
        case CheckState.SEALED if check.seal is not None:
            return [SendSeal(coordinator=check.coordinator, seal=check.seal)]
        case CheckState.COMPARING:
            return [_compare(check)]
        case CheckState.ATTESTED if check.attestation is not None and check.evidence is not None:
            return [
                SendAttestation(
                    coordinator=check.coordinator,
                    attestation=check.attestation,
                    evidence=check.evidence,
                )
            ]
        case _:
            return []


def _compare(check: Check) -> CompareOutputs:
    if check.own is None or check.opening is None:
        raise RemoteProtocolError("a comparison needs both results")
    return CompareOutputs(
        request=check.request,
        own=check.own,
        theirs=check.opening.body.result,
        sources=check.sources,
        segments=check.segments,
    )


def _drop_late(state: VerifierState, now: int) -> list[Effect]:
    for check in state.checks.values():
        is_pending = check.state in (CheckState.WAITING, CheckState.REPLAYING)
        if is_pending and check.request.deadline < now:
            check.move(CheckState.DROPPED)
    return []


def _forget_finished(state: VerifierState) -> None:
    excess = len(state.checks) - CHECKS_MAX + 1
    finished: list[Hash32] = [h for h, c in state.checks.items() if c.state in FINISHED]
    for receipt_hash in finished[: max(0, excess)]:
        del state.checks[receipt_hash]


def _decline(event: CheckAsked, code: str, need: str, have: str) -> SendDeclined:
    return SendDeclined(
        coordinator=event.coordinator,
        receipt_hash=event.request.receipt_hash,
        code=code,
        need=need,
        have=have,
    )
