"""
Attack 14: text of a rounded, shortened or other model, of another seed, or chosen from many.

Real sampling from the model of examples/llm. Two signals must both pass, so a cheat that repairs
one of them, such as fingerprints made by a pass of the true model, is seen by the other.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.llm import (
    Signals,
    compare_before_replay,
    compare_replay,
    measure_signals,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import TOKENS_NAME, LlmRule
from gpumarket.testing.machine_classes import CLASSES
from scripts.benchmarks.llm_work import (
    CHEATS,
    HIDDEN_CHEATS,
    WEIGHTS,
    Cheat,
    Output,
    Task,
    generate_elsewhere,
    pack,
)

RULE = LlmRule(command=("python3", "/in/lm.py", "replay"))
SIGNALS = LlmRule(command=RULE.command, exact_in_class=False)
TASK = Task(7_000)
ROUNDED = "weights in int8"
"""The one cheat that only the activations are sure to show."""


@pytest.fixture(scope="module", name="own")
def own_fixture() -> Output:
    found = TASK.generate(WEIGHTS)
    return pack(found, found[TOKENS_NAME])


def compare(own: Output, theirs: Output, rule: LlmRule, *, is_same_class: bool) -> Outcome:
    """Judge an output as a verifier does, with the replay in this process."""
    found = compare_before_replay(own, theirs, rule, is_same_class=is_same_class)
    return found or replay(theirs, rule)


def replay(theirs: Output, rule: LlmRule) -> Outcome:
    """Judge an output by the two signals alone."""
    tokens = read_tokens(theirs)
    return compare_replay(pack(TASK.replay(tokens), tokens), theirs, rule)


def measure(theirs: Output) -> Signals:
    """Return both signals of an output."""
    tokens = read_tokens(theirs)
    clip = float(RULE.margin_clip)
    return measure_signals(pack(TASK.replay(tokens), tokens), theirs, clip=clip)


def read_tokens(files: Output) -> Any:

    return np.load(io.BytesIO(files[TOKENS_NAME]))


def cheat_with(cheat: Cheat) -> Output:
    found = cheat(TASK)
    return pack(found, found[TOKENS_NAME])


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_rejected_by_the_signals_even_without_exactness(name: str, own: Output) -> None:
    theirs = cheat_with(CHEATS[name])
    found = compare(own, theirs, SIGNALS, is_same_class=True)
    assert (found.verdict, found.rule) == (Verdict.MISMATCH, "llm")
    signals = measure(theirs)
    seen = signals.distance > float(RULE.distance_max), signals.margin > float(RULE.margin_max)
    assert seen[0 if name == ROUNDED else 1]
    assert compare(own, theirs, RULE, is_same_class=True).verdict is Verdict.MISMATCH


@pytest.mark.parametrize("name", HIDDEN_CHEATS)
def test_what_the_signals_hardly_tell_is_seen_within_a_class(name: str, own: Output) -> None:
    theirs = cheat_with(HIDDEN_CHEATS[name])
    assert theirs[TOKENS_NAME] != own[TOKENS_NAME]
    assert measure(theirs).distance < float(RULE.distance_max)
    assert compare(own, theirs, RULE, is_same_class=True).verdict is Verdict.MISMATCH


def test_an_honest_machine_of_the_class_leaves_the_same_bytes(own: Output) -> None:
    theirs = generate_elsewhere(TASK.seed, CLASSES["native"])
    found = compare(own, theirs, RULE, is_same_class=True)
    assert (found.verdict, found.rule) == (Verdict.MATCH, "bytes")


@pytest.mark.parametrize("name", ["avx2", "sse"])
def test_an_honest_machine_of_another_class_passes_by_the_signals(name: str, own: Output) -> None:
    theirs = generate_elsewhere(TASK.seed, CLASSES[name])
    assert theirs["fingerprints.npy"] != own["fingerprints.npy"]  # the class is another indeed
    found = compare(own, theirs, RULE, is_same_class=False)
    assert (found.verdict, found.rule) == (Verdict.MATCH, "llm"), found.sentence


def test_a_text_that_went_another_way_at_a_near_tie_passes_by_the_signals() -> None:
    """What divergence looks like: the second best token, where it is as good as the best."""
    tokens = TASK.generate(WEIGHTS)[TOKENS_NAME]
    for margin, verdict in ((0.0001, Verdict.MATCH), (0.9, Verdict.MISMATCH)):
        theirs = pack(TASK.dress(tokens), tokens)
        arrays = TASK.replay(tokens)
        arrays["margins.npy"][3, 20] = margin
        assert compare_replay(pack(arrays, tokens), theirs, RULE).verdict is verdict
