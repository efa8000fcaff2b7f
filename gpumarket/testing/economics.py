"""
What honesty is worth: the market's money rules as numbers, and the formulas that size them.

Exact: integers of base units and fractions, so that a table printed today is the one printed
tomorrow. `gpumarket/testing/cheats.py` plays each cheat by these rules,
`scripts/simulate-economics` prints both, and docs/economics.md explains them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import comb
from typing import Final

from gpumarket.protocol.disputes import split_slash
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.juries import JURY_SIZES, compute_quorum
from gpumarket.protocol.sampling import NEWCOMER_HALVING, compute_sample_size
from gpumarket.protocol.units import BASE_UNITS_PER_TOKEN, PPM

DAY: Final = 86_400
MIN_SLASHES: Final = 4
"""How many slashes the least bond covers; the contract's constructor asks for it."""
LANES_MAX: Final = 256
GAS: Final = {
    "lane of a batch": 4_000,
    "challenge": 270_000,
    "respond": 250_000,
    "timeout": 150_000,
    "settleDirect": 220_000,
    "accuse": 490_000,
    "seat 5": 220_000,
    "seat 15": 500_000,
    "seat 31": 880_000,
    "decide 5": 140_000,
    "decide 31": 290_000,
    "escalate": 45_000,
    "close": 560_000,
}
"""Gas of whole transactions, rounded up from contracts/snapshots; a test holds it to them."""
CLEARED_AT_ONCE: Final = ("seat 5", "decide 5", "close")
ALL_LEVELS: Final = (
    "accuse", "seat 5", "escalate", "seat 15", "escalate", "seat 31", "decide 31", "close",
)  # fmt: skip

NOBODY_JUDGES: Final = (
    "accuse", "seat 5", "escalate", "seat 15", "escalate", "seat 31", "close",
)  # fmt: skip


def usdc(text: str) -> int:
    """Read a decimal amount as base units: `0.05` is 50,000."""
    amount = Fraction(text) * BASE_UNITS_PER_TOKEN
    assert amount.denominator == 1, text
    return amount.numerator


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the contract's constructor fixes; money in base units, times in seconds."""

    epoch: int = 3 * DAY
    open: int = DAY
    response: int = DAY
    exit_delay: int = 10 * DAY
    challenge_bond: int = usdc("5")
    jury_bond: int = usdc("20")
    bond_slash: int = usdc("500")
    stake_slash: int = usdc("200")
    min_bond: int = usdc("2000")
    min_stake: int = usdc("400")


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """What is assumed of a market; money in base units, chances in parts per million."""

    unit_price: int = usdc("0.05")
    unit_cost: int = usdc("0.04")
    check_price: int = usdc("0.06")
    check_cost: int = usdc("0.04")
    units: int = 1_000
    """Units of one order that one provider commits in one epoch; they are paid or lost together."""
    sample: int = compute_sample_size(
        VerifyPolicy(), 1_000, price=0, stake=0, audited=NEWCOMER_HALVING * 10
    )
    check_power_ppm: int = 800_000
    """Chance that a sampled forgery is flagged: the rest of the verifiers approve anything."""
    reruns: int = 5
    """Paid units that a requester computes again itself."""
    watched_ppm: int = 900_000
    """Chance that somebody contests one false payment while it can be taken back."""
    hostile_ppm: int = 300_000
    """Share of eligible verifiers that vote as the attacker says."""
    offline_ppm: int = 5_000
    """Chance that nobody answers a challenge of a right payment."""
    gas_price: int = usdc("0.06")
    """Base units a million gas, on an ordinary day."""
    gas_price_peak: int = usdc("6")
    """The same on the worst day that bonds must outlast."""
    provider_stake: int = usdc("400")
    days_to_batch: int = 2
    """From an order to the batch that pays it."""
    interest_ppm: int = 100_000
    """A year's price of money that is locked."""
    canary_ppm: int = 5_000
    """Checks of results that the coordinator's operator forged on purpose."""
    checks_a_day: int = 300
    """What one verifier is given."""
    bar_days: int = 7
    """How long it is given none once it missed a canary."""

    @property
    def epoch_pay(self) -> int:
        """What one provider earns with one order in one epoch."""
        return self.units * self.unit_price


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Rules and the market they are judged in."""

    rules: Rules = Rules()
    market: Market = Market()

    def change(self, parameter: str, value: int) -> Setting:
        """Return the setting with one parameter changed, and what the constructor ties to it."""
        if hasattr(self.market, parameter):
            return replace(self, market=replace(self.market, **{parameter: value}))
        tied = {}
        if parameter == "bond_slash":
            tied = {"min_bond": MIN_SLASHES * value}
        elif parameter == "stake_slash":
            tied = {"min_stake": 2 * value}
        return replace(self, rules=replace(self.rules, **{parameter: value, **tied}))

    def get(self, parameter: str) -> int:
        """Return a parameter by its name."""
        owner = self.market if hasattr(self.market, parameter) else self.rules
        value: int = getattr(owner, parameter)
        return value


DEFAULT: Final = Setting()


def compute_gas_cost(setting: Setting, *steps: str, peak: bool = False) -> int:
    """Return what transactions cost in base units, rounded up."""
    price = setting.market.gas_price_peak if peak else setting.market.gas_price
    return -(-sum(GAS[step] for step in steps) * price // 10**6)


# ---- slashing ------------------------------------------------------------------------------


def compute_loss(setting: Setting, taken: int, *, roles: frozenset[str]) -> int:
    """
    Return what a slash costs whoever also plays `roles`: reporter, harmed, jurors.

    The reporter's part is always counted as recovered: anyone can report itself first.
    """
    share = split_slash(
        taken,
        challenge_bond=setting.rules.challenge_bond,
        jurors=1 if "jurors" in roles else 0,
        has_harmed=True,
    )
    back: int = share.to_reporter
    back += share.to_harmed if "harmed" in roles else 0
    back += share.to_jurors if "jurors" in roles else 0
    return taken - back


# ---- sampling ------------------------------------------------------------------------------


def compute_caught(count: int, forged: int, sampled: int, *, power_ppm: int) -> Fraction:
    """
    Return the chance that a sample without replacement has a flagged forgery in it.

    Hypergeometric; each sampled forgery is flagged with `power_ppm` independently.
    """
    hidden = 0
    for hits in range(max(0, sampled - (count - forged)), min(forged, sampled) + 1):
        ways = comb(forged, hits) * comb(count - forged, sampled - hits)
        hidden += ways * (PPM - power_ppm) ** hits * PPM ** (sampled - hits)
    return 1 - Fraction(hidden, comb(count, sampled) * PPM**sampled)


def list_forged_counts(count: int) -> list[int]:
    """Return how many units to try to forge: one, all, and some between."""
    return sorted({1, count, *(count * step // 20 for step in range(1, 20)), 2, 3, 5, 10} - {0})


# ---- juries --------------------------------------------------------------------------------


def compute_at_least(size: int, least: int, *, share_ppm: int) -> Fraction:
    """Return the chance that of `size` jurors from a long list at least `least` are hostile."""
    hits = sum(
        comb(size, k) * share_ppm**k * (PPM - share_ppm) ** (size - k)
        for k in range(least, size + 1)
    )
    return Fraction(hits, PPM**size)


def compute_at_least_of_list(size: int, least: int, *, listed: int, hostile: int) -> Fraction:
    """Return the same for a short list, of which `hostile` are known."""
    hits = sum(
        comb(hostile, k) * comb(listed - hostile, size - k)
        for k in range(least, min(size, hostile) + 1)
        if size - k <= listed - hostile
    )
    return Fraction(hits, comb(listed, size))


@dataclass(frozen=True, slots=True)
class CaseEnd:
    """How a case ends: for the hostile side or not, and how many bonds each side had put up."""

    is_won: bool
    hostile_bonds: int
    honest_bonds: int
    """In JURY_BONDs; an appeal costs 2, then 4."""


def list_case_ends(
    share_ppm: int, *, stubborn: bool, opened_by_hostile: bool
) -> dict[CaseEnd, Fraction]:
    """
    Return every end of a case with its chance.

    Honest jurors vote as they find, hostile ones the other way; the honest side appeals whatever
    it loses, the hostile side only if it is `stubborn`. All of them vote.
    """
    first = (1, 0) if opened_by_hostile else (0, 1)
    open_cases = {first: Fraction(1)}
    ends: dict[CaseEnd, Fraction] = {}
    for level, size in enumerate(JURY_SIZES):
        quorum = compute_quorum(level, size)
        won = compute_at_least(size, quorum, share_ppm=share_ppm)
        lost = compute_at_least(size, quorum, share_ppm=PPM - share_ppm)
        is_last = level == len(JURY_SIZES) - 1
        raised: dict[tuple[int, int], Fraction] = {}
        for (hostile, honest), chance in open_cases.items():
            appeal = 2 << level
            for verdict, part in ((True, won), (False, lost), (None, 1 - won - lost)):
                bonds = (hostile, honest)
                if verdict is not None and (is_last or (not verdict and not stubborn)):
                    end = CaseEnd(verdict, *bonds)
                    ends[end] = ends.get(end, Fraction(0)) + chance * part
                    continue
                if verdict is not None:
                    bonds = (hostile, honest + appeal) if verdict else (hostile + appeal, honest)
                raised[bonds] = raised.get(bonds, Fraction(0)) + chance * part
        open_cases = raised
    return ends


# ---- the least value of each parameter -----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """One reason for one parameter to be no less than a value."""

    parameter: str
    reason: str
    formula: str
    compute: Callable[[Setting], int]


BOUNDS: Final = (
    Bound(
        parameter="challenge_bond",
        reason="an answer is paid on the worst day",
        formula="gas(respond) x peak",
        compute=lambda s: compute_gas_cost(s, "respond", peak=True),
    ),
    Bound(
        parameter="challenge_bond",
        reason="the cap on rewards is above a reporter's gas",
        formula="gas(challenge, timeout) x peak / 10",
        compute=lambda s: -(-compute_gas_cost(s, "challenge", "timeout", peak=True) // 10),
    ),
    Bound(
        parameter="challenge_bond",
        reason="the cap is above an accuser's gas through three levels",
        formula="gas(case) x peak / 10",
        compute=lambda s: -(-compute_gas_cost(s, *ALL_LEVELS, peak=True) // 10),
    ),
    Bound(
        parameter="jury_bond",
        reason="who is cleared at once has its gas back",
        formula="2 x gas(seat, decide, close) x peak",
        compute=lambda s: 2 * compute_gas_cost(s, *CLEARED_AT_ONCE, peak=True),
    ),
    Bound(
        parameter="jury_bond",
        reason="31 jurors are paid for their work",
        formula="2 x 31 x check cost",
        compute=lambda s: 2 * JURY_SIZES[-1] * s.market.check_cost,
    ),
    Bound(
        parameter="bond_slash",
        reason="a reporter's eighth is above its gas",
        formula="8 x gas(challenge, timeout) x peak",
        compute=lambda s: 8 * compute_gas_cost(s, "challenge", "timeout", peak=True),
    ),
    Bound(
        parameter="stake_slash",
        reason="an accuser's eighth is above its gas through three levels",
        formula="8 x gas(case) x peak",
        compute=lambda s: 8 * compute_gas_cost(s, *ALL_LEVELS, peak=True),
    ),
    Bound(
        parameter="stake_slash",
        reason="31 jurors are paid for a conviction",
        formula="8 x 31 x check cost",
        compute=lambda s: 8 * JURY_SIZES[-1] * s.market.check_cost,
    ),
    Bound(
        parameter="min_bond",
        reason="the constructor",
        formula="4 x bondSlash",
        compute=lambda s: MIN_SLASHES * s.rules.bond_slash,
    ),
    Bound(
        parameter="min_stake",
        reason="the constructor",
        formula="stakeSlash",
        compute=lambda s: s.rules.stake_slash,
    ),
    Bound(
        parameter="min_stake",
        reason="one accusation, which holds a slash, leaves another to lose",
        formula="2 x stakeSlash",
        compute=lambda s: 2 * s.rules.stake_slash,
    ),
    Bound(
        parameter="epoch",
        reason="the constructor: an answer and a proof from it fit in",
        formula="open + 2 x response",
        compute=lambda s: s.rules.open + 2 * s.rules.response,
    ),
    Bound(
        parameter="exit_delay",
        reason="the constructor: what is unbonded can be slashed until its last credit matures",
        formula="2 x epoch",
        compute=lambda s: 2 * s.rules.epoch,
    ),
    Bound(
        parameter="exit_delay",
        reason="the stake is there as long as the payment can be accused",
        formula="order to batch + 2 x epoch",
        compute=lambda s: s.market.days_to_batch * DAY + 2 * s.rules.epoch,
    ),
)


def find_least(is_safe: Callable[[int], bool], *, limit: int = 1 << 50) -> int | None:
    """Return the smallest value from which on `is_safe` holds, or None up to `limit`."""
    if is_safe(0):
        return 0
    high = 1
    while not is_safe(high):
        high *= 2
        if high > limit:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_safe(middle) else (middle, high)
    return high
