"""Reputation: newcomers in the middle, honest work above, proven faults far below."""

from __future__ import annotations

from coordinator.core.reputation import (
    START_PPM,
    DayFacts,
    Standing,
    compute_reputation,
    find_today,
)
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.factories import NOW

DAY = NOW // 86_400


def reputation_of(*days, now=NOW):
    return compute_reputation(Standing(first_seen_at=NOW, days=list(days)), now)


def test_a_newcomer_is_in_the_middle_and_below_anybody_with_honest_work():
    assert reputation_of() == START_PPM
    assert reputation_of(DayFacts(day=DAY, accepted=1)) > START_PPM


def test_lost_leases_lower_and_accepted_tasks_lift():
    lossy = DayFacts(day=DAY, accepted=10, lost=5)
    assert reputation_of(DayFacts(day=DAY, lost=1)) < START_PPM
    assert reputation_of(lossy) < reputation_of(DayFacts(day=DAY, accepted=10))


def test_a_forgery_takes_nine_tenths_and_all_earned_before_it():
    sleeper = [DayFacts(day=DAY - 9, accepted=10_000), DayFacts(day=DAY, forged=1)]
    assert reputation_of(*sleeper) == reputation_of(DayFacts(day=DAY, forged=1)) == 50_000


def test_faults_and_fame_fade_with_the_half_life():
    forged = DayFacts(day=DAY, forged=1)
    later = [reputation_of(forged, now=NOW + days * 86_400) for days in (0, 90, 180, 2_000)]
    assert later == sorted(later) and later[1] == 275_000 and later[-1] > 490_000
    famous = DayFacts(day=DAY, accepted=1_000)
    assert reputation_of(famous, now=NOW + 2_000 * 86_400) < 520_000


def test_a_day_is_one_record_and_old_days_go():
    standing = Standing(first_seen_at=NOW)
    find_today(standing, NOW).accepted += 1
    find_today(standing, NOW).accepted += 1
    assert standing.days == [DayFacts(day=DAY, accepted=2)]
    for days in range(1, 500):
        find_today(standing, Timestamp(NOW + days * 86_400))
    assert len(standing.days) == 400


def test_value_is_shown_and_not_weighed():
    rich = DayFacts(day=DAY, accepted=1, earned=Amount(10**12))
    assert reputation_of(rich) == reputation_of(DayFacts(day=DAY, accepted=1))
