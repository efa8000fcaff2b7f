"""
The kinds of numbers that tensors hold, and how their bytes become numbers.

Floats become float64, which holds every value of the smaller ones exactly; integers stay as they
are, since float64 would round the large ones. bfloat16 and the 8-bit floats are not in numpy and
are decoded here: bfloat16 is the upper half of a float32, E5M2 the upper half of a float16 (OCP
8-bit floating point specification, revision 1.0), E4M3 a table of its 256 values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class DType:
    """A kind of number: its name, its size, and how to read a run of them."""

    name: str
    item_bytes: int
    is_float: bool
    decode: Callable[[memoryview], Numbers]


def _decode_float(data: memoryview, *, code: str) -> Numbers:
    return np.asarray(np.frombuffer(data, code).astype(np.float64))


def _decode_integer(data: memoryview, *, code: str) -> Numbers:
    numbers: Numbers = np.frombuffer(data, code)
    return numbers


def _decode_bfloat16(data: memoryview) -> Numbers:
    bits = np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)
    return np.asarray(bits.view(np.float32).astype(np.float64))


def _decode_e5m2(data: memoryview) -> Numbers:
    bits = np.frombuffer(data, np.uint8).astype(np.uint16) << np.uint16(8)
    return np.asarray(bits.view(np.float16).astype(np.float64))


def _make_e4m3_table() -> Numbers:
    bits = np.arange(256)
    exponent, fraction = (bits >> 3) & 15, bits & 7
    values = np.where(
        exponent == 0, np.ldexp(fraction, -9), np.ldexp(8.0 + fraction, exponent - 10)
    )
    # The variant without infinities: all ones is NaN, and nothing else is.
    values[(bits & 127) == 127] = np.nan
    return np.asarray(np.where(bits < 128, values, -values))


_E4M3: Final = _make_e4m3_table()


def _decode_e4m3(data: memoryview) -> Numbers:
    return np.asarray(_E4M3[np.frombuffer(data, np.uint8)])


def _make_plain(name: str, code: str) -> DType:
    kind, size = code[1], int(code[2:])
    decode = _decode_float if kind == "f" else _decode_integer
    return DType(name, size, kind == "f", partial(decode, code=code))


_PLAIN: Final = ("f8", "f4", "f2", "i8", "i4", "i2", "u8", "u4", "u2")
NPY_DTYPES: Final[Mapping[str, DType]] = {
    code: _make_plain(code, code)
    for code in (
        *(f"{order}{plain}" for order in "<>" for plain in _PLAIN),
        *("|i1", "|u1"),
    )
} | {"|b1": _make_plain("|b1", "|u1")}
"""By the `descr` of a .npy header, byte order first."""
SAFETENSORS_DTYPES: Final[Mapping[str, DType]] = {
    **{
        f"{plain[0].upper()}{8 * int(plain[1:])}": _make_plain(plain, f"<{plain}")
        for plain in _PLAIN
    },
    "I8": _make_plain("I8", "|i1"),
    "U8": _make_plain("U8", "|u1"),
    "BOOL": _make_plain("BOOL", "|u1"),
    "BF16": DType("BF16", 2, True, _decode_bfloat16),
    "F8_E5M2": DType("F8_E5M2", 1, True, _decode_e5m2),
    "F8_E4M3": DType("F8_E4M3", 1, True, _decode_e4m3),
}
"""By the `dtype` of a safetensors header. Those under a byte a number are not read."""
