"""
How other markets decide which result to accept, each rule rewritten from its own source.

What is compared is the rule alone: hosts and attackers are the same for all, no stake deters
anybody (attackers cheat also at a loss), and every execution costs one unit of compute.
Sources: BOINC `sched/sched_send.cpp` and the wiki's "adaptive replication"; iExec
`IexecPoco2Facet.sol` (contribution weights and the threshold of consensus).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

HONEST: Final = 0
"""The right answer; any other number is a wrong one, equal numbers are equal wrong answers."""
SHARED_LIE: Final = -1
"""What all colluders answer for a unit that they forge."""
TRUSTED_AFTER: Final = 10
"""Valid results after which BOINC may take a host's word."""
COPIES_MAX: Final = 9
CONTRIBUTIONS_MAX: Final = 30

Forge = Callable[[random.Random, float], bool]
"""Whether a host forges this unit, at the trust that the scheme shows it to have in it."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts by index; the first `bad` of them follow `forge`, the others are honest."""

    size: int
    bad: int
    forge: Forge
    colluding: bool = False
    """Whether the bad give one answer together; otherwise each its own."""

    def answer(self, host: int, unit: int, rng: random.Random, trust: float) -> int:
        """Return what a host says for a unit; colluders agree by the unit's number alone."""
        if host >= self.bad:
            return HONEST
        if self.colluding:
            # The same for every colluder, whoever is asked first.
            shared = random.Random(unit * 2_654_435_761)  # noqa: S311  (a simulation)
            return SHARED_LIE if self.forge(shared, trust) else HONEST
        return host + 1 if self.forge(rng, trust) else HONEST


@dataclass(slots=True)
class Tally:
    """What a scheme cost and what it let through."""

    units: int = 0
    executions: int = 0
    accepted: int = 0
    bad_accepted: int = 0

    @property
    def overhead(self) -> float:
        """Executions beyond one a unit, as a share."""
        return self.executions / max(self.units, 1) - 1

    @property
    def bad_share(self) -> float:
        """Wrong results among the accepted ones."""
        return self.bad_accepted / max(self.accepted, 1)

    def accept(self, answer: int) -> None:
        """Count an accepted answer."""
        self.accepted += 1
        self.bad_accepted += answer != HONEST


def run_quorum(fleet: Fleet, units: int, rng: random.Random) -> Tally:
    """BOINC's quorum of two: copies until two hosts agree."""
    tally = Tally(units=units)
    for unit in range(units):
        votes: dict[int, int] = {}
        for host in rng.sample(range(fleet.size), COPIES_MAX):
            tally.executions += 1
            answer = fleet.answer(host, unit, rng, 0.0)
            votes[answer] = votes.get(answer, 0) + 1
            if votes[answer] == 2:
                tally.accept(answer)
                break
    return tally


@dataclass(slots=True)
class _Adaptive:
    fleet: Fleet
    rng: random.Random
    valid: list[int] = field(default_factory=list)
    """Consecutive valid results of each host."""

    def trusts(self, host: int) -> bool:
        count = self.valid[host]
        return count >= TRUSTED_AFTER and self.rng.random() < 1 - 1 / count

    def replicate(self, first: int, answer: int, unit: int, tally: Tally) -> None:
        votes: dict[int, list[int]] = {answer: [first]}
        others = [host for host in range(self.fleet.size) if host != first]
        for host in self.rng.sample(others, COPIES_MAX - 1):
            tally.executions += 1
            said = self.fleet.answer(host, unit, self.rng, self.valid[host])
            votes.setdefault(said, []).append(host)
            if len(votes[said]) == 2:
                tally.accept(said)
                self.settle(votes, said)
                return

    def settle(self, votes: dict[int, list[int]], agreed: int) -> None:
        for answer, hosts in votes.items():
            for host in hosts:
                self.valid[host] = self.valid[host] + 1 if answer == agreed else 0


def run_adaptive(fleet: Fleet, units: int, rng: random.Random) -> Tally:
    """BOINC's adaptive replication: a host with n valid results is checked once in n."""
    tally = Tally(units=units)
    scheme = _Adaptive(fleet, rng, [0] * fleet.size)
    for unit in range(units):
        host = rng.randrange(fleet.size)
        answer = fleet.answer(host, unit, rng, scheme.valid[host])
        tally.executions += 1
        if scheme.trusts(host):
            tally.accept(answer)
        else:
            scheme.replicate(host, answer, unit, tally)
    return tally


def run_iexec(fleet: Fleet, units: int, rng: random.Random, *, trust: int = 100) -> Tally:
    """Proof of contribution of iExec: weights by score until one answer outweighs the rest."""
    tally = Tally(units=units)
    scores = [0] * fleet.size
    for unit in range(units):
        weights: dict[int, int] = {}
        voters: dict[int, list[int]] = {}
        total = 1
        for host in rng.sample(range(fleet.size), min(fleet.size, CONTRIBUTIONS_MAX)):
            tally.executions += 1
            answer = fleet.answer(host, unit, rng, scores[host])
            before = weights.get(answer, 0)
            weights[answer] = max(before, 1) * (max(scores[host] // 3, 3) - 1)
            total += weights[answer] - before
            voters.setdefault(answer, []).append(host)
            if weights[answer] * trust > total * (trust - 1):
                tally.accept(answer)
                _score(scores, voters, answer)
                break
    return tally


def _score(scores: list[int], voters: dict[int, list[int]], agreed: int) -> None:
    if sum(map(len, voters.values())) < 2:
        return
    for answer, hosts in voters.items():
        for host in hosts:
            scores[host] = scores[host] + 1 if answer == agreed else scores[host] * 2 // 3


def average(tallies: Sequence[Tally]) -> tuple[float, float]:
    """Return the mean overhead and the mean share of wrong results accepted."""
    count = len(tallies)
    return sum(t.overhead for t in tallies) / count, sum(t.bad_share for t in tallies) / count
