"""Among honest people nothing depends on the order in which they are heard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import events
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.settling import compute_money
from gpumarket.testing.factories import ANYWHERE, make_hash, make_spec
from tests.coordinator_market import DURATION_MS, Market


@given(units=st.integers(min_value=1, max_value=9), jobs=st.integers(1, 2), data=st.data())
def test_any_fair_order_settles_every_job_without_a_second_try(units, jobs, data):
    market = Market()
    market.post(events.ProcessStarted(at=market.now, sources=(ANYWHERE,)))
    for name in ("provider-1", "provider-2", "provider-3"):
        market.join(name)
    market.join_verifier("verifier-1")
    market.join_verifier("verifier-2")
    submitted = [
        market.submit(make_spec(units=units), nonce=make_hash(f"job {number}"))
        for number in range(jobs)
    ]
    randomness = data.draw(st.randoms(use_true_random=False))
    for _ in range(2_000):
        is_effect = randomness.random() < 0.5 if market.inbox else True
        if market.todo and is_effect:
            market.perform(market.todo.pop(randomness.randrange(len(market.todo))))
        elif market.inbox:
            market.deliver(market.inbox.pop(randomness.randrange(len(market.inbox))))
        elif not market.todo:
            break
    for job in submitted:
        money = compute_money(market.state, job)
        assert job.state is JobState.SETTLED
        assert job.counts[UnitState.ACCEPTED] == units
        assert all(not unit.failures and unit.attempts == 1 for unit in job.units)
        # 0.40 USDC an hour for DURATION_MS, rounded up for each task.
        assert money.payable == units * -(-400_000 * DURATION_MS // 3_600_000)
    assert not market.closed
    assert all(not day.lost for s in market.state.standings.values() for day in s.days)
