"""
Matching: who can run a task, who of them should, and why nobody can.

Three separate steps over one snapshot: `find_feasible` applies the constraints, `rank` orders
what is left, `explain` counts who fell where and which single relaxation would help most.
Every provider falls at the first constraint it does not meet, so the counts add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from coordinator.core.constraints import (
    CONSTRAINTS,
    LASTING,
    Candidate,
    Constraint,
    Demand,
    Devices,
    Gap,
)
from gpumarket.protocol.units import PPM

RELAXATIONS_MAX = 5


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """One constraint and what it did: `left` of the stage before = `fell` + `left`."""

    constraint: str
    need: str
    fell: int
    left: int


class Relaxation(msgspec.Struct, frozen=True, kw_only=True):
    """The smallest change of one constraint that lets somebody in, all others unchanged."""

    constraint: str
    need: str
    have: str
    offers: int
    """How many providers fit then."""
    change: str = ""
    """How to get there, where it is not plain."""

    def __str__(self) -> str:
        how = f" (with {self.change})" if self.change else ""
        return f"{self.constraint} {self.need} -> {self.have} gives {self.offers} offers{how}"


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    """Why nobody, or who: counts for each constraint in a fixed order."""

    online: int
    stages: tuple[Stage, ...]
    relaxations: tuple[Relaxation, ...]

    @property
    def feasible(self) -> int:
        """How many could run the job if none were busy."""
        return self.stages[-2].left

    @property
    def free(self) -> int:
        """How many could run it now."""
        return self.stages[-1].left


def find_feasible(
    demand: Demand, candidates: Iterable[Candidate], *, free_only: bool
) -> list[Candidate]:
    """Return who can run a task of the job: now, or once it is free."""
    constraints = CONSTRAINTS if free_only else LASTING
    return [c for c in candidates if _find_fall(demand, c, constraints) is None]


def rank(demand: Demand, candidate: Candidate) -> tuple[int, int, int, bytes]:
    """
    Return the sort key of a feasible candidate; the least is the best.

    Expected cost is the price with the chance of having to pay for a second try: a provider
    with half the reputation must be half as dear. Ties go to the one with the fewest tasks.
    """
    price: int = candidate.offer.price_per_device_hour
    expected = price * PPM // max(1, candidate.reputation_ppm)
    by_preference = {
        "cheapest": (price, expected),
        "most_reliable": (-candidate.reputation_ppm, price),
        # Nobody's speed is known yet: the emptiest provider starts soonest.
        "fastest": (candidate.running, expected),
        "balanced": (expected, price),
    }
    first, second = by_preference[demand.spec.placement.prefer]
    return first, second, candidate.running, candidate.provider


def explain(demand: Demand, candidates: Sequence[Candidate]) -> Funnel:
    """Count who falls at which constraint, and find the smallest relaxations."""
    fallen = [0] * len(CONSTRAINTS)
    gaps: dict[int, list[Gap]] = {}
    for candidate in candidates:
        at = _find_fall(demand, candidate, CONSTRAINTS)
        if at is None:
            continue
        fallen[at] += 1
        gap = _find_only_gap(demand, candidate, at)
        if gap is not None:
            gaps.setdefault(at, []).append(gap)
    stages, left = [], len(candidates)
    for constraint, fell in zip(CONSTRAINTS, fallen, strict=True):
        left -= fell
        stages.append(
            Stage(
                constraint=constraint.name, need=constraint.describe(demand), fell=fell, left=left
            )
        )
    relaxations = [_make_relaxation(CONSTRAINTS[at], demand, found) for at, found in gaps.items()]
    relaxations.sort(key=lambda relaxation: (-relaxation.offers, relaxation.constraint))
    return Funnel(
        online=len(candidates),
        stages=tuple(stages),
        relaxations=tuple(relaxations[:RELAXATIONS_MAX]),
    )


def describe_funnel(funnel: Funnel) -> str:
    """Say in one sentence how many are online and where they fall."""
    falls = [
        f"{stage.fell} at {stage.constraint} {stage.need}".rstrip()
        for stage in funnel.stages
        if stage.fell
    ]
    start = f"{funnel.online} providers online, {funnel.feasible} fit"
    return f"{start}: {', '.join(falls)}" if falls else start


def _find_fall(
    demand: Demand, candidate: Candidate, constraints: Sequence[Constraint]
) -> int | None:
    left: Devices = candidate.offer.devices
    for index, constraint in enumerate(constraints):
        kept = constraint.keep(demand, candidate, left)
        if kept is None:
            return index
        left = kept
    return None


def _find_only_gap(demand: Demand, candidate: Candidate, at: int) -> Gap | None:
    # Only a constraint that is the provider's single obstacle can be relaxed alone. Whether it
    # is busy does not matter: whoever would fit may be waited for.
    left: Devices = candidate.offer.devices
    for constraint in LASTING:
        if constraint is CONSTRAINTS[at]:
            continue
        kept = constraint.keep(demand, candidate, left)
        if kept is None:
            return None
        left = kept
    return CONSTRAINTS[at].gap(demand, candidate, left)


def _make_relaxation(constraint: Constraint, demand: Demand, gaps: list[Gap]) -> Relaxation:
    nearest = min(gaps, key=lambda gap: (gap.key, gap.have))
    offers = sum(1 for gap in gaps if gap.key < nearest.key or gap.have == nearest.have)
    return Relaxation(
        constraint=constraint.name,
        need=constraint.describe(demand),
        have=nearest.have,
        offers=offers,
        change=nearest.change,
    )
