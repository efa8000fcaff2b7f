"""Hostile bytes for every decoder of outputs: one kind of error and bounded memory."""

from __future__ import annotations

import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.image import decode_image_untrusted
from gpumarket.comparing.json_text import decode_json_untrusted
from gpumarket.comparing.tensor_files import decode_npy_untrusted, decode_safetensors_untrusted
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    ImageRule,
    JsonRule,
    NpyRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import RemoteProtocolError

MUTATIONS = 200
MEMORY_MAX = 16 * 2**20
"""For inputs of a few kilobytes; what a header promises must not be reserved."""


def an_npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.arange(12, dtype=np.float32).reshape(3, 4))
    return file.getvalue()


def a_picture(kind: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


TENSORS: dict[str, Any] = {"a": np.arange(6, dtype=np.float32), "b": np.arange(4, dtype=np.int64)}
VALUE = {"a": [1, 2.5, {"b": None}], "c": 'text with " and \\ and é', "d": [True, -1e-9]}
Case = tuple[Callable[[bytes], Any], bytes, Comparison, str]
CASES: dict[str, Case] = {
    "npy": (decode_npy_untrusted, an_npy(), NpyRule(), "a.npy"),
    "safetensors": (
        decode_safetensors_untrusted,
        save(TENSORS, metadata={"format": "np"}),
        SafetensorsRule(),
        "a.safetensors",
    ),
    "json": (decode_json_untrusted, json.dumps(VALUE).encode(), JsonRule(), "a.json"),
    "png": (decode_image_untrusted, a_picture("PNG"), ImageRule(), "a.png"),
    "jpeg": (decode_image_untrusted, a_picture("JPEG"), ImageRule(files="*"), "a.jpg"),
}


def mutate(data: bytes, seed: int) -> Iterator[bytes]:
    """Give the same mutations for the same seed: flips, cuts, doubled and foreign pieces."""
    draw = random.Random(seed)
    for _ in range(MUTATIONS):
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            at = draw.randrange(len(changed) + 1)
            match draw.randrange(5):
                case 0 if at < len(changed):
                    changed[at] ^= 1 << draw.randrange(8)
                case 1:
                    changed[at : at + draw.randrange(8)] = b""
                case 2:
                    changed[at:at] = changed[: draw.randrange(40)]
                case 3:
                    changed[at : at + 4] = draw.choice((b"\xff" * 4, bytes(4), b"9999", b"[[[["))
                case _:
                    del changed[max(1, at) :]
        yield bytes(changed)


@pytest.mark.parametrize("name", CASES)
def test_a_mutated_file_is_read_or_refused_and_nothing_else(name: str) -> None:
    decode, good, rule, file_name = CASES[name]
    read = refused = matched = 0
    tracemalloc.start()
    try:
        for bad in mutate(good, seed=7):
            try:
                decode(bad)
                read += 1
            except RemoteProtocolError:
                refused += 1
            outcome = compare_outputs({file_name: good}, {file_name: bad}, rule)
            assert outcome.verdict is not Verdict.INCONCLUSIVE
            matched += outcome.verdict is Verdict.MATCH
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX
    # Some mutations leave a readable file: else this test would have looked at one refusal only.
    assert read > 0
    assert refused > MUTATIONS // 10
    assert matched <= read


@given(noise=st.binary(max_size=300), at=st.integers(0, 5000), name=st.sampled_from(list(CASES)))
@settings(max_examples=150)
def test_noise_in_and_instead_of_a_file_raises_only_the_protocol_error(
    noise: bytes, at: int, name: str
) -> None:
    decode, good, _, _ = CASES[name]
    decode(good)
    for data in (noise, good[:at] + noise + good[at:]):
        try:
            decode(data)
        except RemoteProtocolError:
            continue


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@given(value=VALUES)
@settings(max_examples=150)
def test_json_equals_itself_however_it_is_written(value: Any) -> None:
    own = json.dumps(value, ensure_ascii=False).encode()
    theirs = json.dumps(value, indent=3, ensure_ascii=True).encode()
    outcome = compare_outputs({"a.json": own}, {"a.json": theirs}, JsonRule())
    assert outcome.verdict is Verdict.MATCH


@given(
    own=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)),
    theirs=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=3)),
)
def test_by_bytes_only_the_same_folder_matches(
    own: dict[str, bytes], theirs: dict[str, bytes]
) -> None:
    outcome = compare_outputs(own, theirs, BytesRule())
    assert (outcome.verdict is Verdict.MATCH) == (own == theirs)
