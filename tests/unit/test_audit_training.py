"""The audit of a training job: whatever is lied about its segments is a FAIL that names the lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpumarket.protocol.audit import CHECKS, check_proof
from gpumarket.protocol.evidence import AuditVerdict, Report
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.training import (
    SegmentAudit,
    SegmentState,
    compute_chain_start,
    draw_segments,
    make_claim,
)
from gpumarket.testing.chains import make_plan, make_states
from gpumarket.testing.factories import change, make_address, make_cid, make_hash, sign
from gpumarket.testing.proofs import ProofMaker, make_chain_evidence, make_job, make_settled_job

PLAN = make_plan(top_audits=0)
"""First, last and one of the three between them."""
FORGERS_CLASS = make_hash("another class")

Lie = Callable[[SegmentAudit], SegmentAudit | None]


def make_training_job() -> JobSpec:
    return make_job(checkpoint=PLAN)


@dataclass(frozen=True)
class TrainingMaker(ProofMaker):
    """A settled training job: every task has a chain, and every verdict rests on its segments."""

    spec: JobSpec = field(default_factory=make_training_job)
    lie: Lie = lambda audit: audit
    """What a verifier shows in place of the segments that it should show."""
    result_lie: Callable[[UnitResult], UnitResult] = lambda result: result
    """What a provider commits to in place of its chain's end."""

    def make_result(self, provider: str, unit: int) -> UnitResult:
        result = super().make_result(provider, unit)
        claim = make_claim(self.make_chain(result)[-1])
        return self.result_lie(change(result, training=claim))

    def make_chain(self, result: UnitResult) -> tuple[SegmentState, ...]:
        """Return the chain of a task, by who ran it."""
        return make_states(
            PLAN,
            start=compute_chain_start(self.spec.compute_hash(), result.unit),
            order_hash=result.order_hash,
            unit=result.unit,
            provider=result.provider,
        )

    def find_segments(
        self, seed: Hash32, result: UnitResult, receipt_hash: Hash32
    ) -> SegmentAudit | None:
        states = self.make_chain(result)
        is_full = self.spec.verify.mode == "full"
        drawn = draw_segments(
            states, plan=PLAN, seed=seed, receipt_hash=receipt_hash, is_full=is_full
        )
        return self.lie(SegmentAudit(states=states, drawn=drawn))


def audit(maker: ProofMaker) -> Report:
    proof, facts = make_settled_job(maker)
    return check_proof(proof, make_chain_evidence(facts))


def expect_failure(report: Report, text: str) -> None:
    (check,) = [check for check in report.checks if check.name == "verifiers"]
    assert (check.verdict, report.verdict) == (AuditVerdict.FAIL, AuditVerdict.FAIL), report
    assert text in check.text


def drop(audit: SegmentAudit, index: int) -> SegmentAudit:
    """Leave one state out and keep what the others say."""
    return change(audit, states=(*audit.states[:index], *audit.states[index + 1 :]))


def change_state(audit: SegmentAudit, index: int, **changes: object) -> SegmentAudit:
    state = change(audit.states[index], **changes)
    return change(audit, states=(*audit.states[:index], state, *audit.states[index + 1 :]))


def choose_another(audit: SegmentAudit) -> SegmentAudit:
    """Put another segment in the place of the one that the seed picked."""
    (picked,) = set(audit.drawn) - {1, 5}
    return change(audit, drawn=(1, 2 if picked != 2 else 3, 5))


def rebuild(audit: SegmentAudit, **place: Any) -> SegmentAudit:
    """Show a whole other chain that fits together."""
    first = audit.states[0]
    known: dict[str, Any] = {
        "order_hash": first.order_hash,
        "unit": first.unit,
        "provider": first.provider,
    }
    return change(audit, states=make_states(PLAN, start=first.previous, **(known | place)))


def test_an_honest_training_job_passes_every_check():
    report = audit(TrainingMaker())
    assert [check.verdict for check in report.checks] == [AuditVerdict.PASS] * len(CHECKS), report


def test_a_full_replay_of_a_training_job_shows_every_segment():
    job = make_training_job()
    full = change(job, verify=change(job.verify, mode="full"))
    honest = TrainingMaker(spec=full, checks_max=12)
    sampled = TrainingMaker(
        spec=full, checks_max=12, lie=lambda audit: change(audit, drawn=audit.drawn[:-1])
    )
    expect_failure(audit(sampled), "other segments were done again than the seed draws")
    verdicts = {check.name: check.verdict for check in audit(honest).checks}
    assert verdicts["verifiers"] is AuditVerdict.PASS


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (lambda audit: None, "checked without its segments"),
        (lambda audit: change(audit, states=()), "does not reach the last step"),
        (lambda audit: drop(audit, 0), "segment 1 does not continue: its index"),
        (lambda audit: drop(audit, 3), "segment 4 does not continue: its index"),
        (lambda audit: drop(audit, 5), "does not reach the last step"),
        (lambda audit: change(audit, drawn=audit.drawn[:-1]), "other segments were done again"),
        (lambda audit: change(audit, drawn=audit.drawn[::-1]), "other segments were done again"),
        (choose_another, "other segments were done again"),
        (lambda audit: change(audit, drawn=(1, 2, 3, 4, 5)), "other segments were done again"),
        (
            lambda audit: change_state(audit, 2, model_root=make_hash("forged")),
            "segment 3 does not continue: its chain",
        ),
        (
            lambda audit: change_state(audit, 2, folder=make_cid("forged")),
            "segment 3 does not continue: its chain",
        ),
        (
            lambda audit: change_state(audit, 5, loss="0.01"),
            "does not end where the result says",
        ),
        (
            lambda audit: change_state(audit, 0, previous=make_hash("elsewhere")),
            "segment 0 does not continue: its chain",
        ),
        (
            lambda audit: change_state(audit, 4, step_to=41),
            "segment 4 does not continue: its last step",
        ),
        (
            lambda audit: rebuild(audit, provider=make_address("thief")),
            "does not end where the result says",
        ),
        (
            lambda audit: rebuild(audit, repro_class=FORGERS_CLASS),
            "does not end where the result says",
        ),
    ],
)
def test_forged_segments_fail_with_what_is_wrong(lie, text):
    expect_failure(audit(TrainingMaker(lie=lie)), text)


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (lambda claim: None, "checked without its segments"),
        (lambda claim: change(claim, chain=make_hash("other")), "not end where the result says"),
        (lambda claim: change(claim, segments=4), "not end where the result says"),
    ],
)
def test_a_result_that_ends_another_chain_fails(lie, text):
    maker = TrainingMaker(result_lie=lambda result: change(result, training=lie(result.training)))
    expect_failure(audit(maker), text)


def test_a_chain_of_another_task_is_not_this_ones():
    other = compute_chain_start(make_training_job().compute_hash(), 9)

    def move(audit: SegmentAudit) -> SegmentAudit:
        return change(audit, states=make_states(PLAN, start=other))

    expect_failure(audit(TrainingMaker(lie=move)), "segment 0 does not continue: its chain")


def test_segments_of_a_job_that_trains_nothing_are_refused():
    maker = TrainingMaker(spec=make_job())
    expect_failure(audit(maker), "segments of a task that has none")
    unclaimed = TrainingMaker(
        spec=make_job(), result_lie=lambda result: change(result, training=None)
    )
    expect_failure(audit(unclaimed), "segments of a task that has none")


@pytest.mark.parametrize("is_checked", [True, False])
def test_a_claim_changed_after_the_receipt_is_not_what_was_committed(is_checked):
    maker = TrainingMaker()
    proof, facts = make_settled_job(maker)
    epoch = proof.epochs[0]
    opened = [check.opening for check in epoch.checks] if is_checked else list(epoch.openings)
    honest = next(each for each in opened if each.signer == make_address("provider-1"))
    result = honest.body.result
    claim = change(result.training, chain=make_hash("other"))
    body = change(honest.body, result=change(result, training=claim))
    forged = sign(body, "provider-1")
    epoch = change(
        epoch,
        openings=tuple(forged if each == honest else each for each in epoch.openings),
        checks=tuple(
            change(check, opening=forged) if check.opening == honest else check
            for check in epoch.checks
        ),
    )
    lied = change(proof, epochs=(epoch, *proof.epochs[1:]))
    report = check_proof(lied, make_chain_evidence(facts))
    assert report.verdict is AuditVerdict.FAIL
    reasons = [check.text for check in report.checks if check.verdict is AuditVerdict.FAIL]
    assert any("opened result" in reason for reason in reasons), reasons
