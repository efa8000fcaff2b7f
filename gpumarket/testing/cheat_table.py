"""The list of cheats, and the tables that docs/economics.md shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from statistics import fmean, stdev
from typing import Any, Final

from gpumarket.protocol.juries import JURY_SIZES, compute_quorum
from gpumarket.protocol.units import BASE_UNITS_PER_TOKEN, PPM
from gpumarket.testing import cheats, economics
from gpumarket.testing.cheats import BATCHES_AT_ONCE, Cheat
from gpumarket.testing.economics import (
    BOUNDS,
    DAY,
    DEFAULT,
    LANES_MAX,
    MIN_SLASHES,
    compute_at_least,
    compute_at_least_of_list,
    compute_gas_cost,
    usdc,
)
from gpumarket.testing.lazy_checks import LAZY_CHEATS, draw_canaries

PAGE_SEED: Final = 1
ROUNDS: Final = 2_000
SHARES_PPM: Final = (100_000, 200_000, 300_000, 400_000, 500_000)
LISTED: Final = cheats.HONEST_VERIFIERS
LANE: Final = DEFAULT.market.epoch_pay
EVERYTHING: Final = DEFAULT.market.units

CHEATS: Final = (
    Cheat(
        name="forge units, hope not to be sampled",
        who="provider",
        assumption="1,000 units, 86 checked, 80 % of checks work, 90 % of what they find is "
        "accused, 30 % hostile jurors; best of 1 to all units",
        parameter="sample",
        profit=cheats.forge_best,
        simulate=lambda s, rng: cheats.play_forging(s, rng, forged=1),
    ),
    Cheat(
        name="forge units for an outside bribe of 2 USDC each",
        who="provider",
        assumption="as above",
        parameter="sample",
        profit=lambda s: cheats.forge_best(s, bribe=cheats.BRIBE_SMALL),
        simulate=lambda s, rng: cheats.play_forging(s, rng, forged=1, bribe=cheats.BRIBE_SMALL),
    ),
    Cheat(
        name="forge one chosen unit for an outside bribe of 10 USDC",
        who="provider",
        assumption="as above",
        parameter="sample",
        profit=lambda s: cheats.forge(s, forged=1, bribe=cheats.BRIBE_LARGE),
        simulate=lambda s, rng: cheats.play_forging(s, rng, forged=1, bribe=cheats.BRIBE_LARGE),
    ),
    Cheat(
        name="forge one chosen unit for an outside bribe of 20 USDC",
        who="provider",
        assumption="as above; `mode: full` covers it",
        parameter="sample",
        profit=lambda s: cheats.forge(s, forged=1, bribe=cheats.BRIBE_HUGE),
        is_covered=False,
    ),
    Cheat(
        name="forge work that is paid, coordinator an accomplice",
        who="provider",
        assumption="the requester computes 5 of 1,000 again and accuses; 30 % hostile jurors",
        parameter="stake_slash",
        profit=cheats.forge_paid_work,
    ),
    Cheat(
        name="have oneself tried by friends",
        who="provider",
        assumption="30 % hostile jurors",
        parameter="stake_slash",
        profit=cheats.accuse_oneself,
    ),
    Cheat(
        name="be provider, accuser, requester and jury at once",
        who="provider",
        assumption="all jurors hostile",
        parameter="stake_slash",
        profit=cheats.slash_own_stake,
    ),
    Cheat(
        name="settle refused work directly with an own verifier's MATCH",
        who="provider",
        assumption="1,000 units; accused with 90 %",
        parameter="stake_slash",
        profit=cheats.settle_forged_work,
    ),
    Cheat(
        name="settle directly what a batch has paid",
        who="provider",
        assumption="1,000 units, all accepted; proven with 90 %",
        parameter="stake_slash",
        profit=cheats.settle_twice,
    ),
    Cheat(
        name="have forged work voided otherwise, to escape a verdict or an accusation",
        who="provider, coordinator",
        assumption="a case goes on all the same, and a receipt can be accused on its own",
        parameter="bond_slash",
        profit=cheats.void_forged_work,
    ),
    Cheat(
        name="have friends accuse made-up receipts, so that the stake is held already",
        who="provider",
        assumption="two slashes of stake; nobody judges what is made up",
        parameter="stake_slash",
        profit=cheats.shield_stake,
    ),
    Cheat(
        name="pay without a valid order, or twice, or withhold what was paid: one lane",
        who="coordinator",
        assumption="50 USDC, contested with 90 %",
        parameter="bond_slash",
        profit=lambda s: cheats.steal(s, lanes=1, amount=LANE),
        simulate=lambda s, rng: cheats.play_stealing(s, rng, lanes=1, amount=LANE),
    ),
    Cheat(
        name="pay so in all 256 lanes of a batch",
        who="coordinator",
        assumption="50 USDC a lane, each contested with 90 %; the bond covers four",
        parameter="bond_slash",
        profit=lambda s: cheats.steal(s, lanes=LANES_MAX, amount=LANE),
        simulate=lambda s, rng: cheats.play_stealing(s, rng, lanes=LANES_MAX, amount=LANE),
    ),
    Cheat(
        name="pay so in all 256 lanes, when watchers may all be away at once",
        who="coordinator",
        assumption="50 USDC a lane; all are contested with 90 %, else none",
        parameter="bond_slash",
        profit=cheats.steal_unseen,
    ),
    Cheat(
        name="pay so in ten batches before the first slash",
        who="coordinator",
        assumption="2,560 lanes of 50 USDC, each contested with 90 %",
        parameter="watched_ppm",
        profit=lambda s: cheats.steal(s, lanes=LANES_MAX, amount=LANE, batches=BATCHES_AT_ONCE),
        is_covered=False,
    ),
    Cheat(
        name="pay so in one lane while nobody looks until it matures",
        who="coordinator",
        assumption="50 USDC, contested never",
        profit=lambda s: cheats.steal(cheats.unwatch(s), lanes=1, amount=LANE),
        is_covered=False,
    ),
    Cheat(
        name="pay so in 256 lanes too small to be worth contesting",
        who="coordinator",
        assumption="2.52 USDC a lane, the gas of contesting on the worst day; four are contested",
        parameter="bond_slash",
        profit=cheats.steal_dust,
    ),
    Cheat(
        name="be coordinator, reporter and requester at once",
        who="coordinator",
        assumption="one faulty lane",
        parameter="bond_slash",
        profit=cheats.slash_own_bond,
    ),
    Cheat(
        name="publish no documents and answer challenges for their bonds",
        who="coordinator",
        assumption="each challenge asks for one right leaf",
        profit=cheats.withhold_for_bonds,
        is_covered=False,
    ),
    Cheat(
        name="leave out a provider for a requester that pays for it",
        who="coordinator, requester",
        assumption="a unit costs less than settling it directly; 1,000 units, no acceptance",
        profit=cheats.leave_out,
        is_covered=False,
    ),
    Cheat(
        name="take the whole fee of an order and do nothing for it",
        who="coordinator",
        assumption="the order allows 1 USDC; a fee needs the order only",
        profit=lambda _s: Fraction(usdc("1")),
        is_covered=False,
    ),
    Cheat(
        name="attest without checking, on every check that an order allows",
        who="coordinator, verifier",
        assumption="86 checks of 0.06 USDC; only work can be accused, not a check",
        profit=lambda s: Fraction(s.market.sample * s.market.check_price),
        is_covered=False,
    ),
    Cheat(
        name="take no order of somebody, for a bribe of 1 USDC",
        who="coordinator",
        assumption="none",
        profit=lambda _s: Fraction(usdc("1")),
        is_covered=False,
    ),
    Cheat(
        name="challenge right payments, hoping that nobody answers",
        who="requester",
        assumption="nobody answers with 0.5 %; lane of 50 USDC",
        parameter="challenge_bond",
        profit=cheats.challenge_in_hope,
    ),
    Cheat(
        name="order from two coordinators on one escrow",
        who="requester",
        assumption="the second does 1,000 units before it finds out",
        profit=lambda s: Fraction(s.market.epoch_pay),
        is_covered=False,
    ),
    Cheat(
        name="accuse right work to share the slash",
        who="requester, jurors",
        assumption="30 % hostile jurors; the accused appeals",
        parameter="jury_bond",
        profit=cheats.accuse_falsely,
        simulate=cheats.play_false_accusation,
    ),
    Cheat(
        name="accuse right work and bribe jurors with 1 USDC each",
        who="requester, jurors",
        assumption="30 % take it",
        parameter="jury_bond",
        profit=lambda s: cheats.accuse_falsely(s, bribe=cheats.BRIBE_OF_JUROR),
    ),
    Cheat(
        name="list more verifiers than there are honest ones, and accuse",
        who="verifiers",
        assumption="41 against 40, locked for EPOCH + EXIT_DELAY at 10 % a year; one conviction",
        profit=cheats.list_sybils,
        is_covered=False,
    ),
    Cheat(
        name="bribe a majority of eligible jurors with 1 USDC each",
        who="requester, jurors",
        assumption="60 % take it",
        profit=lambda s: cheats.accuse_falsely(
            s.change("hostile_ppm", 600_000), bribe=cheats.BRIBE_OF_JUROR
        ),
        is_covered=False,
    ),
    Cheat(
        name="sign both verdicts for one receipt",
        who="verifier",
        assumption="sold for 50 USDC; proven with 90 %",
        parameter="stake_slash",
        profit=cheats.sign_both,
    ),
    Cheat(
        name="guess a result instead of computing it",
        who="verifier",
        assumption="64 unknown bits",
        parameter="check_price",
        profit=lambda s: cheats.guess(s, bits=cheats.HASH_BITS),
    ),
    Cheat(
        name="guess a yes or no",
        who="verifier",
        assumption="1 unknown bit",
        parameter="check_price",
        profit=lambda s: cheats.guess(s, bits=cheats.LABEL_BITS),
        is_covered=False,
    ),
    *LAZY_CHEATS,
    Cheat(
        name="trade with oneself for a reputation worth 1 USDC",
        who="anyone",
        assumption="costs one lane of a batch",
        profit=lambda s: Fraction(usdc("1") - compute_gas_cost(s, "lane of a batch")),
        is_covered=False,
    ),
)


# ---- results -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one cheat earns, in base units, and what would stop it."""

    cheat: Cheat
    profit: Fraction
    mean: float | None
    """Of the simulation; with `error`, its standard error."""
    error: float | None
    least: int | None

    @property
    def verdict(self) -> str:
        """Say what the numbers say."""
        return "loses" if self.profit < 0 else "POSITIVE: not covered"

    @property
    def is_wrong(self) -> bool:
        """Tell whether the numbers contradict what is claimed."""
        return self.cheat.is_covered != (self.profit < 0)


def run_cheats(*, seed: int, rounds: int = ROUNDS) -> list[Result]:
    """Compute each cheat, and play those with real draws `rounds` times from `seed`."""
    results = []
    for number, cheat in enumerate(CHEATS):
        mean = error = None
        if cheat.simulate is not None:
            rng = Random(f"{seed}/{number}")  # noqa: S311  a simulation; its seed is printed
            profits = [cheat.simulate(DEFAULT, rng) for _ in range(rounds)]
            mean, error = fmean(profits), stdev(profits) / rounds**0.5
        results.append(
            Result(
                cheat=cheat,
                profit=cheat.profit(DEFAULT),
                mean=mean,
                error=error,
                least=cheat.find_least(),
            )
        )
    return results


def to_document(result: Result) -> dict[str, Any]:
    """Return a result as JSON values; the profit rounded down to base units."""
    return {
        "cheat": result.cheat.name,
        "who": result.cheat.who,
        "assumption": result.cheat.assumption,
        "profit": result.profit.numerator // result.profit.denominator,
        "simulated_mean": result.mean,
        "simulated_standard_error": result.error,
        "parameter": result.cheat.parameter or None,
        "least": result.least,
        "covered": result.cheat.is_covered,
    }


# ---- tables --------------------------------------------------------------------------------


def format_usdc(amount: Fraction | int | float, *, signed: bool = False) -> str:
    """Write base units as USDC with as many decimals as say something."""
    value = float(Fraction(amount) / BASE_UNITS_PER_TOKEN)
    places = 2 if abs(value) >= 1 or value == 0 else 4 if abs(value) >= 0.01 else 6
    return f"{value:{'+' if signed else ''},.{places}f}"


def format_value(parameter: str, value: int) -> str:
    """Write a parameter's value in its unit."""
    if parameter.endswith("_ppm"):
        return f"{value / PPM:.2%}"
    if parameter == "sample":
        return f"{value} units"
    if parameter in ("epoch", "open", "response", "exit_delay"):
        return f"{value / DAY:g} days"
    return f"{format_usdc(value)} USDC"


def format_name(parameter: str) -> str:
    """Write a parameter as the contract names it: bond_slash is bondSlash."""
    first, *rest = parameter.removesuffix("_ppm").split("_")
    return first + "".join(word.capitalize() for word in rest)


def draw_cheats(results: list[Result]) -> Iterator[str]:
    """Write the table of cheats."""
    yield "| cheat | by | assumed | profit, USDC | simulated | negative from | verdict |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        cheat, simulated = result.cheat, ""
        if result.mean is not None and result.error is not None:
            simulated = f"{format_usdc(result.mean, signed=True)} ± {format_usdc(result.error)}"
        least = "nothing here stops it" if not cheat.is_covered else ""
        if result.least is not None:
            value = format_value(cheat.parameter, result.least)
            least = f"{format_name(cheat.parameter)} {value}" if result.least else "nothing: always"
        profit = format_usdc(result.profit, signed=True)
        yield (
            f"| {cheat.name} | {cheat.who} | {cheat.assumption} | {profit} | {simulated} "
            f"| {least} | {result.verdict} |"
        )


def draw_bounds(results: list[Result]) -> Iterator[str]:
    """Write each parameter's reasons to be no less; the largest decides."""
    yield "| parameter | proposed | at least | because | formula |"
    yield "|---|---|---|---|---|"
    for bound in BOUNDS:
        chosen = format_value(bound.parameter, DEFAULT.get(bound.parameter))
        least = format_value(bound.parameter, bound.compute(DEFAULT))
        name = format_name(bound.parameter)
        yield f"| {name} | {chosen} | {least} | {bound.reason} | {bound.formula} |"
    for result in results:
        cheat = result.cheat
        if not cheat.is_covered or not hasattr(DEFAULT.rules, cheat.parameter):
            continue
        if result.least is None or result.least <= 1:
            continue
        chosen = format_value(cheat.parameter, DEFAULT.get(cheat.parameter))
        least = format_value(cheat.parameter, result.least)
        name = format_name(cheat.parameter)
        yield f"| {name} | {chosen} | {least} | or a cheat pays: {cheat.name} | played |"


def draw_juries() -> Iterator[str]:
    """Write the chance that hostile verifiers have the quorum of each jury."""
    quorums = [compute_quorum(level, size) for level, size in enumerate(JURY_SIZES)]
    heads = [f"{quorum} of {size}" for quorum, size in zip(quorums, JURY_SIZES, strict=True)]
    yield f"| hostile share | {' | '.join(heads)} | {heads[-1]}, of {LISTED} listed |"
    yield "|---|---|---|---|---|"
    for share in SHARES_PPM:
        chances = [
            compute_at_least(size, quorum, share_ppm=share)
            for size, quorum in zip(JURY_SIZES, quorums, strict=True)
        ]
        chances.append(
            compute_at_least_of_list(
                JURY_SIZES[-1], quorums[-1], listed=LISTED, hostile=LISTED * share // PPM
            )
        )
        cells = " | ".join(f"{float(chance):.2g}" for chance in chances)
        yield f"| {share / PPM:.0%} | {cells} |"


def draw_griefing() -> Iterator[str]:
    """Write what it costs to make trouble without gain, and whom it costs what."""
    yield "| trouble | costs the attacker | costs the victim |"
    yield "|---|---|---|"
    rules, market = DEFAULT.rules, DEFAULT.market
    for peak, day in ((False, "ordinary"), (True, "worst")):

        def gas(*steps: str, is_peak: bool = peak) -> int:
            return compute_gas_cost(DEFAULT, *steps, peak=is_peak)

        attack = rules.challenge_bond + gas("challenge")
        answer = rules.challenge_bond - gas("respond")
        yield (
            f"| challenge a right payment, {day} day | {format_usdc(attack)} "
            f"| nothing: earns {format_usdc(answer)}, and is paid as early as before |"
        )
        accuse, clear = gas("accuse"), gas(*economics.CLEARED_AT_ONCE)
        yield (
            f"| accuse right work, a jury of 5 votes, {day} day "
            f"| {format_usdc(rules.jury_bond + accuse)} "
            f"| nothing: earns {format_usdc(rules.jury_bond // 2 - clear)} after its gas |"
        )
        lane = gas("lane of a batch")
        bond = MIN_SLASHES * economics.compute_loss(
            DEFAULT, rules.bond_slash, roles=cheats.REPORTER
        )
        yield (
            f"| post 256 false lanes, all contested, {day} day "
            f"| {format_usdc(bond + LANES_MAX * lane)} "
            f"| {format_usdc(gas('challenge', 'timeout') * (LANES_MAX - MIN_SLASHES))} "
            "of gas for the 252 that no slash pays for |"
        )
    held = format_usdc(rules.stake_slash)
    silent = compute_gas_cost(DEFAULT, *economics.NOBODY_JUDGES)
    yield (
        f"| accuse right work, no juror votes | {format_usdc(silent)}; the bond comes back "
        f"| {held} of stake held for {3 * rules.response // DAY} days or more |"
    )
    pay = format_usdc(market.epoch_pay)
    yield (
        f"| stay silent as a coordinator | its fees | {pay} a provider and epoch, as far as it is "
        "not worth settling directly |"
    )


def draw_blocks(results: list[Result]) -> dict[str, list[str]]:
    """Return the tables of docs/economics.md by the name of their block."""
    return {
        "bounds": list(draw_bounds(results)),
        "juries": list(draw_juries()),
        "cheats": list(draw_cheats(results)),
        "griefing": list(draw_griefing()),
        "canaries": list(draw_canaries()),
    }
