"""
Attack 7: be paid for checks that one does not run.

A verdict counts only with the opening of the seal that came before the result: whoever seals a
random digest, copies the result once it is open, copies another verifier's seal, or calls
everything a match, is refused, decides nothing and is paid nothing. So a guess loses unless it has
less than two unknown bits. Under a rule with a tolerance a seal of anything can be called a match:
the coordinator cannot see it, the audit remarks each, and a second verifier contradicts it where
the result was forged. What finds it without any fraud is a canary: it looks like every other check
until the verdict is in, and who calls it a match is given no more checks. That it calls everything
a mismatch is attack 9.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from coordinator.core.canaries import is_due
from coordinator.core.effects import CloseSession
from coordinator.core.events import MessageReceived
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.sampling import OVERLAP_PPM
from gpumarket.protocol.units import PPM, Timestamp
from gpumarket.testing import cheats
from gpumarket.testing.economics import Setting
from gpumarket.testing.factories import change, make_address, make_cid, make_hash, make_spec, sign
from tests.coordinator_market import Market, PlayedVerifier, list_sent, play_until
from tests.market_audit import HonestChain, audit

P1, LAZY, HONEST = map(make_address, ("provider-1", "lazy", "verifier-1"))
FULL = VerifyPolicy(mode="full")
UNITS = 3


class Lazy(PlayedVerifier):
    """Seals something that it never computed."""

    def seal(self, request: messages.CheckRequested) -> messages.CheckSealed:
        sealed = super().seal(request)
        own = change(self.own[request.receipt_hash], output=make_cid("never computed"))
        self.own[request.receipt_hash] = own
        return change(
            sealed, seal=sign(change(sealed.seal.body, sealed=own.compute_hash()), "lazy")
        )


class AlwaysMatch(Lazy):
    """And calls whatever it is shown a match."""

    def judge(self, shown: messages.ResultShown, now: Timestamp) -> messages.CheckDone:
        self.approves_all = True
        return super().judge(shown, now)


class RandomDigest(PlayedVerifier):
    """Seals noise, and shows some result for it."""

    def seal(self, request: messages.CheckRequested) -> messages.CheckSealed:
        body = change(super().seal(request).seal.body, sealed=make_hash("noise"))
        return messages.CheckSealed(seal=sign(body, "lazy"))


class Copier(Lazy):
    """Waits for the provider's result and hands it in as its own."""

    def judge(self, shown: messages.ResultShown, now: Timestamp) -> messages.CheckDone:
        opening = shown.opening.body
        own = change(self.own[opening.receipt_hash], output=opening.result.output)
        self.own[opening.receipt_hash] = own
        return super().judge(shown, now)


def play(lazy: PlayedVerifier, *, policy: VerifyPolicy = FULL, seconds: int = 60) -> Market:
    """Play a job with an honest provider whose only verifier is lazy."""
    market = Market()
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": UNITS})
    market.verifiers[LAZY] = lazy
    market.join_verifier("lazy", card={"slots": 2 * UNITS})
    market.submit(make_spec(units=UNITS, verify=policy), checks=4 * UNITS)
    market.run(seconds_max=seconds)
    return market


@pytest.mark.parametrize("lazy", [AlwaysMatch, RandomDigest, Copier])
def test_no_verdict_counts_that_does_not_open_the_seal_before_it(
    lazy: type[PlayedVerifier],
) -> None:
    market = play(lazy("lazy"), seconds=400)
    checks = market.state.epochs[1].checks.values()
    assert {check.verifier for check in checks} == {LAZY}
    assert {(check.verdict, check.attestation) for check in checks} == {
        (Verdict.INCONCLUSIVE, None)
    }
    assert LAZY not in market.chain.sum_paid()
    assert LAZY in {closed.peer for closed in market.closed}
    (job,) = market.state.jobs.values()
    assert job.excluded == [], "nor does it harm the provider"


def test_the_same_market_pays_a_verifier_that_runs_them() -> None:
    market = play(PlayedVerifier("lazy"))
    assert market.chain.sum_paid()[LAZY] > 0 and market.chain.sum_paid()[P1] > 0


@pytest.mark.usefixtures("everything_overlaps")
def test_another_verifiers_seal_cannot_be_taken_over() -> None:
    market = Market()
    market.join("provider-1", offer={"slots": 1})
    market.join_verifier("verifier-1", card={"slots": 4})
    market.verifiers[LAZY] = PlayedVerifier("lazy")
    market.join_verifier("lazy", card={"slots": 4})
    market.submit(make_spec(units=1, verify=FULL), checks=8)
    play_until(market, lambda m: len(list_sent(m.todo, messages.CheckRequested)) == 2)
    asked = list_sent(market.todo, messages.CheckRequested)[0]
    market.todo.clear()
    theirs = market.verifiers[HONEST].seal(asked)
    # As it is, it is not the copier's; with its own name, it hides a result of the other's name.
    refused = market.post(MessageReceived(at=market.now, sender=LAZY, message=theirs))
    assert [type(effect) for effect in refused] == [CloseSession]
    market.todo.clear()
    market.join_verifier("lazy")
    copied = change(theirs.seal.body, verifier=LAZY)
    for sender, seal in ((HONEST, theirs.seal), (LAZY, sign(copied, "lazy"))):
        message = messages.CheckSealed(seal=seal)
        market.post(MessageReceived(at=market.now, sender=sender, message=message))
    play_until(market, lambda m: len(list_sent(m.todo, messages.ResultShown)) == 2)
    shown = list_sent(market.todo, messages.ResultShown)[0]
    honest = market.verifiers[HONEST].judge(shown, market.now)
    for own in (honest.evidence.own, change(honest.evidence.own, verifier=LAZY)):
        evidence = change(honest.evidence, own=own)
        evidence_hash = compute_content_hash(evidence)
        body = change(honest.attestation.body, evidence_hash=evidence_hash)
        done = messages.CheckDone(attestation=sign(body, "lazy"), evidence=evidence)
        refused = market.post(MessageReceived(at=market.now, sender=LAZY, message=done))
        assert [type(effect) for effect in refused] == [CloseSession]
        market.join_verifier("lazy")
    assert {check.verdict for check in market.state.epochs[1].checks.values()} == {None}


# ---- under a tolerance ---------------------------------------------------------------------


def test_a_match_within_a_tolerance_that_nobody_computed_is_remarked_by_the_audit() -> None:
    market = play(AlwaysMatch("lazy"), policy=change(FULL, comparison=NpyRule()))
    (job,) = market.state.jobs.values()
    line = audit(market, job)["verifiers"]
    assert line.verdict is AuditVerdict.PASS
    assert line.remark.startswith(f"{UNITS} matches are of outputs with different CIDs")


@pytest.fixture
def everything_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumarket.protocol.sampling.OVERLAP_PPM", PPM)


# ---- canaries ------------------------------------------------------------------------------


def play_with_canaries(rounds: int, **verifiers: PlayedVerifier) -> Market:
    """Play jobs of alice's, and one of the operator's whenever a canary is due: a tenth."""
    market = Market(
        canary_providers=(P1,), canary_requesters=(make_address("operator"),), canary_ppm=100_000
    )
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": UNITS}, canaries=frozenset({0}))
    for verifier in verifiers.values():
        market.verifiers[verifier.address] = verifier
        market.join_verifier(verifier.name, card={"slots": 2 * UNITS})
    spec = make_spec(units=UNITS, verify=change(FULL, comparison=NpyRule()))
    for turn in range(rounds):
        signer = "operator" if is_due(market.state) else "alice"
        market.submit(spec, checks=4 * UNITS, signer=signer, nonce=make_hash(f"job {turn}"))
        market.run(seconds_max=300)
    return market


def test_who_always_says_match_is_found_by_canaries_and_gets_no_more_checks() -> None:
    market = play_with_canaries(30, lazy=AlwaysMatch("lazy"), honest=PlayedVerifier("verifier-1"))
    lazy, honest = market.state.verifiers[LAZY], market.state.verifiers[HONEST]
    assert lazy.missed_canaries >= 1 and lazy.found_canaries == 0
    assert lazy.barred_until > market.now
    assert honest.missed_canaries == 0 < honest.found_canaries
    assert honest.barred_until == 0
    found_in = max(
        number
        for number, epoch in market.state.epochs.items()
        if LAZY in {check.verifier for check in epoch.checks.values()}
    )
    assert found_in < len(market.state.epochs) - 5
    for number, epoch in market.state.epochs.items():
        listed = {card.body.verifier for card in epoch.eligible}
        assert (LAZY in listed) is (number <= found_in)
    assert market.state.standings[P1].days[-1].forged == 0


def test_an_honest_verifier_never_misses_one_whatever_it_is_given() -> None:
    market = play_with_canaries(30, honest=PlayedVerifier("verifier-1"))
    verifier, book = market.state.verifiers[HONEST], market.state.canaries
    assert verifier.missed_canaries == 0
    assert verifier.found_canaries == book.canaries > 3
    # One more is ordered only once they are fewer than their share again.
    assert book.canaries * PPM < 100_000 * book.checks + PPM


def test_nothing_that_a_verifier_is_told_differs_for_a_canary() -> None:
    asked = {}
    for canaries in (frozenset[int](), frozenset({0})):
        market = Market(canary_providers=(P1,), canary_requesters=(make_address("operator"),))
        market.join("provider-1", offer={"slots": UNITS}, canaries=canaries)
        market.join_verifier("verifier-1", card={"slots": 2 * UNITS})
        spec = make_spec(units=UNITS, verify=change(FULL, comparison=NpyRule()))
        market.submit(spec, checks=8, signer="operator")
        play_until(market, lambda m: len(list_sent(m.todo, messages.CheckRequested)) == UNITS)
        requests = list_sent(market.todo, messages.CheckRequested)
        blank = {"receipt_hash": make_hash("any"), "deadline": 0}
        asked[canaries] = sorted(
            (change(each, **blank) for each in requests), key=lambda each: each.unit
        )
        (document,) = [epoch.document for epoch in market.state.epochs.values()]
        assert document is not None and len(document.canaries) == 32
    first, second = asked.values()
    assert first == second


# ---- what it is worth ----------------------------------------------------------------------


def compute_lazy_gain(*, caught: Fraction, stake: Fraction) -> Fraction:
    """
    What always saying match is worth over running the check, in costs of one check.

    Saves the cost; loses fee and stake where it is contradicted: by a canary, or by a second
    verifier of a forged result.
    """
    market = Setting().market
    fee = Fraction(market.check_price, market.check_cost)
    return 1 - caught * (fee + stake)


@pytest.mark.parametrize("bits", [2, 8, 64, 256])
def test_guessing_behind_a_seal_loses_from_two_unknown_bits_on(bits: int) -> None:
    assert cheats.guess(Setting(), bits=bits) < 0 < cheats.guess(Setting(), bits=1)


@pytest.mark.parametrize("stake", [50, 200])
def test_where_only_a_word_is_asked_canaries_decide(stake: int) -> None:
    least = 1 / (Fraction(3, 2) + stake)
    assert compute_lazy_gain(caught=least, stake=Fraction(stake)) == 0
    assert compute_lazy_gain(caught=Fraction(102, 100) * least, stake=Fraction(stake)) < 0
    assert Fraction(1, 2 * stake) < least < Fraction(1, stake)


def test_overlap_alone_makes_it_lose_only_where_much_is_forged() -> None:
    overlap, stake = Fraction(OVERLAP_PPM, PPM), Fraction(50)
    shares = {share: overlap * Fraction(share, 100) for share in (0, 5, 38, 39, 100)}
    gains = {share: compute_lazy_gain(caught=p, stake=stake) for share, p in shares.items()}
    assert [share for share, gain in gains.items() if gain < 0] == [39, 100]
