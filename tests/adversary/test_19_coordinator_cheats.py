"""
Attack 19: a coordinator that picks who checks, hides what was found, or leaves a verifier out.

Who should have checked follows from the seed and the committed list, so an audit counts the checks
that went to a friend, and calls a job with any INCOMPLETE when strict. A mismatch that is ignored
fails the audit by what it paid, one that is left out leaves a sampled result without a verdict,
which is INCOMPLETE when strict. A verifier that is listed and passed over shows in the same count;
one that was never listed does not: its words are its own to publish, and the seed is anybody's to
fix.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coordinator.api.proofs import make_proof
from coordinator.core import assigning, judging
from coordinator.core.epoch_state import Check as CheckState
from coordinator.core.epoch_state import Epoch
from coordinator.core.lifecycle import JobState
from coordinator.core.rulings import Ruling
from coordinator.core.state import Job, State
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.evidence import AuditVerdict, Report
from gpumarket.protocol.ids import Address
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.testing.factories import change, make_address, make_spec
from tests import coordinator_market
from tests.coordinator_market import Market, play_until
from tests.market_audit import HonestChain, read_chain

P1 = make_address("provider-1")
NAMES = ("verifier-1", "verifier-2", "verifier-3")
FRIEND = make_address(NAMES[0])
UNITS = 8


def play(*, forges: frozenset[int] = frozenset(), names: tuple[str, ...] = NAMES) -> Market:
    """Play a job of eight tasks, all of which are checked."""
    market = Market()
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": UNITS}, forges=forges)
    for name in names:
        market.join_verifier(name, card={"slots": UNITS})
    spec = make_spec(units=UNITS, verify=VerifyPolicy(mode="full"))
    market.submit(spec, checks=4 * UNITS)
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    # Whoever forged does it right the second time, if it is asked again.
    market.providers[P1].forges = frozenset()
    market.run(seconds_max=60)
    return market


def report(market: Market, tell: Callable[[ProofOfExecution], ProofOfExecution]) -> Report:
    (job,) = market.state.jobs.values()
    return check_proof(tell(make_proof(market.state, job)), read_chain(market))


def tell_all(proof: ProofOfExecution) -> ProofOfExecution:
    return proof


def find(said: Report, name: str) -> tuple[AuditVerdict, str, str]:
    (line,) = [check for check in said.checks if check.name == name]
    return line.verdict, line.text, line.remark


def get_job(market: Market) -> Job:
    (job,) = market.state.jobs.values()
    return job


def count_as_drawn(said: Report) -> int:
    return int(find(said, "assignments")[1].split(" of ")[0])


def test_an_honest_coordinator_passes_the_strict_audit() -> None:
    market = play()
    said = report(market, tell_all)
    checks = market.state.epochs[1].checks
    assert count_as_drawn(said) == len(checks)
    assert len({check.verifier for check in checks.values()}) > 1


# ---- friends -------------------------------------------------------------------------------


def test_checks_that_go_to_a_friend_are_counted_and_refused_when_strict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = assigning.choose_verifier

    def prefer_friend(state: State, epoch: Epoch, check: CheckState) -> Address | None:
        chosen = honest(state, epoch, check)
        return FRIEND if chosen is not None and check.turn == 0 else chosen

    monkeypatch.setattr(assigning, "choose_verifier", prefer_friend)
    market = play()
    assert get_job(market).state is JobState.SETTLED
    said = report(market, tell_all)
    total, drawn = len(market.state.epochs[1].checks), count_as_drawn(said)
    assert 0 < drawn < total
    assert f"{total - drawn} by another" in find(said, "assignments")[2]
    assert said.verdict is AuditVerdict.PASS
    assert said.tighten().verdict is AuditVerdict.INCOMPLETE


def test_a_listed_verifier_that_is_never_asked_shows_in_the_same_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listed = assigning._list_there

    def leave_out(state: State, epoch: Epoch, check: CheckState):
        return [card for card in listed(state, epoch, check) if card.verifier != FRIEND]

    monkeypatch.setattr(assigning, "_list_there", leave_out)
    market = play()
    checks = market.state.epochs[1].checks.values()
    assert FRIEND not in {check.verifier for check in checks}
    said = report(market, tell_all)
    assert count_as_drawn(said) < len(checks)
    assert said.tighten().verdict is AuditVerdict.INCOMPLETE


def test_a_verifier_that_was_never_listed_is_not_missed_as_yet() -> None:
    """Its coordinator turned it away at the door: nothing that is committed names it."""
    said = report(play(names=NAMES[1:]), tell_all)
    assert find(said, "assignments")[2] == ""


# ---- mismatches ----------------------------------------------------------------------------


def look_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the core take no mismatch for one, and its invariants say nothing of it."""
    monkeypatch.setattr(judging, "judge_mismatches", lambda *_: (Ruling.CLEAR, []))
    monkeypatch.setattr(coordinator_market, "check_state", lambda *_: None)


def test_a_mismatch_that_is_ignored_fails_by_what_it_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    look_away(monkeypatch)
    market = play(forges=frozenset({3}))
    found = {check.unit for check in get_checks(market) if check.verdict is Verdict.MISMATCH}
    assert found == {3} and P1 in market.chain.sum_paid()
    verdict, text, _ = find(report(market, tell_all), "forgeries")
    assert (verdict, text) == (
        AuditVerdict.FAIL,
        "a provider found forging was paid for the same epoch",
    )


def get_checks(market: Market) -> list[CheckState]:
    return list(market.state.epochs[1].checks.values())


def hide_mismatch(proof: ProofOfExecution) -> ProofOfExecution:
    """Leave the check that found it out, and say that its result was opened like any other."""
    epoch = proof.epochs[0]
    hidden = [c for c in epoch.checks if c.attestation.body.verdict == Verdict.MISMATCH]
    assert hidden
    kept = tuple(check for check in epoch.checks if check not in hidden)
    openings = (*epoch.openings, *(check.opening for check in hidden))
    return change(proof, epochs=(change(epoch, checks=kept, openings=openings), *proof.epochs[1:]))


def turn_mismatch(proof: ProofOfExecution) -> ProofOfExecution:
    """Write another verdict into the verifier's own words."""
    epoch = proof.epochs[0]
    turned = []
    for check in epoch.checks:
        body = change(check.attestation.body, verdict=int(Verdict.MATCH))
        turned.append(change(check, attestation=change(check.attestation, body=body)))
    return change(proof, epochs=(change(epoch, checks=tuple(turned)), *proof.epochs[1:]))


def test_a_mismatch_that_is_not_told_is_a_sampled_result_without_a_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_away(monkeypatch)
    said = report(play(forges=frozenset({3})), hide_mismatch)
    verdict, _, remark = find(said, "samples")
    assert verdict is AuditVerdict.PASS
    assert "1 of them ended without a verdict" in remark
    lines = {check.name: check for check in said.tighten().checks}
    assert lines["samples"].verdict is AuditVerdict.INCOMPLETE
    # And where its verifier was paid, the payment is for a check that nobody shows.
    assert lines["payments"].verdict is AuditVerdict.FAIL
    assert "pays for a check that was not made" in lines["payments"].text


def test_a_mismatch_cannot_be_turned_into_a_match(monkeypatch: pytest.MonkeyPatch) -> None:
    look_away(monkeypatch)
    said = report(play(forges=frozenset({3})), turn_mismatch)
    assert find(said, "verifiers")[0] is AuditVerdict.FAIL
