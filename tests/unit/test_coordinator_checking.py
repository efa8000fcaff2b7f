"""Checking: blind, in order, each step bound to the one before; lies and silence pay nothing."""

from __future__ import annotations

import msgspec
import pytest

from coordinator.core import events
from coordinator.core.effects import (
    CloseSession,
    FetchOutput,
    ProposeLease,
    PublishDocument,
    SendMessage,
)
from coordinator.core.lifecycle import CheckState, JobState, PartStage, UnitState
from coordinator.core.settling import compute_money
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.ids import ZERO_HASH
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.sampling import draw_sample
from gpumarket.testing.factories import (
    change,
    make_address,
    make_cid,
    make_hash,
    make_spec,
    make_usage,
    sign,
)
from tests.coordinator_market import Market, list_sent, play_until

P1, V1 = make_address("provider-1"), make_address("verifier-1")


def make_market(kind=None, *, units=2, verify=None, provider=None, **settings):
    """One provider, one verifier, and a job played until a message of some kind is to be sent."""
    market = Market(**settings)
    market.join("provider-1", **({"offer": {"slots": 8}} | (provider or {})))
    market.join_verifier(card={"slots": 8})
    market.submit(make_spec(units=units, verify=verify or VerifyPolicy(mode="full")))
    if kind is not None:
        play_until(market, lambda m: bool(list_sent(m.todo, kind)))
    return market


def say(market, message, sender):
    return market.post(events.MessageReceived(at=market.now, sender=sender, message=message))


def is_refused(market, message, sender):
    """Say whether a message closed its sender's session and changed nothing else."""
    before = msgspec.msgpack.encode(market.state)
    effects = say(market, message, sender)
    return (
        [type(effect) for effect in effects] == [CloseSession]
        and effects[0].peer == sender
        and msgspec.msgpack.encode(market.state) == before
    )


def get_job(market):
    return next(iter(market.state.jobs.values()))


# ---- the sample ----------------------------------------------------------------------------


def test_the_sample_is_what_the_seed_draws_from_the_committed_list():
    market = make_market(
        messages.CheckRequested,
        units=8,
        verify=VerifyPolicy(forged_share_ppm=500_000, units_min=1),
    )
    epoch = market.state.epochs[1]
    part = epoch.parts[P1]
    pool = get_job(market).spec.verify.compute_pool_hash()
    drawn = draw_sample(epoch.seed, P1, count=8, size=len(epoch.checks), pool=pool)
    assert 0 < len(drawn) < 8
    assert {check.lease_id for check in epoch.checks.values()} == {
        part.lease_ids[index] for index in drawn
    }


def test_a_verifier_is_not_shown_the_first_result():
    market = make_market(messages.CheckRequested)
    request = list_sent(market.todo, messages.CheckRequested)[0]
    result = market.providers[P1].results
    shown = encode_document(request)
    assert not any(r.salt in shown or r.output.encode() in shown for r in result.values())


def test_without_verification_the_results_are_opened_at_once():
    market = make_market(messages.OpeningsRequested, verify=VerifyPolicy(mode="none"))
    assert market.state.epochs[1].checks == {}
    (request,) = list_sent(market.todo, messages.OpeningsRequested)
    assert len(request.lease_ids) == 2 and request.seals == ()


def test_a_verifier_gets_no_more_checks_than_it_has_slots():
    market = Market()
    market.join("provider-1", offer={"slots": 8})
    market.join_verifier(card={"slots": 1})
    market.submit(make_spec(units=3, verify=VerifyPolicy(mode="full")))
    play_until(market, lambda m: bool(list_sent(m.todo, messages.CheckRequested)))
    states = [check.state for check in market.state.epochs[1].checks.values()]
    assert states.count(CheckState.ASKED) == 1 and states.count(CheckState.WAITING) == 2
    market.run()
    assert get_job(market).state is JobState.SETTLED


def test_a_verifier_of_the_same_class_comes_first_and_a_provider_never_checks_itself():
    market = Market()
    market.join("provider-1")
    market.join_verifier("verifier-1", card={"repro_class": make_hash("another class")})
    market.join_verifier("verifier-2")
    market.submit(make_spec(units=2))
    market.run()
    verifiers = {check.verifier for check in market.state.epochs[1].checks.values()}
    assert verifiers == {make_address("verifier-2")}


def test_a_requester_does_not_check_its_own_job():
    market = Market()
    market.join("provider-1")
    market.join_verifier("requester", card={"slots": 8})
    job = market.submit(make_spec(units=1))
    market.run(seconds_max=100)
    assert job.state is JobState.CHECKING
    assert [check.verifier for check in market.state.epochs[1].checks.values()] == [None]


def test_a_verifier_without_stake_is_given_nothing():
    market = make_market(messages.RootRequested)
    market.join_verifier(stake=0)
    market.run(seconds_max=60)
    assert market.state.epochs[1].eligible == ()
    assert {check.verifier for check in market.state.epochs[1].checks.values()} == {None}
    market.join_verifier(stake=1)
    market.run()
    assert get_job(market).state is JobState.SETTLED


def test_a_job_waits_for_a_verifier_when_there_is_none():
    market = Market()
    market.join("provider-1")
    job = market.submit(make_spec(units=1))
    market.run(seconds_max=600)
    assert job.state is JobState.CHECKING
    market.join_verifier()
    market.run()
    assert job.state is JobState.SETTLED


# ---- seals ---------------------------------------------------------------------------------


@pytest.fixture
def asked():
    """The two checks of a job are asked; nobody has answered."""
    market = make_market(messages.CheckRequested)
    market.seals = [
        market.verifiers[V1].seal(request)
        for request in list_sent(market.todo, messages.CheckRequested)
    ]
    market.todo.clear()
    return market


def test_results_are_asked_for_after_the_last_seal_and_with_all_of_them(asked):
    first, second = asked.seals
    assert say(asked, first, V1) == []
    (effect,) = say(asked, second, V1)
    epoch = asked.state.epochs[1]
    assert effect == SendMessage(
        recipient=P1,
        message=messages.OpeningsRequested(
            epoch=1,
            lease_ids=epoch.parts[P1].lease_ids,
            seals=tuple(check.seal for check in epoch.checks.values()),
        ),
    )
    assert say(asked, second, V1) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: change(m, seal=change(m.seal, signature=bytes(65))),
        lambda m: change(m, seal=sign(m.seal.body, "verifier-2")),
        lambda m: change(m, seal=sign(change(m.seal.body, unit=9), "verifier-1")),
        lambda m: change(m, seal=sign(change(m.seal.body, order_hash=ZERO_HASH), "verifier-1")),
    ],
)
def test_a_seal_that_is_not_right_is_refused(asked, spoil):
    assert is_refused(asked, spoil(asked.seals[0]), V1)


def test_a_seal_by_a_verifier_that_was_not_chosen_changes_nothing(asked):
    asked.join_verifier("verifier-2")
    body = change(asked.seals[0].seal.body, verifier=make_address("verifier-2"))
    seal = messages.CheckSealed(seal=sign(body, "verifier-2"))
    assert say(asked, seal, make_address("verifier-2")) == []
    assert {check.seal for check in asked.state.epochs[1].checks.values()} == {None}


def test_a_late_verifier_loses_the_check_and_the_third_delay_is_inconclusive(asked):
    job = get_job(asked)
    for attempt in range(3):
        assert asked.state.waiting_checks == {}, attempt
        asked.refresh()
        asked.wait(3_600 + 300)
    checks = asked.state.epochs[1].checks.values()
    assert {check.verdict for check in checks} == {Verdict.INCONCLUSIVE}
    asked.todo = [e for e in asked.todo if getattr(e, "message", None)]
    asked.run(seconds_max=100)
    # Nobody is blamed, nothing is paid, the tasks are done again.
    assert {unit.failures[0].reason.code for unit in job.units} == {"GM-7104"}
    assert asked.state.standings.get(P1) is None or not asked.state.standings[P1].days[0].lost


def test_a_check_goes_to_a_verifier_that_has_not_failed_at_it(asked):
    asked.join_verifier("verifier-2", card={"slots": 8})
    asked.refresh()
    asked.wait(3_900)
    requests = [e for e in asked.todo if isinstance(e, SendMessage)]
    again = [e.recipient for e in requests if isinstance(e.message, messages.CheckRequested)]
    assert again == [make_address("verifier-2")] * 2


def test_a_verifier_may_decline(asked):
    receipt_hash = asked.seals[0].seal.body.receipt_hash
    asked.join_verifier("verifier-2", card={"slots": 8})
    declined = messages.Declined(about=receipt_hash, code="GM-5303", need="1", have="0")
    (effect,) = say(asked, declined, V1)
    assert effect.recipient == make_address("verifier-2")
    assert effect.message.receipt_hash == receipt_hash


# ---- openings ------------------------------------------------------------------------------


@pytest.fixture
def sealed():
    """Both checks are sealed; the provider is asked to open."""
    market = make_market(messages.OpeningsRequested)
    market.opened = market.providers[P1].open(list_sent(market.todo, messages.OpeningsRequested)[0])
    market.todo.clear()
    return market


def test_opened_results_are_shown_to_their_verifiers_and_fetched(sealed):
    effects = say(sealed, sealed.opened, P1)
    fetches = [effect for effect in effects if isinstance(effect, FetchOutput)]
    assert [(fetch.unit, fetch.cid, fetch.bytes_max) for fetch in fetches] == [
        (0, make_cid("output 0"), 1_000_000),
        (1, make_cid("output 1"), 1_000_000),
    ]
    shown = [e for e in effects if isinstance(e, SendMessage)]
    assert {e.recipient for e in shown} == {V1}
    openings = {message.opening for message in list_sent(effects, messages.ResultShown)}
    assert openings == set(sealed.opened.openings) and len(shown) == 2


def spoil_opening(opened, *, result=None, **changes):
    body = opened.openings[0].body
    spoiled = change(body, result=change(body.result, **(result or {})), **changes)
    return change(opened, openings=(sign(spoiled, "provider-1"), *opened.openings[1:]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda o: spoil_opening(o, result={"output": make_cid("swapped after the seal")}),
        lambda o: spoil_opening(o, result={"salt": make_hash("another salt")}),
        lambda o: spoil_opening(o, seal_hashes=()),
        lambda o: spoil_opening(o, receipt_hash=ZERO_HASH),
        lambda o: change(o, openings=(sign(o.openings[0].body, "provider-2"),)),
        lambda o: change(o, openings=(change(o.openings[0], signature=bytes(65)),)),
    ],
)
def test_an_opening_that_is_not_what_was_committed_is_refused_whole(sealed, spoil):
    assert is_refused(sealed, spoil(sealed.opened), P1)


def test_results_may_be_opened_in_pieces_and_twice(sealed):
    first, second = (change(sealed.opened, openings=(o,)) for o in sealed.opened.openings)
    assert say(sealed, first, P1) == []
    assert say(sealed, first, P1) == []
    assert say(sealed, second, P1) != []
    assert sealed.state.epochs[1].parts[P1].stage is PartStage.JUDGING


def test_a_provider_that_does_not_open_everything_is_paid_nothing(sealed):
    job = get_job(sealed)
    say(sealed, change(sealed.opened, openings=sealed.opened.openings[:1]), P1)
    sealed.wait(30)
    leases = list(sealed.state.leases.values())[:2]
    assert {(le.state, le.reason.code) for le in leases} == {(LeaseState.ENDED, "GM-7102")}
    assert job.excluded == [P1] and sealed.state.standings[P1].days[0].withheld == 1
    (closed,) = list_sent(sealed.todo, messages.EpochClosed)
    assert closed.accepted == () and len(closed.rejected) == 2
    assert say(sealed, sealed.opened, P1) == []


@pytest.mark.parametrize(
    "result",
    [
        {"output_bytes": 1_000_001},
        {"input_hash": make_hash("another input")},
        {"output": "b" + "a" * 58},
        {"duration_ms": 1},
        {"usage": make_usage(device_ms=2_000)},
    ],
)
def test_a_result_that_breaks_a_rule_cannot_be_opened_though_it_was_committed(result):
    market = Market()
    provider = market.join("provider-1")
    market.join_verifier()
    market.submit(make_spec(units=1, verify=VerifyPolicy(mode="none")))
    lease = next(effect.lease for effect in market.todo if hasattr(effect, "lease"))
    provider.run(lease, market.now)
    spoiled = change(provider.results[lease.lease_id], **result)
    receipt = change(provider.receipts[lease.lease_id], result_hash=spoiled.compute_hash())
    provider.results[lease.lease_id], provider.receipts[lease.lease_id] = spoiled, receipt
    finish = messages.UnitFinished(
        lease_id=lease.lease_id, receipt=sign(receipt, "provider-1"), duration_ms=1_000
    )
    say(market, finish, P1)
    play_until(market, lambda m: bool(list_sent(m.todo, messages.OpeningsRequested)))
    opened = provider.open(list_sent(market.todo, messages.OpeningsRequested)[0])
    assert is_refused(market, opened, P1)


# ---- verdicts ------------------------------------------------------------------------------


@pytest.fixture
def shown():
    """One task, opened, fetched and shown; the verifier has not judged yet."""
    market = make_market(messages.ResultShown, units=1)
    message = list_sent(market.todo, messages.ResultShown)[0]
    for effect in [e for e in market.todo if isinstance(e, FetchOutput)]:
        market.perform(effect)
    market.todo.clear()
    while market.inbox:
        market.deliver(market.inbox.pop(0))
    market.verdict = market.verifiers[V1].judge(message, market.now)
    return market


def test_a_match_accepts_the_task_and_publishes_the_evidence(shown):
    effects = say(shown, shown.verdict, V1)
    assert effects[0] == PublishDocument(data=encode_document(shown.verdict.evidence))
    (approved,) = list_sent(effects, messages.ReceiptsApproved)
    assert [each.attestation for each in approved.approvals.approvals] == [
        shown.verdict.attestation
    ]
    assert effects[2] == SendMessage(
        recipient=P1,
        message=messages.EpochClosed(
            epoch=1, accepted=tuple(shown.state.leases), rejected=(), reason=None
        ),
    )
    assert get_job(shown).counts[UnitState.ACCEPTED] == 1
    assert say(shown, shown.verdict, V1) == []


def spoil_verdict(done, *, own=None, verdict=None, **evidence):
    spoiled = change(done.evidence, **evidence)
    spoiled = change(spoiled, own=change(spoiled.own, **(own or {})))
    body = change(done.attestation.body, evidence_hash=compute_content_hash(spoiled))
    body = change(body, verdict=verdict or body.verdict)
    return messages.CheckDone(attestation=sign(body, "verifier-1"), evidence=spoiled)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: change(d, attestation=change(d.attestation, signature=bytes(65))),
        lambda d: change(d, attestation=sign(d.attestation.body, "verifier-2")),
        lambda d: change(d, evidence=change(d.evidence, comparison="something else")),
        lambda d: spoil_verdict(d, own={"output": make_cid("thought of later")}),
        lambda d: spoil_verdict(d, opening_hash=ZERO_HASH),
        lambda d: spoil_verdict(d, verdict=7),
        lambda d: spoil_verdict(d, verdict=int(Verdict.MISMATCH)),
        lambda d: spoil_verdict(d, own={"exit_code": 1}),
    ],
)
def test_a_verdict_that_does_not_rest_on_what_was_sealed_and_shown_is_refused(shown, spoil):
    assert is_refused(shown, spoil(shown.verdict), V1)


def test_an_inconclusive_verdict_blames_nobody_and_pays_nobody(shown):
    job = get_job(shown)
    say(shown, spoil_verdict(shown.verdict, verdict=int(Verdict.INCONCLUSIVE)), V1)
    assert job.counts[UnitState.ACCEPTED] == 0 and job.excluded == []
    money = compute_money(shown.state, job)
    assert (money.payable, money.checks) == (0, 0)


def test_a_verifier_silent_after_it_has_seen_the_result_makes_the_check_inconclusive(shown):
    shown.wait(120)
    (check,) = shown.state.epochs[1].checks.values()
    assert (check.verdict, check.attestation) == (Verdict.INCONCLUSIVE, None)
    assert get_job(shown).units[0].failures[0].reason.code == "GM-7104"


def test_one_forged_task_costs_all_tasks_of_that_provider_in_that_epoch():
    market = make_market(units=4, provider={"forges": frozenset({2})})
    market.join("provider-2")
    job = get_job(market)
    market.run(seconds_max=60)
    epoch = market.state.epochs[1]
    (part,) = [part for provider, part in epoch.parts.items() if provider == P1]
    assert part.accepted == [] and set(part.rejected) == set(part.lease_ids)
    assert part.reason is not None and part.reason.code == "GM-7101"
    assert job.state is JobState.SETTLED and job.excluded == [P1]
    assert P1 not in market.chain.sum_paid()
    assert market.state.standings[P1].days[0].forged == 1


def test_a_provider_found_forging_loses_what_it_has_outside_the_epoch():
    market = Market(epoch_receipts_max=2, epoch_seconds=100_000)
    market.join("provider-1", offer={"slots": 2}, forges=frozenset({0}))
    market.join_verifier(card={"slots": 8})
    job = market.submit(make_spec(units=5, verify=VerifyPolicy(mode="full")))
    # Two tasks are in the first epoch, the third waits for another, two more are proposed.
    for _ in range(3):
        lease = next(e.lease for e in market.todo if isinstance(e, ProposeLease))
        market.todo = [e for e in market.todo if getattr(e, "lease", None) is not lease]
        say(market, market.providers[P1].run(lease, market.now), P1)
    outside = {i for i, le in market.state.leases.items() if le.epoch is None}
    assert len(outside) == 3 and len(market.state.pool) == 1
    market.todo = [e for e in market.todo if not isinstance(e, ProposeLease)]
    play_until(market, lambda m: list_sent(m.todo, messages.ResultShown))
    shown = list_sent(market.todo, messages.ResultShown)
    market.todo.clear()
    for message in shown:
        say(market, market.verifiers[V1].judge(message, market.now), V1)
    cancelled = {message.lease_id for message in list_sent(market.todo, messages.LeaseCancelled)}
    assert job.excluded == [P1]
    assert cancelled == outside
    assert {market.state.leases[i].state for i in cancelled} == {LeaseState.ENDED}


def test_a_provider_found_forging_loses_what_it_still_has_of_the_job():
    market = Market(epoch_receipts_max=2)
    market.join("provider-1", offer={"slots": 2}, forges=frozenset({0, 1}))
    market.join_verifier(card={"slots": 8})
    job = market.submit(make_spec(units=4, verify=VerifyPolicy(mode="full")))
    play_until(market, lambda m: P1 in job.excluded)
    later = [lease for lease in market.state.leases.values() if lease.unit in (2, 3)]
    in_epochs = {lease.epoch for lease in later if lease.state is not LeaseState.ENDED}
    assert None not in in_epochs
    assert not market.state.pool and not market.state.providers[P1].lease_ids


# ---- outputs -------------------------------------------------------------------------------


def test_an_output_that_cannot_be_fetched_is_no_work():
    market = make_market(units=1, provider={"has_outputs": False}, retry_seconds=10)
    job = get_job(market)
    market.run(seconds_max=25)
    assert job.units[0].failures[0].reason.code == "GM-6012"
    market.join("provider-2")
    market.run(seconds_max=120)
    assert job.state is JobState.SETTLED
    assert P1 not in market.chain.sum_paid()


def test_a_fetch_that_never_ends_is_given_up():
    market = make_market(messages.ResultShown, units=1)
    for effect in [e for e in market.todo if isinstance(e, SendMessage)]:
        market.perform(effect)
    market.todo.clear()
    while market.inbox:
        market.deliver(market.inbox.pop(0))
    market.wait(300)
    assert get_job(market).units[0].failures[0].reason.text.endswith("it did not come in time")


def test_an_output_is_paid_only_when_it_is_the_opened_one():
    market = make_market(messages.ResultShown, units=1)
    (lease_id,) = market.state.leases
    other = events.OutputFetched(
        at=market.now, lease_id=lease_id, cid=make_cid("another"), size_bytes=1
    )
    assert market.post(other) == []
    assert not market.state.leases[lease_id].is_output_here
