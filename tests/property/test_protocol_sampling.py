"""Sampling: as many as the design says, equally likely, found by anybody, and forgers with them."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import ceil, comb
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import POWER_MIN_PPM, VerifyPolicy
from gpumarket.protocol.pools import draw_verifiers
from gpumarket.protocol.sampling import (
    assign_verifier,
    compute_miss_ppb,
    compute_newcomer_min,
    compute_sample_size,
    compute_seed,
    draw_sample,
    is_overlapped,
)
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.units import PPM

OWNER = b"o" * 20
FAMOUS = 10**6
"""Audited units of a provider that is no newcomer any more."""
shares = st.integers(0, PPM)
powers = st.sampled_from([PPM, 999_999, 800_000, 500_000, 100_000])
policies = st.builds(
    VerifyPolicy,
    rate_ppm=shares,
    forged_share_ppm=shares,
    confidence_ppm=shares,
    units_min=st.integers(0, 40),
    bribe_ppm=st.sampled_from([0, 1, 500_000, 10 * PPM]),
    power_ppm=powers,
)
pasts = st.integers(0, 2_000)
amounts = st.sampled_from([0, 1, 7, 1_000, 10**9])


def make_seed(number: int) -> Hash32:
    return keccak256(b"seed" + number.to_bytes(8, "big"))


def compute_size(policy: VerifyPolicy, count: int, **facts: int) -> int:
    return compute_sample_size(
        policy, count, **({"price": 0, "stake": 0, "audited": FAMOUS} | facts)
    )


TABLE = {
    (50_000, 950_000): (45, 57, 59, 59),
    (50_000, 990_000): (59, 86, 90, 90),
    (50_000, 999_000): (74, 126, 134, 135),
    # 99 of 100 miss the one forged unit with exactly 1 %, which is allowed.
    (10_000, 990_000): (99, 368, 448, 458),
}


@pytest.mark.parametrize(("promise", "sizes"), TABLE.items())
def test_the_sizes_are_those_of_the_published_table(
    promise: tuple[int, int], sizes: tuple[int, ...]
) -> None:
    policy = VerifyPolicy(forged_share_ppm=promise[0], confidence_ppm=promise[1], units_min=1)
    assert tuple(compute_size(policy, 10**power) for power in (2, 3, 4, 5)) == sizes


@settings(max_examples=200, deadline=None)
@given(policies, st.integers(0, 200), pasts, amounts, amounts)
def test_a_sample_keeps_every_promise_and_is_the_smallest_that_does(
    policy: VerifyPolicy, count: int, audited: int, price: int, stake: int
) -> None:
    facts = {"price": price, "stake": stake, "audited": audited}
    size = compute_size(policy, count, **facts)
    assert 0 <= size <= count

    def keeps(size: int) -> bool:
        forged = max(1, -(-policy.forged_share_ppm * count // PPM))
        missed = compute_miss(count, forged, size, Fraction(PPM - policy.power_ppm, PPM))
        is_found = missed <= Fraction(PPM - policy.confidence_ppm, PPM)
        is_rated = size * PPM >= policy.rate_ppm * count
        # What deters is tested by its own meaning below; here it is only a floor.
        others = msgspec.structs.replace(policy, rate_ppm=0, confidence_ppm=0, units_min=0)
        is_deterring = size >= compute_size(others, count, **facts)
        return (
            is_found and is_rated and is_deterring and size >= compute_newcomer_min(policy, audited)
        )

    assert size == count or keeps(size)
    assert size == 0 or not keeps(size - 1)


def compute_miss(count: int, forged: int, size: int, blind: Fraction) -> Fraction:
    """The chance that no sampled forgery is flagged, by its definition."""
    hits = range(max(0, size - (count - forged)), min(forged, size) + 1)
    ways = (comb(forged, j) * comb(count - forged, size - j) * blind**j for j in hits)
    return Fraction(sum(ways)) / comb(count, size)


@given(st.integers(1, 7), powers, st.data())
def test_the_chance_of_missing_is_that_of_trying_everything(
    count: int, power: int, data: st.DataObject
) -> None:
    forged = data.draw(st.integers(0, count))
    size = data.draw(st.integers(0, count))
    blind = Fraction(PPM - power, PPM)
    samples = list(combinations(range(count), size))
    missed = sum(blind ** sum(index < forged for index in sample) for sample in samples)
    chance = Fraction(missed) / len(samples)
    assert compute_miss(count, forged, size, blind) == chance
    assert compute_miss_ppb(count, forged, size, power_ppm=power) == ceil(chance * 10**9)


@settings(max_examples=150, deadline=None)
@given(policies, st.integers(1, 60), amounts.filter(bool), amounts)
def test_forging_any_number_of_units_never_pays(
    policy: VerifyPolicy, count: int, price: int, stake: int
) -> None:
    # Only what deters: no other promise may help.
    bare = msgspec.structs.replace(policy, rate_ppm=0, confidence_ppm=0, units_min=0)
    size = compute_size(bare, count, price=price, stake=stake)
    each, blind = Fraction(price, count), Fraction(PPM - policy.power_ppm, PPM)
    bribe = each * policy.bribe_ppm / PPM
    # Where even checking everything may fail to flag, no sample deters who has nothing to lose.
    is_possible = size < count or blind == 0
    for forged in range(1, count + 1):
        escape = compute_miss(count, forged, size, blind)
        profit = forged * each + escape * forged * bribe - (1 - escape) * (price + stake)
        assert profit <= (1 if blind else 0) or not is_possible, (forged, size, float(profit))


def test_one_sample_deters_who_forges_for_nothing_but_the_saved_work() -> None:
    bare = VerifyPolicy(confidence_ppm=0, units_min=0)
    assert compute_size(bare, 1_000, price=10**6, stake=0) == 1
    # Lazy verifiers: half of the forgeries pass, so as many that all of them pass is worth nothing.
    lazy = msgspec.structs.replace(bare, power_ppm=500_000)
    assert compute_size(lazy, 1_000, price=10**6, stake=0) == 20
    assert compute_size(lazy, 1_000, price=10**6, stake=10**6) == 1
    # Ten prices offered for each forged unit, with half of the job at stake: 11 n R / 1.5 n R.
    bribed = msgspec.structs.replace(bare, bribe_ppm=10 * PPM)
    assert compute_size(bribed, 1_000, price=10**6, stake=5 * 10**5) == 8


@settings(max_examples=150, deadline=None)
@given(policies, st.integers(1, 120), pasts, amounts, amounts, st.data())
def test_more_to_fear_is_never_checked_less(
    policy: VerifyPolicy, count: int, audited: int, price: int, stake: int, data: st.DataObject
) -> None:
    facts = {"price": price, "stake": stake, "audited": audited}
    size = compute_size(policy, count, **facts)
    for name in ("rate_ppm", "confidence_ppm", "units_min", "bribe_ppm"):
        top = PPM if name.endswith("ce_ppm") or name == "rate_ppm" else 2**32 - 1
        more = data.draw(st.integers(getattr(policy, name), top))
        stricter = msgspec.structs.replace(policy, **{name: more})
        assert compute_size(stricter, count, **facts) >= size, name
    weaker = msgspec.structs.replace(
        policy, power_ppm=data.draw(st.integers(POWER_MIN_PPM, policy.power_ppm))
    )
    assert compute_size(weaker, count, **facts) >= size
    # A smaller share of forgeries is harder to find; what is at stake and a past make it easier.
    rarer = data.draw(st.integers(0, policy.forged_share_ppm))
    rarer_policy = msgspec.structs.replace(policy, forged_share_ppm=rarer)
    assert compute_size(rarer_policy, count, **facts) >= size
    assert compute_size(policy, count, **(facts | {"price": price + 1})) >= size
    assert compute_size(policy, count, **(facts | {"stake": stake + 1})) <= size
    assert compute_size(policy, count, **(facts | {"audited": audited + 1})) <= size


@given(policies, pasts)
def test_a_newcomer_shows_more_and_nobody_less_than_the_minimum(
    policy: VerifyPolicy, audited: int
) -> None:
    least = policy.units_min
    assert compute_newcomer_min(policy, 0) == 3 * least
    assert least <= compute_newcomer_min(policy, audited) <= 3 * least
    assert compute_newcomer_min(policy, audited + 100) <= max(
        least, (compute_newcomer_min(policy, audited) + 1) // 2
    )
    assert compute_newcomer_min(policy, 200) == least
    assert compute_size(policy, 500, audited=audited) >= min(500, least)


def test_the_modes_check_nothing_or_everything() -> None:
    assert compute_size(VerifyPolicy(mode="none"), 50) == 0
    assert compute_size(VerifyPolicy(mode="full"), 50) == 50


def test_a_strict_policy_over_many_tasks_is_computed_at_once() -> None:
    policy = VerifyPolicy(forged_share_ppm=1, confidence_ppm=PPM)
    assert compute_size(policy, 10_000) == 10_000


@given(st.integers(0, 2**32), st.integers(0, 200), st.data())
def test_a_draw_is_distinct_in_range_and_repeatable(
    number: int, count: int, data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, count))
    drawn = draw_sample(make_seed(number), OWNER, count=count, size=size)
    assert len(drawn) == len(set(drawn)) == size
    assert all(0 <= index < count for index in drawn)
    assert drawn == draw_sample(make_seed(number), OWNER, count=count, size=size)
    # A smaller sample of the same seed is the beginning of a larger one.
    assert draw_sample(make_seed(number), OWNER, count=count, size=size // 2) == drawn[: size // 2]


def test_more_than_there_is_cannot_be_drawn() -> None:
    with pytest.raises(InvalidInput):
        draw_sample(make_seed(0), OWNER, count=3, size=4)


def test_every_index_is_drawn_equally_often_and_owners_differ() -> None:
    count, size, rounds = 20, 5, 4_000
    found = Counter(
        index
        for number in range(rounds)
        for index in draw_sample(make_seed(number), OWNER, count=count, size=size)
    )
    expected = rounds * size / count
    deviation = (rounds * (size / count) * (1 - size / count)) ** 0.5
    assert max(abs(found[index] - expected) for index in range(count)) < 4 * deviation
    draws = {draw_sample(make_seed(1), bytes([n]) * 20, count=100, size=10) for n in range(50)}
    assert len(draws) == 50


@pytest.mark.parametrize(("count", "size", "forged"), [(100, 30, 5), (1_000, 86, 50), (200, 20, 4)])
def test_forgers_are_found_as_often_as_theory_says(count: int, size: int, forged: int) -> None:
    rounds = 2_000
    draw = Random(count)
    caught = 0
    for number in range(rounds):
        bad = set(draw.sample(range(count), forged))
        caught += bool(bad & set(draw_sample(make_seed(number), OWNER, count=count, size=size)))
    chance = 1 - compute_miss_ppb(count, forged, size) / 10**9
    deviation = (rounds * chance * (1 - chance)) ** 0.5
    assert abs(caught - rounds * chance) < 4 * deviation


def test_every_input_of_a_seed_counts() -> None:
    values = {
        "chain_id": 31337,
        "contract": b"c" * 20,
        "committer": b"k" * 20,
        "sequence": 3,
        "root": b"r" * 32,
        "mix_hash": b"m" * 32,
        "nonces": b"n",
    }
    seeds = {compute_seed(**values)}  # type: ignore[arg-type]  # one table for all kinds
    for name, value in values.items():
        other = value + 1 if isinstance(value, int) else b"x" * len(value)  # type: ignore[arg-type]  # as above
        seeds.add(compute_seed(**(values | {name: other})))  # type: ignore[arg-type]  # as above
    assert len(seeds) == len(values) + 1


def test_verifiers_are_assigned_equally_often_whatever_their_order() -> None:
    verifiers = [bytes([number]) * 20 for number in range(5)]
    rounds = 3_000
    found = Counter(assign_verifier(make_seed(n), b"h" * 32, verifiers) for n in range(rounds))
    deviation = (rounds * 0.2 * 0.8) ** 0.5
    assert max(abs(found[each] - rounds / 5) for each in verifiers) < 4 * deviation
    assert assign_verifier(make_seed(1), b"h" * 32, verifiers) == assign_verifier(
        make_seed(1), b"h" * 32, verifiers[::-1]
    )
    assert assign_verifier(make_seed(1), b"h" * 32, []) is None


def test_one_sampled_unit_in_twenty_goes_to_two_verifiers_which_differ() -> None:
    verifiers = [bytes([number]) * 20 for number in range(4)]
    rounds = 4_000
    found, seconds = 0, set()
    for number in range(rounds):
        seed = make_seed(number)
        drawn = draw_verifiers(seed, b"h" * 32, verifiers)
        assert drawn[0] == assign_verifier(seed, b"h" * 32, verifiers)
        assert len(drawn) == len(set(drawn)) == 1 + is_overlapped(seed, b"h" * 32)
        found += len(drawn) == 2
        seconds |= set(drawn[1:])
    deviation = (rounds * 0.05 * 0.95) ** 0.5
    assert abs(found - rounds * 0.05) < 4 * deviation
    assert seconds == set(verifiers)
    assert all(len(draw_verifiers(make_seed(n), b"h" * 32, verifiers[:1])) == 1 for n in range(50))


def test_pools_draw_apart() -> None:
    draws = {
        draw_sample(make_seed(1), OWNER, count=100, size=10, pool=keccak256(bytes([number])))
        for number in range(50)
    }
    assert len(draws) == 50
