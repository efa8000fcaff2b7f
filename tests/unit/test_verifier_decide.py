"""The verifier's decisions: blind first, then compare, never twice, never lost."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import ProgramRule
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.signing import Domain, PrivateKey, Signed
from gpumarket.testing.factories import make_spec
from verifier.core.decide import Verifier
from verifier.core.effects import (
    CompareOutputs,
    ReplayUnit,
    SendAttestation,
    SendDeclined,
    SendSeal,
)
from verifier.core.events import (
    CheckAsked,
    OutputsCompared,
    ProcessStarted,
    ReplayFailed,
    ResultRevealed,
    TimePassed,
    UnitReplayed,
)
from verifier.core.state import CheckState, check_state

COORDINATOR = b"c" * 20
PROVIDER = PrivateKey(b"p" * 32)
DOMAIN = Domain(chain_id=31337, contract=b"k" * 20)
OWN, THEIRS = "bafy" + "a" * 55, "bafy" + "b" * 55


def a_verifier(slots: int = 1) -> Verifier:
    return Verifier(verifier=b"v" * 20, domain=DOMAIN, repro_class=bytes(32), slots=slots)


def a_request(number: int = 1, deadline: int = 1_000, case: int = 0) -> CheckRequested:
    return CheckRequested(
        order_hash=b"o" * 32,
        unit=number,
        receipt_hash=bytes([number]) * 32,
        job=make_spec(units=8),
        deadline=deadline,
        sources=(),
        case=case,
    )


def ask(state: Verifier, number: int = 1, **changes: int) -> list[object]:
    event = CheckAsked(coordinator=COORDINATOR, request=a_request(number, **changes), at=10)
    return list(state.decide(event))


def replay(state: Verifier, number: int = 1, exit_code: int = 0) -> list[object]:
    event = UnitReplayed(
        receipt_hash=bytes([number]) * 32,
        output=OWN,
        exit_code=exit_code,
        duration_ms=5,
        nonce=b"n" * 32,
        at=20,
    )
    return list(state.decide(event))


def an_opening(
    state: Verifier,
    signer: PrivateKey = PROVIDER,
    repro_class: bytes = bytes(32),
    **changes: object,
) -> Signed[Opening]:
    seal = state.checks[b"\1" * 32].seal
    fields: dict[str, object] = {
        "result": UnitResult(
            order_hash=b"o" * 32,
            unit=1,
            provider=PROVIDER.address,
            input_hash=bytes(32),
            output=THEIRS,
            output_bytes=9,
            repro_class=repro_class,
            duration_ms=4,
            salt=b"s" * 32,
        ),
        "receipt_hash": b"\1" * 32,
        "seal_hashes": (compute_content_hash(seal),),
    }
    return signer.sign(Opening(**(fields | changes)), DOMAIN).as_signed()  # type: ignore[arg-type]  # test values by name


def reveal(state: Verifier, opening: Signed[Opening]) -> list[object]:
    event = ResultRevealed(coordinator=COORDINATOR, opening=opening, sources=(), at=30)
    return list(state.decide(event))


def compare(state: Verifier, verdict: Verdict = Verdict.MATCH, rule: str = "bytes") -> list[object]:
    event = OutputsCompared(
        receipt_hash=b"\1" * 32, verdict=verdict, rule=rule, comparison="so", at=40
    )
    return list(state.decide(event))


def test_a_check_is_replayed_sealed_compared_and_attested() -> None:
    state = a_verifier()
    assert ask(state) == [ReplayUnit(request=a_request())]
    [sealed] = replay(state)
    assert isinstance(sealed, SendSeal)
    [comparing] = reveal(state, an_opening(state))
    assert isinstance(comparing, CompareOutputs)
    assert (comparing.own.output, comparing.theirs.output) == (OWN, THEIRS)
    [attested] = compare(state, Verdict.MISMATCH)
    assert isinstance(attested, SendAttestation)
    assert attested.attestation.verdict == Verdict.MISMATCH
    assert attested.attestation.evidence_hash == compute_content_hash(attested.evidence)
    check_state(state)


def test_no_more_units_run_than_there_are_slots() -> None:
    state = a_verifier(slots=1)
    ask(state, 1)
    assert ask(state, 2) == []
    effects = replay(state, 1)
    assert ReplayUnit(request=a_request(2)) in effects
    check_state(state)


def test_a_result_that_names_another_seal_is_not_looked_at() -> None:
    state = a_verifier()
    ask(state)
    replay(state)
    assert reveal(state, an_opening(state, seal_hashes=())) == []
    assert state.checks[b"\1" * 32].state is CheckState.SEALED


def test_a_juror_needs_no_opening_that_names_its_seal_and_seals_first_all_the_same() -> None:
    state = a_verifier()
    ask(state, case=7)
    opening = an_opening(a_sealed_verifier(), seal_hashes=())
    assert reveal(state, opening) == [], "shown before its own result was sealed"
    replay(state)
    assert len(reveal(state, opening)) == 1
    assert state.checks[b"\1" * 32].state is CheckState.COMPARING


def test_a_sealed_check_becomes_a_jurors_and_only_for_the_same_task() -> None:
    state = a_sealed_verifier()
    other = replace(a_request(), case=7, job=make_spec(units=9))
    state.decide(CheckAsked(coordinator=COORDINATOR, request=other, at=25))
    assert reveal(state, an_opening(state, seal_hashes=())) == []
    ask(state, case=7, deadline=2_000)
    assert len(reveal(state, an_opening(state, seal_hashes=()))) == 1


def test_no_juror_judges_by_the_requesters_own_program() -> None:
    job = make_spec(units=8, verify=VerifyPolicy(comparison=ProgramRule(command=("compare",))))
    state = a_verifier()
    request = replace(a_request(), job=job)
    assert state.decide(CheckAsked(coordinator=COORDINATOR, request=request, at=10)) == [
        ReplayUnit(request=request)
    ]
    (declined,) = a_verifier().decide(
        CheckAsked(coordinator=COORDINATOR, request=replace(request, case=7), at=10)
    )
    assert isinstance(declined, SendDeclined) and declined.code == "GM-7204"


def test_a_result_signed_by_somebody_else_is_not_looked_at() -> None:
    state = a_verifier()
    ask(state)
    replay(state)
    assert reveal(state, an_opening(state, signer=PrivateKey(b"x" * 32))) == []


def test_a_result_before_the_own_one_is_not_looked_at() -> None:
    state = a_verifier()
    ask(state)
    early = an_opening(a_sealed_verifier())
    assert reveal(state, early) == []
    assert state.checks[b"\1" * 32].opening is None


def a_sealed_verifier() -> Verifier:
    state = a_verifier()
    ask(state)
    replay(state)
    return state


def test_a_program_that_fails_here_proves_nothing() -> None:
    state = a_verifier()
    ask(state)
    replay(state, exit_code=3)
    [attested] = reveal(state, an_opening(state))
    assert isinstance(attested, SendAttestation)
    assert attested.attestation.verdict == Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("repro_class", "found", "rule", "attested"),
    [
        (bytes(32), Verdict.MISMATCH, "bytes", Verdict.MISMATCH),
        (b"\1" * 32, Verdict.MISMATCH, "bytes", Verdict.INCONCLUSIVE),
        (b"\1" * 32, Verdict.MISMATCH, "npy", Verdict.MISMATCH),
        (b"\1" * 32, Verdict.MATCH, "bytes", Verdict.MATCH),
    ],
)
def test_bytes_that_differ_between_classes_blame_nobody(
    repro_class: bytes, found: Verdict, rule: str, attested: Verdict
) -> None:
    state = a_sealed_verifier()
    reveal(state, an_opening(state, repro_class=repro_class))
    [effect] = compare(state, found, rule)
    assert isinstance(effect, SendAttestation)
    assert effect.attestation.verdict == attested
    assert ("different classes" in effect.evidence.comparison) == (found != attested)


def test_every_outstanding_answer_comes_again_after_a_restart() -> None:
    state = a_verifier(slots=2)
    ask(state, 1)
    ask(state, 2)
    replay(state, 1)
    kinds = {type(effect) for effect in state.decide(ProcessStarted(at=50))}
    assert kinds == {SendSeal, ReplayUnit}


def test_asking_again_for_an_attested_check_repeats_the_attestation() -> None:
    state = a_sealed_verifier()
    reveal(state, an_opening(state))
    first = compare(state)
    assert ask(state) == first


def test_a_check_past_its_deadline_is_declined_or_dropped() -> None:
    state = a_verifier()
    [declined] = ask(state, deadline=5)
    assert isinstance(declined, SendDeclined)
    ask(state, 2, deadline=15)
    assert state.find_next_deadline() == 16
    state.decide(TimePassed(at=16))
    assert state.checks[b"\2" * 32].state is CheckState.DROPPED
    assert state.find_next_deadline() is None


def test_a_failed_replay_is_declined_with_its_reason() -> None:
    state = a_verifier()
    ask(state)
    event = ReplayFailed(receipt_hash=b"\1" * 32, code="GM-6012", text="nobody has it", at=20)
    [declined] = state.decide(event)
    assert isinstance(declined, SendDeclined)
    assert (declined.code, declined.have) == ("GM-6012", "nobody has it")


def test_a_check_never_moves_back() -> None:
    state = a_sealed_verifier()
    with pytest.raises(LocalProtocolError):
        state.checks[b"\1" * 32].move(CheckState.WAITING)
