"""
Where a job, a task, an epoch and a check can stand, and every way each can change.

The tables are data: `state.py` refuses every move that is not in them. A lease's own table is
in the protocol, since both sides keep it.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class JobState(Enum):
    """Where a job stands; why it ended is its reason, never a state of its own."""

    QUEUED = "queued"
    RUNNING = "running"
    CHECKING = "checking"
    SETTLING = "settling"
    SETTLED = "settled"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDS: Final = frozenset({JobState.SETTLED, JobState.FAILED, JobState.CANCELLED})
"""States in which a job is over."""
NEXT_JOB: Final[dict[JobState, frozenset[JobState]]] = {
    JobState.QUEUED: frozenset(JobState) - {JobState.QUEUED, JobState.SETTLED},
    JobState.RUNNING: frozenset({JobState.CHECKING, JobState.SETTLING}) | ENDS,
    # A rejected task is done again, so a job in checking may run again.
    JobState.CHECKING: frozenset({JobState.RUNNING, JobState.SETTLING}) | ENDS,
    JobState.SETTLING: ENDS,
    JobState.SETTLED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class UnitState(Enum):
    """Where one task of a job stands."""

    WAITING = "waiting"
    LEASED = "leased"
    FINISHED = "finished"
    ACCEPTED = "accepted"


NEXT_UNIT: Final[dict[UnitState, frozenset[UnitState]]] = {
    UnitState.WAITING: frozenset({UnitState.LEASED}),
    UnitState.LEASED: frozenset({UnitState.WAITING, UnitState.FINISHED}),
    UnitState.FINISHED: frozenset({UnitState.WAITING, UnitState.ACCEPTED}),
    UnitState.ACCEPTED: frozenset(),
}


class EpochState(Enum):
    """Where an epoch stands: roots, commitment, seed, blind checks, openings."""

    COLLECTING = "collecting"
    COMMITTING = "committing"
    SEEDING = "seeding"
    CHECKING = "checking"
    OPENING = "opening"
    CLOSED = "closed"


NEXT_EPOCH: Final[dict[EpochState, frozenset[EpochState]]] = {
    EpochState.COLLECTING: frozenset({EpochState.COMMITTING, EpochState.CLOSED}),
    EpochState.COMMITTING: frozenset({EpochState.SEEDING}),
    # Without a seed nothing can be sampled: the receipts go into a later epoch.
    EpochState.SEEDING: frozenset({EpochState.CHECKING, EpochState.CLOSED}),
    EpochState.CHECKING: frozenset({EpochState.OPENING, EpochState.CLOSED}),
    EpochState.OPENING: frozenset({EpochState.CLOSED}),
    EpochState.CLOSED: frozenset(),
}


class PartStage(Enum):
    """Where one provider's part of an epoch stands."""

    SIGNING = "signing"
    SIGNED = "signed"
    SEALING = "sealing"
    OPENING = "opening"
    JUDGING = "judging"
    CLOSED = "closed"


NEXT_PART: Final[dict[PartStage, frozenset[PartStage]]] = {
    PartStage.SIGNING: frozenset({PartStage.SIGNED, PartStage.CLOSED}),
    PartStage.SIGNED: frozenset({PartStage.SEALING, PartStage.CLOSED}),
    PartStage.SEALING: frozenset({PartStage.OPENING}),
    PartStage.OPENING: frozenset({PartStage.JUDGING}),
    PartStage.JUDGING: frozenset({PartStage.CLOSED}),
    PartStage.CLOSED: frozenset(),
}


class CheckState(Enum):
    """Where one re-execution stands."""

    WAITING = "waiting"
    """For a verifier, or for a free slot of the one that the seed chose."""
    ASKED = "asked"
    SEALED = "sealed"
    SHOWN = "shown"
    DONE = "done"


NEXT_CHECK: Final[dict[CheckState, frozenset[CheckState]]] = {
    CheckState.WAITING: frozenset({CheckState.ASKED, CheckState.DONE}),
    CheckState.ASKED: frozenset({CheckState.WAITING, CheckState.SEALED, CheckState.DONE}),
    CheckState.SEALED: frozenset({CheckState.SHOWN, CheckState.DONE}),
    CheckState.SHOWN: frozenset({CheckState.DONE}),
    CheckState.DONE: frozenset(),
}


class TrialState(Enum):
    """Where a jury's case about a result stands."""

    OPENING = "opening"
    SEATING = "seating"
    """The jury of the present level is still to be drawn."""
    VOTING = "voting"
    DECIDED = "decided"
    """The jury's verdict is on chain; it may be appealed until the deadline."""
    CLOSED = "closed"


NEXT_TRIAL: Final[dict[TrialState, frozenset[TrialState]]] = {
    TrialState.OPENING: frozenset({TrialState.SEATING, TrialState.CLOSED}),
    # The chain is looked at now and then: what others did meanwhile is seen at once.
    TrialState.SEATING: frozenset({TrialState.VOTING, TrialState.DECIDED, TrialState.CLOSED}),
    TrialState.VOTING: frozenset({TrialState.SEATING, TrialState.DECIDED, TrialState.CLOSED}),
    TrialState.DECIDED: frozenset({TrialState.SEATING, TrialState.VOTING, TrialState.CLOSED}),
    TrialState.CLOSED: frozenset(),
}


class TrialOutcome(Enum):
    """What a case comes to for the payment: the first jury's verdict, which is not waited out."""

    OPEN = "open"
    CONVICTED = "convicted"
    ACQUITTED = "acquitted"
    UNHEARD = "unheard"
    """No jury could be had, or none decided: the verifiers' words stand."""
