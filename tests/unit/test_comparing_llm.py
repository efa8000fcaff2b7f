"""The rule `llm`: what two outputs show without a replay, and what a replay shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.llm import (
    TOKENS_MAX,
    WINDOW,
    compare_before_replay,
    compare_replay,
    measure_signals,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import LlmRule
from gpumarket.testing.factories import change

MATCH, MISMATCH, INCONCLUSIVE = Verdict
RULE = LlmRule(command=("replay",), margin_max="0.01", margin_clip="1", distance_max="0.1")
Files = dict[str, bytes]
ROWS, COUNT = 3, 2 * WINDOW + 10
TOKENS = np.random.default_rng(1).integers(0, 128, (ROWS, COUNT)).astype(np.int32)
PRINTS = np.random.default_rng(2).normal(size=(ROWS, COUNT, 4)).astype(np.float16)
MARGINS = np.zeros((ROWS, COUNT))


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def make_output(tokens: Any = TOKENS, prints: Any = PRINTS, texts: bytes = b"[]") -> Files:
    return {"tokens.npy": an_npy(tokens), "fingerprints.npy": an_npy(prints), "texts.json": texts}


def make_replay(margins: Any = MARGINS, prints: Any = PRINTS, texts: bytes = b"[]") -> Files:
    return {"margins.npy": an_npy(margins), "fingerprints.npy": an_npy(prints), "texts.json": texts}


def replace_at(array: Any, place: Any, value: float) -> Any:
    changed = array.copy()
    changed[place] = value
    return changed


OTHER = replace_at(TOKENS, (1, 70), 5 if TOKENS[1, 70] != 5 else 6)
NEAR = make_output(prints=replace_at(PRINTS, (0, 0, 0), 0.5))


def before(theirs: Files, *, same: bool = False, own: Files | None = None, **changes: Any) -> Any:
    rule = change(RULE, **changes)
    found = compare_before_replay(own or make_output(), theirs, rule, is_same_class=same)
    return found and found.verdict


def test_equal_outputs_match_at_once_whatever_is_in_them() -> None:
    files = {"x": b"no array"}
    found = compare_before_replay(files, dict(files), RULE, is_same_class=False)
    assert found is not None
    assert (found.verdict, found.rule) == (MATCH, "bytes")


def test_other_tokens_need_a_replay_between_classes_and_are_a_mismatch_within_one() -> None:
    theirs = make_output(OTHER)
    assert before(theirs) is None
    assert before(theirs, same=True) is MISMATCH
    assert before(theirs, same=True, exact_in_class=False) is None
    assert before(NEAR, same=True) is None  # the same tokens: the signals decide


@pytest.mark.parametrize(
    "theirs",
    [
        make_output(TOKENS[:, :-1]),
        make_output(TOKENS.astype(np.int64)),
        make_output(TOKENS.astype(np.float32)),
        make_output(TOKENS[None]),
        make_output(np.asfortranarray(TOKENS)),
        make_output(prints=PRINTS[:, :, :3]),
        make_output(prints=PRINTS.astype(np.float32)),
        {**make_output(), "more": b""},
        {"tokens.npy": an_npy(TOKENS)},
        {**make_output(), "tokens.npy": b"PK\x03\x04"},
        {**make_output(), "fingerprints.npy": an_npy(PRINTS)[:-1]},
    ],
)
def test_an_output_of_another_form_is_never_replayed(theirs: Files) -> None:
    assert before(theirs) is MISMATCH


@pytest.mark.parametrize(
    "own",
    [
        make_output(TOKENS.astype(np.float32)),
        make_output(TOKENS[:0], PRINTS[:0]),
        make_output(prints=np.zeros((1, 1, 17), np.float16)),
        make_output(prints=PRINTS.astype(np.float32)),
        make_output(np.zeros((1, TOKENS_MAX + 1), np.int8)),
        {**make_output(), "tokens.npy": b""},
        make_output(np.asfortranarray(TOKENS)),
        make_output(TOKENS[None]),
        {"texts.json": b"[]"},
    ],
)
def test_what_the_verifier_itself_cannot_read_blames_nobody(own: Files) -> None:
    theirs = {**own, "texts.json": b"other"}
    assert before(theirs, own=own) is INCONCLUSIVE


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [
        (MARGINS, MATCH),
        (MARGINS + 0.0099, MATCH),
        (MARGINS + 0.0101, MISMATCH),
        (replace_at(MARGINS, (1, 70), 0.63), MATCH),
        (replace_at(MARGINS, (1, 70), 0.65), MISMATCH),  # one token of 64
        (replace_at(MARGINS, (1, 70), np.inf), MISMATCH),
        (replace_at(MARGINS, (2, COUNT - 1), 0.11), MISMATCH),  # the last window has 10 tokens
        (replace_at(MARGINS, (2, COUNT - 1), 0.09), MATCH),
        (replace_at(MARGINS, (0, 0), np.nan), INCONCLUSIVE),
        (replace_at(MARGINS, (0, 0), -1.0), INCONCLUSIVE),
        (MARGINS[:, 1:], INCONCLUSIVE),
        (MARGINS.astype(np.int32), INCONCLUSIVE),
    ],
)
def test_margins_are_judged_by_the_worst_window(margins: Any, verdict: Verdict) -> None:
    assert compare_replay(make_replay(margins), make_output(), RULE).verdict is verdict


def test_one_token_counts_as_much_as_the_clip_and_no_more() -> None:
    replayed = make_replay(replace_at(MARGINS, (0, 3), np.inf))
    assert measure_signals(replayed, make_output(), clip=2.0).margin == 2 / WINDOW


@pytest.mark.parametrize(
    ("prints", "verdict"),
    [
        (PRINTS * np.float16(1.09), MATCH),
        (PRINTS * np.float16(1.11), MISMATCH),
        (-PRINTS, MISMATCH),
        (PRINTS[:, ::-1], MISMATCH),
        (PRINTS * 0, MISMATCH),
        (np.concatenate([PRINTS[:, :-1], PRINTS[:, -1:] * np.float16(1.5)], 1), MISMATCH),
        (replace_at(PRINTS, (0, 0, 0), np.nan), MISMATCH),
        (replace_at(PRINTS, (0, 0, 0), np.inf), MISMATCH),
    ],
)
def test_fingerprints_are_judged_by_the_worst_window(prints: Any, verdict: Verdict) -> None:
    found = compare_replay(make_replay(), make_output(prints=prints), RULE)
    assert found.verdict is verdict


def test_after_the_end_of_a_text_there_must_be_nothing() -> None:
    short = replace_at(PRINTS, (slice(None), slice(WINDOW, None)), 0)
    assert compare_replay(make_replay(prints=short), make_output(prints=short), RULE).verdict is (
        MATCH
    )
    assert compare_replay(make_replay(prints=short), make_output(), RULE).verdict is MISMATCH


@pytest.mark.parametrize(
    ("replayed", "verdict"),
    [
        (make_replay(texts=b"[1]"), MISMATCH),
        ({**make_replay(), "more": b""}, INCONCLUSIVE),
        ({"margins.npy": an_npy(MARGINS)}, INCONCLUSIVE),
        (make_replay(prints=replace_at(PRINTS, (0, 0, 0), np.inf)), INCONCLUSIVE),
        (make_replay(prints=PRINTS[:, 1:]), INCONCLUSIVE),
        ({**make_replay(), "margins.npy": b"\x93NUMPY"}, INCONCLUSIVE),
    ],
)
def test_a_replay_that_is_none_decides_nothing(replayed: Files, verdict: Verdict) -> None:
    assert compare_replay(replayed, make_output(), RULE).verdict is verdict


def test_without_a_sandbox_unequal_outputs_decide_nothing() -> None:
    assert compare_outputs(make_output(), make_output(), RULE).verdict is MATCH
    assert compare_outputs(make_output(), NEAR, RULE).verdict is INCONCLUSIVE


# ---- fuzz --------------------------------------------------------------------------------------

SMALL = make_output(TOKENS[:1, :3], PRINTS[:1, :3])
SMALL_REPLAY = make_replay(MARGINS[:1, :3], PRINTS[:1, :3])


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["tokens.npy", "fingerprints.npy"]),
    st.integers(0, 200),
    st.binary(min_size=1, max_size=12),
    st.booleans(),
)
def test_no_bytes_of_a_provider_break_the_comparison(
    name: str, place: int, junk: bytes, is_cut: bool
) -> None:
    data = SMALL[name]
    hostile = data[:place] + junk + (b"" if is_cut else data[place + len(junk) :])
    theirs = {**SMALL, name: hostile}
    found = compare_before_replay(SMALL, theirs, RULE, is_same_class=False)
    if theirs == SMALL:
        assert found is not None
        assert found.verdict is MATCH
    elif found is None:
        judged = compare_replay(SMALL_REPLAY, theirs, RULE)
        assert judged.verdict in (MATCH, MISMATCH)
        assert len(judged.sentence) < 300
    else:
        assert found.verdict is MISMATCH
        assert len(found.sentence) < 300
