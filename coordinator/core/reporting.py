"""Reporting: what people and scripts are told about a job, computed from the state alone."""

from __future__ import annotations

from typing import Literal

import msgspec

from coordinator.core.epoch_state import Epoch, Trial
from coordinator.core.lifecycle import (
    CheckState,
    EpochState,
    JobState,
    PartStage,
    TrialOutcome,
    TrialState,
    UnitState,
)
from coordinator.core.matching import Funnel, describe_funnel
from coordinator.core.order_book import is_covered, is_eligible
from coordinator.core.placing import explain_waiting
from coordinator.core.state import Job, State
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, Hash32, format_short
from gpumarket.protocol.lease import LeaseState
from gpumarket.protocol.units import Timestamp

JOB_PREFIX_CHARACTERS_MIN = 7
Actor = Literal["requester", "provider", "verifier", "coordinator", "chain", "market", "nobody"]


class NextStep(msgspec.Struct, frozen=True, kw_only=True):
    """Who must act next on a job, what they must do, and until when."""

    actor: Actor
    what: str
    deadline: Timestamp | None = None
    code: str = ""
    """A page of `gpumarket explain` where something is amiss."""


class Why(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is."""

    next: NextStep
    funnel: Funnel
    """Who could take a task of it now."""
    is_covered: bool
    """Whether the requester's escrow still covers all its live orders."""


def find_job(state: State, prefix: str) -> Job:
    """Return the job whose id begins like this; raise `InvalidInput` unless it is just one."""
    if len(prefix) < JOB_PREFIX_CHARACTERS_MIN:
        raise InvalidInput(
            f"{prefix!r} is too short for a job id",
            code="GM-5002",
            why=f"give at least {JOB_PREFIX_CHARACTERS_MIN} characters",
        )
    found = [job for job in state.jobs.values() if job.job_id.startswith(prefix)]
    if not found:
        raise InvalidInput(f"there is no job {prefix}", code="GM-5001")
    if len(found) > 1:
        ids = ", ".join(sorted(job.job_id for job in found)[:5])
        raise InvalidInput(f"{prefix} begins several job ids", code="GM-5002", why=ids)
    return found[0]


def explain_job(state: State, job: Job) -> Why:
    """Return why a job is where it is, with the counts behind it."""
    return Why(
        next=describe_next(state, job),
        funnel=explain_waiting(state, job),
        is_covered=is_covered(state, job.order.body.requester),
    )


def describe_next(state: State, job: Job) -> NextStep:
    """Return who must act next on a job and until when."""
    if job.is_over:
        return NextStep(actor="nobody", what="the job is over")
    if job.state is JobState.SETTLING:
        return _describe_settling(state, job)
    if job.counts[UnitState.LEASED]:
        return _describe_running(state, job)
    if job.reason is None and job.counts[UnitState.WAITING]:
        return _describe_waiting(state, job)
    return _describe_checking(state, job)


def _describe_settling(state: State, job: Job) -> NextStep:
    deadline = Timestamp(job.order.body.settle_by)
    pooled = [record for record in job.bills if record.batch is None and not record.is_dropped]
    problem = next((record.problem for record in pooled if record.problem), None)
    if problem is not None:
        what = f"fill the escrow: {problem.text}"
        return NextStep(actor="requester", what=what, deadline=deadline, code=problem.code)
    if state.pause is not None:
        what = f"mend this before anything is posted: {state.pause.text}"
        code = state.pause.code
        return NextStep(actor="coordinator", what=what, deadline=deadline, code=code)
    if pooled:
        return NextStep(actor="coordinator", what="make the next batch", deadline=deadline)
    batches = [state.batches[record.batch] for record in job.bills if record.batch is not None]
    text = next((batch.problem for batch in batches if batch.problem), "")
    what = "post the batch" + (f"; last try: {text}" if text else "")
    return NextStep(actor="coordinator", what=what, deadline=deadline)


def _describe_running(state: State, job: Job) -> NextStep:
    ids = [unit.lease_id for unit in job.units if unit.state is UnitState.LEASED]
    leases = [state.leases[lease_id] for lease_id in ids if lease_id is not None]
    deadline = min(
        lease.accept_by if lease.state is LeaseState.PROPOSED else lease.deadline
        for lease in leases
    )
    providers = len({lease.provider for lease in leases})
    what = f"finish {len(leases)} tasks on {providers} providers"
    return NextStep(actor="provider", what=what, deadline=deadline)


def _describe_waiting(state: State, job: Job) -> NextStep:
    count = job.counts[UnitState.WAITING]
    until = job.settle_at if job.stalled_at is None else job.queue_by
    if not is_covered(state, job.order.body.requester):
        return NextStep(
            actor="requester",
            what="fill the escrow: it no longer covers the live orders",
            deadline=until,
            code="GM-3011",
        )
    funnel = explain_waiting(state, job)
    if funnel.feasible == 0:
        what = f"a provider that fits: {describe_funnel(funnel)}"
        return NextStep(actor="market", what=what, deadline=until, code="GM-4021")
    what = f"a free slot for {count} tasks: {funnel.feasible} providers fit, {funnel.free} are free"
    return NextStep(actor="provider", what=what, deadline=until)


def _describe_checking(state: State, job: Job) -> NextStep:
    epochs = [state.epochs[n] for n in job.epochs if n in state.open_epochs]
    if not epochs:
        return NextStep(actor="coordinator", what="open an epoch over the finished tasks")
    epoch = epochs[0]
    match epoch.state:
        case EpochState.COLLECTING:
            missing = [format_short(who) for who, part in epoch.parts.items() if not part.signed]
            what = f"sign the root of epoch {epoch.number}: {', '.join(missing)}"
            return NextStep(actor="provider", what=what, deadline=epoch.root_by)
        case EpochState.COMMITTING:
            what = f"commit epoch {epoch.number} on chain" + _say_problem(epoch)
            return NextStep(actor="coordinator", what=what)
        case EpochState.SEEDING:
            what = f"reach the seed block after {epoch.block}" + _say_problem(epoch)
            return NextStep(actor="chain", what=what)
        case _:
            return _describe_checks(state, job.order_hash, epoch)


def _describe_checks(state: State, order_hash: Hash32, epoch: Epoch) -> NextStep:
    mine = [check for check in epoch.checks.values() if check.order_hash == order_hash]
    waiting = [check for check in mine if check.state is CheckState.WAITING]
    asked = [check for check in mine if check.state is CheckState.ASKED]
    shown = [check for check in mine if check.state is CheckState.SHOWN]
    if asked:
        deadline = min(check.deadline for check in asked if check.deadline is not None)
        return NextStep(
            actor="verifier", what=f"do {len(asked)} tasks again, blind", deadline=deadline
        )
    if waiting:
        has_any = any(is_eligible(state, verifier) for verifier in state.verifiers.values())
        what = f"{len(waiting)} checks wait for " + ("a slot" if has_any else "a verifier")
        return NextStep(actor="verifier", what=what, code="" if has_any else "GM-7105")
    opening = _list_at(epoch, order_hash, PartStage.OPENING)
    if opening:
        deadline = min(epoch.parts[who].deadline for who in opening)
        what = "open results: " + ", ".join(format_short(who) for who in opening)
        return NextStep(actor="provider", what=what, deadline=deadline)
    if shown:
        deadline = min(check.deadline for check in shown if check.deadline is not None)
        return NextStep(actor="verifier", what=f"judge {len(shown)} results", deadline=deadline)
    judged = _list_at(epoch, order_hash, PartStage.JUDGING)
    trials = [trial for trial in epoch.trials.values() if trial.provider in judged]
    for trial in trials:
        if trial.outcome is TrialOutcome.OPEN:
            return _describe_trial(state, trial)
    if judged:
        return NextStep(actor="coordinator", what="fetch the outputs")
    return NextStep(actor="verifier", what="finish the other checks of the epoch")


def _describe_trial(state: State, trial: Trial) -> NextStep:
    task = state.leases[trial.lease_id].unit
    last = f"; last try: {trial.problem}" if trial.problem else ""
    match trial.state:
        case TrialState.OPENING:
            what = f"bring task {task}, which a verifier calls false, before a jury on chain"
            return NextStep(actor="coordinator", what=what + last)
        case TrialState.SEATING:
            return NextStep(actor="chain", what=f"draw the jury of case {trial.case}{last}")
        case _:
            said = sum(vote.verdict is not None for vote in trial.votes)
            what = (
                f"decide about task {task} as jurors of case {trial.case}: "
                f"{len(trial.jury)} sit, {said} of those asked have answered"
            )
            return NextStep(actor="verifier", what=what + last, deadline=trial.deadline)


def _list_at(epoch: Epoch, order_hash: Hash32, stage: PartStage) -> list[Address]:
    return [
        who
        for who, part in epoch.parts.items()
        if part.stage is stage and order_hash in part.open_orders
    ]


def _say_problem(epoch: Epoch) -> str:
    return f"; last try: {epoch.problem}" if epoch.problem else ""
