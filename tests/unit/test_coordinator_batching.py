"""Batching: many jobs in one transaction, and nobody waits for who cannot pay."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import batching, events, settling
from coordinator.core.decide import make_state
from coordinator.core.effects import PostBatch, ReadEscrow
from coordinator.core.invariants import check_state
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.order_book import is_covered
from coordinator.core.reporting import describe_next
from coordinator.core.settings import compute_margins
from coordinator.core.settling import compute_money
from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.job import Limits, Placement, VerifyPolicy
from gpumarket.protocol.settlement import Batch, Bill, Lane, PaymentLeaf
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import (
    change,
    make_address,
    make_attestation,
    make_hash,
    make_spec,
    sign,
)
from tests.coordinator_market import (
    DEPOSIT,
    DURATION_MS,
    Market,
    make_settings,
    play_until,
    refuse_batch,
    refuse_chain,
    sum_requesters,
)

UNIT_PRICE = -(-400_000 * DURATION_MS // 3_600_000)
ALICE, BOB = make_address("alice"), make_address("bob")
FAR = 100_000


def make_market(*requesters, interval=10, **settings):
    """A market where each named requester has one job of one task, all finished together."""
    market = Market(settle_interval_seconds=interval, **settings)
    market.join("provider-1", offer={"slots": 16})
    for index, name in enumerate(requesters):
        submit(market, name, nonce=make_hash(f"{index}"))
    return market


def submit(market, name, **changes):
    spec = make_spec(units=1, verify=VerifyPolicy(mode="none"))
    return market.submit(spec, signer=name, **changes)


def find_posts(market):
    return [effect for effect in market.todo if isinstance(effect, PostBatch)]


def make_posts(*requesters, **settings):
    """Play until one batch with all jobs is to be posted."""
    market = make_market(*requesters, **settings)
    play_until(market, lambda m: len(m.state.due) == len(requesters))
    market.wait(10)
    return market


def run_to(market, at):
    """Play fairly up to a time."""
    market.run(seconds_max=at - market.now)
    market.wait(at - market.now)
    market.run()


def list_jobs(market):
    return list(market.state.jobs.values())


def list_states(market):
    return [job.state for job in list_jobs(market)]


def list_sizes(market):
    return [len(posted.bills) for posted in market.chain.batches]


# ---- when a batch is cut -------------------------------------------------------------------


def test_jobs_that_are_finished_by_one_event_share_a_batch_though_none_waits():
    market = Market(epoch_receipts_max=1)
    for name, requester in (("provider-1", "alice"), ("provider-2", "bob")):
        market.join(name, offer={"slots": 1})
        place = Placement(providers=(make_address(name),))
        limits = Limits(queue_seconds=FAR)
        verify = VerifyPolicy(mode="none")
        spec = make_spec(units=2, verify=verify, placement=place, limits=limits)
        market.submit(spec, signer=requester)
    jobs = list_jobs(market)
    play_until(market, lambda m: all(job.counts[UnitState.ACCEPTED] == 1 for job in jobs))
    market.leave("provider-1")
    market.leave("provider-2")
    market.inbox.clear()
    market.wait(jobs[0].settle_at - market.now)
    (effect,) = find_posts(market)
    assert len(effect.bills) == 2


def test_jobs_of_several_requesters_share_a_batch():
    market = make_market("alice", "bob", "alice")
    market.run(seconds_max=100)
    assert list_sizes(market) == [3]
    assert sum_requesters(market.chain.batches[0]) == {ALICE: 2 * UNIT_PRICE, BOB: UNIT_PRICE}
    assert list_states(market) == [JobState.SETTLED] * 3
    texts = [entry.text for entry in list_jobs(market)[0].log if entry.type == "posted"]
    assert texts[0].startswith("one batch pays 0.000112 USDC in 1 lanes, block ")
    assert texts[0].endswith(", with 2 other jobs")


def test_a_bill_waits_for_others_as_long_as_the_interval_and_no_longer():
    market = make_market("alice", interval=500)
    play_until(market, lambda m: m.state.due)
    first = list_jobs(market)[0]
    assert describe_next(market.state, first).what == "make the next batch"
    start = market.now
    run_to(market, start + 400)
    second = submit(market, "bob")
    run_to(market, start + 499)
    assert len(market.state.due) == 2 and not market.chain.batches
    run_to(market, start + 500)
    assert list_sizes(market) == [2] and second.state is JobState.SETTLED


def test_a_full_pool_is_cut_at_once_by_its_jobs():
    market = make_market("alice", "bob", "carol", interval=FAR, settle_jobs_max=2)
    market.run(seconds_max=200)
    assert list_sizes(market) == [2] and len(market.state.due) == 1


def test_a_full_pool_is_cut_at_once_by_its_lanes(monkeypatch):
    monkeypatch.setattr("coordinator.core.batching.LANES_MAX", 2)
    market = make_market("alice", "alice", "bob", "carol", interval=FAR)
    market.run(seconds_max=200)
    assert list_sizes(market) == [3]
    assert [len(posted.batch.lanes) for posted in market.chain.batches] == [2]


def test_a_pool_that_fills_a_batch_exactly_is_cut_at_once(monkeypatch):
    market = make_market("alice", "bob", interval=FAR, settle_jobs_max=2)
    market.run(seconds_max=200)
    assert list_sizes(market) == [2]
    monkeypatch.setattr("coordinator.core.batching.LANES_MAX", 2)
    market = make_market("alice", "bob", interval=FAR)
    market.run(seconds_max=200)
    assert list_sizes(market) == [2]


def test_no_batch_has_more_lanes_than_the_chain_takes(monkeypatch):
    market = make_market("alice", "bob", "carol")
    play_until(market, lambda m: len(m.state.due) == 3)
    monkeypatch.setattr("coordinator.core.batching.LANES_MAX", 2)
    market.run(seconds_max=20)
    assert list_sizes(market) == [2, 1]


def test_the_escrow_of_each_requester_is_read_once_while_its_bills_wait():
    market = make_market("alice", "bob", "alice", interval=FAR)
    play_until(market, lambda m: len(m.state.due) == 3)
    market.run()
    reads = [e.requester for e in market.posted if isinstance(e, events.EscrowSeen)]
    assert sorted(reads) == sorted([ALICE, BOB])


def test_a_full_pool_is_cut_at_once_by_its_lines(monkeypatch):
    monkeypatch.setattr("coordinator.core.batching.BATCH_LINES_MAX", 2)
    market = make_market("alice", "alice", "alice", "bob", "bob", interval=FAR)
    market.run(seconds_max=200)
    assert list_sizes(market) == [2, 2] and len(market.state.due) == 1


def test_the_end_of_an_order_cuts_a_batch_and_others_go_with_it():
    market = make_market("alice", interval=FAR)
    end = market.now + 3_000
    pressing = submit(market, "bob", settle_by=end, expiry=end)
    run_to(market, end - 121)
    assert market.chain.batches == []
    run_to(market, end - 120)
    assert list_sizes(market) == [2]
    assert pressing.ended_at == end - 120


def test_what_is_pressing_goes_first_when_there_is_no_room_for_all():
    market = make_market("alice", "alice", interval=FAR, settle_jobs_max=10)
    end = market.now + 3_000
    pressing = submit(market, "bob", settle_by=end, expiry=end)
    run_to(market, end - 200)
    market.state.settings = change(market.state.settings, settle_jobs_max=1)
    run_to(market, end - 120)
    assert market.chain.batches[0].bills[0].order == pressing.order


def test_a_batch_is_never_sent_when_an_order_in_it_is_at_its_end():
    market = make_market("alice")
    end = market.now + 3_000
    late = submit(market, "bob", settle_by=end, expiry=end)
    play_until(market, lambda m: len(m.state.due) == 2)
    market.chain.is_down = True
    run_to(market, end - 30)
    assert late.state is JobState.SETTLING
    market.chain.is_down = False
    run_to(market, end)
    assert list_sizes(market) == [1]
    assert (late.state, late.reason.code, late.reason.fault) == (JobState.FAILED, "GM-1202", "none")
    assert list_jobs(market)[0].state is JobState.SETTLED
    money = compute_money(market.state, late)
    assert (money.spent, money.returned) == (0, money.exposure)


def test_a_batch_that_is_late_by_the_chain_s_clock_alone_loses_the_late_jobs_only():
    market = make_market("alice")
    end = market.now + 3_000
    late = submit(market, "bob", settle_by=end, expiry=end)
    play_until(market, lambda m: len(m.state.due) == 2)
    market.wait(10)
    (effect,) = find_posts(market)
    market.todo.clear()
    market.post(refuse_batch(effect, market.now, code="GM-1202"))
    assert (late.state, late.reason.code) == (JobState.FAILED, "GM-1202")
    market.run(seconds_max=20)
    assert list_jobs(market)[0].state is JobState.SETTLED and list_sizes(market) == [1]


@pytest.mark.parametrize("confirmations", [0, 12, 64])
def test_the_margins_leave_blocks_to_post_in_to_take_back_in_and_to_confirm(confirmations):
    settle, post = compute_margins(confirmations)
    assert post >= 12 * (confirmations + 10) and settle - post >= 120


def test_a_job_that_comes_through_after_the_last_moment_is_not_posted():
    market = make_market("alice", interval=FAR)
    play_until(market, lambda m: m.state.due)
    (job,) = list_jobs(market)
    # Nobody woke us in time: as after a long time without power.
    market.wait(job.order.body.settle_by - 29 - market.now)
    market.run(seconds_max=FAR)
    assert market.chain.batches == [] and job.reason.code == "GM-1202"


def test_a_job_that_is_cut_off_after_the_last_moment_is_not_posted():
    market = Market(epoch_receipts_max=1)
    market.join("provider-1", offer={"slots": 1})
    verify = VerifyPolicy(mode="none")
    job = market.submit(make_spec(units=2, verify=verify, limits=Limits(queue_seconds=FAR)))
    play_until(market, lambda m: job.counts[UnitState.ACCEPTED] == 1)
    market.leave("provider-1")
    market.inbox.clear()
    market.wait(job.order.body.settle_by - 30 - market.now)
    assert not find_posts(market) and job.bills
    market.run(seconds_max=FAR)
    assert job.state is JobState.FAILED
    assert job.reason is not None and job.reason.code == "GM-1202"
    assert market.chain.batches == []


def count_looks(monkeypatch):
    """Return the list that every look at a bill of the pool is added to."""
    looks = []
    rank = batching._rank

    def rank_and_count(state, key):
        looks.append(key)
        return rank(state, key)

    monkeypatch.setattr(batching, "_rank", rank_and_count)
    return looks


def test_a_pool_that_is_far_from_full_is_not_looked_through_for_each_job(monkeypatch):
    looks = count_looks(monkeypatch)
    market = make_market(*["alice"] * 30, interval=FAR)
    play_until(market, lambda m: len(m.state.due) == 30)
    assert not looks
    market.run(seconds_max=FAR)
    assert list_sizes(market) == [30] and len(looks) == 30


def test_who_cannot_pay_does_not_make_the_pool_be_looked_through_for_each_job(monkeypatch):
    market = make_market(*["bob"] * 5, interval=50, settle_jobs_max=5, retry_seconds=1_000)
    play_until(market, lambda m: len(m.state.due) == 4)
    empty_escrow(market)
    market.wait(50)
    play_until(market, lambda m: len(m.state.due) == 5 and not m.todo)
    looks = count_looks(monkeypatch)
    for index in range(3):
        submit(market, "alice", nonce=make_hash(f"late {index}"))
    play_until(market, lambda m: len(m.state.due) == 8)
    assert not looks


# ---- who cannot pay ------------------------------------------------------------------------


def empty_escrow(market, name="bob", *, balance=0):
    market.chain.deposits[make_address(name)] = balance
    market.post(market.chain.read_escrow(make_address(name), market.now))


def test_who_is_known_to_be_insolvent_is_left_out_and_the_others_are_paid():
    market = make_market("alice", "bob", "carol", interval=50)
    play_until(market, lambda m: len(m.state.due) == 3)
    empty_escrow(market)
    market.run(seconds_max=60)
    assert list_sizes(market) == [2]
    assert list_states(market) == [JobState.SETTLED, JobState.SETTLING, JobState.SETTLED]
    step = describe_next(market.state, list_jobs(market)[1])
    assert (step.actor, step.code) == ("requester", "GM-3011")
    assert step.what == ("fill the escrow: the escrow has 0.000000 USDC left, 0.000112 USDC is due")


def test_a_requester_that_fills_its_escrow_is_settled_then():
    market = make_market("bob", interval=50)
    play_until(market, lambda m: m.state.due)
    empty_escrow(market)
    market.run(seconds_max=500)
    assert market.chain.batches == []
    market.chain.deposits[BOB] = UNIT_PRICE
    market.run(seconds_max=20)
    assert list_states(market) == [JobState.SETTLED] and market.state.due == {}
    entries = [entry for entry in list_jobs(market)[0].log if entry.type == "unpaid"]
    assert len(entries) == 1 and entries[0].fault == "requester"


def test_a_requester_that_never_pays_fails_its_job_when_the_order_ends():
    market = make_market(interval=50)
    end = market.now + 3_000
    job = submit(market, "bob", settle_by=end, expiry=end)
    play_until(market, lambda m: m.state.due)
    empty_escrow(market)
    run_to(market, end - 31)
    assert job.state is JobState.SETTLING
    run_to(market, end - 30)
    assert (job.state, job.reason.code, job.reason.fault) == (
        JobState.FAILED, "GM-3011", "requester",
    )  # fmt: skip
    assert compute_money(market.state, job).returned == job.order.body.compute_exposure()


def test_an_escrow_that_covers_some_of_a_requesters_jobs_pays_the_oldest():
    market = make_market("bob", "bob", "bob", interval=50)
    play_until(market, lambda m: len(m.state.due) == 3)
    empty_escrow(market, balance=2 * UNIT_PRICE)
    market.run(seconds_max=60)
    assert list_sizes(market) == [2]
    assert list_states(market) == [JobState.SETTLED, JobState.SETTLED, JobState.SETTLING]


def test_money_in_a_batch_under_way_is_not_counted_twice():
    market = make_posts("bob")
    under_way = find_posts(market)
    market.todo.clear()
    empty_escrow(market, balance=2 * UNIT_PRICE - 1)
    second = submit(market, "bob", nonce=make_hash("second"), escrow=DEPOSIT)
    empty_escrow(market, balance=2 * UNIT_PRICE - 1)
    # The escrow covers one of them: which is what the batch on its way will take.
    assert batching.find_left(market.state, BOB) == UNIT_PRICE - 1
    market.post(market.chain.post(under_way[0], market.now))
    assert batching.find_left(market.state, BOB) == UNIT_PRICE - 1
    empty_escrow(market, balance=2 * UNIT_PRICE - 1)
    assert batching.find_left(market.state, BOB) == UNIT_PRICE - 1
    assert second.state is not JobState.SETTLED


def test_a_batch_on_chain_that_is_not_confirmed_takes_its_money_once():
    market = make_posts("bob")
    (effect,) = find_posts(market)
    market.todo.clear()
    submit(market, "bob", nonce=make_hash("another"))
    before = market.chain.read_escrow(BOB, market.now)
    posted = market.chain.post(effect, market.now)
    # What is read now is of the newest block that counts, which lies below the batch's.
    market.post(before)
    assert batching.find_left(market.state, BOB) == DEPOSIT - UNIT_PRICE
    market.post(posted)
    assert batching.find_left(market.state, BOB) == DEPOSIT - UNIT_PRICE
    market.post(market.chain.read_escrow(BOB, market.now))
    assert batching.find_left(market.state, BOB) == DEPOSIT - UNIT_PRICE


def test_money_asked_back_still_pays_for_finished_work():
    market = make_market("bob", interval=50)
    play_until(market, lambda m: m.state.due)
    market.chain.withdrawing[BOB] = DEPOSIT
    market.post(market.chain.read_escrow(BOB, market.now))
    assert not is_covered(market.state, BOB)
    market.run(seconds_max=60)
    assert list_states(market) == [JobState.SETTLED]


def test_a_requester_that_took_its_money_just_before_is_left_out_and_nobody_waits():
    market = make_posts("alice", "bob", "carol", "bob")
    market.chain.deposits[BOB] = 0
    now = market.now
    play_until(market, lambda m: m.chain.batches)
    assert market.now == now and list_sizes(market) == [2]
    assert BOB not in sum_requesters(market.chain.batches[0])
    assert not is_covered(market.state, BOB)
    market.run(seconds_max=500)
    market.chain.deposits[BOB] = DEPOSIT
    market.run(seconds_max=30)
    assert list_sizes(market) == [2, 2]
    assert list_states(market) == [JobState.SETTLED] * 4


def test_a_chain_that_names_nobody_has_all_escrows_read_and_the_batch_halved():
    market = make_posts("alice", "bob", "carol", "dave")
    market.inbox.clear()
    market.chain.names_accounts = False
    market.chain.deposits[BOB] = 0
    (effect,) = find_posts(market)
    market.todo.clear()
    new = market.post(market.chain.post(effect, market.now))
    assert {e.requester for e in new if isinstance(e, ReadEscrow)} == set(sum_requesters(effect))
    assert [len(e.bills) for e in new if isinstance(e, PostBatch)] == [2, 2]
    now = market.now
    play_until(market, lambda m: not m.todo and not m.inbox)
    assert market.now == now and sum(list_sizes(market)) == 3
    waiting = [job for job in list_jobs(market) if job.state is JobState.SETTLING]
    assert [job.order.body.requester for job in waiting] == [BOB]
    assert describe_next(market.state, waiting[0]).code == "GM-3011"


def test_a_refusal_that_a_reading_contradicts_is_tried_at_the_pace_of_retries():
    market = make_posts("alice", "bob")
    tries = 0
    for _ in range(50):
        for effect in find_posts(market):
            market.todo.remove(effect)
            tries += BOB in sum_requesters(effect)
            stubborn = refuse_batch(effect, market.now, code="GM-3011", account=BOB)
            refuses = BOB in sum_requesters(effect)
            market.post(stubborn if refuses else market.chain.post(effect, market.now))
        play_until(market, lambda m: find_posts(m) or not (m.todo or m.inbox))
        if not find_posts(market):
            market.run(seconds_max=0)
            market.wait(1)
    assert list_sizes(market) == [1] and 2 <= tries <= 6


def test_who_was_refused_waits_for_its_retry_whatever_is_read_before():
    market = make_posts("alice", "bob", settle_jobs_max=3)
    (effect,) = find_posts(market)
    market.todo.clear()
    market.post(refuse_batch(effect, market.now, code="GM-3011", account=BOB))
    market.run()  # the escrow is read, and has enough
    assert is_covered(market.state, BOB) and list_sizes(market) == [1]
    market.post(events.TimePassed(at=market.now))
    batching.want_cut(market.state, b"")
    market.post(events.TimePassed(at=market.now))
    assert not find_posts(market)
    market.run(seconds_max=10)
    assert list_sizes(market) == [1, 1]


# ---- what the chain refuses ----------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_bad_job_is_found_by_halves_and_fails_alone(count):
    market = make_posts(*(f"requester-{i}" for i in range(count)))
    bad = list_jobs(market)[0]
    market.chain.bad_orders = {bad.order_hash}
    posted = []
    for _ in range(4 * count):
        for effect in find_posts(market):
            market.todo.remove(effect)
            posted.append(effect)
            market.post(market.chain.post(effect, market.now))
    assert sum(list_sizes(market)) == count - 1 and len(posted) <= 2 * count - 1
    assert (bad.state, bad.reason.code, bad.reason.fault) == (JobState.FAILED, "GM-3055", "chain")
    assert list_states(market).count(JobState.SETTLED) == count - 1


def test_news_of_a_batch_that_was_taken_apart_change_nothing():
    market = make_posts("alice", "bob")
    (effect,) = find_posts(market)
    market.post(refuse_batch(effect, market.now))
    before = msgspec.msgpack.encode(market.state)
    assert market.post(refuse_batch(effect, market.now)) == []
    assert market.post(refuse_chain(effect, market.now)) == []
    posted = events.BatchPosted(
        at=market.now, number=effect.number, sequence=0, block=9, tx=make_hash("tx")
    )
    assert market.post(posted) == []
    assert msgspec.msgpack.encode(market.state) == before


def test_a_refusal_of_a_batch_that_nobody_posts_changes_nothing():
    market = make_posts("alice", "bob")
    (effect,) = find_posts(market)
    market.post(refuse_chain(effect, market.now))
    before = msgspec.msgpack.encode(market.state)
    assert market.post(refuse_batch(effect, market.now)) == []
    assert msgspec.msgpack.encode(market.state) == before


def test_each_batch_has_a_number_of_its_own():
    market = make_posts("alice", "bob", "carol", "dave")
    market.chain.bad_orders = {list_jobs(market)[0].order_hash}
    seen = []

    def is_over(played):
        seen.extend(find_posts(played))
        return not (played.todo or played.inbox)

    play_until(market, is_over)
    assert len({effect.number for effect in seen}) == len({effect.batch for effect in seen})


# ---- what the coordinator lacks ------------------------------------------------------------


@pytest.mark.parametrize("code", batching.OWN_FAULTS)
def test_no_job_fails_for_what_the_coordinator_lacks_and_all_are_paid_afterwards(code):
    market = make_posts("alice", "bob", "carol")
    market.chain.own_fault = code
    market.run(seconds_max=30)
    late = submit(market, "dave")
    market.run(seconds_max=600)
    # One batch finds out; whoever comes meanwhile waits for that.
    assert len(market.state.open_batches) == 1 and len(market.state.due) == 1
    assert list_states(market) == [JobState.SETTLING] * 4
    assert market.state.pause.code == code
    for job in list_jobs(market):
        step = describe_next(market.state, job)
        assert (step.actor, step.code) == ("coordinator", code)
        assert step.what.startswith("mend this before anything is posted: ")
    market.chain.own_fault = ""
    market.run(seconds_max=10)
    assert list_sizes(market) == [3, 1] and late.state is JobState.SETTLED
    assert market.state.pause is None and list_states(market) == [JobState.SETTLED] * 4


def test_a_paused_coordinator_tries_at_the_pace_of_retries():
    market = make_posts("alice", "bob")
    market.chain.own_fault = "GM-3036"
    tries = 0
    for _ in range(100):
        market.todo, new = [], find_posts(market)
        tries += len(new)
        for effect in new:
            market.perform(effect)
        while market.inbox:
            market.deliver(market.inbox.pop(0))
        market.wait(1)
    assert 10 <= tries <= 11


def test_a_job_whose_order_ends_in_a_pause_fails_alone():
    market = make_market("alice")
    end = market.now + 3_000
    late = submit(market, "bob", settle_by=end, expiry=end)
    play_until(market, lambda m: len(m.state.due) == 2)
    market.chain.own_fault = "GM-3036"
    market.run(seconds_max=100)
    third = submit(market, "carol")
    run_to(market, end)
    assert (late.state, late.reason.code) == (JobState.FAILED, "GM-1202")
    assert list_states(market).count(JobState.SETTLING) == 2 and market.state.pause is not None
    market.chain.own_fault = ""
    market.run(seconds_max=20)
    assert third.state is list_jobs(market)[0].state is JobState.SETTLED


def test_a_pause_in_which_every_job_of_the_tried_batch_ends_leaves_none_waiting():
    market = make_market()
    end = market.now + 3_000
    submit(market, "bob", settle_by=end, expiry=end)
    play_until(market, lambda m: m.state.due)
    market.chain.own_fault = "GM-3036"
    market.run(seconds_max=100)
    other = submit(market, "carol")
    run_to(market, end)
    assert market.state.due == {} and market.state.open_batches
    market.chain.own_fault = ""
    market.run(seconds_max=20)
    assert other.state is JobState.SETTLED


def test_a_bill_s_own_fault_ends_a_pause():
    market = make_posts("alice", "bob")
    (effect,) = find_posts(market)
    market.todo.clear()
    market.post(refuse_batch(effect, market.now, code="GM-3036"))
    market.wait(10)
    (again,) = find_posts(market)
    market.todo.clear()
    new = market.post(refuse_batch(again, market.now))
    assert market.state.pause is None and len(new) == 2


# ---- a crash -------------------------------------------------------------------------------


def test_the_pool_and_batches_under_way_outlive_a_crash():
    market = make_market("alice", "bob", interval=50)
    play_until(market, lambda m: len(m.state.due) == 2)
    market.restart()
    assert len(market.state.due) == 2 and not find_posts(market)
    market.wait(50)
    (effect,) = find_posts(market)
    market.chain.post(effect, market.now)
    market.restart()
    assert find_posts(market) == [effect]
    market.run(seconds_max=100)
    assert list_sizes(market) == [2] and list_states(market) == [JobState.SETTLED] * 2


def test_a_batch_that_waits_for_its_retry_is_posted_once_after_a_crash():
    market = make_posts("alice", "bob")
    (effect,) = find_posts(market)
    market.post(refuse_chain(effect, market.now))
    market.restart()
    assert not find_posts(market)
    market.wait(10)
    assert find_posts(market) == [effect]
    market.wait(10)
    assert find_posts(market) == [effect]


def test_a_replay_makes_the_same_batches():
    market = make_posts("alice", "bob", "carol")
    market.chain.bad_orders = {list_jobs(market)[1].order_hash}
    market.chain.deposits[make_address("carol")] = 0
    market.run(seconds_max=100)
    replayed = make_state(make_settings(settle_interval_seconds=10))
    for event in market.posted:
        replayed.decide(event)
    assert msgspec.msgpack.encode(replayed) == msgspec.msgpack.encode(market.state)


# ---- what is kept --------------------------------------------------------------------------


def test_a_batch_is_kept_as_long_as_one_of_its_jobs():
    market = make_market("alice", "bob", jobs_kept_max=1)
    market.run(seconds_max=100)
    assert len(market.state.jobs) == 1
    assert list(market.state.batches) == market.state.posted_batches == [1]
    submit(market, "alice", nonce=make_hash("third"))
    market.run(seconds_max=100)
    assert list(market.state.batches) == market.state.posted_batches == [2]


def test_the_largest_documents_fit_a_block_of_the_content_store():
    market = make_posts("alice")
    (bill,) = find_posts(market)[0].bills
    lines = settling.BILL_LINES_MAX
    # A line is a receipt at most, or a check with the receipt that was checked.
    check = sign(make_attestation(), "verifier-1")
    checks = (check,) * lines
    largest = Bill(order=bill.order, receipts=bill.receipts * lines, attestations=checks)
    assert len(encode_document(largest)) < BLOCK_BYTES_MAX
    leaf = PaymentLeaf(
        order_hash=make_hash("a"), line=2**32 - 1, evidence_hash=make_hash("b"), price=2**63
    )
    lane = Lane(requester=ALICE, payee=BOB, leaves=(leaf,))
    lanes = (change(lane, leaves=(leaf,) * (batching.BATCH_LINES_MAX - 255)), *((lane,) * 255))
    document = Batch(coordinator=ALICE, lanes=lanes, bills=(make_hash("bill"),) * 10_000)
    assert len(encode_document(document)) < BLOCK_BYTES_MAX


# ---- the invariants can fail ---------------------------------------------------------------


def lose_a_bill(state):
    state.due.popitem()


def pool_a_bill_of_a_batch(state):
    state.due[state.batches[1].bill_keys[0]] = state.now


def pay_a_line_again(state):
    record = state.batches[1]
    state.batches[9] = change(record, number=9)
    state.open_batches.append(9)


def pay_too_little(state):
    job = next(iter(state.jobs.values()))
    job.bills[0].payments = ()


def forget_who_pays(state):
    state.batches[1].totals.clear()


def lose_a_batch(state):
    state.open_batches.clear()


def drop_without_reason(state):
    job = next(iter(state.jobs.values()))
    state.due.clear()
    job.bills[0].is_dropped = True


def forget_to_look(state):
    state.is_cut_wanted = True


def miscount(state):
    state.pool_sums.lines += 1


@pytest.mark.parametrize("break_it", [lose_a_bill, pay_too_little, drop_without_reason, miscount])
def test_the_invariants_see_a_broken_pool(break_it):
    market = make_market("alice", interval=FAR)
    play_until(market, lambda m: m.state.due)
    check_state(market.state)
    break_it(market.state)
    with pytest.raises(LocalProtocolError):
        check_state(market.state)


@pytest.mark.parametrize(
    "break_it",
    [
        pool_a_bill_of_a_batch, pay_a_line_again, pay_too_little, forget_who_pays, lose_a_batch,
        forget_to_look,
    ],
)  # fmt: skip
def test_the_invariants_see_a_broken_batch(break_it):
    market = make_posts("alice", "bob")
    check_state(market.state)
    break_it(market.state)
    with pytest.raises(LocalProtocolError):
        check_state(market.state)


def test_a_job_that_is_paid_frees_the_rest_of_its_money():
    market = make_market("alice")
    market.run(seconds_max=100)
    money = compute_money(market.state, list_jobs(market)[0])
    assert money.spent == UNIT_PRICE and money.locked == Amount(0)
    assert money.spent + money.returned == money.exposure
