"""The rules `npy` and `safetensors`: what counts as the same, read by our own decoders."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from gpumarket.comparing.dtypes import SAFETENSORS_DTYPES
from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.tensor_files import decode_npy_untrusted, decode_safetensors_untrusted
from gpumarket.comparing.tensors import PIECE_ENTRIES
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import NpyRule, SafetensorsRule
from gpumarket.protocol.errors import RemoteProtocolError

MATCH, MISMATCH, INCONCLUSIVE = Verdict
RANDOM = np.random.default_rng(1)
WEIGHTS = RANDOM.normal(size=(200, 300)).astype(np.float32)
NPY = NpyRule()


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def compare_arrays(own: Any, theirs: Any, rule: NpyRule = NPY, base: Any = None) -> Verdict:
    bases = None if base is None else {"a.npy": an_npy(base)}
    outcome = compare_outputs({"a.npy": an_npy(own)}, {"a.npy": an_npy(theirs)}, rule, base=bases)
    return outcome.verdict


def raw_safetensors(header: Mapping[str, Any] | bytes, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def an_entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


# ---- closeness ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        (WEIGHTS * np.float32(1 + 1e-6), MATCH),
        (WEIGHTS * np.float32(1.001), MISMATCH),
        (-WEIGHTS, MISMATCH),
        (WEIGHTS[::-1], MISMATCH),
        (WEIGHTS[:, ::-1], MISMATCH),
        (np.zeros_like(WEIGHTS), MISMATCH),
        (WEIGHTS[:100], MISMATCH),
        (WEIGHTS.reshape(300, 200), MISMATCH),
        (WEIGHTS.astype(np.float64) * (1 + 1e-9), MISMATCH),
        (WEIGHTS.astype(">f4") * np.float32(1 + 1e-6), MATCH),
        (np.asfortranarray(WEIGHTS), MISMATCH),
    ],
    ids="noise scaled signs rows columns zeros half shape dtype bytes order".split(),
)
def test_noise_is_the_same_and_anything_else_is_not(theirs: Any, verdict: Verdict) -> None:
    # numpy writes its own byte order after arithmetic, so `bytes` is the same kind of number.
    assert compare_arrays(WEIGHTS, theirs) is verdict


def test_few_entries_may_be_off_and_one_more_may_not() -> None:
    allowed = WEIGHTS.size // 10_000
    changed = WEIGHTS.copy().reshape(-1)
    changed[:allowed] += 5
    assert allowed == 6
    assert compare_arrays(WEIGHTS, changed.reshape(WEIGHTS.shape)) is MATCH
    changed[allowed] += 5
    assert compare_arrays(WEIGHTS, changed.reshape(WEIGHTS.shape)) is MISMATCH


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stands_in_the_same_places(odd: float) -> None:
    own, moved, other = (WEIGHTS.copy() for _ in range(3))
    own[3, 4] = moved[3, 5] = odd
    other[3, 4] = -odd if np.isinf(odd) else 1.0
    assert compare_arrays(own, own * np.float32(1 + 1e-7)) is MATCH
    for theirs in (moved, other, WEIGHTS):
        assert compare_arrays(own, theirs) is MISMATCH
        assert compare_arrays(theirs, own) is MISMATCH


def test_differences_behind_the_first_piece_are_seen() -> None:
    own = np.ones(PIECE_ENTRIES + 10, np.float16)
    theirs = own.copy()
    theirs[-1] = 2
    assert compare_arrays(own, theirs, NpyRule(max_mismatch="0")) is MISMATCH


def test_integers_are_exact_and_know_no_relative_tolerance() -> None:
    tokens = np.arange(30_000, 30_100)
    other = tokens.copy()
    other[7] += 1
    assert compare_arrays(tokens, other, NpyRule(rtol="0.1")) is MISMATCH
    assert compare_arrays(tokens, other, NpyRule(atol="1")) is MATCH
    large = np.array([2**63 - 1, -(2**63)], np.int64)
    assert compare_arrays(large, large - np.array([1, 0])) is MISMATCH
    assert compare_arrays(large, large[::-1].copy(), NpyRule(atol="1e30")) is MATCH


def test_flags_are_integers_too() -> None:
    flags = np.array([True, False])
    assert compare_arrays(flags, ~flags) is MISMATCH


# ---- the change from a base --------------------------------------------------------------------


def a_step(scale: float) -> Any:
    update = np.random.default_rng(2).normal(size=WEIGHTS.shape).astype(np.float32)
    return WEIGHTS + np.float32(1e-5 * scale) * update


def test_work_that_was_not_done_is_close_but_no_change() -> None:
    based = NpyRule(base="start", rtol="0.01", atol="0.01")
    done = a_step(1.0)
    assert compare_arrays(done, WEIGHTS, NpyRule(rtol="0.01", atol="0.01")) is MATCH
    assert compare_arrays(done, WEIGHTS, based, base=WEIGHTS) is MISMATCH
    assert compare_arrays(done, a_step(0.99), based, base=WEIGHTS) is MISMATCH
    assert compare_arrays(done, done, based, base=WEIGHTS) is MATCH
    loose = NpyRule(base="start", rtol="0.01", atol="0.01", tau="0.02")
    assert compare_arrays(done, a_step(0.99), loose, base=WEIGHTS) is MATCH


def test_what_stood_still_must_stand_still_there_too() -> None:
    rule = NpyRule(base="start")
    moved = WEIGHTS * np.float32(1 + 1e-7)
    assert compare_arrays(WEIGHTS, moved, rule, base=WEIGHTS) is MISMATCH


def test_a_base_that_is_missing_or_unlike_blames_nobody() -> None:
    rule = NpyRule(base="start")
    assert compare_arrays(WEIGHTS, a_step(1), rule) is INCONCLUSIVE
    assert compare_arrays(WEIGHTS, a_step(1), rule, base=WEIGHTS[:3]) is INCONCLUSIVE


def test_enormous_and_tiny_numbers_have_norms() -> None:
    rule = NpyRule(base="start", max_mismatch="1")
    for scale in (1e300, 1e-300):
        base = np.full(4, scale)
        own = base * np.array([1, -1, 0.5, 1])
        assert compare_arrays(own, own * (1 + 1e-9), rule, base=base) is MATCH
        assert compare_arrays(own, -own, rule, base=base) is MISMATCH


# ---- reading -----------------------------------------------------------------------------------


def test_npy_files_of_numpy_are_read_as_numpy_reads_them() -> None:
    for code in (
        "f2",
        "f4",
        "f8",
        "i1",
        "i2",
        "i4",
        "i8",
        "u1",
        "u2",
        "u4",
        "u8",
        "?",
        ">f4",
        ">i8",
    ):
        array = (RANDOM.normal(size=(3, 0, 5) if code == "u4" else (3, 5)) * 9).astype(code)
        tensor = decode_npy_untrusted(an_npy(array)).tensors[""]
        assert tensor.shape == array.shape
        assert np.array_equal(tensor.read(0, tensor.count), array.reshape(-1))


def test_safetensors_files_are_read_as_their_library_reads_them() -> None:
    arrays: dict[str, Any] = {
        "a": WEIGHTS,
        "b": np.arange(5, dtype=np.int16),
        "empty": np.zeros((0, 3), np.float64),
        "flag": np.array([True, False]),
    }
    file = decode_safetensors_untrusted(save(arrays, metadata={"format": "np"}))
    assert file.metadata == {"format": "np"}
    for name, array in arrays.items():
        tensor = file.tensors[name]
        assert np.array_equal(tensor.read(0, tensor.count), array.reshape(-1))


@pytest.mark.parametrize(
    ("dtype", "raw", "values"),
    [
        ("BF16", [0x3F80, 0xBF80, 0x4049, 0x7F80, 0x7FC0], [1, -1, 3.140625, np.inf, np.nan]),
        ("F8_E4M3", [0x38, 0xB8, 0x7E, 0x01, 0x08, 0x7F], [1, -1, 448, 2**-9, 2**-6, np.nan]),
        ("F8_E5M2", [0x3C, 0xBC, 0x7B, 0x01, 0x7C, 0x7F], [1, -1, 57344, 2**-16, np.inf, np.nan]),
    ],
)
def test_numbers_that_numpy_lacks(dtype: str, raw: list[int], values: list[float]) -> None:
    size = SAFETENSORS_DTYPES[dtype].item_bytes
    body = b"".join(value.to_bytes(size, "little") for value in raw)
    data = raw_safetensors({"a": an_entry(dtype, [len(raw)], 0, len(body))}, body)
    found = decode_safetensors_untrusted(data).tensors["a"].read(0, len(raw))
    assert np.array_equal(found, np.array(values), equal_nan=True)


FOUR = b"\0" * 16
HOSTILE_HEADERS: dict[str, Mapping[str, Any] | bytes] = {
    "gap": {"a": an_entry("F32", [2], 0, 8), "b": an_entry("F32", [1], 12, 16)},
    "overlap": {"a": an_entry("F32", [3], 0, 12), "b": an_entry("F32", [3], 4, 16)},
    "the same bytes twice": {"a": an_entry("F32", [4], 0, 16), "b": an_entry("F32", [4], 0, 16)},
    "too few bytes": {"a": an_entry("F32", [3], 0, 12)},
    "too many bytes": {"a": an_entry("F32", [5], 0, 20)},
    "backwards": {"a": an_entry("F32", [4], 16, 0)},
    "negative": {"a": an_entry("F32", [-4], 0, 16)},
    "overflow": {"a": an_entry("F32", [2**62, 4], 0, 16)},
    "overflow of the offset": {"a": an_entry("F32", [4], 2**64 - 16, 2**64)},
    "many digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,16]}}',
    "a float": {"a": {"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}},
    "a truth": {"a": {"dtype": "F32", "shape": [True, 4], "data_offsets": [0, 16]}},
    "half a byte a number": {"a": an_entry("F4", [32], 0, 16)},
    "no such kind": {"a": an_entry("O", [2], 0, 16)},
    "a kind that is a list": {"a": {"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}},
    "one more field": {"a": {**an_entry("F32", [4], 0, 16), "pickle": "x"}},
    "doubled keys": b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},'
    b'"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "deep": b'{"a":' + b"[" * 500 + b"]" * 500 + b"}",
    "a list": b"[1,2]",
    "metadata of numbers": {"__metadata__": {"a": 1}, "a": an_entry("F32", [4], 0, 16)},
    "not JSON": b"{" * 40,
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_safetensors_file_that_does_not_tile_is_refused(name: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_safetensors_untrusted(raw_safetensors(HOSTILE_HEADERS[name], FOUR))


def test_the_header_before_them_is_read_where_it_is_right() -> None:
    header = {"a": an_entry("F32", [2, 2], 0, 16)}
    assert decode_safetensors_untrusted(raw_safetensors(header, FOUR)).tensors["a"].count == 4


@pytest.mark.parametrize("length", [0, 1, 2**32, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused(length: int) -> None:
    with pytest.raises(RemoteProtocolError, match="header"):
        decode_safetensors_untrusted(struct.pack("<Q", length) + b"{}")


def test_other_metadata_and_other_keys_are_differences() -> None:
    rule = SafetensorsRule()
    own = save({"a": WEIGHTS}, metadata={"step": "1"})
    near = WEIGHTS * np.float32(1 + 1e-7)
    files = {
        MATCH: save({"a": near}, metadata={"step": "1"}),
        MISMATCH: save({"a": near}, metadata={"step": "2"}),
    }
    for verdict, theirs in files.items():
        outcome = compare_outputs({"m.safetensors": own}, {"m.safetensors": theirs}, rule)
        assert outcome.verdict is verdict
    for more in (save({"b": near}), save({"a": near, "b": near})):
        outcome = compare_outputs({"m.safetensors": own}, {"m.safetensors": more}, rule)
        assert (outcome.verdict, outcome.rule) == (MISMATCH, "safetensors")
