"""
Attack 9: call right work false, to harm a provider or to be paid for finding it.

One verifier's word stops a payment until a jury has decided. It acquits: the work is paid, half of
the accuser's bond goes to the accused for its wait and half to the jurors, the liar gets no more
checks, and its other words about that provider are not heard. A difference in bytes between two
classes of machines accuses nobody. A jury errs as often as its hostile jurors are the majority of
thirty-one, since an honest party can appeal that far.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import partial

import pytest

from coordinator.core.lifecycle import JobState, TrialOutcome, TrialState
from coordinator.core.state import Job
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.juries import JURY_SIZES, LAST_LEVEL, compute_quorum
from gpumarket.protocol.units import PPM
from gpumarket.testing.economics import compute_at_least
from gpumarket.testing.factories import make_address, make_hash, make_spec
from tests.coordinator_market import Market
from tests.integration.court import Court
from tests.integration.jury_scene import CONFIG, WATCHER, make_trial, open_jury_court
from tests.market_audit import HonestChain, audit
from tests.played_court import RESPONSE_SECONDS

P1, LIAR = make_address("provider-1"), make_address("liar")
FULL = VerifyPolicy(mode="full")
UNITS = 3


def prepare(market: Market, entropy: str) -> None:
    market.chain = HonestChain(entropy=entropy)
    market.join("provider-1", offer={"slots": UNITS})
    market.join_verifier("liar", card={"slots": 16}, lies=frozenset(range(UNITS)))
    for number in range(4):
        market.join_verifier(f"verifier-{number}", card={"slots": 16})
    market.court.list_jurors = partial(list_honest, market)


def list_honest(market: Market) -> list[bytes]:
    return sorted(set(market.verifiers) - {LIAR})


def play() -> tuple[Market, Job]:
    """Play an honest provider's job with a liar among its verifiers, until all is paid."""
    for entropy in ("one", "two", "three", "four", "five", "six"):
        market = Market()
        prepare(market, entropy)
        job = market.submit(make_spec(units=UNITS, verify=FULL), checks=4 * UNITS)
        market.run(seconds_max=40)
        if market.state.epochs[1].trials:
            return market, job
    raise AssertionError("no seed gave the liar a check")


# ---- in the market -------------------------------------------------------------------------


def test_a_jury_acquits_the_work_is_paid_and_the_liar_has_no_more_checks() -> None:
    market, job = play()
    (trial,) = market.state.epochs[1].trials.values()
    assert trial.outcome is TrialOutcome.ACQUITTED and LIAR not in trial.voters
    assert job.state is JobState.SETTLED and job.excluded == []
    assert market.chain.sum_paid()[P1] > 0
    assert not any(day.forged for day in market.state.standings[P1].days)
    assert market.state.verifiers[LIAR].barred_until > market.now
    again = market.submit(make_spec(name="again", units=UNITS, verify=FULL), checks=4 * UNITS)
    market.run(seconds_max=40)
    assert again.state is JobState.SETTLED
    asked = {
        check.verifier
        for number in again.epochs
        for check in market.state.epochs[number].checks.values()
        if check.order_hash == again.order_hash
    }
    assert LIAR not in asked
    assert {line.verdict for line in audit(market, job).values()} == {AuditVerdict.PASS}


def test_the_provider_has_a_match_to_settle_with_alone() -> None:
    market, _ = play()
    words = [each.attestation for each in market.providers[P1].approvals if each.attestation]
    (trial,) = market.state.epochs[1].trials.values()
    verdicts = {w.body.verdict for w in words if w.body.receipt_hash == trial.receipt_hash}
    assert verdicts == {Verdict.MATCH}


def test_the_case_is_closed_and_holds_no_stake_for_ever() -> None:
    market, _ = play()
    market.run(seconds_max=RESPONSE_SECONDS + 10)
    (trial,) = market.state.epochs[1].trials.values()
    assert (trial.state, trial.verdict) == (TrialState.CLOSED, Verdict.MATCH)


def test_noise_between_classes_of_machines_accuses_nobody() -> None:
    market = Market()
    market.join("provider-1", offer={"slots": UNITS})
    foreign = {"slots": 16, "repro_class": make_hash("another class")}
    for number in range(4):
        market.join_verifier(f"verifier-{number}", card=foreign, lies=frozenset(range(UNITS)))
    job = market.submit(make_spec(units=UNITS, verify=FULL), checks=4 * UNITS)
    market.run(seconds_max=400)
    checks = [c for epoch in market.state.epochs.values() for c in epoch.checks.values()]
    assert {check.verdict for check in checks} - {None} == {Verdict.INCONCLUSIVE}
    assert all(not epoch.trials for epoch in market.state.epochs.values())
    assert market.court.cases == {} and P1 not in job.excluded


# ---- on chain ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jury_court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with open_jury_court(tmp_path_factory.mktemp("juries")) as court:
        yield court


async def test_the_accuser_loses_its_bond_to_the_accused_and_the_jurors(jury_court: Court) -> None:
    trial = make_trial(jury_court, "false")
    chain, provider = trial.chain, make_address("provider")
    escrow = await chain.read_escrow(WATCHER)
    stake = await chain.read_stake(provider)
    case = await trial.open()
    credit = sum(await chain.read_credit(provider))
    jury = await trial.seat(case)
    jury_before = {juror: sum(await chain.read_credit(juror)) for juror in jury}
    await chain.decide(case, jury, trial.vote(jury, Verdict.MATCH))
    trial.wait()
    await chain.close(case, jury)
    assert await chain.read_escrow(WATCHER) == escrow - CONFIG.jury_bond
    paid = [sum(await chain.read_credit(juror)) - jury_before[juror] for juror in jury]
    assert sum(await chain.read_credit(provider)) - credit == CONFIG.jury_bond - sum(paid)
    assert sum(paid) == CONFIG.jury_bond // 2 // len(jury) * len(jury)
    assert await chain.read_stake(provider) == stake


# ---- how often a jury errs -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "wrong"), [(100_000, 6.9e-9), (200_000, 8.8e-5), (300_000, 9.5e-3)]
)
def test_thirty_one_jurors_err_as_computed(share: int, wrong: float) -> None:
    size = JURY_SIZES[LAST_LEVEL]
    chance = compute_at_least(size, compute_quorum(LAST_LEVEL, size), share_ppm=share)
    assert abs(float(chance) / wrong - 1) < 0.02
    # A simple majority of three would be far too weak.
    assert compute_at_least(3, 2, share_ppm=share) > max(chance, Fraction(share, 4 * PPM))
