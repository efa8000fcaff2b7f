"""Admission: a job is taken whole or refused with a reason, and then nothing has changed."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.admission import NoProviderFits, check_submission
from coordinator.core.lifecycle import JobState
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    change,
    make_address,
    make_hash,
    make_order,
    make_resources,
    make_spec,
    sign,
)
from tests.coordinator_market import Market


@pytest.fixture
def market():
    market = Market()
    market.join("provider-1")
    return market


def find_refusal(market, event):
    """Post a submission that must be refused; return why, and see that nothing changed."""
    before = msgspec.msgpack.encode(market.state)
    assert market.post(event) == []
    assert msgspec.msgpack.encode(market.state) == before
    with pytest.raises(InvalidInput) as caught:
        check_submission(market.state, event)
    return caught.value


def test_a_job_that_fits_is_placed_at_once(market):
    job = market.submit()
    assert job.state is JobState.QUEUED
    assert job.log[0].text == "4 tasks, at most 4.800000 USDC"
    assert [effect.lease.unit for effect in market.todo if hasattr(effect, "lease")] == [0, 1]


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("GM-1201", {"coordinator": make_address("another coordinator")}),
        ("GM-1201", {"units": 5}),
        ("GM-1201", {"job_hash": make_hash("another job")}),
        ("GM-1201", {"verify_hash": make_hash("another policy")}),
        ("GM-1201", {"checks": 2**32 - 1}),
        ("GM-1202", {"settle_by": NOW - 1}),
        ("GM-1202", {"settle_by": NOW + 60, "expiry": NOW + 60}),
        ("GM-1202", {"expiry": NOW + 5}),
        ("GM-1205", {"expiry": NOW + 8 * 86_400 + 1}),
        ("GM-3011", {"escrow": 4_799_999}),
    ],
)
def test_an_order_that_cannot_be_kept_is_refused(market, code, changes):
    assert find_refusal(market, market.make_submission(**changes)).code == code


def test_an_order_for_another_chain_is_refused_with_ours_named(market):
    order = make_order()
    elsewhere = Domain(chain_id=1, contract=DOMAIN.contract)
    event = change(market.make_submission(), order=sign(order, "requester", domain=elsewhere))
    error = find_refusal(market, event)
    assert error.code == "GM-1204" and "chain 31337" in error.why


def test_an_order_signed_by_somebody_else_is_refused(market):
    event = change(market.make_submission(), order=sign(make_order(), "thief"))
    assert find_refusal(market, event).code == "GM-1204"


def test_a_job_nobody_can_run_is_refused_with_the_funnel(market):
    spec = make_spec(resources=make_resources(devices=DeviceNeed(count=1, models=("H100",))))
    error = find_refusal(market, market.make_submission(spec))
    assert isinstance(error, NoProviderFits) and error.code == "GM-4021"
    assert error.why == "1 providers online, 0 fit: 1 at model H100"
    assert error.hints == ("model H100 -> RTX 4090 gives 1 offers",)
    assert error.funnel.online == 1 and error.money == "nothing was charged or locked"


def test_a_job_nobody_can_run_may_wait_for_somebody_and_then_fails(market):
    need = make_resources(devices=DeviceNeed(count=1, models=("H100",)))
    job = market.submit(make_spec(resources=need), wait=60)
    market.wait(59)
    assert job.state is JobState.QUEUED
    market.wait(1)
    assert (job.state, job.reason.code) == (JobState.FAILED, "GM-4021")


def test_a_job_that_fits_a_busy_provider_queues_and_then_fails_uncharged(market):
    first = market.submit(make_spec(units=2))
    second = market.submit(nonce=make_hash("second"), escrow=10**9)
    market.todo.clear()
    for _ in range(1_800 // 10):
        market.refresh()
        market.wait(10)
        market.now = market.state.now
    assert second.reason is not None and second.reason.code == "GM-4022"
    assert second.state is JobState.FAILED and not second.bills
    assert first.state is JobState.FAILED  # its provider never answered either


def test_the_same_order_again_is_the_same_job(market):
    job = market.submit(key="a")
    assert market.post(market.make_submission(key="a")) == []
    check_submission(market.state, market.make_submission(key="a"))
    assert list(market.state.jobs.values()) == [job]


def test_an_idempotency_key_names_one_order_only(market):
    market.submit(key="a")
    event = market.make_submission(key="a", nonce=make_hash("another order"))
    assert find_refusal(market, event).code == "GM-1203"


def test_live_orders_count_against_the_escrow(market):
    market.submit(escrow=9_600_000)
    market.submit(escrow=9_600_000, nonce=make_hash("second"))
    event = market.make_submission(escrow=9_600_000, nonce=make_hash("third"))
    error = find_refusal(market, event)
    assert error.code == "GM-3011" and "0.000000 USDC is free" in error.why


def test_a_balance_read_before_a_payment_counts_that_payment(market):
    market.join_verifier()
    old_block = market.chain.block
    job = market.submit(make_spec(units=1), escrow=1_200_000, max_unit_price=1_000_000)
    market.run()
    assert job.state is JobState.SETTLED
    event = market.make_submission(make_spec(units=1), escrow=1_200_000, nonce=make_hash("second"))
    assert find_refusal(market, change(event, escrow_block=old_block)).code == "GM-3011"
    market.post(change(event, escrow_block=market.chain.block))
    assert len(market.state.jobs) == 2


def test_a_fee_above_what_the_order_allows_is_refused():
    market = Market(fee=5)
    market.join("provider-1")
    assert find_refusal(market, market.make_submission(max_fee=4)).code == "GM-1201"
    assert market.submit(max_fee=5).state is JobState.QUEUED


def test_no_more_jobs_are_taken_than_may_be_open():
    market = Market(jobs_open_max=1)
    market.join("provider-1")
    market.submit()
    event = market.make_submission(nonce=make_hash("second"))
    assert find_refusal(market, event).code == "GM-8002"


def test_an_escrow_that_shrinks_stops_new_leases_until_it_is_filled(market):
    job = market.submit()
    market.todo.clear()
    requester = make_address("requester")
    market.post(events.EscrowSeen(at=NOW, requester=requester, balance=Amount(1), block=200))
    assert market.join("provider-2").address in market.state.providers
    assert not [effect for effect in market.todo if hasattr(effect, "lease")]
    filled = events.EscrowSeen(at=NOW, requester=requester, balance=Amount(10**9), block=201)
    assert [effect.lease.unit for effect in market.post(filled)] == [2, 3]
    assert job.reason is None


def test_an_older_reading_of_an_escrow_is_dropped(market):
    market.submit()
    stale = events.EscrowSeen(
        at=NOW, requester=make_address("requester"), balance=Amount(1), block=1
    )
    market.post(stale)
    assert market.state.escrows[make_address("requester")].balance == 10**9


def test_a_job_checked_in_full_may_promise_more_checks_than_tasks(market):
    spec = make_spec(verify=VerifyPolicy(mode="full"))
    assert market.submit(spec, checks=40, escrow=10**9).order.body.fee_line == 44
