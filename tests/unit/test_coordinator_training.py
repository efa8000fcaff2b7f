"""Training tasks: which checkpoints count, what a lost or lying provider costs, what is drawn."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.checking import list_unopened
from coordinator.core.effects import CloseSession, FetchCheckpoint, FixSeed, ProposeLease
from coordinator.core.lifecycle import JobState, UnitState
from coordinator.core.training import find_audit
from gpumarket.protocol import messages
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.training import (
    compute_chain_start,
    count_segments,
    draw_segments,
    make_claim,
    make_starts,
    make_state,
)
from gpumarket.testing.chains import make_facts, make_plan
from gpumarket.testing.factories import change, make_address, make_cid, make_hash, make_spec, sign
from tests.coordinator_market import Market, list_sent, play_until

PLAN = make_plan(top_audits=0)
LAST = count_segments(PLAN)
P1, P2 = make_address("provider-1"), make_address("provider-2")


def make_training_spec(**changes):
    policy = VerifyPolicy(
        rate_ppm=1_000_000, forged_share_ppm=1_000_000, confidence_ppm=500_000, units_min=0
    )
    return make_spec(**({"units": 1, "checkpoint": PLAN, "verify": policy} | changes))


def start(spec=None):
    """Return a market with a training job whose task is proposed to its only provider."""
    market = Market()
    market.join("provider-1")
    return market, market.submit(spec or make_training_spec())


@pytest.fixture
def market():
    market, _ = start()
    return market


@pytest.fixture
def job(market):
    return next(iter(market.state.jobs.values()))


def get_offer(market):
    return [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)][-1]


def get_lease(market):
    return market.state.leases[get_offer(market).lease_id]


def make_next(market, *, facts=None, **changes):
    """Return the state that continues the newest lease's chain honestly, but for `changes`."""
    offer, lease = get_offer(market), get_lease(market)
    before = lease.segments[-1].body if lease.segments else None
    index = len(lease.segments)
    state = make_state(
        facts or make_facts(PLAN, index),
        before=before,
        start=compute_chain_start(offer.order.body.job_hash, offer.unit),
        step_from=0 if before is None else before.step_to,
        order_hash=lease.order_hash,
        unit=lease.unit,
        provider=lease.provider,
        repro_class=make_hash("class"),
    )
    return change(state, **changes)


def name(provider):
    return "provider-1" if provider == P1 else "provider-2"


def say(market, message, sender=None):
    sender = sender or get_offer(market).provider
    return market.post(events.MessageReceived(at=market.now, sender=sender, message=message))


def tell(market, state=None, *, signer=None, sender=None, lease_id=None):
    """Tell of a checkpoint: the next one of the newest lease."""
    state = state or make_next(market)
    message = messages.CheckpointTaken(
        lease_id=lease_id or get_offer(market).lease_id,
        state=sign(state, signer or name(state.provider)),
    )
    return say(market, message, sender)


def keep(market, index, lease_id=None):
    lease_id = lease_id or get_offer(market).lease_id
    return market.post(events.CheckpointKept(at=market.now, lease_id=lease_id, index=index))


def refuse(market, index, text="its weights are not what it says"):
    event = events.CheckpointRefused(
        at=market.now, lease_id=get_offer(market).lease_id, index=index, text=text
    )
    return market.post(event)


def train(market, checkpoints):
    """Let the newest lease hand out so many checkpoints, each of which is kept."""
    for _ in range(checkpoints):
        index = len(get_lease(market).segments)
        tell(market)
        keep(market, index)


def finish(market):
    """Finish the newest lease with what its chain ends with."""
    offer, lease = get_offer(market), get_lease(market)
    provider = market.providers[offer.provider]
    if lease.segments:
        provider.claims[offer.lease_id] = make_claim(lease.segments[-1].body)
    market.todo = [effect for effect in market.todo if not isinstance(effect, ProposeLease)]
    return market.post(
        events.MessageReceived(
            at=market.now, sender=offer.provider, message=provider.run(offer, market.now)
        )
    )


def expect_refusal(market, tell_it, text):
    """See that a message closes its sender's session and changes nothing else."""
    before = msgspec.msgpack.encode(market.state)
    (effect,) = tell_it()
    assert isinstance(effect, CloseSession)
    assert text in effect.text
    assert msgspec.msgpack.encode(market.state) == before


# ---- while it runs -------------------------------------------------------------------------


def test_a_checkpoint_starts_its_lease_and_is_fetched(market, job):
    first = make_next(market)
    (fetch,) = tell(market, first)
    assert isinstance(fetch, FetchCheckpoint)
    assert (fetch.segment, fetch.before, fetch.bytes_max) == (first, None, PLAN.bytes_max)
    assert (get_lease(market).state, job.state) == (LeaseState.ACTIVE, JobState.RUNNING)
    second = make_next(market)
    (fetch,) = tell(market, second)
    assert (fetch.segment, fetch.before) == (second, first)
    assert [signed.body for signed in get_lease(market).segments] == [first, second]


def test_a_checkpoint_that_is_told_twice_counts_once(market):
    state = make_next(market)
    tell(market, state)
    tell(market)
    before = msgspec.msgpack.encode(market.state)
    assert tell(market, state) == []
    assert msgspec.msgpack.encode(market.state) == before


def test_two_ends_of_one_segment_are_refused(market):
    tell(market)
    state = make_next(market)
    tell(market, state)
    other = change(state, model_root=make_hash("other"))
    expect_refusal(market, lambda: tell(market, other), "two ends of one segment")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"index": 2}, "does not continue: its index"),
        ({"previous": make_hash("elsewhere")}, "does not continue: its chain"),
        ({"step_from": 5}, "does not continue: its first step"),
        ({"step_to": 20}, "does not continue: its last step"),
        ({"update_norm": "-1"}, "negative"),
        ({"order_hash": make_hash("another order")}, "another task than its lease"),
        ({"unit": 1}, "another task than its lease"),
        ({"repro_class": make_hash("other")}, "another class than its provider's offer"),
    ],
)
def test_a_checkpoint_out_of_its_place_is_refused(market, changes, text):
    tell(market)
    state = make_next(market, **changes)
    expect_refusal(market, lambda: tell(market, state), text)


def test_a_checkpoint_left_out_is_missed(market):
    tell(market)
    left_out = make_next(market)
    later = make_state(
        make_facts(PLAN, 2),
        before=left_out,
        start=b"",
        step_from=left_out.step_to,
        order_hash=left_out.order_hash,
        unit=left_out.unit,
        provider=left_out.provider,
        repro_class=left_out.repro_class,
    )
    expect_refusal(market, lambda: tell(market, later), "segment 2 does not continue: its index")


def test_more_checkpoints_than_the_plan_has_are_refused(market):
    train(market, LAST + 1)
    state = make_next(market, facts=make_facts(PLAN, LAST))
    expect_refusal(market, lambda: tell(market, state), "more segments than the plan has")


def test_a_checkpoint_counts_only_from_its_provider(market):
    market.join("provider-2")
    state = make_next(market)
    expect_refusal(market, lambda: tell(market, state, signer="provider-2"), "somebody else")
    stolen = change(state, provider=P2)
    expect_refusal(market, lambda: tell(market, stolen, sender=P1), "somebody else")
    expect_refusal(market, lambda: tell(market, stolen, sender=P2), "another provider's lease")


def test_a_checkpoint_of_a_task_without_any_is_refused():
    market, _ = start(make_training_spec(checkpoint=None))
    expect_refusal(market, lambda: tell(market), "a checkpoint of a task that has none")


def test_a_checkpoint_of_a_lease_that_is_over_is_answered_with_its_end(market):
    train(market, 2)
    lease_id, late = get_offer(market).lease_id, make_next(market)
    refuse(market, 1)
    (effect,) = tell(market, late, lease_id=lease_id, sender=P1)
    assert effect.message.reason.code == "GM-7106"
    (effect,) = tell(market, late, lease_id=make_hash("unknown"), sender=P1)
    assert effect.message.reason.code == "GM-5303"


# ---- false and lost ------------------------------------------------------------------------


def test_a_false_checkpoint_ends_its_lease_and_the_next_goes_on_from_the_last_kept(market, job):
    market.join("provider-2")
    train(market, 3)
    liar, kept = get_offer(market), list(get_lease(market).segments)
    tell(market)
    effects = refuse(market, 3, "x" * 1_000)
    lost = market.state.leases[liar.lease_id]
    assert (lost.state, lost.reason.code, lost.reason.fault) == (
        LeaseState.ENDED,
        "GM-7106",
        "provider",
    )
    assert len(lost.reason.text) == 300
    (cancelled,) = list_sent(effects, messages.LeaseCancelled)
    assert (cancelled.lease_id, cancelled.reason.code) == (liar.lease_id, "GM-7106")
    assert job.units[0].failures[0].reason.code == "GM-7106"
    offer, lease = get_offer(market), get_lease(market)
    assert (offer.provider, offer.attempt) == (P2, 1)
    assert offer.resume == kept[-1].body
    assert (lease.segments, lease.inherited, lease.kept) == (kept, 3, 3)
    # The second provider's part stands behind the first one's, under its own name.
    train(market, 1)
    assert [signed.body.provider for signed in lease.segments] == [P1, P1, P1, P2]


def test_a_lease_that_is_over_is_not_ended_again_by_its_checkpoint(market, job):
    train(market, 2)
    first = get_offer(market).lease_id
    refuse(market, 1)
    before = msgspec.msgpack.encode(market.state)
    for lease_id in (first, make_hash("unknown")):
        again = events.CheckpointRefused(at=market.now, lease_id=lease_id, index=0, text="again")
        assert market.post(again) == []
    assert len(job.units[0].failures) == 1
    assert msgspec.msgpack.encode(market.state) == before


def test_a_checkpoint_that_is_not_here_is_nothing_to_go_on_from(market, job):
    train(market, 2)
    tell(market)
    assert len(job.units[0].segments) == 2
    market.join("provider-2")
    refuse(market, 2)
    assert get_offer(market).resume == make_kept(market, 1)
    # One that comes too late changes nothing of the lease that goes on.
    first = next(iter(market.state.leases))
    keep(market, 2, first)
    assert len(job.units[0].segments) == 2


def make_kept(market, index):
    return next(iter(market.state.leases.values())).segments[index].body


def test_checkpoints_told_of_while_one_is_fetched_do_not_count_with_it(market, job):
    tell(market)
    tell(market)
    keep(market, 0)
    assert [signed.body.index for signed in job.units[0].segments] == [0]
    keep(market, 1)
    assert [signed.body.index for signed in job.units[0].segments] == [0, 1]


def test_a_checkpoint_is_told_of_once(market, job):
    train(market, 2)
    keep(market, 1)
    keep(market, 0)
    keep(market, 9)
    keep(market, 0, make_hash("unknown"))
    told = [entry.text for entry in job.log if entry.type == "checkpoint"]
    assert told == ["at step 0, loss 1.0", "at step 10, loss 1.125"]


def test_a_task_that_does_not_resume_begins_again():
    market, job = start(make_training_spec(checkpoint=change(PLAN, does_resume=False)))
    market.join("provider-2")
    train(market, 3)
    assert job.units[0].segments == []
    refuse(market, 2)
    assert get_offer(market).resume is None
    assert get_lease(market).segments == []
    train(market, 1)
    assert get_lease(market).segments[0].body.provider == P2


def test_a_receipt_without_the_last_checkpoint_is_refused(market):
    train(market, LAST)
    offer = get_offer(market)
    receipt = market.providers[P1].run(offer, market.now)
    expect_refusal(market, lambda: say(market, receipt), "without its last checkpoint")
    train(market, 1)
    say(market, receipt)
    assert get_lease(market).state is LeaseState.FINISHED


# ---- a restart -----------------------------------------------------------------------------


def test_a_restart_in_the_middle_asks_again_for_what_was_not_kept_and_goes_on(market):
    train(market, 2)
    tell(market)
    offer, newest = get_offer(market), get_lease(market).segments[-1].body
    market.restart()
    fetches = [effect for effect in market.todo if isinstance(effect, FetchCheckpoint)]
    assert [(fetch.segment, fetch.lease_id) for fetch in fetches] == [(newest, offer.lease_id)]
    market.todo.append(ProposeLease(lease=offer))
    keep(market, 2)
    job = next(iter(market.state.jobs.values()))
    assert len(job.units[0].segments) == 3
    train(market, LAST - 2)
    market.restart()
    assert not [effect for effect in market.todo if isinstance(effect, FetchCheckpoint)]
    assert len(market.state.leases[offer.lease_id].segments) == LAST + 1


# ---- checking ------------------------------------------------------------------------------


def finish_whole(market):
    """Let a second provider finish what the first one began, with a verifier there."""
    market.join_verifier()
    market.join("provider-2")
    train(market, 3)
    refuse(market, 2)
    train(market, LAST + 1 - len(get_lease(market).segments))
    finish(market)


def test_segments_are_drawn_by_the_seed_and_nobody_hears_of_them_before(market, job):
    finish_whole(market)
    chain = [signed.body for lease in market.state.leases.values() for signed in lease.segments]
    play_until(market, lambda m: any(isinstance(effect, FixSeed) for effect in m.todo))
    assert list_sent(market.todo, messages.CheckRequested) == []
    assert not market.verifiers[make_address("verifier-1")].own
    play_until(market, lambda m: list_sent(m.todo, messages.CheckRequested))
    (asked,) = list_sent(market.todo, messages.CheckRequested)
    seed = market.state.epochs[1].seed
    states = tuple(chain[-LAST - 1 :])
    drawn = draw_segments(states, plan=PLAN, seed=seed, receipt_hash=asked.receipt_hash)
    assert asked.segments == make_starts(states, drawn, PLAN)
    ends = {states[index].folder for index in drawn} - {each.folder for each in asked.segments}
    assert states[LAST].folder in ends
    # The chain is shown once the verifier has sealed its own ends, and not before.
    play_until(market, lambda m: list_sent(m.todo, messages.ResultShown))
    (shown,) = list_sent(market.todo, messages.ResultShown)
    assert shown.states == states
    assert market.verifiers[make_address("verifier-1")].own
    market.run()
    assert (job.state, job.counts[UnitState.ACCEPTED]) == (JobState.SETTLED, 1)
    assert set(market.chain.sum_paid()) >= {P2}
    assert P1 not in market.chain.sum_paid()


def test_all_segments_are_done_again_where_the_job_asks_for_it():
    spec = make_training_spec()
    market, _ = start(change(spec, verify=change(spec.verify, mode="full")))
    finish_whole(market)
    play_until(market, lambda m: list_sent(m.todo, messages.CheckRequested))
    (asked,) = list_sent(market.todo, messages.CheckRequested)
    assert [each.index for each in asked.segments] == list(range(1, LAST + 1))


def test_a_draw_without_an_epoch_or_its_seed_is_our_own_bug(market):
    finish_whole(market)
    play_until(market, lambda m: list_sent(m.todo, messages.CheckRequested))
    (check,) = market.state.epochs[1].checks.values()
    seed, market.state.epochs[1].seed = market.state.epochs[1].seed, None
    with pytest.raises(LocalProtocolError):
        find_audit(market.state, check)
    market.state.epochs[1].seed = seed
    market.state.leases[check.lease_id].epoch = None
    with pytest.raises(LocalProtocolError):
        find_audit(market.state, check)


def test_an_opened_result_must_end_the_chain_that_was_handed_out(market):
    market.join_verifier()
    train(market, LAST + 1)
    offer = get_offer(market)
    provider = market.providers[P1]
    provider.claims[offer.lease_id] = change(
        make_claim(get_lease(market).segments[-1].body), chain=make_hash("other")
    )
    market.todo.clear()
    say_result = provider.run(offer, market.now)
    market.post(events.MessageReceived(at=market.now, sender=P1, message=say_result))
    market.run()
    assert [(each.peer, each.text) for each in market.closed] == [
        (P1, "an opened result ends another chain than was handed out")
    ]
    (part,) = market.state.epochs[1].parts.values()
    assert [lease.lease_id for lease in list_unopened(market.state, part)] == [offer.lease_id]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda audit: None,
        lambda audit: change(audit, drawn=audit.drawn[:-1]),
        lambda audit: change(audit, states=audit.states[:-1]),
        lambda audit: change(
            audit, states=(*audit.states[:-1], change(audit.states[-1], folder=make_cid("other")))
        ),
    ],
)
def test_evidence_about_other_segments_than_were_drawn_is_refused(market, spoil):
    finish_whole(market)
    play_until(market, lambda m: list_sent(m.todo, messages.ResultShown))
    (shown,) = list_sent(market.todo, messages.ResultShown)
    verifier = market.verifiers[make_address("verifier-1")]
    honest = verifier.judge(shown, market.now)
    evidence = change(honest.evidence, segments=spoil(honest.evidence.segments))
    body = change(honest.attestation.body, evidence_hash=compute_content_hash(evidence))
    forged = change(honest, evidence=evidence, attestation=sign(body, "verifier-1"))
    expect_refusal(
        market,
        lambda: say(market, forged, verifier.address),
        "other segments than were drawn",
    )
