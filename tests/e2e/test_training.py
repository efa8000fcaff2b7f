"""A training job whose provider is killed: another goes on, one audit of segments, paid once."""

from __future__ import annotations

import pytest

from tests.e2e.market import DETACHED, Market
from tests.e2e.training import (
    check_comes_back,
    check_went_on,
    kill_its_provider,
    write_training_job,
)

pytestmark = pytest.mark.filterwarnings(DETACHED)
STEPS, EVERY = 120, 20


def test_a_killed_provider_costs_one_segment_and_the_next_goes_on(market: Market) -> None:
    before = market.read_money()
    job_id = market.submit(write_training_job(market, "numpy", steps=STEPS, every=EVERY, pause=2))
    victim = kill_its_provider(market, job_id)
    last = check_went_on(market, job_id, victim=victim, segments=STEPS // EVERY, before=before)
    assert last.step == STEPS
    check_comes_back(market, victim)
