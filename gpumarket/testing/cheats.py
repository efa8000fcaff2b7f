"""
Every cheat we know, played by the market's rules for what it earns.

A profit is compared with being honest, in base units, and exact unless it says otherwise. A
cheat is *covered* where its expected profit is negative under the assumptions that are named;
the others are listed because they are not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from random import Random
from typing import Final

from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.juries import JURY_SIZES, compute_quorum
from gpumarket.protocol.sampling import draw_sample
from gpumarket.protocol.units import PPM
from gpumarket.testing import economics
from gpumarket.testing.economics import (
    DAY,
    DEFAULT,
    LANES_MAX,
    NOBODY_JUDGES,
    Setting,
    compute_caught,
    compute_gas_cost,
    compute_loss,
    usdc,
)

REPORTER: Final = frozenset({"reporter"})
EVERY_ROLE: Final = frozenset({"reporter", "harmed", "jurors"})
BATCHES_AT_ONCE: Final = 10
BRIBE_SMALL: Final = usdc("2")
BRIBE_LARGE: Final = usdc("10")
BRIBE_HUGE: Final = usdc("20")
MADE_UP_CASES: Final = 2
"""As many as hold a stake of two slashes."""
BRIBE_OF_JUROR: Final = usdc("1")
HONEST_VERIFIERS: Final = 40
SECONDS_OF_YEAR: Final = 365 * DAY
LABEL_BITS: Final = 1
HASH_BITS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat:
    """One way to cheat: who, under which assumption, and what it earns over being honest."""

    name: str
    who: str
    assumption: str
    profit: Callable[[Setting], Fraction]
    parameter: str = ""
    """The parameter that stops it; empty where none does."""
    is_covered: bool = True
    simulate: Callable[[Setting, Random], int] | None = None
    """Plays it once with real draws; None where the closed form needs no such check."""

    def find_least(self) -> int | None:
        """Return the least value of the parameter at which the profit is negative."""
        if not self.parameter:
            return None
        # A chance ends at certainty; a sample at everything; money practically nowhere.
        limit = 1 << 50
        if self.parameter.endswith("_ppm"):
            limit = PPM
        elif self.parameter == "sample":
            limit = DEFAULT.market.units

        def is_safe(value: int) -> bool:
            return self.profit(DEFAULT.change(self.parameter, min(value, limit))) < 0

        least = economics.find_least(is_safe, limit=2 * limit)
        return None if least is None or least > limit else least


def _share(ppm: int) -> Fraction:
    return Fraction(ppm, PPM)


# ---- providers -----------------------------------------------------------------------------


def forge(setting: Setting, *, forged: int, bribe: int) -> Fraction:
    """
    Forge some units of an order; when one is flagged the whole order's epoch is unpaid.

    And somebody accuses its receipt: a jury that finds it false takes the stake, one that is
    fooled has all of it paid.
    """
    market = setting.market
    caught = compute_caught(market.units, forged, market.sample, power_ppm=market.check_power_ppm)
    accused = _share(market.watched_ppm)
    won = _compute_won(market.hostile_ppm, stubborn=False, opened_by_hostile=False)
    unpaid = caught * (1 - accused * won)
    slashed = caught * accused * (1 - won)
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    gain = forged * market.unit_cost + (1 - unpaid) * forged * bribe
    return gain - unpaid * market.epoch_pay - slashed * loss


def forge_best(setting: Setting, *, bribe: int = 0) -> Fraction:
    """Forge as many units as earns most."""
    counts = economics.list_forged_counts(setting.market.units)
    return max(forge(setting, forged=count, bribe=bribe) for count in counts)


def play_forging(setting: Setting, rng: Random, *, forged: int, bribe: int = 0) -> int:
    """Draw one sample by the market's own rule and settle the order."""
    market = setting.market
    drawn = draw_sample(
        Hash32(rng.randbytes(32)),
        Address(rng.randbytes(20)),
        count=market.units,
        size=market.sample,
    )
    hits = sum(index < forged for index in drawn)
    is_caught = any(rng.randrange(PPM) < market.check_power_ppm for _ in range(hits))
    gain = forged * market.unit_cost
    if not is_caught:
        return gain + forged * bribe
    if rng.randrange(PPM) >= market.watched_ppm:
        return gain - market.epoch_pay
    if _draw_case(market.hostile_ppm, rng) is not None:
        return gain + forged * bribe
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    return gain - market.epoch_pay - loss


def forge_paid_work(setting: Setting) -> Fraction:
    """Forge what the sample misses; the requester computes some paid units again and accuses."""
    market = setting.market
    won = _compute_won(market.hostile_ppm, stubborn=False, opened_by_hostile=False)
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    profits = []
    for count in economics.list_forged_counts(market.units):
        seen = compute_caught(market.units, count, market.reruns, power_ppm=PPM)
        convicted = seen * (1 - won)
        profits.append(count * market.unit_cost - convicted * (market.unit_price + loss))
    return max(profits)


def settle_forged_work(setting: Setting) -> Fraction:
    """
    Settle refused work directly, with the MATCH of a verifier that is one's own.

    One accusation takes the stake and so ends it, but what is settled by then stays: a unit is
    worth less than the gas of accusing it.
    """
    market = setting.market
    gain = market.units * (market.unit_price - compute_gas_cost(setting, "settleDirect"))
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER) + market.unit_price
    return gain - _share(market.watched_ppm) * loss


def settle_twice(setting: Setting) -> Fraction:
    """Settle directly what a batch has paid; the first proof takes the stake."""
    market = setting.market
    watched = _share(market.watched_ppm)
    gas = market.units * compute_gas_cost(setting, "settleDirect")
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    return (1 - watched) * market.epoch_pay - gas - watched * loss


def accuse_oneself(setting: Setting) -> Fraction:
    """Have a forged unit tried by friends, because nobody is tried twice."""
    market = setting.market
    won = _compute_won(market.hostile_ppm, stubborn=False, opened_by_hostile=True)
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    return market.unit_cost - (1 - won) * (loss + market.unit_price)


def slash_own_stake(setting: Setting) -> Fraction:
    """Be provider, accuser, requester and every juror of one conviction."""
    return Fraction(-compute_loss(setting, setting.rules.stake_slash, roles=EVERY_ROLE))


def void_forged_work(setting: Setting) -> Fraction:
    """
    Have one's coordinator take a forged payment back, before or after it is accused.

    An open case goes on to its verdict, and the receipt of what is void can be accused on its
    own: so this adds a slash of the bond and saves none.
    """
    return Fraction(-compute_loss(setting, setting.rules.bond_slash, roles=REPORTER))


def shield_stake(setting: Setting) -> Fraction:
    """
    Have friends accuse made-up receipts, so that other cases find no stake to hold.

    What a conviction does not find is owed, and paid when the made-up cases give it back.
    """
    return Fraction(-MADE_UP_CASES * compute_gas_cost(setting, *NOBODY_JUDGES))


# ---- coordinators --------------------------------------------------------------------------


def steal(setting: Setting, *, lanes: int, amount: int, batches: int = 1) -> Fraction:
    """Pay oneself in many lanes; each is contested or not, and the bond covers few slashes."""
    rules, market = setting.rules, setting.market
    total, watched = lanes * batches, _share(market.watched_ppm)
    covered = rules.min_bond // rules.bond_slash if rules.bond_slash else 0
    loss = compute_loss(setting, rules.bond_slash, roles=REPORTER)
    # Slashes are min(contested, covered): its mean needs only the few cases below.
    few = sum(
        (covered - hits) * comb(total, hits) * watched**hits * (1 - watched) ** (total - hits)
        for hits in range(min(covered, total + 1))
    )
    gas = total * compute_gas_cost(setting, "lane of a batch")
    return (1 - watched) * total * amount - (covered - few) * loss - gas


def steal_unseen(setting: Setting) -> Fraction:
    """Steal in all lanes of a batch, where all of them are contested or, by chance, none."""
    rules, market = setting.rules, setting.market
    watched = _share(market.watched_ppm)
    slashes = rules.min_bond // rules.bond_slash if rules.bond_slash else 0
    loss = slashes * compute_loss(setting, rules.bond_slash, roles=REPORTER)
    gas = LANES_MAX * compute_gas_cost(setting, "lane of a batch")
    return (1 - watched) * LANES_MAX * market.epoch_pay - watched * loss - gas


def play_stealing(setting: Setting, rng: Random, *, lanes: int, amount: int) -> int:
    """Let each lane be contested or not, and slash while there is bond."""
    rules, profit, bond = setting.rules, 0, setting.rules.min_bond
    for _ in range(lanes):
        profit -= compute_gas_cost(setting, "lane of a batch")
        if rng.randrange(PPM) >= setting.market.watched_ppm:
            profit += amount
            continue
        taken = min(rules.bond_slash, bond)
        bond -= taken
        profit -= compute_loss(setting, taken, roles=REPORTER)
    return profit


def steal_dust(setting: Setting) -> Fraction:
    """Steal, on the worst day, just what it costs to contest: only the paid-for slashes happen."""
    rules = setting.rules
    amount = compute_gas_cost(setting, "challenge", "timeout", peak=True)
    slashes = min(LANES_MAX, rules.min_bond // rules.bond_slash if rules.bond_slash else 0)
    loss = compute_loss(setting, rules.bond_slash, roles=REPORTER)
    return Fraction((LANES_MAX - slashes) * amount - slashes * loss)


def slash_own_bond(setting: Setting) -> Fraction:
    """Be coordinator, reporter and requester of one faulty lane."""
    return Fraction(-compute_loss(setting, setting.rules.bond_slash, roles=EVERY_ROLE - {"jurors"}))


def withhold_for_bonds(setting: Setting) -> Fraction:
    """Publish nothing, and answer each challenge for its bond."""
    return Fraction(setting.rules.challenge_bond - compute_gas_cost(setting, "respond"))


def compute_direct_cost(setting: Setting) -> int:
    """Return what it costs a provider to settle one unit itself, with a check it pays for."""
    return compute_gas_cost(setting, "settleDirect") + setting.market.check_price


def leave_out(setting: Setting) -> Fraction:
    """Sell a requester its work for nothing: leave out whom direct settlement would not pay."""
    market = setting.market
    return Fraction(market.epoch_pay if market.unit_price <= compute_direct_cost(setting) else 0)


# ---- accusers, challengers, jurors ---------------------------------------------------------


def challenge_in_hope(setting: Setting) -> Fraction:
    """A requester challenges right payments, in case nobody is there to answer."""
    rules, market = setting.rules, setting.market
    asleep = _share(market.offline_ppm)
    reporter_and_harmed = rules.bond_slash - compute_loss(
        setting, rules.bond_slash, roles=EVERY_ROLE - {"jurors"}
    )
    gain = market.epoch_pay + reporter_and_harmed
    gas = compute_gas_cost(setting, "challenge")
    return asleep * gain - (1 - asleep) * rules.challenge_bond - gas


def accuse_falsely(setting: Setting, *, bribe: int = 0) -> Fraction:
    """Accuse right work, as requester, accuser and the hostile jurors; appeal if that pays."""
    return max(
        sum(
            (
                chance * settle_case(setting, end, bribe=bribe)
                for end, chance in economics.list_case_ends(
                    setting.market.hostile_ppm, stubborn=stubborn, opened_by_hostile=True
                ).items()
            ),
            Fraction(0),
        )
        - compute_gas_cost(setting, "accuse")
        for stubborn in (False, True)
    )


def settle_case(setting: Setting, end: economics.CaseEnd, *, bribe: int) -> Fraction:
    """Return what a case earns its accuser, requester and hostile jurors together."""
    rules = setting.rules
    if not end.is_won:
        # Half of the lost bonds pays the jurors, who are honest here; the accused has the rest.
        return Fraction(-end.hostile_bonds * rules.jury_bond)
    back = rules.stake_slash - compute_loss(setting, rules.stake_slash, roles=EVERY_ROLE)
    jurors = end.honest_bonds * rules.jury_bond // 2
    bribes = bribe * compute_quorum(2, JURY_SIZES[2])
    return Fraction(back + jurors + setting.market.unit_price - bribes)


def play_false_accusation(setting: Setting, rng: Random) -> int:
    """Accuse once; the accuser gives up what it loses."""
    gas = compute_gas_cost(setting, "accuse")
    honest_bonds = _draw_case(setting.market.hostile_ppm, rng)
    if honest_bonds is None:
        return -setting.rules.jury_bond - gas
    end = economics.CaseEnd(True, 1, honest_bonds)
    return int(settle_case(setting, end, bribe=0)) - gas


def _draw_case(hostile_ppm: int, rng: Random) -> int | None:
    """
    Draw juries seat by seat until the case ends; the honest side appeals what it loses.

    Return the bonds of its appeals where the hostile side wins, else None.
    """
    honest_bonds = 0
    for level, size in enumerate(JURY_SIZES):
        hostile = sum(rng.randrange(PPM) < hostile_ppm for _ in range(size))
        quorum = compute_quorum(level, size)
        if size - hostile >= quorum:
            return None
        if hostile >= quorum and level < len(JURY_SIZES) - 1:
            honest_bonds += 2 << level
    return honest_bonds


def list_sybils(setting: Setting) -> Fraction:
    """Outnumber the honest verifiers an epoch ahead, and convict one provider."""
    rules = setting.rules
    back = rules.stake_slash - compute_loss(setting, rules.stake_slash, roles=EVERY_ROLE)
    locked = (HONEST_VERIFIERS + 1) * rules.min_stake
    seconds = rules.epoch + rules.exit_delay
    interest = Fraction(locked * seconds * setting.market.interest_ppm, PPM * SECONDS_OF_YEAR)
    return back + setting.market.unit_price - interest


def sign_both(setting: Setting) -> Fraction:
    """Sell MATCH to a provider for its epoch's pay and MISMATCH to whoever wants it."""
    loss = compute_loss(setting, setting.rules.stake_slash, roles=REPORTER)
    market = setting.market
    return market.epoch_pay - _share(market.watched_ppm) * loss


def guess(setting: Setting, *, bits: int) -> Fraction:
    """Seal a guess instead of computing; it is paid if the guess is right."""
    market = setting.market
    right = Fraction(1, 1 << bits)
    return market.check_cost - (1 - right) * market.check_price


def _compute_won(share_ppm: int, *, stubborn: bool, opened_by_hostile: bool) -> Fraction:
    ends = economics.list_case_ends(
        share_ppm, stubborn=stubborn, opened_by_hostile=opened_by_hostile
    )
    return sum((chance for end, chance in ends.items() if end.is_won), Fraction(0))


def unwatch(setting: Setting) -> Setting:
    """Return the setting in which nobody looks."""
    return replace(setting, market=replace(setting.market, watched_ppm=0))
