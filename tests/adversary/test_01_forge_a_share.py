"""
Attack 1: forge a share of one's results and hope that the seed draws others.

The coordinator's own core commits, takes the seed and draws, a few thousand times from one
commitment; a forged result that is drawn is found, so detection is what the draw makes it. Each
share is found as often as the hypergeometric says, and who is found is paid nothing.
"""

from __future__ import annotations

from functools import cache
from math import comb

import msgspec
import pytest

from coordinator.core.decide import CoordinatorState
from coordinator.core.effects import Effect, FixSeed
from coordinator.core.lifecycle import JobState
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import compute_epoch_root
from gpumarket.testing.factories import make_address, make_spec
from tests.coordinator_market import Market, PlayedChain, play_until

UNITS, SAMPLED, SEEDS = 40, 10, 2_000
FORGER = make_address("provider-1")
POLICY = VerifyPolicy(rate_ppm=250_000, confidence_ppm=0, units_min=0)


def commit(forged: int, *, verifiers: int = 1) -> tuple[Market, bytes, FixSeed]:
    """Play until the work is committed; the first `forged` tasks are forgeries."""
    market = Market(epoch_receipts_max=UNITS)
    market.join("provider-1", offer={"slots": UNITS}, forges=frozenset(range(forged)))
    for number in range(verifiers):
        market.join_verifier(f"verifier-{number}", card={"slots": UNITS})
    market.submit(make_spec(units=UNITS, verify=POLICY), checks=2 * UNITS)
    play_until(market, lambda m: any(isinstance(effect, FixSeed) for effect in m.todo))
    (ask,) = (effect for effect in market.todo if isinstance(effect, FixSeed))
    market.todo.remove(ask)
    return market, msgspec.msgpack.encode(market.state), ask


def take_seed(kept: bytes, ask: FixSeed, number: int) -> tuple[CoordinatorState, list[Effect]]:
    """Let the core go on from a commitment with one seed of many."""
    state = msgspec.msgpack.decode(kept, type=CoordinatorState)
    chain = PlayedChain(entropy=f"entropy {number}", roots=[find_root(state)])
    effects = state.decide(chain.fix_seed(ask, state.now))
    return state, effects


def find_root(state: CoordinatorState) -> Hash32:
    document = state.epochs[1].document
    assert document is not None
    return compute_epoch_root(document)


@cache
def draw_all() -> tuple[frozenset[int], ...]:
    """Return the tasks that the core has checked, for each seed."""
    # Nobody is there to be asked: what is drawn does not depend on who checks it.
    _, kept, ask = commit(0, verifiers=0)
    return tuple(
        frozenset(check.unit for check in take_seed(kept, ask, number)[0].epochs[1].checks.values())
        for number in range(SEEDS)
    )


def test_the_core_checks_as_many_as_the_policy_says_each_time() -> None:
    assert {len(units) for units in draw_all()} == {SAMPLED}


@pytest.mark.parametrize("forged", [1, 2, 4, 8, 20])
def test_a_forged_share_is_found_as_often_as_theory_says(forged: int) -> None:
    found = sum(bool(units & frozenset(range(forged))) for units in draw_all())
    chance = 1 - comb(UNITS - forged, SAMPLED) / comb(UNITS, SAMPLED)
    deviation = (SEEDS * chance * (1 - chance)) ** 0.5
    assert abs(found - SEEDS * chance) < 4 * deviation + 1e-9


@pytest.mark.parametrize("number", range(3))
def test_who_is_drawn_is_paid_nothing_and_who_is_not_is_the_chance_that_was_left(
    number: int,
) -> None:
    market, kept, ask = commit(4)
    state, effects = take_seed(kept, ask, number)
    is_drawn = any(check.unit < 4 for check in state.epochs[1].checks.values())
    market.state, market.todo = state, list(effects)
    market.join("provider-2", offer={"slots": UNITS})
    market.run(seconds_max=200)
    (job,) = state.jobs.values()
    assert job.state is JobState.SETTLED
    assert (FORGER not in market.chain.sum_paid()) is is_drawn
    assert (job.excluded == [FORGER]) is is_drawn
