"""
Writing canonical DAG-CBOR: shortest heads, keys by length and then by bytes, no tags at all.

`libipld` reads; it does not write here, because it turns any bytes that happen to look like a
CID into a link. A hash does so once in some hundred thousand, and would then have two spellings.
Source: RFC 8949 and ipld.io/specs/codecs/dag-cbor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from gpumarket.protocol.errors import InvalidInput

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP = range(6)
_SIMPLE: Final = {False: b"\xf4", True: b"\xf5", None: b"\xf6"}
_INT_END: Final = 2**64


def write_dag_cbor(value: Any) -> bytes:
    """
    Write nested dicts, lists, tuples, text, bytes, integers, booleans and None.

    Raises `InvalidInput` for anything else, such as a float or an integer beyond 64 bits.
    """
    pieces: list[bytes] = []
    _write(value, pieces.append)
    return b"".join(pieces)


def _write(value: Any, add: Callable[[bytes], None]) -> None:
    if isinstance(value, bytes):
        add(_make_head(_BYTES, len(value)))
        add(value)
    elif isinstance(value, str):
        _write_text(value, add)
    elif value is None or isinstance(value, bool):
        add(_SIMPLE[value])
    elif isinstance(value, int):
        add(_make_head(_UNSIGNED, value) if value >= 0 else _make_head(_NEGATIVE, -1 - value))
    elif isinstance(value, dict):
        add(_make_head(_MAP, len(value)))
        for key, spelled in _spell_keys(tuple(value)):
            add(spelled)
            _write(value[key], add)
    elif isinstance(value, list | tuple):
        add(_make_head(_LIST, len(value)))
        for item in value:
            _write(item, add)
    else:
        raise InvalidInput(
            f"documents hold no {type(value).__name__}; write a decimal as text or an integer"
        )


def _write_text(value: str, add: Callable[[bytes], None]) -> None:
    try:
        text = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("half a character is no text") from error
    add(_make_head(_TEXT, len(text)))
    add(text)


@lru_cache(maxsize=1024)
def _spell_keys(keys: tuple[object, ...]) -> tuple[tuple[str, bytes], ...]:
    """Return a map's keys in their order, each with its bytes: most maps are one of few kinds."""
    spelled = []
    for key in sorted(keys, key=_rank_key):
        pieces: list[bytes] = []
        _write_text(str(key), pieces.append)
        spelled.append((str(key), b"".join(pieces)))
    return tuple(spelled)


def _rank_key(key: object) -> tuple[int, bytes]:
    if not isinstance(key, str):
        raise InvalidInput("a document's keys are text")
    text = key.encode("utf-8", "surrogatepass")
    return len(text), text


def _make_head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    if number >= _INT_END:
        raise InvalidInput("an integer is beyond the 64 bits of a document")
    for extra, size in ((24, 1), (25, 2), (26, 4)):
        if number < 1 << (8 * size):
            return bytes((major << 5 | extra,)) + number.to_bytes(size, "big")
    return bytes((major << 5 | 27,)) + number.to_bytes(8, "big")
