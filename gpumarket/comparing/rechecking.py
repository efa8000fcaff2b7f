"""
What an auditor finds who compares the outputs again, or runs units again, as lines of the report.

An output that is not there proves nothing: it is counted, and where nothing at all could be
compared the line is INCOMPLETE and not a PASS over nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.evidence import AuditVerdict, Check
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Cid, Hash32, format_short
from gpumarket.protocol.proof import CheckProof, ProofOfExecution
from gpumarket.protocol.proof_reading import index_receipts, list_own_checks
from gpumarket.protocol.training import SegmentAudit

COMPARISONS: Final = "comparisons"
RE_EXECUTION: Final = "re-execution"
TEXT_CHARS_MAX: Final = 160
_DECIDED: Final = (Verdict.MATCH, Verdict.MISMATCH)


class Rechecked(NamedTuple):
    """A verifier's verdict, and what the comparison came to here; None says in `gap` why not."""

    check: CheckProof
    outcome: Outcome | None
    gap: str = ""


class SampledUnit(NamedTuple):
    """A result of the job that the seed drew, what was said of it, and whether it was accepted."""

    unit: int
    receipt_hash: Hash32
    output: Cid
    """The provider's, as committed."""
    repro_class: Hash32
    stated: frozenset[int]
    """Verdicts, one or two."""
    is_accepted: bool
    provider: Address = ZERO_ADDRESS
    segments: SegmentAudit | None = None
    """Of a training task: its chain, and the segments that a verifier did again."""

    def widen(self) -> SampledUnit:
        """Return it with every segment in place of those that the seed drew."""
        if self.segments is None:
            return self
        numbers = tuple(range(1, len(self.segments.states)))
        return self._replace(segments=SegmentAudit(states=self.segments.states, drawn=numbers))


class Rerun(NamedTuple):
    """A sampled unit, and what running it here came to; None says in `gap` why not."""

    sampled: SampledUnit
    outcome: Outcome | None
    gap: str = ""


def list_decided(proof: ProofOfExecution) -> list[CheckProof]:
    """Return the checks of the job's own results that say MATCH or MISMATCH."""
    checks = (check for epoch in proof.epochs for check in list_own_checks(proof, epoch))
    return [check for check in checks if check.attestation.body.verdict in _DECIDED]


def list_sampled(proof: ProofOfExecution) -> list[SampledUnit]:
    """Return the job's own results that were checked, each once."""
    found: dict[Hash32, SampledUnit] = {}
    for epoch in proof.epochs:
        for check in list_own_checks(proof, epoch):
            name, result = check.attestation.body.receipt_hash, check.opening.body.result
            stated = {check.attestation.body.verdict}
            if name in found:
                stated |= found[name].stated
            found[name] = SampledUnit(
                unit=result.unit,
                receipt_hash=name,
                output=result.output,
                repro_class=result.repro_class,
                stated=frozenset(stated),
                is_accepted=name not in epoch.rejected_receipts,
                provider=result.provider,
                segments=check.evidence.segments,
            )
    return list(found.values())


def has_foreign_differences(proof: ProofOfExecution) -> bool:
    """Say whether a MATCH of other bytes is on another job's result, whose rule is not here."""
    for epoch in proof.epochs:
        own = index_receipts(proof, epoch)
        for check in epoch.checks:
            body = check.attestation.body
            is_other = check.evidence.own.output != check.opening.body.result.output
            if body.receipt_hash not in own and body.verdict == Verdict.MATCH and is_other:
                return True
    return False


def report_comparisons(found: Sequence[Rechecked], rule: str) -> Check:
    """Write the line of the comparisons: a verdict that the rule contradicts is a FAIL."""
    gaps = []
    for check, outcome, gap in found:
        body, own = check.attestation.body, check.evidence.own
        if outcome is None or outcome.verdict not in _DECIDED:
            gaps.append(f"task {own.unit}: {gap if outcome is None else outcome.sentence}")
        elif outcome.verdict != body.verdict:
            text = (
                f"task {own.unit}: {format_short(own.verifier)} stated "
                f"{Verdict(body.verdict).name}, the outputs by the rule {outcome.rule} are a "
                f"{outcome.verdict.name}: {outcome.sentence}"
            )
            return Check(COMPARISONS, AuditVerdict.FAIL, _clean(text, 2 * TEXT_CHARS_MAX))
    text = (
        f"{len(found) - len(gaps)} of {len(found)} verdicts on this job compared again by its rule "
        f"{rule}, and as stated"
    )
    return _write(COMPARISONS, text, gaps, len(found))


def report_runs(found: Sequence[Rerun], sampled: int) -> Check:
    """Write the line of the units run here, out of `sampled`: none comes out against its word."""
    gaps = []
    for each, outcome, gap in found:
        if outcome is None or outcome.verdict not in _DECIDED:
            gaps.append(f"task {each.unit}: {gap if outcome is None else outcome.sentence}")
        elif fault := _find_contradiction(each, outcome.verdict):
            text = f"task {each.unit}: run here, {fault}: {outcome.sentence}"
            return Check(RE_EXECUTION, AuditVerdict.FAIL, _clean(text, 2 * TEXT_CHARS_MAX))
    done = sorted(each.sampled.unit for each in found)
    text = (
        f"{len(found) - len(gaps)} of {sampled} sampled results run again here, and as the proof "
        f"has them; drawn here: tasks {', '.join(map(str, done)) or 'none'}"
    )
    return _write(RE_EXECUTION, text, gaps, len(found))


def _find_contradiction(sampled: SampledUnit, verdict: Verdict) -> str:
    if verdict is Verdict.MISMATCH and sampled.is_accepted:
        return "it differs from the result that was accepted"
    if verdict is Verdict.MISMATCH and sampled.stated == {Verdict.MATCH}:
        return "it differs from the result that a verifier called a MATCH"
    if verdict is Verdict.MATCH and sampled.stated == {Verdict.MISMATCH}:
        return "it is the result that a verifier called a MISMATCH"
    return ""


def _write(name: str, text: str, gaps: Sequence[str], total: int) -> Check:
    if not gaps:
        return Check(name, AuditVerdict.PASS, text)
    count = len(gaps)
    remark = f"{count} of {total} {'was' if count == 1 else 'were'} not decided, such as {gaps[0]}"
    if count == total:
        return Check(name, AuditVerdict.INCOMPLETE, _clean(remark, 2 * TEXT_CHARS_MAX))
    return Check(name, AuditVerdict.PASS, text, _clean(remark, 2 * TEXT_CHARS_MAX))


def _clean(text: str, chars_max: int) -> str:
    # Sentences may quote a hostile file: nothing of it may steer a terminal.
    return "".join(char if char.isprintable() else "?" for char in text)[:chars_max]
