"""Canaries: noted before the seed, judged apart, and a verifier that misses one is barred."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.api.proofs import make_proof
from coordinator.core import events
from coordinator.core.canaries import SET_ASIDE, is_due, open_canaries
from coordinator.core.effects import (
    CloseSession,
    CommitEpoch,
    FixSeed,
    ProposeLease,
    PublishDocument,
)
from coordinator.core.epoch_state import Check
from coordinator.core.lifecycle import CheckState, EpochState, JobState
from coordinator.core.order_book import get_reputation
from coordinator.core.state import Job
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.canaries import CanaryReveal, is_canary_due
from gpumarket.protocol.codec import decode_document_untrusted
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.messages import CheckDone
from gpumarket.protocol.proof import compute_epoch_root
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import change, make_address, make_hash, make_spec, sign
from tests.coordinator_market import Market, PlayedVerifier, play_until, refuse_chain
from tests.market_audit import HonestChain, audit

P1, V1, V2 = map(make_address, ("provider-1", "verifier-1", "verifier-2"))
FULL = VerifyPolicy(mode="full", comparison=NpyRule())
UNITS = 3


class Lazy(PlayedVerifier):
    """Runs nothing and calls everything a match."""

    approves_all = True


def open_market(*canaries: int, **settings: Any) -> Market:
    """A market whose operator runs provider-1 and orders as `operator`."""
    values = {"canary_providers": (P1,), "canary_requesters": (make_address("operator"),)}
    market = Market(**(values | settings))
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": 8}, canaries=frozenset(canaries))
    return market


def order_canary(market: Market, **changes: Any) -> Job:
    spec = make_spec(units=UNITS, verify=FULL)
    return market.submit(spec, checks=4 * UNITS, signer="operator", **changes)


def play(*canaries: int, is_lazy: bool = False, **settings: Any) -> tuple[Market, Job]:
    market = open_market(*canaries, **settings)
    market.join_verifier(card={"slots": 8}, approves_all=is_lazy)
    job = order_canary(market)
    market.run(seconds_max=300)
    return market, job


def find_verdicts(market: Market, number: int = 1) -> dict[int, Verdict | None]:
    return {check.unit: check.verdict for check in market.state.epochs[number].checks.values()}


def is_closed(market: Market) -> bool:
    return market.state.epochs[1].state is EpochState.CLOSED


# ---- judged apart --------------------------------------------------------------------------


def test_who_finds_a_canary_is_paid_and_its_provider_is_not_blamed() -> None:
    market, job = play(1)
    assert find_verdicts(market) == {0: Verdict.MATCH, 1: Verdict.MISMATCH, 2: Verdict.MATCH}
    assert job.state is JobState.SETTLED and job.excluded == []
    (failure,) = job.units[1].failures
    assert failure.reason == SET_ASIDE
    facts = market.state.standings[P1].days[-1]
    assert (facts.accepted, facts.forged, facts.lost, facts.withheld) == (UNITS, 0, 0, 0)
    assert market.state.standings[P1].audited == UNITS
    assert get_reputation(market.state, P1) > 500_000
    verifier = market.state.verifiers[V1]
    assert (verifier.found_canaries, verifier.missed_canaries) == (1, 0)
    assert verifier.barred_until == 0
    # Three checks and the one of the task done again, each at the card's price.
    price = next(iter(market.state.epochs[1].checks.values())).price
    assert market.chain.sum_paid()[V1] == (UNITS + 1) * price
    assert {line.verdict for line in audit(market, job).values()} == {AuditVerdict.PASS}


def test_who_misses_a_canary_is_not_paid_for_it_and_barred_once_the_epoch_is_over() -> None:
    market = open_market(1)
    market.join_verifier(card={"slots": 8}, approves_all=True)
    job = order_canary(market)
    verifier = market.state.verifiers[V1]
    play_until(market, lambda m: m.state.epochs.get(1) and is_closed(m))
    assert set(find_verdicts(market).values()) == {Verdict.MATCH}
    assert verifier.missed_canaries == 1
    assert verifier.barred_until == market.now + market.state.settings.bar_seconds
    assert job.units[1].failures[0].reason == SET_ASIDE
    (missed,) = market.state.epochs[1].canaries
    assert "provider-1" not in {entry.actor for entry in job.log if entry.type == "unpaid"}
    market.join_verifier("verifier-2", card={"slots": 8})
    market.run(seconds_max=300)
    assert {check.verifier for check in market.state.epochs[2].checks.values()} == {V2}
    price = market.state.epochs[1].checks.popitem()[1].price
    assert market.chain.sum_paid()[V1] == 2 * price, "only for what it could be right about"
    relayed = {
        approval.attestation.body.receipt_hash
        for approval in market.providers[P1].approvals
        if approval.attestation is not None
    }
    assert relayed and missed not in relayed, "with its word the provider could settle alone"
    assert market.state.standings[P1].audited == UNITS


def test_a_barred_verifier_has_no_part_in_the_next_draw_and_comes_back_later() -> None:
    market, job = play(1, is_lazy=True, bar_seconds=500)
    assert job.state is not JobState.SETTLED, "nobody else is there"
    market.run(seconds_max=2_000)
    assert job.state is JobState.SETTLED
    documents = [market.state.epochs[number].document for number in (1, 2)]
    listed = [[card.body.verifier for card in doc.verifiers] for doc in documents if doc]
    assert listed == [[V1], []]


def test_a_check_that_waits_for_a_barred_verifier_goes_to_another() -> None:
    market = open_market()
    market.join_verifier(card={"slots": 1})
    market.join_verifier("verifier-2", card={"slots": 16})
    market.submit(make_spec(units=16, verify=FULL), checks=40)
    market.providers[P1].offer["slots"] = 16
    market.say_hello(market.providers[P1])

    def list_waiting() -> list[Check]:
        checks = [
            check for epoch in market.state.epochs.values() for check in epoch.checks.values()
        ]
        return [c for c in checks if c.state is CheckState.WAITING and c.verifier == V1]

    play_until(market, lambda m: list_waiting())
    waiting = list_waiting()
    market.state.verifiers[V1].barred_until = Timestamp(market.now + 10_000)
    market.run(seconds_max=60)
    assert {check.verifier for check in waiting} == {V2}
    assert {check.state for check in waiting} == {CheckState.DONE}


def test_a_forgery_without_a_note_is_a_forgery_also_of_a_canary_provider() -> None:
    market = open_market(1)
    market.providers[P1].forges = frozenset({2})
    market.join_verifier(card={"slots": 8})
    job = order_canary(market)
    market.run(seconds_max=300)
    assert market.state.standings[P1].days[-1].forged == 1
    assert job.excluded == [P1]


@pytest.mark.parametrize("other_provider", ["provider-1", "provider-2"])
def test_nobody_learns_of_a_canary_while_a_verdict_in_its_epoch_is_open(
    other_provider: str,
) -> None:
    market = open_market(0)
    market.join("provider-2", offer={"slots": 8})
    market.join_verifier(card={"slots": 16})
    other = make_spec(units=UNITS, verify=VerifyPolicy(units_min=1, comparison=NpyRule()))
    named = {"checks": 9, "signer": "alice", "provider": make_address(other_provider)}
    jobs = [order_canary(market, provider=P1), market.submit(other, **named)]
    leases = [effect.lease for effect in market.todo if isinstance(effect, ProposeLease)]
    market.todo = [each for each in market.todo if not isinstance(each, ProposeLease)]
    for lease in (*leases[:2], *leases[3:], leases[2]):
        done = market.providers[lease.provider].run(lease, market.now)
        market.post(events.MessageReceived(at=market.now, sender=lease.provider, message=done))
    held: list[events.Event] = []

    def has_judged_the_first(_market: Market) -> bool:
        late = [event for event in market.inbox if is_verdict_on(event, jobs[1])]
        held.extend(late)
        market.inbox = [event for event in market.inbox if event not in late]
        own = [c for c in list_checks() if c.order_hash == jobs[0].order_hash]
        return bool(own) and all(check.state is CheckState.DONE for check in own)

    def list_checks() -> list[Check]:
        return list(market.state.epochs[1].checks.values())

    play_until(market, has_judged_the_first)
    market.run()
    assert held and any(check.state is CheckState.SHOWN for check in list_checks())
    assert not any(unit.failures for unit in jobs[0].units)
    market.inbox += held
    market.run(seconds_max=100)
    assert jobs[0].units[0].failures[0].reason == SET_ASIDE
    assert [job.state for job in jobs] == [JobState.SETTLED] * 2


def is_verdict_on(event: events.Event, job: Job) -> bool:
    if not isinstance(event, events.MessageReceived) or not isinstance(event.message, CheckDone):
        return False
    return event.message.evidence.own.order_hash == job.order_hash


def test_no_jury_hears_of_a_canary() -> None:
    market = open_market(1)
    for number in range(1, 6):
        market.join_verifier(f"verifier-{number}", card={"slots": 8})
    job = order_canary(market)
    market.run(seconds_max=300)
    assert market.state.canaries.canaries >= 1
    assert all(epoch.trials == {} for epoch in market.state.epochs.values())
    assert job.state is JobState.SETTLED
    # The same without a note goes before one.
    market.providers[P1].forges = frozenset({2})
    order_canary(market, nonce=make_hash("another"))
    play_until(market, lambda m: m.state.trials)
    assert market.state.trials


# ---- the commitment ------------------------------------------------------------------------


@pytest.mark.parametrize("canaries", [(), (0, 2)])
def test_every_epoch_is_committed_with_a_hash_of_its_canaries_and_opened_at_its_end(
    canaries: tuple[int, ...],
) -> None:
    market, job = play(*canaries)
    epoch = market.state.epochs[1]
    opened = open_canaries(epoch)
    assert epoch.document is not None and epoch.document.canaries == opened.compute_hash()
    assert {note.body.receipt_hash for note in opened.notes} == set(epoch.canaries)
    assert len(opened.notes) == len(canaries)
    assert make_proof(market.state, job).epochs[0].canaries == opened
    # Two epochs without any have different hashes, and the root binds them.
    other = change(epoch.document, canaries=make_hash("other"))
    assert compute_epoch_root(other) != compute_epoch_root(epoch.document)


def test_what_there_was_is_published_only_when_the_epoch_is_over() -> None:
    market = open_market(1)
    market.join_verifier(card={"slots": 8})
    order_canary(market)

    def list_published() -> list[CanaryReveal]:
        found = []
        for effect in market.todo:
            if isinstance(effect, PublishDocument):
                try:
                    found.append(decode_document_untrusted(effect.data, CanaryReveal))
                except RemoteProtocolError:
                    continue
        return found

    play_until(market, lambda m: m.state.epochs.get(1) and m.state.epochs[1].seed)
    assert list_published() == []
    play_until(market, is_closed)
    market.wait(0)
    (reveal,) = list_published()
    assert reveal.opening == open_canaries(market.state.epochs[1])
    assert [word.body.verdict for word in reveal.words] == [Verdict.MISMATCH]


def test_notes_outlive_a_crash_and_an_epoch_without_a_seed() -> None:
    market = open_market(1)
    market.join_verifier(card={"slots": 8})
    job = order_canary(market)
    play_until(market, lambda m: any(isinstance(e, CommitEpoch) for e in m.todo))
    market.restart()
    market.join("provider-1")
    market.join_verifier()
    play_until(market, lambda m: m.state.epochs[1].state is EpochState.SEEDING)
    seed = next(effect for effect in market.todo if isinstance(effect, FixSeed))
    market.todo.remove(seed)
    market.post(refuse_chain(seed, market.now, is_final=True))
    market.run(seconds_max=300)
    assert market.state.epochs[1].seed is None
    assert find_verdicts(market, 2)[1] is Verdict.MISMATCH
    assert market.state.verifiers[V1].found_canaries == 1
    assert job.excluded == []
    assert market.state.canaries.notes == {}


# ---- who may note what ---------------------------------------------------------------------


def finish_with(market: Market, job_signer: str, **lies: Any) -> list[Any]:
    """Let provider-1 finish a task with a note; return what comes of it."""
    market.submit(make_spec(units=1, verify=FULL), signer=job_signer)
    (proposed,) = [effect for effect in market.todo if isinstance(effect, ProposeLease)]
    finished = market.providers[P1].run(proposed.lease, market.now)
    assert finished.canary is not None
    signer = lies.pop("signer", "provider-1")
    body = change(finished.canary.body, **lies)
    finished = change(finished, canary=sign(body, signer))
    return market.post(events.MessageReceived(at=market.now, sender=P1, message=finished))


def test_a_note_is_kept_from_the_operators_provider_on_the_operators_order() -> None:
    market = open_market(0)
    assert not any(isinstance(e, CloseSession) for e in finish_with(market, "operator"))
    assert len(market.state.canaries.notes) == 1


@pytest.mark.parametrize(
    ("settings", "signer", "lies"),
    [
        ({"canary_requesters": (make_address("alice"),)}, "operator", {}),
        ({"canary_providers": ()}, "operator", {}),
        ({}, "operator", {"receipt_hash": make_hash("another receipt")}),
        ({}, "operator", {"signer": "provider-2"}),
    ],
)
def test_any_other_note_is_refused_with_its_receipt(
    settings: dict[str, Any], signer: str, lies: dict[str, Any]
) -> None:
    market = open_market(0, **settings)
    assert [type(effect) for effect in finish_with(market, signer, **lies)] == [CloseSession]
    assert market.state.canaries.notes == {}
    assert all(lease.receipt is None for lease in market.state.leases.values())


# ---- the rate ------------------------------------------------------------------------------


def test_a_canary_is_due_while_they_are_fewer_than_their_share() -> None:
    assert not is_canary_due(checks=0, canaries=0, rate_ppm=5_000)
    assert is_canary_due(checks=1, canaries=0, rate_ppm=5_000)
    assert is_canary_due(checks=201, canaries=1, rate_ppm=5_000)
    assert not is_canary_due(checks=200, canaries=1, rate_ppm=5_000)
    assert not is_canary_due(checks=10**9, canaries=0, rate_ppm=0)


def test_a_canary_that_is_under_way_does_not_show_in_what_is_due() -> None:
    market = open_market(1)
    market.join_verifier(card={"slots": 8})
    assert not is_due(market.state)
    market.submit(make_spec(units=2, verify=FULL), signer="alice")
    market.run(seconds_max=300)
    assert market.state.canaries.checks == 2 and is_due(market.state)
    order_canary(market)
    play_until(market, lambda m: len(m.state.epochs) > 1 and m.state.epochs[2].seed)
    assert is_due(market.state)
    market.run(seconds_max=300)
    # Two of alice's, three of the canary's job, one of its task that was done again.
    assert (market.state.canaries.checks, market.state.canaries.canaries) == (6, 1)
    assert not is_due(market.state)
