"""
Attack 12: be honest until one is trusted, then forge; or forge, leave, and take a new name.

What history lowers is a newcomer's minimum, and never below the minimum of the policy; what else
sizes a sample knows no history. So a sleeper risks the pool and its stake at odds that make every
number of forgeries a loss, and a new name has to show more than the old one had to.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from coordinator.core.lifecycle import JobState
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.sampling import compute_newcomer_min, compute_sample_size
from gpumarket.testing.factories import make_address, make_hash, make_spec
from tests.coordinator_market import Market

P1 = make_address("provider-1")
PRICE = 1_000
"""Of one unit."""


def compute_profit(count: int, forged: int, *, audited: int, stake: int) -> Fraction:
    """What forging so many of a pool is worth over being honest, where work is all cost."""
    price = PRICE * count
    size = compute_sample_size(VerifyPolicy(), count, price=price, stake=stake, audited=audited)
    escape = Fraction(comb(count - forged, size), comb(count, size))
    return forged * PRICE - (1 - escape) * (price + stake)


@pytest.mark.parametrize("audited", [0, 100, 300, 10**6])
@pytest.mark.parametrize("count", [10, 40, 100, 500, 5_000])
def test_a_past_lowers_no_sample_below_the_minimum(audited: int, count: int) -> None:
    policy = VerifyPolicy()
    size = compute_sample_size(policy, count, price=0, stake=0, audited=audited)
    assert size >= min(count, policy.units_min)
    newcomer = compute_sample_size(policy, count, price=0, stake=0, audited=0)
    assert newcomer >= size


@pytest.mark.parametrize("stake", [0, 100_000])
@pytest.mark.parametrize("count", [10, 60, 300, 1_000])
def test_after_three_hundred_honest_units_forging_loses_whatever_the_share(
    count: int, stake: int
) -> None:
    forged = range(1, count + 1, max(1, count // 50))
    profits = [compute_profit(count, k, audited=300, stake=stake) for k in (*forged, count)]
    assert max(profits) <= 0
    # Forging everything, once, costs all of the pool and the stake.
    assert profits[-1] == -stake


def test_a_new_name_shows_more_than_the_old_one_and_gains_nothing() -> None:
    policy = VerifyPolicy()
    assert compute_newcomer_min(policy, 0) == 3 * compute_newcomer_min(policy, 300)
    for count in (60, 100, 300):
        forged = max(1, count // 20)
        fresh = compute_profit(count, forged, audited=0, stake=0)
        known = compute_profit(count, forged, audited=300, stake=0)
        assert fresh <= known <= 0


def test_a_sleeper_on_the_market_loses_its_epoch_and_its_past() -> None:
    market = Market()
    market.join("provider-1", offer={"slots": 64})
    market.join_verifier(card={"slots": 64})
    market.submit(make_spec(units=60, verify=VerifyPolicy()), checks=120)
    market.run(seconds_max=100)
    honest = market.chain.sum_paid()[P1]
    standing = market.state.standings[P1]
    # Sixty of ninety that a newcomer shows: all were checked.
    assert standing.audited == 60
    standing.audited = 300
    market.providers[P1].forges = frozenset(range(60))
    job = market.submit(
        make_spec(units=60, verify=VerifyPolicy()), checks=120, nonce=make_hash("second")
    )
    market.run(seconds_max=100)
    epoch = market.state.epochs[job.epochs[0]]
    assert 30 <= len({check.unit for check in epoch.checks.values()}) < 60
    assert job.excluded == [P1] and job.state is not JobState.SETTLED
    assert market.chain.sum_paid()[P1] == honest
    assert standing.audited == 0
