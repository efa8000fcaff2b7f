"""
Attack 5, as the comparators see it: honest bytes of another unit, or with another sign.

A provider that has one honest output copies it to other units, swaps two, or flips signs, rows or
tiles. No rule may take that for the unit's own result.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from gpumarket.comparing.folder import compare_outputs
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    ImageRule,
    JsonRule,
    NpyRule,
    SafetensorsRule,
)

UNITS = 5
SHAPE = (96, 96)


def work(unit: int) -> Any:
    """Compute what the task of this index has to: values of one scale for every unit."""
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    return np.sin((x + 3 * unit) / (5 + unit)) * np.cos(y / (7 + unit))


def as_npy(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values.astype(np.float32))
    return file.getvalue()


def as_safetensors(values: Any) -> bytes:
    half = values.astype(np.float32)
    return save({"first": half[:48].copy(), "second": half[48:].copy()})


def as_json(values: Any) -> bytes:
    return json.dumps(values.tolist()).encode()


def as_image(values: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.rint(127.5 + 127 * values).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


FORMS: dict[str, tuple[Comparison, str, Callable[[Any], bytes]]] = {
    "bytes": (BytesRule(), "a.bin", as_npy),
    "npy": (NpyRule(), "a.npy", as_npy),
    "safetensors": (SafetensorsRule(), "a.safetensors", as_safetensors),
    "json": (JsonRule(), "a.json", as_json),
    "image": (ImageRule(), "a.png", as_image),
}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "sign": lambda values: -values,
    "rows swapped": lambda values: values[::-1],
    "columns rolled": lambda values: np.roll(values, 1, axis=1),
    "halves swapped": lambda values: np.roll(values, SHAPE[0] // 2, axis=0),
    "one row copied": lambda values: np.where(
        np.arange(SHAPE[0])[:, None] == 40, values[0], values
    ),
    "sign of one block": lambda values: np.where(
        (np.arange(SHAPE[0]) // 32 == 1)[:, None], -values, values
    ),
    "nothing done": np.zeros_like,
}


def compare(form: str, own: Any, theirs: Any) -> Verdict:
    rule, name, write = FORMS[form]
    return compare_outputs({name: write(own)}, {name: write(theirs)}, rule).verdict


@pytest.mark.parametrize("form", FORMS)
def test_the_output_of_another_unit_is_a_mismatch(form: str) -> None:
    outputs = [work(unit) for unit in range(UNITS)]
    for i, own in enumerate(outputs):
        for j, copied in enumerate(outputs):
            expected = Verdict.MATCH if i == j else Verdict.MISMATCH
            assert compare(form, own, copied) is expected


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", FORMS)
def test_honest_numbers_in_other_places_or_with_other_signs_are_a_mismatch(
    form: str, change: str
) -> None:
    assert compare(form, work(1), CHANGES[change](work(1))) is Verdict.MISMATCH


@pytest.mark.parametrize("form", ["npy", "safetensors", "json", "image"])
def test_the_same_work_with_another_rounding_is_a_match(form: str) -> None:
    assert compare(form, work(2), work(2) * (1 + 4e-7)) is Verdict.MATCH


def test_tensors_that_changed_names_or_stand_twice_are_a_mismatch() -> None:
    a, b = (work(unit).astype(np.float32) for unit in (0, 1))
    own = {"m.safetensors": save({"a": a, "b": b})}
    for theirs in ({"a": b, "b": a}, {"a": a, "b": a}, {"a": a, "c": b}, {"a": a}):
        outcome = compare_outputs(own, {"m.safetensors": save(theirs)}, SafetensorsRule())
        assert outcome.verdict is Verdict.MISMATCH


def test_files_that_changed_names_or_stand_twice_are_a_mismatch() -> None:
    a, b = (as_npy(work(unit)) for unit in (0, 1))
    own = {"a.npy": a, "b.npy": b}
    moved: list[dict[str, bytes]] = [
        {"a.npy": b, "b.npy": a},
        {"a.npy": a, "b.npy": a},
        {"a.npy": a},
        {**own, "c.npy": a},
    ]
    for theirs in moved:
        assert compare_outputs(own, theirs, NpyRule()).verdict is Verdict.MISMATCH
