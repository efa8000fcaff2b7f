"""The court on chain as the played market sees it: cases, juries, votes, appeals, and time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from coordinator.core import effects, events
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.juries import JURY_SIZES, LAST_LEVEL, compute_quorum
from gpumarket.protocol.units import Timestamp

RESPONSE_SECONDS = 60


@dataclass
class PlayedCase:
    """One case, as the contract keeps it."""

    number: int
    level: int = 0
    jury: tuple[Address, ...] = ()
    verdict: int = 0
    voters: tuple[Address, ...] = ()
    deadline: int = 0
    is_over: bool = False

    def raise_level(self) -> None:
        """Go on with a new jury that is still to be drawn."""
        self.level += 1
        self.jury, self.voters, self.verdict, self.deadline = (), (), 0, 0


@dataclass
class PlayedCourt:
    """All cases; `list_jurors` says whom the contract could draw."""

    list_jurors: Callable[[], list[Address]]
    cases: dict[Hash32, PlayedCase] = field(default_factory=dict)
    refuses: str = ""
    """Why no case can be opened; empty where it can."""
    is_down: bool = False

    def open(
        self, effect: effects.OpenCase, now: Timestamp
    ) -> events.CaseOpened | events.CaseRefused:
        """Open a case, or find the one that is open."""
        assert effect.receipt.body.compute_struct_hash() == effect.receipt_hash
        assert effect.receipt.body.order_hash == effect.order.compute_struct_hash()
        if self.is_down or self.refuses:
            return self._refuse(effect.receipt_hash, now, is_final=not self.is_down)
        case = self.cases.setdefault(effect.receipt_hash, PlayedCase(len(self.cases) + 1))
        return events.CaseOpened(at=now, receipt_hash=effect.receipt_hash, case=case.number)

    def move(
        self, effect: effects.MoveCase, now: Timestamp
    ) -> events.CaseSeen | events.CaseRefused:
        """Take a step where the contract allows it; say where the case stands."""
        case = self.cases[effect.receipt_hash]
        assert case.number == effect.case
        is_at = not case.is_over and case.level == effect.level
        if self.is_down or (is_at and not self._step(case, effect, now)):
            return self._refuse(effect.receipt_hash, now, is_final=False)
        return events.CaseSeen(
            at=now,
            receipt_hash=effect.receipt_hash,
            level=case.level,
            jury=case.jury,
            verdict=case.verdict,
            voters=case.voters,
            deadline=case.deadline,
            is_over=case.is_over,
        )

    def appeal(self, receipt_hash: Hash32, now: Timestamp) -> None:
        """Let somebody take a decided case to the next level."""
        case = self.cases[receipt_hash]
        assert case.verdict and case.level < LAST_LEVEL and now <= case.deadline
        case.raise_level()

    def _step(self, case: PlayedCase, effect: effects.MoveCase, now: Timestamp) -> bool:
        match effect.step:
            case "seat":
                if not case.jury:
                    case.jury = tuple(self.list_jurors()[: JURY_SIZES[case.level]])
                    case.deadline = now + RESPONSE_SECONDS
                return True
            case "decide":
                return bool(case.verdict) or self._decide(case, effect, now)
            case "escalate":
                is_due = bool(case.jury) and not case.verdict and case.deadline < now
                if is_due:
                    case.raise_level()
                return is_due or bool(case.verdict)
            case "close":
                has_ended = bool(case.verdict) or case.level == LAST_LEVEL
                case.is_over = bool(case.jury) and has_ended and case.deadline < now
                return case.is_over

    def _decide(self, case: PlayedCase, effect: effects.MoveCase, now: Timestamp) -> bool:
        if now > case.deadline:
            return False
        assert effect.jury == case.jury
        seats = [vote.seat for vote in effect.votes]
        assert seats == sorted(set(seats)), "seats are not in order"
        verdicts = {vote.attestation.body.verdict for vote in effect.votes}
        assert len(verdicts) == 1 and verdicts <= {1, 2}
        assert 0 < compute_quorum(case.level, len(case.jury)) <= len(seats)
        for vote in effect.votes:
            assert vote.attestation.signer == case.jury[vote.seat]
            assert vote.attestation.body.receipt_hash == effect.receipt_hash
        case.verdict = verdicts.pop()
        case.voters = tuple(case.jury[seat] for seat in seats)
        case.deadline = now + (0 if case.level == LAST_LEVEL else RESPONSE_SECONDS)
        return True

    def _refuse(self, name: Hash32, now: Timestamp, *, is_final: bool) -> events.CaseRefused:
        text = self.refuses or "the contract refuses, or the chain is silent"
        return events.CaseRefused(at=now, receipt_hash=name, is_final=is_final, text=text)
