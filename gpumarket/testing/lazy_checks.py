"""What it earns to call every check a match where a tolerance allows it, and what canaries take."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from random import Random
from typing import Final

from gpumarket.protocol.units import PPM
from gpumarket.testing.cheats import SECONDS_OF_YEAR, Cheat
from gpumarket.testing.economics import DEFAULT, Setting

RATES_PPM: Final = (0, 1_000, 5_000, 10_000, 20_000, 50_000)
CHECKS_PLAYED: Final = 1_000


def compute_bar_loss(setting: Setting) -> int:
    """Return what a verifier does not earn while it is given no checks."""
    market = setting.market
    return market.bar_days * market.checks_a_day * (market.check_price - market.check_cost)


def compute_name_loss(setting: Setting) -> Fraction:
    """Return what a new name costs, but for some cents of gas: a stake while the old is locked."""
    rules, market = setting.rules, setting.market
    interest = rules.min_stake * rules.exit_delay * market.interest_ppm
    return Fraction(interest, PPM * SECONDS_OF_YEAR)


def say_match(setting: Setting, *, is_renamed: bool) -> Fraction:
    """
    Run no check and call it a match: it saves the cost, and loses where it is of a canary.

    There it is not paid, and is barred; or it leaves, and comes back under another name.
    """
    market = setting.market
    loss = compute_name_loss(setting) if is_renamed else Fraction(compute_bar_loss(setting))
    return market.check_cost - Fraction(market.canary_ppm, PPM) * (market.check_price + loss)


def play_matches(setting: Setting, rng: Random, *, is_renamed: bool) -> int:
    """Say match to a thousand checks, of which a part is canaries; return what one earns."""
    market, earned = setting.market, Fraction(0)
    loss = compute_name_loss(setting) if is_renamed else Fraction(compute_bar_loss(setting))
    for _ in range(CHECKS_PLAYED):
        earned += market.check_cost
        if rng.randrange(PPM) < market.canary_ppm:
            earned -= market.check_price + loss
    return round(earned / CHECKS_PLAYED)


LAZY_CHEATS: Final = (
    Cheat(
        name="call every check a match unseen, and wait where a canary finds it",
        who="verifier",
        assumption="0.5 % canaries; a bar of 7 days, 300 checks a day; a rule with a tolerance",
        parameter="canary_ppm",
        profit=lambda s: say_match(s, is_renamed=False),
        simulate=lambda s, rng: play_matches(s, rng, is_renamed=False),
    ),
    Cheat(
        name="call every check a match unseen, and come back under a new name",
        who="verifier",
        assumption="as above; another stake locked for EXIT_DELAY at 10 % a year",
        parameter="canary_ppm",
        profit=lambda s: say_match(s, is_renamed=True),
        is_covered=False,
        simulate=lambda s, rng: play_matches(s, rng, is_renamed=True),
    ),
)


def draw_canaries() -> Iterator[str]:
    """Write what one unseen match is worth at several rates, and the rate from which it loses."""

    def show(value: Fraction) -> str:
        return f"{float(value / 10**6):+.4f}"

    yield "| canaries among checks | waits out the bar | comes back under a new name |"
    yield "|---|---|---|"
    for rate in RATES_PPM:
        setting = DEFAULT.change("canary_ppm", rate)
        cells = [show(say_match(setting, is_renamed=renamed)) for renamed in (False, True)]
        yield f"| {rate / PPM:.1%} | {cells[0]} | {cells[1]} |"
    least = [cheat.find_least() or 0 for cheat in LAZY_CHEATS]
    yield f"| **loses from** | {least[0] / PPM:.2%} | {least[1] / PPM:.2%} |"
