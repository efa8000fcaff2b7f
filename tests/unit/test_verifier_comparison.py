"""Comparing two outputs: what counts as the same, and what hostile files cannot do."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.job import Comparison
from verifier.core.comparison import compare_outputs, decode_npy_untrusted

BYTES = Comparison()
COSINE = Comparison(rule="npy", files="*.npy", cosine_min="0.999")
CLOSE = Comparison(rule="npy", files="*.npy", rtol="1e-4", atol="1e-6")


def an_npy(array: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array, dtype=np.float32))
    return file.getvalue()


ROWS = np.arange(12, dtype=np.float32).reshape(3, 4) + 1


def judge(own: object, theirs: object, rule: Comparison) -> Verdict:
    return compare_outputs({"a.npy": an_npy(own)}, {"a.npy": an_npy(theirs)}, rule)[0]


def test_equal_bytes_match_by_every_rule() -> None:
    for rule in (BYTES, COSINE, CLOSE):
        assert judge(ROWS, ROWS, rule) is Verdict.MATCH


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        (ROWS + 1e-7, BYTES),
        (-ROWS, COSINE),
        (ROWS[::-1], COSINE),
        (ROWS * 1.01, CLOSE),
        (ROWS[:2], COSINE),
        (np.where(ROWS == 5, np.nan, ROWS), CLOSE),
        (np.zeros_like(ROWS), COSINE),
    ],
)
def test_a_changed_output_is_a_mismatch(changed: object, rule: Comparison) -> None:
    assert judge(ROWS, changed, rule) is Verdict.MISMATCH


def test_rounding_noise_is_within_a_tolerance() -> None:
    assert judge(ROWS, ROWS * (1 + 1e-6), CLOSE) is Verdict.MATCH
    assert judge(ROWS, ROWS * (1 + 1e-6), COSINE) is Verdict.MATCH


def test_a_missing_file_is_a_mismatch_and_is_named() -> None:
    verdict, sentence = compare_outputs({"a": b"", "b": b""}, {"a": b""}, BYTES)
    assert verdict is Verdict.MISMATCH
    assert "'b'" in sentence


def test_files_outside_the_glob_are_compared_by_bytes() -> None:
    verdict, _ = compare_outputs({"n.json": b"1"}, {"n.json": b"2"}, COSINE)
    assert verdict is Verdict.MISMATCH


def test_a_pickled_array_is_refused() -> None:
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RemoteProtocolError, match="plain numbers"):
        decode_npy_untrusted(file.getvalue())


def test_a_header_that_promises_too_much_is_refused() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,)}\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(RemoteProtocolError, match="size"):
        decode_npy_untrusted(data)


@given(st.binary(max_size=300), st.integers(0, 200))
def test_hostile_bytes_raise_only_the_protocol_error(noise: bytes, at: int) -> None:
    good = an_npy(ROWS)
    assert decode_npy_untrusted(good).shape == (3, 4)
    for data in (noise, good[:at] + noise + good[at:]):
        try:
            decode_npy_untrusted(data)
        except RemoteProtocolError:
            continue
