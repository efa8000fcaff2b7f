"""Leases: what providers say about their tasks, what is believed, and how tasks go to others."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.effects import CloseSession, DrawNonce, ProposeLease, SendMessage
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.settling import compute_money
from gpumarket.protocol import messages
from gpumarket.protocol.job import Retry
from gpumarket.protocol.lease import LeaseState, Reason
from gpumarket.testing.factories import (
    NOW,
    change,
    make_address,
    make_hash,
    make_reason,
    make_spec,
    sign,
)
from tests.coordinator_market import DURATION_MS, Market, list_sent

P1, P2 = make_address("provider-1"), make_address("provider-2")


@pytest.fixture
def market():
    """One provider with two slots, and a job of three tasks of which two are proposed."""
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=3))
    return market


@pytest.fixture
def job(market):
    return next(iter(market.state.jobs.values()))


def get_leases(market):
    return [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]


def say(market, message, sender=P1):
    return market.post(events.MessageReceived(at=market.now, sender=sender, message=message))


def make_finish(market, index=0):
    lease = get_leases(market)[index]
    return market.providers[lease.provider].run(lease, market.now)


def make_failure(market, index=0, **changes):
    lease = get_leases(market)[index]
    values = {"lease_id": lease.lease_id, "reason": make_reason(), "exit_code": 2}
    return messages.UnitFailed(**(values | changes))


def test_slots_bound_how_many_tasks_are_proposed(market, job):
    assert [lease.unit for lease in get_leases(market)] == [0, 1]
    lease = get_leases(market)[0]
    assert (lease.price_per_device_hour, lease.price_max) == (400_000, 400_000)
    assert lease.deadline == NOW + 3_600 + 300
    assert job.counts[UnitState.WAITING] == 1


def test_an_order_caps_the_price_of_a_lease():
    market = Market()
    market.join("provider-1")
    market.submit(max_unit_price=7)
    assert get_leases(market)[0].price_max == 7


def test_accepting_starts_the_job_and_accepting_twice_is_harmless(market, job):
    accepted = messages.LeaseAccepted(lease_id=get_leases(market)[0].lease_id)
    assert say(market, accepted) == []
    assert (job.state, job.started_at) == (JobState.RUNNING, NOW)
    entries = len(job.log)
    assert say(market, accepted) == []
    assert len(job.log) == entries


def test_a_receipt_frees_the_slot_for_the_next_task(market, job):
    effects = say(market, make_finish(market))
    assert [effect.lease.unit for effect in effects] == [2]
    assert job.counts[UnitState.FINISHED] == 1
    assert say(market, make_finish(market)) == []


def test_the_last_receipt_opens_the_epoch(market):
    say(market, make_finish(market, 0))
    say(market, make_finish(market, 1))
    effects = say(market, make_finish(market, 2))
    ids = tuple(lease.lease_id for lease in get_leases(market))
    assert effects == [
        SendMessage(recipient=P1, message=messages.RootRequested(epoch=1, lease_ids=ids)),
        DrawNonce(epoch=1),
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda finish: change(finish, receipt=change(finish.receipt, signature=bytes(65))),
        lambda finish: change(finish, receipt=sign(finish.receipt.body, "provider-2")),
        lambda finish: spoil_receipt(finish, unit=2),
        lambda finish: spoil_receipt(finish, order_hash=make_hash("another order")),
        lambda finish: spoil_receipt(finish, price=finish.receipt.body.price + 1),
        lambda finish: spoil_receipt(finish, finished_at=NOW + 3_600),
        lambda finish: spoil_receipt(finish, finished_at=NOW - 3_600),
        lambda finish: change(finish, duration_ms=60_000),
    ],
)
def test_a_receipt_that_is_not_right_closes_the_session_and_changes_nothing(market, spoil):
    finish = spoil(make_finish(market))
    before = msgspec.msgpack.encode(market.state)
    (effect,) = say(market, finish)
    assert isinstance(effect, CloseSession) and effect.peer == P1
    assert msgspec.msgpack.encode(market.state) == before


def test_a_receipt_never_asks_more_than_its_lease_whatever_its_time():
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=1), max_unit_price=7)
    finish = make_finish(market)
    assert finish.receipt.body.price == 7
    (effect,) = say(market, spoil_receipt(finish, price=8))
    assert isinstance(effect, CloseSession) and effect.code == "GM-4040"


def spoil_receipt(finish, **changes):
    return change(finish, receipt=sign(change(finish.receipt.body, **changes), "provider-1"))


def test_a_provider_cannot_speak_about_anothers_lease(market):
    market.join("provider-2")
    (effect,) = say(market, make_failure(market), sender=P2)
    assert effect == CloseSession(
        peer=P2,
        session=2,
        code="GM-8201",
        text="a provider speaks about another provider's lease",
    )


def test_a_message_about_an_unknown_lease_is_answered_with_its_end(market):
    lease_id = make_hash("unknown")
    (effect,) = say(market, messages.LeaseAccepted(lease_id=lease_id))
    assert effect.message.lease_id == lease_id and effect.message.reason.code == "GM-5303"


def test_a_declined_task_goes_to_another_and_later_back(market, job):
    lease = get_leases(market)[0]
    declined = messages.Declined(about=lease.lease_id, code="GM-5303", need="1 GPU", have="0 GPUs")
    effects = say(market, declined)
    assert [effect.lease.unit for effect in effects] == [2]
    assert job.units[0].state is UnitState.WAITING and not job.units[0].failures
    market.join("provider-2")
    assert [(le.unit, le.attempt) for le in get_leases(market) if le.provider == P2] == [(0, 1)]


def test_a_silent_provider_loses_its_proposal_and_is_not_blamed_for_the_program(market, job):
    market.wait(15)
    reasons = [market.state.leases[lease.lease_id].reason for lease in get_leases(market)[:2]]
    assert {reason.code for reason in reasons} == {"GM-5303"}
    assert [unit.failures for unit in job.units] == [[], [], []]
    # The third task was never with it, so it may have that one at once.
    assert [lease.unit for lease in get_leases(market)] == [0, 1, 2]


def test_an_avoided_provider_gets_the_task_again_when_nobody_else_is_there(market):
    market.wait(15)
    market.todo.clear()
    market.wait(30)
    assert {lease.unit for lease in get_leases(market)} >= {0, 1}


def test_a_lease_past_its_deadline_ends_and_its_late_receipt_is_refused(market, job):
    lease = get_leases(market)[0]
    late = make_finish(market)
    say(market, messages.LeaseAccepted(lease_id=lease.lease_id))
    market.refresh()
    market.wait(3_900)
    assert market.state.leases[lease.lease_id].reason.code == "GM-5304"
    assert job.units[0].failures[0].reason.fault == "provider"
    (effect,) = [e for e in say(market, late) if isinstance(e, SendMessage)]
    assert effect.message == messages.LeaseCancelled(
        lease_id=lease.lease_id, reason=market.state.leases[lease.lease_id].reason
    )


# ---- programs that fail --------------------------------------------------------------------


def test_a_program_that_fails_on_two_providers_is_the_requesters_fault(market, job):
    market.join("provider-2")
    say(market, make_failure(market))
    assert job.reason is None
    second = next(le for le in reversed(get_leases(market)) if le.unit == 0)
    assert second.provider == P2
    effects = say(
        market,
        messages.UnitFailed(lease_id=second.lease_id, reason=make_reason(), log_tail="oops"),
        sender=P2,
    )
    assert job.state is JobState.FAILED
    assert job.reason == Reason(
        code="GM-5101",
        text="task 0 failed 2 times on 2 providers: the program ended with exit code 2",
        fault="requester",
    )
    cancelled = {message.lease_id for message in list_sent(effects, messages.LeaseCancelled)}
    assert cancelled == {le.lease_id for le in get_leases(market) if le.unit != 0}
    money = compute_money(market.state, job)
    assert (money.spent, money.returned, money.locked) == (0, money.exposure, 0)
    assert job.units[0].failures[1].log_tail == "oops"


def test_a_program_that_fails_where_nobody_else_fits_ends_after_a_while(market, job):
    say(market, make_failure(market))
    market.refresh()
    market.wait(59)
    assert job.state is not JobState.FAILED
    market.wait(1)
    assert job.state is JobState.FAILED and job.reason.fault == "requester"
    assert job.reason.text.endswith("no other provider fits to try it")


def test_a_failure_counts_against_the_retries_whoever_is_to_blame():
    market = Market()
    market.join("provider-1")
    job = market.submit(make_spec(units=1, retry=Retry(attempts_max=0)))
    say(market, make_failure(market, reason=make_reason(code="GM-5201", fault="provider")))
    assert job.state is JobState.FAILED and job.reason is not None
    assert (job.reason.code, job.reason.fault) == ("GM-5201", "provider")


def test_a_provider_that_failed_a_task_does_not_get_it_again(market, job):
    say(market, make_failure(market, reason=make_reason(code="GM-5201", fault="provider")))
    for _ in range(20):
        market.refresh()
        market.wait(10)
    assert [le.unit for le in get_leases(market)].count(0) == 1
    assert job.reason is None


@pytest.mark.parametrize(
    ("claimed", "believed"),
    [
        (make_reason(code="GM-5102"), "requester"),
        (make_reason(code="GM-5201"), "provider"),
        (make_reason(fault="verifier"), "provider"),
        (make_reason(fault="coordinator"), "provider"),
        (make_reason(fault="network"), "network"),
        (make_reason(fault="none"), "provider"),
    ],
)
def test_a_provider_blames_the_program_only_for_what_programs_do(market, job, claimed, believed):
    say(market, make_failure(market, reason=claimed))
    assert job.units[0].failures[0].reason.fault == believed


def test_a_long_complaint_is_cut(market, job):
    reason = make_reason(text="x" * 10_000)
    say(market, make_failure(market, reason=reason, log_tail="y" * 10_000))
    failure = job.units[0].failures[0]
    assert (len(failure.reason.text), len(failure.log_tail)) == (500, 4_000)


def test_a_job_that_nobody_can_go_on_with_ends_after_the_queue_limit_and_pays_what_is_done():
    market = Market()
    market.join("provider-1")
    market.join_verifier()
    job = market.submit(make_spec(units=2))
    say(market, make_failure(market, reason=make_reason(code="GM-5201", fault="provider")))
    lease = get_leases(market)[1]
    market.todo.clear()
    say(market, market.providers[P1].run(lease, market.now))
    market.run(seconds_max=60)
    assert (job.counts[UnitState.ACCEPTED], job.counts[UnitState.WAITING]) == (1, 1)
    stalled_at = job.stalled_at
    assert stalled_at is not None and job.queue_by == stalled_at + 1_800
    market.run(seconds_max=1_799)
    assert job.state is JobState.RUNNING
    market.run(seconds_max=70)
    assert job.state is JobState.FAILED and job.reason is not None
    assert job.reason.code == "GM-4022"
    assert job.reason.text.endswith("1 providers online, 0 fit: 1 at excluded")
    assert P1 in market.chain.sum_paid()


# ---- cancelling and showing ----------------------------------------------------------------


def test_cancelling_stops_every_lease_and_frees_the_money(market, job):
    effects = market.post(events.JobCancelled(at=NOW, order_hash=job.order_hash))
    assert [effect.message.lease_id for effect in effects] == [
        lease.lease_id for lease in get_leases(market)
    ]
    assert {effect.message.reason.code for effect in effects} == {"GM-5401"}
    assert job.state is JobState.CANCELLED
    assert market.post(events.JobCancelled(at=NOW, order_hash=job.order_hash)) == []


def test_work_that_is_finished_is_paid_even_when_the_job_is_cancelled(market, job):
    market.join_verifier()
    say(market, make_finish(market))
    market.post(events.JobCancelled(at=NOW, order_hash=job.order_hash))
    assert job.state is JobState.CHECKING
    market.run()
    assert job.state is JobState.CANCELLED
    assert market.chain.sum_paid()[P1] == -(-400_000 * DURATION_MS // 3_600_000)


def test_progress_is_shown_for_ones_own_running_lease_only(market):
    lease = get_leases(market)[0]
    say(market, messages.LeaseAccepted(lease_id=lease.lease_id))
    progress = messages.LeaseProgress(
        lease_id=lease.lease_id, phase="run", done=3, total=9, line="epoch 3"
    )
    assert events.ProgressReported.VOLATILE
    market.post(events.ProgressReported(at=NOW, sender=P2, progress=progress))
    assert market.state.leases[lease.lease_id].phase == ""
    market.post(events.ProgressReported(at=NOW, sender=P1, progress=progress))
    shown = market.state.leases[lease.lease_id]
    assert (shown.phase, shown.progress_done, shown.line) == ("run", 3, "epoch 3")
    assert shown.state is LeaseState.ACTIVE
