"""
Attack 8: verifiers that are the forger's friends.

A friend knows the forged output before it is shown, seals it, and calls it a match. Where a share
of the verifiers are friends, a forgery is found as often as if that share of it were not one: the
seed draws who checks, and nobody can ask for it. Who comes once the work is committed is not drawn
while one of those that were there is; on chain nobody judges who was not listed an epoch before. A
friend that shares a check with somebody honest is contradicted, and a jury ends both: the forger is
convicted, its friend gets no more checks.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import pytest

from coordinator.core.lifecycle import JobState, TrialOutcome
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.sampling import assign_verifier, draw_sample
from gpumarket.protocol.units import PPM
from gpumarket.testing.factories import change, make_address, make_cid, make_hash, make_spec, sign
from tests.coordinator_market import Market, PlayedVerifier, play_until
from tests.integration.court import Court
from tests.integration.jury_scene import NAMES, VERIFIERS, make_trial, open_jury_court
from tests.market_audit import HonestChain, audit

P1, P2 = make_address("provider-1"), make_address("provider-2")
FRIEND = make_address("friend")
FULL = VerifyPolicy(mode="full")
UNITS, FORGED, SAMPLED, LISTED, SEEDS = 200, 20, 20, 30, 4_000


class Friend(PlayedVerifier):
    """Has every forged output from the forger itself, and seals that as its own."""

    forged: frozenset[int] = frozenset()

    def seal(self, request: messages.CheckRequested) -> messages.CheckSealed:
        sealed = super().seal(request)
        if request.unit not in self.forged:
            return sealed
        own = self.own[request.receipt_hash]
        own = change(own, output=make_cid(f"output {request.unit} forged"))
        self.own[request.receipt_hash] = own
        body = change(sealed.seal.body, sealed=own.compute_hash())
        return messages.CheckSealed(seal=sign(body, self.name))


def play(*, friends: int, honest: int, forges: frozenset[int]) -> Market:
    """Play a job of three tasks, all checked, by a forger with some friends among the verifiers."""
    market = Market()
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": 3}, forges=forges)
    for number in range(friends):
        name = "friend" if number == 0 else f"friend-{number}"
        friend = Friend(name)
        friend.forged = forges
        market.verifiers[friend.address] = friend
        market.join_verifier(name, card={"slots": 16})
    for number in range(honest):
        market.join_verifier(f"verifier-{number}", card={"slots": 16})
    market.submit(make_spec(units=3, verify=FULL), checks=12)
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    market.join("provider-2", offer={"slots": 3})
    return market


# ---- how often a forgery is found ----------------------------------------------------------


def find_chance(share: float) -> float:
    """Return the chance that of a sample one forged result at least goes to somebody honest."""
    missed = 0.0
    for drawn in range(min(FORGED, SAMPLED) + 1):
        ways = comb(FORGED, drawn) * comb(UNITS - FORGED, SAMPLED - drawn)
        missed += ways / comb(UNITS, SAMPLED) * share**drawn
    return 1 - missed


def is_found(number: int, friends: int) -> bool:
    seed, verifiers = make_hash(f"seed {number}"), [make_address(f"v{n}") for n in range(LISTED)]
    for index in draw_sample(seed, P1, count=UNITS, size=SAMPLED, pool=make_hash("pool")):
        chosen = assign_verifier(seed, make_hash(f"receipt {number} {index}"), verifiers)
        if index < FORGED and chosen in verifiers[friends:]:
            return True
    return False


@pytest.mark.parametrize("friends", [3, 6, 10])
def test_friends_hide_as_much_as_their_share_and_no_more(friends: int) -> None:
    found = sum(is_found(number, friends) for number in range(SEEDS))
    chance = find_chance(friends / LISTED)
    deviation = (SEEDS * chance * (1 - chance)) ** 0.5
    assert abs(found - SEEDS * chance) < 4 * deviation
    # As if that share of what was forged were not there, but for which of it is up to the draw.
    fewer = FORGED * (LISTED - friends) // LISTED
    assert chance == pytest.approx(
        1 - comb(UNITS - fewer, SAMPLED) / comb(UNITS, SAMPLED), abs=0.01
    )


# ---- who comes too late --------------------------------------------------------------------


def test_verifiers_that_come_once_the_work_is_committed_are_drawn_for_none_of_it() -> None:
    market = play(friends=0, honest=3, forges=frozenset({1}))
    listed = sorted(market.verifiers)
    market.court.list_jurors = lambda: listed
    for number in range(30):
        friend = Friend(f"friend-{number}")
        friend.forged = frozenset({1})
        market.verifiers[friend.address] = friend
        market.join_verifier(friend.name, card={"slots": 16})
    market.run(seconds_max=30)
    checks = [check for check in market.state.epochs[1].checks.values() if check.turn == 0]
    assert {check.verifier for check in checks} <= set(listed)
    assert P1 not in market.chain.sum_paid()


@pytest.fixture(scope="module")
def jury_court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with open_jury_court(tmp_path_factory.mktemp("juries")) as court:
        yield court


async def test_who_was_not_listed_an_epoch_before_judges_nobody(jury_court: Court) -> None:
    *_, late = NAMES
    for number in range(3):
        trial = make_trial(jury_court, f"late {number}")
        assert await trial.chain.count_eligible() == VERIFIERS
        jury = await trial.seat(await trial.open())
        assert len(jury) == 5 and late not in jury


# ---- who is contradicted -------------------------------------------------------------------


def test_where_all_verifiers_are_friends_nothing_is_found_and_that_is_the_limit() -> None:
    market = play(friends=3, honest=0, forges=frozenset({1}))
    market.run(seconds_max=60)
    assert market.chain.sum_paid()[P1] > 0


def set_against(honest: int) -> tuple[Market, set[Verdict | None]] | None:
    """Play with one friend among some honest; None where the result on trial was not its check."""
    market = play(friends=1, honest=honest, forges=frozenset({0, 1, 2}))
    jurors = sorted(set(market.verifiers) - {FRIEND})
    market.court.list_jurors = lambda: jurors
    market.run(seconds_max=60)
    epoch = market.state.epochs[1]
    mine = [check for check in epoch.checks.values() if check.verifier == FRIEND]
    is_exposed = any(check.receipt_hash in epoch.trials for check in mine)
    return (market, {check.verdict for check in mine}) if is_exposed else None


def test_overlap_sets_a_friend_against_somebody_honest_and_a_jury_ends_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gpumarket.protocol.sampling.OVERLAP_PPM", PPM)
    market, said = next(filter(None, map(set_against, range(3, 9))))
    assert said == {Verdict.MATCH}
    outcomes = {trial.outcome for trial in market.state.epochs[1].trials.values()}
    assert outcomes == {TrialOutcome.CONVICTED}
    assert P1 not in market.chain.sum_paid()
    (job,) = market.state.jobs.values()
    assert job.state is JobState.SETTLED and job.excluded == [P1]
    assert market.state.verifiers[FRIEND].barred_until > market.now
    assert "forgery shown against" in audit(market, job)["forgeries"].text
