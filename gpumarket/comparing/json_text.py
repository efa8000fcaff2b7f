"""
JSON from strangers, read as RFC 8785 (JCS) and I-JSON want it, within bounds that come first.

Refused: repeated keys, NaN and infinities by name or by size, half characters, other encodings than
UTF-8, and more bytes, depth or values than the limits. Depth and values are counted by passing over
the bytes, so that no parser ever sees a text that would cost it much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

from gpumarket.protocol.errors import RemoteProtocolError

JSON_BYTES_MAX: Final = 16 * 2**20
JSON_DEPTH_MAX: Final = 64
JSON_VALUES_MAX: Final = 1_000_000
"""Values, keys and brackets, counted by the characters that part them."""
NUMBER_CHARS_MAX: Final = 400
"""The largest double has 309 digits before its point."""
_OPENING, _CLOSING = frozenset(b"[{"), frozenset(b"]}")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b"[]{},:"))
_HALF_CHARACTER = re.compile(rb"\\u[dD][89a-fA-F]")
ParseNumber = Callable[[str], Any]


def decode_json_untrusted(
    data: bytes, *, bytes_max: int = JSON_BYTES_MAX, parse_integer: ParseNumber | None = None
) -> Any:
    """
    Read hostile JSON, or raise `RemoteProtocolError`.

    Every number is a double, as in JavaScript; `parse_integer` reads those without point and
    exponent otherwise.
    """
    if len(data) > bytes_max:
        raise RemoteProtocolError(f"JSON of {len(data)} bytes, the limit is {bytes_max}")
    _check_size(data)
    try:
        value = json.loads(
            data.decode("utf-8"),
            parse_float=parse_double,
            parse_int=parse_integer or parse_double,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_repeated_keys,
        )
        if _HALF_CHARACTER.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # fails for a half alone
    except (ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"not JSON: {str(error)[:100]}") from error
    return value


def parse_double(text: str) -> float:
    """Read a JSON number as a double; raise `ValueError` where none is near it."""
    if len(text) > NUMBER_CHARS_MAX:
        raise ValueError(f"a number of {len(text)} characters")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:20]} is beyond a double")
    return value


def _check_size(data: bytes) -> None:
    # Without escapes every second piece between quotes is a string; the others are structure.
    plain = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * JSON_VALUES_MAX:
        raise RemoteProtocolError(f"JSON of more than {JSON_VALUES_MAX} values")
    marks = b"".join(plain.split(b'"')[::2]).translate(None, _NOT_STRUCTURE)
    if len(marks) > JSON_VALUES_MAX:
        raise RemoteProtocolError(f"JSON of more than {JSON_VALUES_MAX} values")
    depth = deepest = 0
    for mark in marks:
        depth += (mark in _OPENING) - (mark in _CLOSING)
        deepest = max(deepest, depth)
    if deepest > JSON_DEPTH_MAX:
        raise RemoteProtocolError(f"JSON more than {JSON_DEPTH_MAX} levels deep")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result
