"""Settling: each line pays once, what it should, and the rest goes back."""

from __future__ import annotations

import pytest

from coordinator.core import events
from coordinator.core.effects import PostBatch
from coordinator.core.invariants import check_state
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.reporting import NextStep, describe_next, explain_job, find_job
from coordinator.core.settling import compute_money, list_payments
from gpumarket.protocol.bills import find_leaf_evidence
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.disputes import Standing, check_evidence
from gpumarket.protocol.errors import InvalidInput, LocalProtocolError
from gpumarket.protocol.job import Limits, VerifyPolicy
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.protocol.ledger import ROLE_VERIFIER
from gpumarket.protocol.openings import Place
from gpumarket.protocol.settlement import compute_fee_evidence
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import DOMAIN, change, make_address, make_hash, make_spec
from tests.coordinator_market import DURATION_MS, Market, play_until, refuse_chain

P1, V1 = make_address("provider-1"), make_address("verifier-1")
UNIT_PRICE = -(-400_000 * DURATION_MS // 3_600_000)


def make_market(*, units=2, verify=None, order=None, **settings):
    market = Market(**settings)
    market.join("provider-1")
    market.join_verifier()
    market.submit(
        make_spec(units=units, verify=verify or VerifyPolicy(mode="full")), **(order or {})
    )
    return market


def get_job(market):
    return next(iter(market.state.jobs.values()))


def find_batches(market):
    return [effect for effect in market.todo if isinstance(effect, PostBatch)]


def test_a_settled_job_has_paid_tasks_checks_and_fee_and_the_rest_is_free():
    market = make_market(order={"max_fee": 50, "checks": 2, "max_check_price": 90}, fee=40)
    market.run()
    money = compute_money(market.state, get_job(market))
    assert (money.payable, money.checks, money.fee) == (2 * UNIT_PRICE, 2 * 90, 40)
    assert money.spent == 2 * UNIT_PRICE + 180 + 40
    assert money.returned == money.exposure - money.spent and money.locked == 0
    assert market.chain.sum_paid() == {
        P1: 2 * UNIT_PRICE,
        V1: 180,
        make_address("coordinator"): 40,
    }


def test_payment_lines_are_tasks_then_checks_then_the_fee():
    market = make_market(order={"max_fee": 50, "checks": 3}, fee=40)
    market.run()
    job = get_job(market)
    payments = sorted(list_payments(market.state, job), key=lambda payment: payment[2].line)
    assert [leaf.line for _, _, leaf in payments] == [0, 1, 2, 3, 5]
    assert payments[-1][2].evidence_hash == compute_fee_evidence(job.order_hash)
    hashes = sorted(market.state.epochs[1].checks)
    attested = [
        market.state.epochs[1].checks[h].attestation.body.compute_struct_hash() for h in hashes
    ]
    assert [leaf.evidence_hash for _, _, leaf in payments[2:4]] == attested


def test_checks_beyond_what_the_order_pays_are_not_paid():
    market = make_market(units=4, order={"checks": 1})
    market.run()
    assert market.chain.sum_paid()[V1] == 100_000
    assert get_job(market).state is JobState.SETTLED


def test_a_fee_is_not_charged_for_a_job_that_did_not_come_through():
    market = make_market(order={"max_fee": 50}, fee=40)
    play_until(market, lambda m: m.state.pool or m.state.open_epochs)
    job = get_job(market)
    market.post(events.JobCancelled(at=market.now, order_hash=job.order_hash))
    market.run()
    assert job.state is JobState.CANCELLED
    assert make_address("coordinator") not in market.chain.sum_paid()


def test_the_batch_document_holds_the_evidence_of_every_line():
    market = make_market()
    play_until(market, find_batches)
    (effect,) = find_batches(market)
    job = get_job(market)
    assert job.state is JobState.SETTLING
    (bill,) = effect.bills
    assert effect.batch.bills == (compute_content_hash(bill),)
    assert bill.order == job.order
    assert len(bill.receipts) == 2 and len(bill.attestations) == 2
    leaves = {leaf.evidence_hash for lane in effect.batch.lanes for leaf in lane.leaves}
    evidence = (*bill.receipts, *bill.attestations)
    assert leaves == {signed.body.compute_struct_hash() for signed in evidence}


@pytest.mark.parametrize("forges", [False, True])
def test_every_line_can_be_shown_to_the_contract_with_its_bill_alone(forges):
    market = Market(fee=40)
    market.join("provider-1")
    market.join("provider-2", forges=frozenset(range(6)) if forges else frozenset())
    market.join_verifier()
    market.submit(make_spec(units=6, verify=VerifyPolicy(mode="full")), max_fee=50, checks=12)
    seen = []

    def is_over(played):
        seen.extend(find_batches(played))
        return not (played.todo or played.inbox)

    play_until(market, is_over)
    bills = {compute_content_hash(bill): bill for effect in seen for bill in effect.bills}
    verdicts = set()
    standing = Standing(domain=DOMAIN, roles={V1: ROLE_VERIFIER})
    for effect in {compute_content_hash(effect.batch): effect for effect in seen}.values():
        for lane in effect.batch.lanes:
            place = make_place(lane, posted_at=market.now)
            for leaf in lane.leaves:
                (bill,) = (bills[name] for name in effect.batch.bills)
                evidence = find_leaf_evidence(bill, leaf, payee=lane.payee, domain=DOMAIN)
                check_evidence(place, leaf, evidence, standing=standing)
                verdicts.add(evidence.attestation.verdict)
    assert verdicts == {0, 1} | ({2} if forges else set())


def make_place(lane, *, posted_at):
    return Place(
        coordinator=make_address("coordinator"),
        sequence=0,
        posted_at=posted_at,
        lane=0,
        index=0,
        requester=lane.requester,
        payee=lane.payee,
        lane_amount=lane.amount,
    )


def test_a_batch_that_was_posted_twice_is_noted_once():
    market = make_market()
    play_until(market, find_batches)
    posted = market.chain.post(find_batches(market)[0], market.now)
    market.post(posted)
    job = get_job(market)
    entries = len(job.log)
    assert market.post(posted) == []
    assert (job.state, len(job.log)) == (JobState.SETTLED, entries)


def test_one_of_two_batches_posted_twice_does_not_stand_for_the_other(monkeypatch):
    monkeypatch.setattr("coordinator.core.settling.LANES_MAX", 1)
    market = make_market()
    play_until(market, find_batches)
    first, second = find_batches(market)
    posted = market.chain.post(first, market.now)
    market.post(posted)
    block = market.state.batches[first.number].block
    market.post(change(posted, block=block + 7))
    assert market.state.batches[first.number].block == block
    assert get_job(market).state is JobState.SETTLING
    market.post(market.chain.post(second, market.now))
    assert get_job(market).state is JobState.SETTLED


def test_a_batch_is_posted_again_when_the_chain_could_not_be_reached():
    market = make_market()
    market.chain.is_down = False
    play_until(market, find_batches)
    (effect,) = find_batches(market)
    market.todo.clear()
    market.post(refuse_chain(effect, market.now))
    step = describe_next(market.state, get_job(market))
    assert (step.actor, step.what) == (
        "coordinator",
        "post the batch; last try: the chain cannot be reached",
    )
    market.wait(10)
    assert market.todo == [effect]


def test_a_batch_the_chain_will_never_take_fails_the_job_and_frees_the_money():
    market = make_market()
    play_until(market, find_batches)
    market.post(refuse_chain(find_batches(market)[0], market.now, is_final=True))
    job = get_job(market)
    assert (job.state, job.reason.fault) == (JobState.FAILED, "chain")
    money = compute_money(market.state, job)
    assert (money.spent, money.returned) == (0, money.exposure)


def test_more_payees_than_a_batch_holds_take_several_batches(monkeypatch):
    monkeypatch.setattr("coordinator.core.settling.LANES_MAX", 1)
    market = make_market()
    market.run()
    assert [len(posted.batch.lanes) for posted in market.chain.batches] == [1, 1]
    assert get_job(market).state is JobState.SETTLED


def test_a_job_is_settled_as_it_stands_before_its_order_runs_out():
    market = Market(epoch_receipts_max=1)
    market.join("provider-1", offer={"slots": 1})
    spec = make_spec(
        units=2, verify=VerifyPolicy(mode="none"), limits=Limits(queue_seconds=100_000)
    )
    end = market.now + 3_000
    job = market.submit(spec, settle_by=end, expiry=end)
    play_until(market, lambda m: job.counts[UnitState.ACCEPTED] == 1)
    market.leave("provider-1")
    market.inbox.clear()
    market.wait(2_879)
    assert job.reason is None
    market.wait(1)
    assert job.reason is not None and job.reason.code == "GM-1202"
    market.run()
    assert job.state is JobState.FAILED
    assert market.chain.sum_paid() == {P1: UNIT_PRICE}


@pytest.mark.parametrize(
    "moment",
    [
        lambda m: bool(m.state.pool or m.state.open_epochs),
        lambda m: any(m.state.epochs[n].sequence is not None for n in m.state.open_epochs),
        lambda m: bool(m.state.check_epochs),
        lambda m: any(le.opening for le in m.state.leases.values()),
    ],
)
def test_work_not_verified_when_the_time_runs_out_is_not_paid(moment):
    market = make_market()
    play_until(market, moment)
    job = get_job(market)
    market.todo.clear()
    market.inbox.clear()
    for provider in (*market.providers.values(), *market.verifiers.values()):
        provider.is_silent = True
    while not job.is_over:
        market.now = type(market.now)(market.now + 40_000)
        market.post(events.TimePassed(at=market.now))
        market.todo.clear()
    assert job.state is JobState.FAILED and job.bills == []
    assert all(le.state is LeaseState.ENDED for le in market.state.leases.values())
    money = compute_money(market.state, job)
    assert (money.spent, money.returned) == (0, money.exposure)


def test_a_receipt_that_waits_for_an_epoch_when_the_time_runs_out_is_not_paid():
    market = Market(epoch_seconds=100_000)
    market.join("provider-1", offer={"slots": 1})
    job = market.submit(make_spec(units=2))
    play_until(market, lambda m: m.state.pool)
    market.todo.clear()
    market.inbox.clear()
    market.leave("provider-1")
    market.wait(86_400)
    assert job.state is JobState.FAILED and not market.state.pool
    assert compute_money(market.state, job).spent == 0


# ---- what is kept and shown ----------------------------------------------------------------


def test_old_jobs_are_forgotten_with_all_their_records():
    market = Market(jobs_kept_max=1)
    market.join("provider-1")
    market.join_verifier()
    for name in ("first", "second", "third"):
        market.submit(make_spec(units=1), nonce=make_hash(name), key=name)
        market.run()
    state = market.state
    assert len(state.jobs) == len(state.leases) == len(state.epochs) == len(state.keys) == 1


def test_the_log_is_bounded_and_numbered_without_gaps():
    market = Market(log_entries_max=5)
    market.join("provider-1")
    market.join_verifier()
    job = market.submit()
    market.run()
    assert len(job.log) == 5
    assert [entry.sequence for entry in job.log] == list(range(job.log_next - 5, job.log_next))


def test_a_job_is_found_by_the_beginning_of_its_id():
    market = make_market()
    job = get_job(market)
    assert find_job(market.state, job.job_id[:7]) is job
    for prefix, code in ((job.job_id[:6], "GM-5002"), ("gm-zzzz", "GM-5001")):
        with pytest.raises(InvalidInput) as caught:
            find_job(market.state, prefix)
        assert caught.value.code == code


def test_at_every_moment_somebody_is_named_who_must_act():
    market = make_market()
    steps: list[NextStep] = []

    def look(m):
        step = describe_next(m.state, get_job(m))
        if not steps or steps[-1] != step:
            steps.append(step)
        return get_job(m).is_over

    play_until(market, look)
    actors = [step.actor for step in steps]
    assert list(dict.fromkeys(actors)) == [
        "provider", "coordinator", "chain", "verifier", "nobody",
    ]  # fmt: skip
    assert steps[0].what == "finish 2 tasks on 1 providers"
    assert steps[0].deadline is not None


def test_a_waiting_job_says_what_it_waits_for():
    market = Market()
    market.join("provider-1", offer={"slots": 1})
    market.submit(make_spec(units=1))
    job = market.submit(make_spec(units=1), nonce=make_hash("second"))
    why = explain_job(market.state, job)
    assert (why.next.actor, why.is_covered) == ("provider", True)
    assert why.next.what == "a free slot for 1 tasks: 1 providers fit, 0 are free"
    market.leave("provider-1")
    assert describe_next(market.state, job).code == "GM-4021"
    requester = make_address("requester")
    market.post(events.EscrowSeen(at=market.now, requester=requester, balance=Amount(1), block=500))
    assert describe_next(market.state, job).code == "GM-3011"


def test_a_missing_verifier_is_named_as_the_obstacle():
    market = Market()
    market.join("provider-1")
    job = market.submit(make_spec(units=1))
    market.run(seconds_max=5)
    step = describe_next(market.state, job)
    assert (step.actor, step.code, step.what) == (
        "verifier",
        "GM-7105",
        "1 checks wait for a verifier",
    )


# ---- the invariants can fail ---------------------------------------------------------------


def end_one_lease(state):
    next(iter(state.leases.values())).state = LeaseState.ENDED


def accept_without_receipt(state):
    lease = next(iter(state.leases.values()))
    job = state.jobs[lease.order_hash]
    lease.state, lease.is_output_here = LeaseState.ACCEPTED, False
    job.units[lease.unit].state = UnitState.ACCEPTED


def stop_without_reason(state):
    next(iter(state.jobs.values())).outcome = JobState.FAILED


def forget_timers(state):
    state.timers.clear()


def lose_a_slot(state):
    next(iter(state.providers.values())).lease_ids.clear()


@pytest.mark.parametrize(
    "break_it",
    [end_one_lease, accept_without_receipt, stop_without_reason, forget_timers, lose_a_slot],
)
def test_the_invariants_see_a_broken_state(break_it):
    market = make_market()
    check_state(market.state)
    break_it(market.state)
    with pytest.raises(LocalProtocolError):
        check_state(market.state)


def test_the_reason_of_a_job_is_the_first_one():
    market = make_market()
    job = get_job(market)
    play_until(market, lambda m: m.state.pool or m.state.open_epochs)
    market.todo.clear()
    market.inbox.clear()
    market.post(events.JobCancelled(at=market.now, order_hash=job.order_hash))
    market.wait(86_400)
    assert job.state is JobState.CANCELLED
    assert job.reason == Reason(
        code="GM-5401", text="the requester cancelled the job", fault="requester"
    )
