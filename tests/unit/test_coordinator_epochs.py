"""Epochs: roots agreed on, committed before the seed, and what happens when somebody is missing."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.effects import (
    CloseSession,
    CommitEpoch,
    DrawNonce,
    FixSeed,
    ProposeLease,
    SendMessage,
)
from coordinator.core.lifecycle import EpochState, JobState, UnitState
from gpumarket.protocol import messages
from gpumarket.protocol.proof import compute_epoch_root
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import change, make_address, make_hash, make_spec, sign
from tests.coordinator_market import Market, play_until, refuse_chain

P1, P2 = make_address("provider-1"), make_address("provider-2")


@pytest.fixture
def market():
    """Two providers have finished two tasks each; their roots are asked for."""
    market = Market()
    market.join("provider-1")
    market.join("provider-2")
    market.join_verifier()
    market.submit()
    play_until(market, lambda m: bool(m.state.open_epochs))
    return market


def say(market, message, sender):
    return market.post(events.MessageReceived(at=market.now, sender=sender, message=message))


def draw_nonce(market, name="nonce"):
    nonce, salt = make_hash(name), make_hash(f"salt {name}")
    drawn = events.NonceDrawn(at=market.now, epoch=1, nonce=nonce, canary_salt=salt)
    return market.post(drawn)


def make_root(market, name, **changes):
    provider = market.providers[make_address(name)]
    lease_ids = market.state.epochs[1].parts[provider.address].lease_ids
    root = provider.sign_root(1, lease_ids)
    if changes:
        root = messages.RootSigned(root=sign(change(root.root.body, **changes), name))
    return root


def commit(market):
    """Bring the first epoch to COMMITTING; return the effect that commits it."""
    draw_nonce(market)
    say(market, make_root(market, "provider-1"), P1)
    (effect,) = say(market, make_root(market, "provider-2"), P2)
    return effect


def test_each_provider_is_asked_for_a_root_over_its_own_receipts_in_order(market):
    epoch = market.state.epochs[1]
    wanted = [
        SendMessage(
            recipient=provider, message=messages.RootRequested(epoch=1, lease_ids=part.lease_ids)
        )
        for provider, part in epoch.parts.items()
    ]
    assert [effect for effect in market.todo if effect in wanted] == wanted
    assert DrawNonce(epoch=1) in market.todo
    assert list(epoch.parts) == sorted([P1, P2])
    for part in epoch.parts.values():
        units = [market.state.leases[lease_id].unit for lease_id in part.lease_ids]
        assert units == sorted(units) and len(units) == 2


def test_the_epoch_is_committed_once_all_roots_and_the_nonce_are_there(market):
    assert say(market, make_root(market, "provider-1"), P1) == []
    assert say(market, make_root(market, "provider-2"), P2) == []
    (effect,) = draw_nonce(market)
    epoch = market.state.epochs[1]
    assert isinstance(effect, CommitEpoch)
    assert effect.nonce_hash == keccak256(make_hash("nonce"))
    assert effect.root == compute_epoch_root(effect.document)
    assert [work.root.body.provider for work in effect.document.work] == sorted([P1, P2])
    assert [card.body.verifier for card in effect.document.verifiers] == [
        make_address("verifier-1")
    ]
    assert epoch.state is EpochState.COMMITTING
    assert draw_nonce(market, "another nonce") == []
    assert epoch.nonce == make_hash("nonce")


def test_a_second_nonce_does_not_replace_the_first(market):
    draw_nonce(market)
    assert draw_nonce(market, "another nonce") == []
    assert market.state.epochs[1].nonce == make_hash("nonce")


@pytest.mark.parametrize(
    "changes",
    [{"root": make_hash("x")}, {"count": 3}, {"price": 0}, {"duration_ms": 1}],
)
def test_a_root_over_anything_else_is_refused(market, changes):
    before = msgspec.msgpack.encode(market.state)
    (effect,) = say(market, make_root(market, "provider-1", **changes), P1)
    assert isinstance(effect, CloseSession) and effect.peer == P1
    assert msgspec.msgpack.encode(market.state) == before


def test_a_root_signed_for_another_provider_is_refused(market):
    (effect,) = say(market, make_root(market, "provider-1"), P2)
    assert isinstance(effect, CloseSession) and effect.peer == P2


def test_a_provider_that_does_not_sign_is_left_out_and_its_tasks_are_done_again(market):
    draw_nonce(market)
    say(market, make_root(market, "provider-1"), P1)
    market.todo.clear()
    market.wait(15)
    epoch = market.state.epochs[1]
    assert epoch.state is EpochState.COMMITTING
    assert [work.root.body.provider for work in epoch.document.work] == [P1]
    again = [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]
    assert {(lease.provider, lease.attempt) for lease in again} == {(P1, 1)}
    left_out = [market.state.leases[i] for i in epoch.parts[P2].lease_ids]
    assert {lease.reason.code for lease in left_out} == {"GM-7103"}
    assert market.state.standings[P2].days[0].withheld == 1
    assert say(market, make_root(market, "provider-2"), P2) == []


def test_an_epoch_nobody_signs_is_closed_without_a_commitment(market):
    market.wait(15)
    epoch = market.state.epochs[1]
    assert (epoch.state, market.state.open_epochs) == (EpochState.CLOSED, [])
    assert not [effect for effect in market.todo if isinstance(effect, CommitEpoch)]
    job = next(iter(market.state.jobs.values()))
    assert job.counts[UnitState.FINISHED] == 0


def test_the_seed_is_asked_for_after_the_commitment_and_only_once(market):
    committed = market.chain.commit(commit(market), market.now)
    assert market.post(committed) == [
        FixSeed(epoch=1, sequence=0, block=committed.block, nonces=make_hash("nonce"))
    ]
    assert market.post(committed) == []
    assert market.state.epochs[1].state is EpochState.SEEDING


def test_a_seed_that_the_rule_does_not_give_is_not_taken(market):
    (ask,) = market.post(market.chain.commit(commit(market), market.now))
    seed = market.chain.fix_seed(ask, market.now)
    assert market.post(change(seed, seed=make_hash("a better seed"))) == []
    assert market.state.epochs[1].state is EpochState.SEEDING
    market.wait(10)
    assert ask in market.todo
    market.post(seed)
    assert market.state.epochs[1].state is EpochState.CHECKING


def test_a_seed_without_our_nonce_is_taken_when_somebody_else_fixed_it(market):
    (ask,) = market.post(market.chain.commit(commit(market), market.now))
    market.post(market.chain.fix_seed(change(ask, nonces=b""), market.now))
    epoch = market.state.epochs[1]
    assert (epoch.state, epoch.seed_nonces) == (EpochState.CHECKING, b"")


def test_a_chain_that_cannot_be_reached_is_asked_again(market):
    effect = commit(market)
    market.todo.clear()
    market.post(refuse_chain(effect, market.now))
    assert market.state.epochs[1].problem == "the chain cannot be reached"
    market.wait(9)
    assert market.todo == []
    market.wait(1)
    assert market.todo == [effect]


def test_without_a_seed_for_good_the_receipts_go_into_a_later_epoch(market):
    (ask,) = market.post(market.chain.commit(commit(market), market.now))
    market.todo.clear()
    market.inbox.clear()
    market.post(refuse_chain(ask, market.now, is_final=True))
    assert market.state.epochs[1].state is EpochState.CLOSED
    assert market.state.open_epochs == [2]
    market.run()
    job = next(iter(market.state.jobs.values()))
    assert (job.state, job.epochs) == (JobState.SETTLED, [1, 2])


# ---- when an epoch opens -------------------------------------------------------------------


def test_receipts_do_not_wait_for_ever_for_the_rest_of_their_job():
    market = Market()
    market.join("provider-1", offer={"slots": 1})
    job = market.submit(make_spec(units=2))
    play_until(market, lambda m: m.state.pool)
    market.inbox.clear()
    market.todo.clear()
    market.wait(59)
    assert market.state.open_epochs == []
    market.wait(1)
    assert market.state.open_epochs == [1] and job.epochs == [1]


def test_an_epoch_takes_as_many_receipts_as_it_may():
    market = Market(epoch_receipts_max=3)
    market.join("provider-1", offer={"slots": 8})
    market.submit(make_spec(units=7))
    play_until(market, lambda m: len(m.state.open_epochs) == 3)
    sizes = [
        sum(len(part.lease_ids) for part in market.state.epochs[n].parts.values())
        for n in (1, 2, 3)
    ]
    assert sizes == [3, 3, 1]


def test_no_more_epochs_are_open_than_may_be():
    market = Market(epoch_receipts_max=1, epochs_open_max=2)
    market.join("provider-1", offer={"slots": 8})
    market.join_verifier()
    job = market.submit(make_spec(units=5))
    play_until(market, lambda m: not m.todo and not m.inbox)
    assert job.state is JobState.SETTLED and len(job.epochs) == 5


def test_an_epoch_may_hold_several_jobs_and_a_job_several_epochs():
    market = Market()
    provider = market.join("provider-1", offer={"slots": 8})
    market.join_verifier()
    first = market.submit(make_spec(units=3))
    second = market.submit(make_spec(units=2), nonce=make_hash("second"))
    leases = [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]
    market.todo = [effect for effect in market.todo if not isinstance(effect, ProposeLease)]
    for lease in (leases[3], *leases[:3], leases[4]):
        say(market, provider.run(lease, market.now), P1)
    assert (first.epochs, second.epochs) == ([1], [1, 2])
    assert market.state.epochs[1].parts[P1].open_orders == sorted(
        [first.order_hash, second.order_hash]
    )
    market.run()
    assert (first.state, second.state) == (JobState.SETTLED, JobState.SETTLED)
    sampled = [check.order_hash for check in market.state.epochs[1].checks.values()]
    assert (sampled.count(first.order_hash), sampled.count(second.order_hash)) == (3, 1)
