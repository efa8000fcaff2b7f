"""Sampling: as many as the design says, equally likely, found by anybody, and forgers with them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.sampling import (
    assign_verifier,
    compute_miss_ppb,
    compute_sample_size,
    compute_seed,
    draw_sample,
)
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.units import PPM

OWNER = b"o" * 20
shares = st.integers(0, PPM)
policies = st.builds(
    VerifyPolicy,
    rate_ppm=shares,
    forged_share_ppm=shares,
    confidence_ppm=shares,
    units_min=st.integers(0, 40),
)


def make_seed(number: int) -> Hash32:
    return keccak256(b"seed" + number.to_bytes(8, "big"))


@pytest.mark.parametrize(("count", "size"), [(100, 59), (1_000, 86), (10_000, 90)])
def test_five_percent_forged_is_found_with_99_percent_as_designed(count: int, size: int) -> None:
    assert compute_sample_size(VerifyPolicy(), count) == size
    forged = count // 20
    assert (
        compute_miss_ppb(count, forged, size) <= 10**7 < compute_miss_ppb(count, forged, size - 1)
    )


@settings(max_examples=150)
@given(policies, st.integers(0, 300))
def test_a_sample_is_the_smallest_that_keeps_every_promise(
    policy: VerifyPolicy, count: int
) -> None:
    size = compute_sample_size(policy, count)
    assert 0 <= size <= count

    def keeps(size: int) -> bool:
        forged = max(1, -(-policy.forged_share_ppm * count // PPM))
        misses = compute_miss_ppb(count, forged, size) if size <= count - forged else 0
        is_found = misses <= (PPM - policy.confidence_ppm) * 1_000
        return is_found and size * PPM >= policy.rate_ppm * count and size >= policy.units_min

    assert size == count or keeps(size)
    assert size == 0 or not keeps(size - 1)


def test_the_modes_check_nothing_or_everything() -> None:
    assert compute_sample_size(VerifyPolicy(mode="none"), 50) == 0
    assert compute_sample_size(VerifyPolicy(mode="full"), 50) == 50


def test_a_strict_policy_over_many_tasks_is_computed_at_once() -> None:
    policy = VerifyPolicy(forged_share_ppm=1, confidence_ppm=PPM)
    assert compute_sample_size(policy, 10_000) == 10_000


@pytest.mark.parametrize("count", range(1, 9))
def test_the_chance_of_missing_is_that_of_trying_all_samples(count: int) -> None:
    for forged in range(count + 1):
        for size in range(count + 1):
            samples = list(combinations(range(count), size))
            missed = sum(all(index >= forged for index in sample) for sample in samples)
            assert compute_miss_ppb(count, forged, size) == -(-missed * 10**9 // len(samples))


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
