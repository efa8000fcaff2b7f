"""
Reputation: a pure function of what everybody can see a provider did.

A newcomer starts in the middle. Accepted tasks lift, lost leases lower, and a forged result
takes away nine tenths and everything earned before it. Facts fade with a half-life, so an old
fault can be lived down and old fame runs out. Nobody gains by a new name over an honest record:
one accepted task is already above the start.
"""

from __future__ import annotations

import msgspec

from gpumarket.protocol.units import PPM, Amount, ShareInPpm, Timestamp

START_PPM: ShareInPpm = 500_000
HALF_LIFE_DAYS = 90
DAYS_MAX = 400
"""Days of facts that are kept; what is older weighs under a twentieth."""
_PRIOR = 20
"""A newcomer counts as this many accepted and this many lost tasks."""
_LOST_WEIGHT = 4
_WITHHELD_WEIGHT = 10
_FORGED_LEFT = (1, 10)
"""What one forged result leaves of a reputation."""
_FORGED_MAX = 12
"""Forgeries that count; more make no difference in parts per million."""
_DAY_SECONDS = 86_400


class DayFacts(msgspec.Struct, kw_only=True):
    """What one provider did on one day."""

    day: int
    """Days since 1970, UTC."""
    accepted: int = 0
    """Tasks for others that passed verification, and so stand in a batch on chain."""
    earned: Amount = Amount(0)
    """What they are paid, in base units; shown, not weighed: volume is cheap to fake."""
    lost: int = 0
    """Leases that ended by the provider's fault without a receipt."""
    withheld: int = 0
    """Epochs in which a root was not signed or a result not opened."""
    forged: int = 0
    """Checks that found another result."""


class Standing(msgspec.Struct, kw_only=True):
    """All that is known about one provider, oldest day first."""

    first_seen_at: Timestamp
    audited: int = 0
    """Results for others that were checked and matched since the last forged one."""
    days: list[DayFacts] = []


def find_today(standing: Standing, now: Timestamp) -> DayFacts:
    """Return the facts of the day of `now`, to be added to; drops days that count no more."""
    day = now // _DAY_SECONDS
    if not standing.days or standing.days[-1].day != day:
        standing.days.append(DayFacts(day=day))
        del standing.days[:-DAYS_MAX]
    return standing.days[-1]


def compute_reputation(standing: Standing, now: Timestamp) -> ShareInPpm:
    """Return a provider's reputation in parts per million; `START_PPM` for no facts."""
    today = now // _DAY_SECONDS
    good = bad = 0
    kept = PPM
    for facts in standing.days:
        weight = _compute_weight(today - facts.day)
        if facts.forged:
            good = 0
            for _ in range(min(facts.forged, _FORGED_MAX)):
                kept = (
                    kept
                    * (PPM * _FORGED_LEFT[1] - weight * (_FORGED_LEFT[1] - 1))
                    // (PPM * _FORGED_LEFT[1])
                )
        else:
            good += weight * facts.accepted
        bad += weight * (_LOST_WEIGHT * facts.lost + _WITHHELD_WEIGHT * facts.withheld)
    prior = _PRIOR * PPM
    share = PPM * (good + prior) // (good + bad + 2 * prior)
    return share * kept // PPM


def _compute_weight(age_days: int) -> int:
    # Halved at each half-life and a straight line between: integers, the same everywhere.
    halvings, rest = divmod(max(0, age_days), HALF_LIFE_DAYS)
    return (PPM >> halvings) * (2 * HALF_LIFE_DAYS - rest) // (2 * HALF_LIFE_DAYS)
