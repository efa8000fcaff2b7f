"""What a comparison says, and what it proves when the two machines are of different classes."""

from __future__ import annotations

from typing import NamedTuple

from gpumarket.protocol.attestation import Verdict


class Outcome(NamedTuple):
    """What a comparison found, the rule that decided, and one sentence that says by how much."""

    verdict: Verdict
    rule: str
    sentence: str


def judge(outcome: Outcome, *, is_same_class: bool) -> Outcome:
    """
    Return what an outcome proves between two machines.

    Bytes are promised within a reproducibility class only. Between classes a difference in them is
    nobody's fault, so it pays nobody and blames nobody.
    """
    is_difference = outcome.verdict is Verdict.MISMATCH and outcome.rule == "bytes"
    if not is_difference or is_same_class:
        return outcome
    sentence = f"{outcome.sentence}, which proves nothing between machines of different classes"
    return Outcome(Verdict.INCONCLUSIVE, outcome.rule, sentence)
