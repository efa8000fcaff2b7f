"""Sessions: who is let in, and what becomes of the work of those who go and come back."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.effects import (
    CloseSession,
    CommitEpoch,
    DrawNonce,
    FetchOutput,
    FixSeed,
    PostBatch,
    ProposeLease,
    ReadEscrow,
    SendMessage,
)
from coordinator.core.lifecycle import JobState, PartStage
from gpumarket.protocol import messages
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount
from gpumarket.testing.factories import (
    ANYWHERE,
    DOMAIN,
    NOW,
    change,
    make_address,
    make_device,
    make_hash,
    make_offer,
    make_signed_card,
    make_signed_offer,
    make_spec,
    sign,
)
from tests.coordinator_market import Market, play_until

P1, V1 = make_address("provider-1"), make_address("verifier-1")


def make_join(name="provider-1", *, session=1, running=(), **offer):
    return events.ProviderJoined(
        at=NOW,
        sender=make_address(name),
        session=session,
        offer=make_signed_offer(name, **offer),
        running=running,
        stake=Amount(0),
    )


def make_verifier_join(name="verifier-1", *, session=1, **card):
    return events.VerifierJoined(
        at=NOW,
        sender=make_address(name),
        session=session,
        card=make_signed_card(name, **card),
        stake=Amount(0),
    )


def is_refused(market, event):
    """Say whether a hello was declined, its session closed, and nothing changed."""
    before = msgspec.msgpack.encode(market.state)
    effects = market.post(event)
    return (
        [type(effect) for effect in effects] == [SendMessage, CloseSession]
        and isinstance(effects[0].message, messages.Declined)
        and effects[1].session == event.session
        and msgspec.msgpack.encode(market.state) == before
    )


def test_a_provider_is_welcomed_and_told_where_content_is():
    market = Market()
    market.post(events.ProcessStarted(at=NOW, sources=(ANYWHERE,)))
    assert market.post(make_join()) == [
        SendMessage(
            recipient=P1,
            message=messages.Welcome(
                coordinator=make_address("coordinator"), content_peers=(ANYWHERE,)
            ),
        )
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda join: change(join, sender=make_address("provider-2")),
        lambda join: change(join, offer=change(join.offer, signature=bytes(65))),
        lambda join: change(join, offer=sign(join.offer.body, "provider-2")),
        lambda join: change(join, running=(make_hash("x"),) * 5_000),
        lambda join: change(
            join,
            offer=sign(
                join.offer.body, "provider-1", domain=Domain(chain_id=1, contract=DOMAIN.contract)
            ),
        ),
    ],
)
def test_a_hello_that_is_not_its_senders_is_refused(spoil):
    assert is_refused(Market(), spoil(make_join()))


@pytest.mark.parametrize("offer", [{"expires_at": NOW}, {"issued_at": NOW + 31}])
def test_an_offer_outside_its_time_is_refused(offer):
    assert is_refused(Market(), make_join(**offer))


def test_simulated_devices_are_sold_on_the_devnet_only():
    domain = Domain(chain_id=1, contract=DOMAIN.contract)
    offer = make_offer(devices=(make_device(simulated=True),))
    join = make_join(devices=(make_device(simulated=True),))
    Market().post(join)
    assert is_refused(
        Market(domain=domain), change(join, offer=sign(offer, "provider-1", domain=domain))
    )


def test_one_key_has_one_role():
    market = Market()
    market.post(make_join("both"))
    assert is_refused(market, make_verifier_join("both", session=2))
    market.post(make_verifier_join("verifier-1", session=3))
    assert is_refused(market, make_join("verifier-1", session=4))


def test_a_newer_offer_replaces_the_old_one_and_an_older_one_does_not():
    market = Market()
    market.post(make_join(sequence=5))
    assert market.post(make_join(sequence=6, price_per_device_hour=1)) == []
    assert market.state.providers[P1].offer.body.price_per_device_hour == 1
    assert is_refused(market, make_join(sequence=5))


def test_an_expired_offer_may_be_followed_by_a_lower_sequence():
    market = Market()
    market.post(make_join(sequence=5))
    market.wait(120)
    later = make_join(sequence=1, issued_at=NOW + 120, expires_at=NOW + 240)
    assert market.post(later) == []
    assert market.state.providers[P1].offer.body.sequence == 1


def test_an_offer_that_expired_gets_no_tasks():
    market = Market()
    market.post(make_join())
    market.submit()
    assert any(isinstance(effect, ProposeLease) for effect in market.todo)
    market.wait(120)
    event = market.make_submission(nonce=make_hash("second"))
    assert market.post(event) == [] and len(market.state.jobs) == 1


def test_a_full_book_makes_room_for_nobody_but_idle_strangers():
    market = Market(peers_max=1)
    market.post(make_join("provider-1"))
    assert is_refused(market, make_join("provider-2", session=2))
    market.post(events.ProviderLeft(at=NOW, provider=P1, session=1))
    market.post(make_join("provider-2", session=2))
    assert list(market.state.providers) == [make_address("provider-2")]


# ---- going and coming back -----------------------------------------------------------------


@pytest.fixture
def running():
    """A market where provider-1 works on two tasks."""
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=2))
    for effect in [e for e in market.todo if isinstance(e, ProposeLease)]:
        market.post(
            events.MessageReceived(
                at=NOW, sender=P1, message=messages.LeaseAccepted(lease_id=effect.lease.lease_id)
            )
        )
    market.todo.clear()
    return market


def get_ids(market):
    return list(market.state.leases)


def test_the_end_of_an_old_session_means_nothing(running):
    running.join("provider-1", leases=dict.fromkeys(get_ids(running)))
    running.post(events.ProviderLeft(at=NOW, provider=P1, session=1))
    assert running.state.providers[P1].session == 2


def test_a_provider_that_is_back_within_the_grace_keeps_its_leases(running):
    running.leave("provider-1")
    running.wait(9)
    running.join("provider-1", leases=dict.fromkeys(get_ids(running)))
    running.wait(60)
    assert {lease.state for lease in running.state.leases.values()} == {LeaseState.ACTIVE}


def test_a_provider_gone_longer_than_the_grace_is_lost(running):
    running.leave("provider-1")
    running.join("provider-2")
    running.wait(10)
    lost = [running.state.leases[lease_id] for lease_id in get_ids(running)[:2]]
    assert {(lease.state, lease.reason.code) for lease in lost} == {(LeaseState.ENDED, "GM-5301")}
    again = [effect.lease for effect in running.todo if isinstance(effect, ProposeLease)]
    assert {(lease.provider, lease.attempt) for lease in again} == {(make_address("provider-2"), 1)}
    assert running.state.standings[P1].days[0].lost == 2


def test_a_lost_provider_that_comes_back_is_told_to_stop(running):
    ids = get_ids(running)
    running.leave("provider-1")
    running.wait(10)
    running.todo.clear()
    running.join("provider-1", leases=dict.fromkeys(ids))
    told = [e.message for e in running.todo if isinstance(e, SendMessage)][1:3]
    assert told == [
        messages.LeaseCancelled(lease_id=i, reason=running.state.leases[i].reason) for i in ids
    ]


def test_a_provider_that_comes_back_without_its_tasks_loses_them_at_once(running):
    ids = get_ids(running)
    running.leave("provider-1")
    running.join("provider-1", leases={ids[0]: None})
    states = [running.state.leases[lease_id].state for lease_id in ids]
    assert states == [LeaseState.ACTIVE, LeaseState.ENDED]


def test_an_offer_renewed_in_the_same_session_says_nothing_about_leases(running):
    provider = running.providers[P1]
    provider.leases.clear()
    running.say_hello(provider)
    assert {lease.state for lease in running.state.leases.values()} == {LeaseState.ACTIVE}


def test_an_acceptance_that_got_lost_is_heard_in_the_hello():
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=1))
    lease_id = get_ids(market)[0]
    market.leave("provider-1")
    market.join("provider-1", leases={lease_id: None})
    assert market.state.leases[lease_id].state is LeaseState.ACTIVE


def test_a_proposal_that_got_lost_is_made_again():
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=1))
    first = next(effect for effect in market.todo if isinstance(effect, ProposeLease))
    market.leave("provider-1")
    market.todo.clear()
    market.join("provider-1")
    assert first in market.todo


def test_a_verifier_that_comes_back_hears_again_what_it_was_asked():
    market = Market()
    market.join("provider-1")
    market.join_verifier()
    market.submit(make_spec(units=1))
    play_until(market, lambda m: any(_asks(effect) for effect in m.todo))
    asked = next(effect for effect in market.todo if _asks(effect))
    market.todo.clear()
    market.leave_verifier()
    market.join_verifier()
    assert asked in market.todo


def test_a_verifier_gone_longer_than_the_grace_gives_its_checks_to_another():
    market = Market()
    market.join("provider-1")
    market.join_verifier()
    job = market.submit(make_spec(units=1))
    play_until(market, lambda m: any(_asks(effect) for effect in m.todo))
    market.todo.clear()
    market.leave_verifier()
    market.join_verifier("verifier-2")
    market.wait(10)
    sent = [effect for effect in market.todo if isinstance(effect, SendMessage)]
    assert [e.recipient for e in sent if _asks(e)] == [make_address("verifier-2")]
    market.run()
    assert job.state is JobState.SETTLED


def _asks(effect):
    return isinstance(effect, SendMessage) and isinstance(effect.message, messages.CheckRequested)


# ---- restarts ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DrawNonce, CommitEpoch, FixSeed, FetchOutput, PostBatch])
def test_what_was_under_way_at_a_crash_is_asked_for_again(kind):
    market = Market()
    market.join("provider-1")
    market.join_verifier()
    job = market.submit(make_spec(units=2))
    play_until(market, lambda m: any(isinstance(effect, kind) for effect in m.todo))
    wanted = [effect for effect in market.todo if isinstance(effect, kind)]
    market.restart()
    assert [effect for effect in market.todo if isinstance(effect, kind)] == wanted
    assert ReadEscrow(requester=make_address("requester")) in market.todo
    market.join("provider-1")
    market.join_verifier()
    market.run(seconds_max=100)
    job = market.state.jobs[job.order_hash]
    assert job.state is JobState.SETTLED
    assert all(unit.attempts == 1 for unit in job.units)


def test_nobody_is_blamed_for_what_came_due_while_the_process_was_down():
    market = Market()
    market.join("provider-1")
    job = market.submit(make_spec(units=1, verify=make_spec().verify))
    play_until(market, lambda m: bool(m.state.open_epochs))
    market.now = type(market.now)(market.now + 3_600)
    market.restart()
    epoch = market.state.epochs[1]
    assert epoch.parts[P1].stage is PartStage.SIGNING
    market.join("provider-1")
    market.join_verifier()
    market.run()
    assert market.state.jobs[job.order_hash].state is JobState.SETTLED
    assert all(day.withheld == day.lost == 0 for day in market.state.standings[P1].days)


def test_a_provider_that_does_not_find_us_again_after_a_restart_is_lost():
    market = Market()
    market.join("provider-1")
    market.submit(make_spec(units=1))
    play_until(market, lambda m: not m.todo)
    market.inbox.clear()
    market.restart()
    market.wait(29)
    assert market.state.providers[P1].lease_ids
    market.wait(1)
    assert not market.state.providers[P1].lease_ids
