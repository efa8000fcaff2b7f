"""Trials: what a jury on chain decides about a disputed result, and what follows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from coordinator.api.proofs import make_proof
from coordinator.api.views import show_epoch
from coordinator.core import effects, events
from coordinator.core.epoch_state import Trial
from coordinator.core.judging import DIFFERENT, FORGED
from coordinator.core.lifecycle import CheckState, JobState, TrialOutcome, TrialState
from coordinator.core.reporting import describe_next
from coordinator.core.state import Job
from gpumarket.protocol import messages
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.comparison import ProgramRule
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.lease import LeaseState
from gpumarket.testing.factories import change, make_address, make_spec
from tests.coordinator_market import Market, list_sent, play_until
from tests.market_audit import HonestChain, audit, read_chain
from tests.played_court import RESPONSE_SECONDS

P1, P2 = make_address("provider-1"), make_address("provider-2")
NAMES = tuple(f"verifier-{n}" for n in range(1, 7))
FULL = VerifyPolicy(mode="full")
UNITS = 3


def play(
    *,
    forges: frozenset[int] = frozenset(),
    names: tuple[str, ...] = NAMES[:4],
    flags: dict[str, dict[str, Any]] | None = None,
    prepare: Callable[[Market], None] = lambda market: None,
    verify: VerifyPolicy = FULL,
    seconds: int = 30,
    until: Callable[[Market], object] | None = None,
    jobs: int = 1,
    settings: dict[str, Any] | None = None,
) -> tuple[Market, Job]:
    """Play a job of which everything is checked; a second provider does it right."""
    market = Market(**(settings or {}))
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": jobs * UNITS}, forges=forges)
    for name in names:
        market.join_verifier(name, card={"slots": 16}, **(flags or {}).get(name, {}))
    prepare(market)
    specs = [make_spec(name=f"job {n}", units=UNITS, verify=verify) for n in range(jobs)]
    job = [market.submit(spec, checks=4 * UNITS) for spec in specs][-1]
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    market.join("provider-2", offer={"slots": UNITS})
    if until is not None:
        play_until(market, until)
    else:
        market.run(seconds_max=seconds)
    return market, job


def list_trials(market: Market) -> list[Trial]:
    return [trial for epoch in market.state.epochs.values() for trial in epoch.trials.values()]


def find_types(job: Job) -> list[str]:
    return [entry.type for entry in job.log]


def count_accepted(market: Market, job: Job, provider: bytes) -> int:
    return sum(
        lease.order_hash == job.order_hash
        and lease.state is LeaseState.ACCEPTED
        and lease.provider == provider
        for lease in market.state.leases.values()
    )


# ---- what a jury decides -------------------------------------------------------------------


def test_a_forger_is_convicted_unpaid_and_slashed_when_nobody_appeals():
    market, job = play(forges=frozenset({1}))
    (trial,) = list_trials(market)
    assert trial.outcome is TrialOutcome.CONVICTED and trial.state is TrialState.DECIDED
    assert job.excluded == [P1] and job.state is JobState.SETTLED
    assert P1 not in market.chain.sum_paid()
    assert market.state.standings[P1].audited == 0
    market.run(seconds_max=RESPONSE_SECONDS + 10)
    assert trial.state is TrialState.CLOSED and trial.verdict is Verdict.MISMATCH
    assert market.state.trials == {}
    types = find_types(job)
    assert types.index("disputed") < types.index("convicted") < types.index("case-closed")
    assert "4 of 4 jurors" in next(e.text for e in job.log if e.type == "convicted")


def test_one_forged_result_of_several_is_tried():
    market, _ = play(forges=frozenset({0, 1, 2}))
    assert len(list_trials(market)) == 1


def accuse_falsely(*, jobs: int = 1) -> tuple[Market, Job, bytes]:
    """Play with a verifier that lies about all of its checks; its jurors are the others."""
    liar = make_address(NAMES[0])

    def prepare(market: Market, *, entropy: str) -> None:
        market.chain.entropy = entropy
        market.court.list_jurors = lambda: sorted(set(market.verifiers) - {liar})

    flags = {NAMES[0]: {"lies": frozenset(range(UNITS))}}
    for entropy in ("one", "two", "three", "four", "five"):
        market, job = play(flags=flags, prepare=partial(prepare, entropy=entropy), jobs=jobs)
        if list_lied(market, liar):
            return market, job, liar
    raise AssertionError("no seed gave the liar a check")


def list_lied(market: Market, liar: bytes) -> list[int]:
    (epoch, *_) = market.state.epochs.values()
    return [check.unit for check in epoch.checks.values() if check.verifier == liar]


def test_an_honest_provider_is_acquitted_and_paid_and_its_accuser_barred():
    market, job, liar = accuse_falsely()
    lied = list_lied(market, liar)
    (trial,) = list_trials(market)
    assert trial.outcome is TrialOutcome.ACQUITTED and trial.accusers == [liar]
    assert market.state.verifiers[liar].barred_until > market.now
    assert job.state is JobState.SETTLED and job.excluded == []
    # Its other accusations are not heard; what they are about is done again by others.
    assert count_accepted(market, job, P1) == UNITS - (len(lied) - 1)
    words = [word for each in market.providers[P1].approvals for word in [each.attestation] if word]
    assert {word.body.verdict for word in words} == {Verdict.MATCH}
    market.run(seconds_max=RESPONSE_SECONDS + 10)
    assert trial.state is TrialState.CLOSED and trial.verdict is Verdict.MATCH


def test_a_juror_seals_before_it_is_shown_the_result_and_knows_its_case():
    market, _ = play(forges=frozenset({1}), until=list_trials)
    asked: list[messages.CheckRequested] = []
    for _ in range(500):
        asked += [m for m in list_sent(market.todo[:1], messages.CheckRequested) if m.case]
        shown = list_sent(market.todo[:1], messages.ResultShown)
        (trial,) = list_trials(market)
        if shown and trial.votes:
            assert all(vote.seal for vote in trial.votes if vote.state.value == "shown")
        if trial.outcome is not TrialOutcome.OPEN:
            break
        market.perform(market.todo.pop(0)) if market.todo else market.deliver(market.inbox.pop(0))
    # Who had checked it before has said its word already.
    assert len(asked) == 3 and {message.case for message in asked} == {1}
    assert {message.deadline for message in asked} == {market.now + RESPONSE_SECONDS}


def test_a_juror_that_says_everything_twice_is_heard_once():
    market, _ = play(forges=frozenset({1}), until=list_trials)
    (trial,) = list_trials(market)
    play_until(market, lambda _: trial.votes)
    (message,) = list_sent(market.todo, messages.CheckRequested)[:1]
    juror = market.verifiers[trial.votes[0].verifier or b""]
    for said in (juror.seal(message), juror.seal(message)):
        market.post(events.MessageReceived(at=market.now, sender=juror.address, message=said))
    assert trial.votes[0].state is CheckState.SHOWN
    market.run(seconds_max=20)
    assert trial.outcome is TrialOutcome.CONVICTED and market.closed == []


def test_a_refused_step_is_tried_again_and_does_not_end_the_case():
    market, _ = play(forges=frozenset({1}), until=list_trials)
    (trial,) = list_trials(market)
    play_until(market, lambda _: trial.state is TrialState.VOTING)
    name = trial.receipt_hash
    market.post(events.CaseRefused(at=market.now, receipt_hash=name, is_final=True, text="no"))
    assert trial.outcome is TrialOutcome.OPEN and name in market.state.trials


def test_a_case_outlives_the_memory_of_its_job():
    market, job = play(forges=frozenset({1}), settings={"jobs_kept_max": 0})
    (trial,) = list_trials(market)
    assert job.state is JobState.SETTLED and trial.state is TrialState.DECIDED
    market.run(seconds_max=RESPONSE_SECONDS + 10)
    assert trial.state is TrialState.CLOSED and market.state.trials == {}
    again = market.submit(make_spec(name="again", units=1, verify=FULL), checks=4)
    market.run(seconds_max=30)
    assert again.state is JobState.SETTLED and job.order_hash not in market.state.jobs


# ---- what an audit says of it --------------------------------------------------------------


def test_an_audit_passes_what_a_jury_acquitted_and_says_so():
    market, job, _ = accuse_falsely()
    lines = audit(market, job)
    assert {line.verdict for line in lines.values()} == {AuditVerdict.PASS}
    assert "1 that a verifier called false a jury called right" in lines["forgeries"].text


@pytest.mark.parametrize("known", [frozenset(), None])
def test_an_audit_wants_the_jurys_word_from_the_chain(known: frozenset[bytes] | None):
    market, job, _ = accuse_falsely()
    evidence = replace(read_chain(market), acquitted=known)
    report = check_proof(make_proof(market.state, job), evidence)
    (line,) = [check for check in report.checks if check.name == "forgeries"]
    expected = AuditVerdict.INCOMPLETE if known is None else AuditVerdict.FAIL
    assert line.verdict is expected, line


def test_an_audit_of_another_job_in_the_pool_is_told_of_the_acquittal():
    market, other, liar = accuse_falsely(jobs=2)
    assert list_lied(market, liar)
    lines = audit(market, other)
    assert {line.verdict for line in lines.values()} == {AuditVerdict.PASS}


# ---- what people are told ------------------------------------------------------------------


def test_people_are_told_at_each_step_what_the_job_waits_for():
    market, job = play(forges=frozenset({1}), until=list_trials)
    (trial,) = list_trials(market)
    told = {}
    while trial.outcome is TrialOutcome.OPEN:
        told[trial.state] = describe_next(market.state, job)
        market.perform(market.todo.pop(0)) if market.todo else market.deliver(market.inbox.pop(0))
    assert "before a jury" in told[TrialState.OPENING].what
    assert "draw the jury of case 1" in told[TrialState.SEATING].what
    assert "as jurors of case 1: 4 sit" in told[TrialState.VOTING].what
    assert told[TrialState.VOTING].deadline == trial.deadline
    (shown,) = show_epoch(market.state.epochs[1])["trials"]
    assert (shown["case"], shown["outcome"], shown["verdict"]) == (1, "convicted", "MISMATCH")


# ---- where none can be had -----------------------------------------------------------------


def test_with_few_verifiers_the_word_of_one_stands_and_no_case_is_opened():
    market, job = play(forges=frozenset({1}), names=NAMES[:2])
    (trial,) = list_trials(market)
    assert trial.outcome is TrialOutcome.UNHEARD and trial.case == 0
    assert market.court.cases == {} and job.excluded == [P1]
    assert "no-jury" in find_types(job)


def test_a_case_that_the_contract_refuses_leaves_the_word_standing():
    market, job = play(
        forges=frozenset({1}), prepare=lambda m: setattr(m.court, "refuses", "no escrow for a bond")
    )
    (trial,) = list_trials(market)
    assert trial.outcome is TrialOutcome.UNHEARD and trial.problem == "no escrow for a bond"
    assert job.excluded == [P1] and job.state is JobState.SETTLED


def test_a_chain_that_is_down_is_asked_again_until_it_answers():
    market, job = play(
        forges=frozenset({1}), prepare=lambda m: setattr(m.court, "is_down", True), seconds=25
    )
    (trial,) = list_trials(market)
    assert trial.outcome is TrialOutcome.OPEN and trial.problem
    assert job.excluded == []
    market.court.is_down = False
    market.run(seconds_max=30)
    assert trial.outcome is TrialOutcome.CONVICTED and trial.problem == ""


def test_jurors_that_are_silent_send_the_case_up_until_nobody_decides():
    market, job = play(forges=frozenset({1}), until=list_trials)
    for verifier in market.verifiers.values():
        verifier.is_silent = True
    market.run(seconds_max=4 * RESPONSE_SECONDS)
    (trial,) = list_trials(market)
    assert (trial.level, trial.state, trial.verdict) == (2, TrialState.CLOSED, None)
    assert trial.outcome is TrialOutcome.UNHEARD and job.excluded == [P1]


def test_one_silent_juror_of_five_costs_a_level_and_no_verdict():
    market, _ = play(forges=frozenset({1}), names=NAMES[:5], until=list_trials)
    (trial,) = list_trials(market)
    silent = next(who for who in sorted(market.verifiers) if who not in trial.accusers)
    market.verifiers[silent].is_silent = True
    market.run(seconds_max=RESPONSE_SECONDS + 10)
    assert (trial.level, trial.outcome) == (1, TrialOutcome.CONVICTED)
    assert len(trial.voters) == 4 and silent not in trial.voters


def test_a_juror_that_was_away_is_asked_when_it_comes_back():
    market, _ = play(forges=frozenset({1}), until=list_trials)
    (trial,) = list_trials(market)
    away = next(name for name in NAMES[:4] if make_address(name) not in trial.accusers)
    market.leave_verifier(away)
    market.run(seconds_max=20)
    assert trial.outcome is TrialOutcome.OPEN
    market.join_verifier(away)
    market.run(seconds_max=5)
    assert trial.outcome is TrialOutcome.CONVICTED and trial.level == 0


# ---- what others do ------------------------------------------------------------------------


def test_an_appeal_is_seen_judged_again_and_does_not_take_the_payment_back():
    market, _ = play(forges=frozenset({1}))
    (trial,) = list_trials(market)
    market.court.appeal(trial.receipt_hash, market.now)
    market.run(seconds_max=3 * RESPONSE_SECONDS)
    assert (trial.level, trial.state, trial.verdict) == (1, TrialState.CLOSED, Verdict.MISMATCH)
    assert trial.outcome is TrialOutcome.CONVICTED


def test_an_accuser_that_a_later_jury_upholds_is_not_barred_any_more():
    market, _, liar = accuse_falsely()
    (trial,) = list_trials(market)
    assert market.state.verifiers[liar].barred_until > market.now
    over = events.CaseSeen(
        at=market.now,
        receipt_hash=trial.receipt_hash,
        level=2,
        jury=trial.jury,
        verdict=2,
        voters=trial.voters,
        deadline=market.now,
        is_over=True,
    )
    market.post(over)
    assert market.state.verifiers[liar].barred_until == 0
    assert any(each.barred_until > market.now for each in market.state.verifiers.values()) is any(
        check.verdict is Verdict.MATCH
        for check in market.state.epochs[1].checks.values()
        if check.receipt_hash == trial.receipt_hash
    )
    assert trial.outcome is TrialOutcome.ACQUITTED, "the payment has been made"


def test_news_of_a_case_that_is_unknown_or_over_change_nothing():
    market, _ = play(forges=frozenset({1}), seconds=2 * RESPONSE_SECONDS + 60)
    (trial,) = list_trials(market)
    assert trial.state is TrialState.CLOSED
    for name in (trial.receipt_hash, bytes(32)):
        opened = events.CaseOpened(at=market.now, receipt_hash=name, case=7)
        refused = events.CaseRefused(at=market.now, receipt_hash=name, is_final=True, text="no")
        assert market.post(opened) == market.post(refused) == []
    assert trial.case == 1


# ---- crashes and ends ----------------------------------------------------------------------


@pytest.mark.parametrize("state", list(TrialState))
def test_a_coordinator_that_dies_at_any_step_goes_on_with_the_case(state: TrialState):
    market, job = play(forges=frozenset({1}), until=list_trials)
    for _ in range(20_000):
        trials = list_trials(market)
        if trials and trials[0].state is state:
            break
        if market.todo:
            market.perform(market.todo.pop(0))
        elif market.inbox:
            market.deliver(market.inbox.pop(0))
        else:
            market.wait(1)
    market.restart()
    job = market.state.jobs[job.order_hash]
    for name in ("provider-1", "provider-2"):
        market.join(name)
    for name in NAMES[:4]:
        market.join_verifier(name)
    market.run(seconds_max=3 * RESPONSE_SECONDS)
    (trial,) = list_trials(market)
    assert trial.state is TrialState.CLOSED and trial.outcome is TrialOutcome.CONVICTED
    assert job.state is JobState.SETTLED and len(market.court.cases) == 1


def test_a_job_that_is_cut_off_does_not_end_the_case_against_its_provider():
    market, job = play(
        forges=frozenset({1}), prepare=lambda m: setattr(m.court, "is_down", True), seconds=5
    )
    (trial,) = list_trials(market)
    market.now = job.settle_at
    market.wait(1)
    market.run(seconds_max=0)
    assert job.is_over or job.bills
    market.court.is_down = False
    market.refresh()
    market.run(seconds_max=3 * RESPONSE_SECONDS)
    assert trial.state is TrialState.CLOSED and P1 not in market.chain.sum_paid()


def test_the_jobs_own_program_fails_its_job_alone_and_opens_no_case():
    market = Market()
    market.join("provider-1", offer={"slots": 2 * UNITS}, forges=frozenset({1}))
    for name in NAMES[:4]:
        market.join_verifier(name, card={"slots": 16})
    own = change(FULL, comparison=ProgramRule(command=("compare",)))
    mine = market.submit(make_spec(units=UNITS, verify=own), checks=4 * UNITS)
    other = market.submit(make_spec(units=1, name="other", verify=FULL), checks=4)
    play_until(market, lambda m: m.state.epochs and m.state.epochs[1].document)
    market.join("provider-2", offer={"slots": UNITS})
    market.run(seconds_max=30)
    assert list_trials(market) == [] and market.court.cases == {}
    reasons = {entry.code for entry in mine.log if entry.type == "unpaid"}
    assert reasons == {DIFFERENT.code} and FORGED.code not in reasons
    assert mine.excluded == [P1] and other.excluded == []
    assert other.state is JobState.SETTLED and P1 in market.chain.sum_paid()
    assert isinstance(market.chain.batches[0], effects.PostBatch)
