"""Cheating pays exactly where we say that it does; docs/economics.md shows these numbers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.adapters.deployment import ContractConfig
from gpumarket.protocol.juries import JURY_SIZES
from gpumarket.protocol.units import PPM
from gpumarket.testing import cheats, economics
from gpumarket.testing.cheat_table import CHEATS, PAGE_SEED, draw_blocks, run_cheats
from gpumarket.testing.cheats import Cheat
from gpumarket.testing.devnet import RULES
from gpumarket.testing.economics import BOUNDS, DEFAULT, MIN_SLASHES, Bound, Rules

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/economics.md"
COVERED = [cheat for cheat in CHEATS if cheat.is_covered]
SIGMAS = 4
SNAPSHOTS = {
    "challenge": "challengeLeaf",
    "timeout": "timeout",
    "settleDirect": "settleDirect",
    "accuse": "accuse",
    "seat 5": "seatJury of 5",
    "seat 31": "seatJury of 31",
    "decide 5": "decide by 5",
    "decide 31": "decide by 16 of 31",
    "escalate": "escalate",
    "close": "close, acquitted by 16 of 31",
}


def name_cheat(cheat: Cheat) -> str:
    return cheat.name


# ---- cheats --------------------------------------------------------------------------------


@pytest.mark.parametrize("cheat", CHEATS, ids=name_cheat)
def test_a_cheat_loses_exactly_where_it_is_said_to(cheat: Cheat) -> None:
    assert (cheat.profit(DEFAULT) < 0) == cheat.is_covered


@pytest.mark.parametrize("cheat", COVERED, ids=name_cheat)
def test_below_its_least_value_a_parameter_stops_the_cheat_no_more(cheat: Cheat) -> None:
    least = cheat.find_least()
    assert least is not None
    assert least <= DEFAULT.get(cheat.parameter)
    assert cheat.profit(DEFAULT.change(cheat.parameter, least)) < 0
    # Where nothing at all is enough, the cheat loses by itself.
    assert least == 0 or cheat.profit(DEFAULT.change(cheat.parameter, least - 1)) >= 0


def test_the_money_parameters_are_not_far_above_what_they_must_be() -> None:
    """What is proposed is at most twice its largest bound, except the challenge bond: thrice."""
    for parameter in ("bond_slash", "stake_slash", "jury_bond", "challenge_bond"):
        bounds = [b.compute(DEFAULT) for b in BOUNDS if b.parameter == parameter]
        bounds += [c.find_least() or 0 for c in COVERED if c.parameter == parameter]
        assert max(bounds) <= DEFAULT.get(parameter) <= 3 * max(bounds)


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: f"{bound.parameter}: {bound.formula}")
def test_what_is_proposed_is_at_least_each_bound(bound: Bound) -> None:
    assert DEFAULT.get(bound.parameter) >= bound.compute(DEFAULT)


# ---- simulations agree with formulas -------------------------------------------------------


def check_agrees(profits: list[int], exact: Fraction) -> None:
    error = stdev(profits) / len(profits) ** 0.5
    assert error > 0
    assert abs(fmean(profits) - float(exact)) < SIGMAS * error


@pytest.mark.parametrize("forged", [1, 10, 50])
@pytest.mark.parametrize("bribe", [0, cheats.BRIBE_SMALL])
def test_drawing_samples_agrees_with_the_formula(forged: int, bribe: int) -> None:
    rng = Random(forged + bribe)
    profits = [cheats.play_forging(DEFAULT, rng, forged=forged, bribe=bribe) for _ in range(2_000)]
    check_agrees(profits, cheats.forge(DEFAULT, forged=forged, bribe=bribe))


@pytest.mark.parametrize("lanes", [1, 3, 6, 40])
def test_stealing_agrees_with_the_formula(lanes: int) -> None:
    setting, rng = DEFAULT.change("watched_ppm", 600_000), Random(lanes)
    profits = [cheats.play_stealing(setting, rng, lanes=lanes, amount=10**8) for _ in range(2_000)]
    check_agrees(profits, cheats.steal(setting, lanes=lanes, amount=10**8))


@pytest.mark.parametrize("share", [300_000, 450_000])
def test_drawing_juries_agrees_with_the_formula(share: int) -> None:
    setting, rng = DEFAULT.change("hostile_ppm", share), Random(share)
    profits = [cheats.play_false_accusation(setting, rng) for _ in range(2_000)]
    exact = sum(
        chance * cheats.settle_case(setting, end, bribe=0)
        for end, chance in economics.list_case_ends(
            share, stubborn=False, opened_by_hostile=True
        ).items()
    ) - economics.compute_gas_cost(setting, "accuse")
    check_agrees(profits, Fraction(exact))


# ---- formulas ------------------------------------------------------------------------------


def test_without_a_bribe_only_one_or_all_can_be_the_best_to_forge() -> None:
    """The chance to be caught is concave in what is forged, so the profit is convex."""
    setting = DEFAULT.change("units", 60)
    for sample in (1, 2, 7, 30):
        drawn = setting.change("sample", sample)
        profits = [cheats.forge(drawn, forged=k, bribe=0) for k in range(1, 61)]
        assert max(profits) == max(profits[0], profits[-1])


def test_the_sample_that_beats_a_bribe_is_below_the_simple_formula() -> None:
    """m >= n (C + B) / (q L) is enough, whatever share is forged."""
    market = DEFAULT.market
    for bribe in (cheats.BRIBE_SMALL, cheats.BRIBE_LARGE):
        enough = market.units * (market.unit_cost + bribe) * PPM
        enough = -(-enough // (market.check_power_ppm * market.epoch_pay))
        assert cheats.forge_best(DEFAULT.change("sample", enough), bribe=bribe) <= 0


def test_the_chances_of_juries_are_those_of_the_design() -> None:
    last = JURY_SIZES[-1]
    for share, chance in ((100_000, 6.9e-9), (200_000, 8.8e-5), (300_000, 9.5e-3)):
        found = float(economics.compute_at_least(last, 16, share_ppm=share))
        assert found == pytest.approx(chance, rel=0.01)
    for share in (100_000, 300_000, 500_000):
        ends = economics.list_case_ends(share, stubborn=True, opened_by_hostile=True)
        assert sum(ends.values()) == 1
        # Who always appeals goes to the last jury, and that alone decides.
        won = sum(chance for end, chance in ends.items() if end.is_won)
        assert won == economics.compute_at_least(last, 16, share_ppm=share)


@given(taken=st.integers(0, 2**63), bond=st.integers(1, 2**40))
def test_who_plays_every_role_loses_half_of_a_slash(taken: int, bond: int) -> None:
    setting = DEFAULT.change("challenge_bond", bond)
    assert 2 * economics.compute_loss(setting, taken, roles=cheats.EVERY_ROLE) >= taken


# ---- what is shown and shipped -------------------------------------------------------------


def test_the_page_shows_what_the_program_prints() -> None:
    page = PAGE.read_text()
    for name, lines in draw_blocks(run_cheats(seed=PAGE_SEED)).items():
        found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
        assert found is not None, name
        assert found[1].splitlines() == lines, "run scripts/simulate-economics --page"


def test_the_program_writes_what_it_found(tmp_path: Path) -> None:
    target = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/simulate-economics", "--seed", "7", "--json", target],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(target.read_text())
    assert document["seed"] == 7
    assert [(row["cheat"], row["covered"]) for row in document["cheats"]] == [
        (cheat.name, cheat.is_covered) for cheat in CHEATS
    ]
    assert all((row["profit"] < 0) == row["covered"] for row in document["cheats"])


def test_gas_is_what_the_contracts_need_rounded_up() -> None:
    folder = ROOT / "contracts/snapshots"
    recorded = json.loads((folder / "Disputes.json").read_text())
    for step, name in SNAPSHOTS.items():
        assert int(recorded[name]) <= economics.GAS[step] <= 1.5 * int(recorded[name]), step
    answers = max(int(recorded[name]) for name in ("respond", "respondWithheld"))
    assert answers <= economics.GAS["respond"]
    batch = json.loads((folder / "Transactions.json").read_text())["postBatch 256 lanes 16x16"]
    assert int(batch) <= 256 * economics.GAS["lane of a batch"]


def test_the_proposed_deployment_is_the_one_that_was_played() -> None:
    shipped = tomllib.loads((ROOT / "docs/deployment.toml").read_text())["contract"]
    config = asdict(ContractConfig(**shipped))
    for parameter, value in asdict(DEFAULT.rules).items():
        assert config[parameter] == value, parameter


@pytest.mark.parametrize("rules", [RULES, DEFAULT.rules], ids=["devnet", "proposed"])
def test_the_constructor_would_take_these_rules(rules: ContractConfig | Rules) -> None:
    assert rules.epoch >= rules.open + 2 * rules.response
    assert rules.exit_delay >= 2 * rules.epoch
    assert rules.min_bond >= MIN_SLASHES * rules.bond_slash
    assert rules.min_stake >= rules.stake_slash
