"""
Recursive Length Prefix, written and read strictly: one spelling of each item, nothing behind it.

Source: Ethereum yellow paper, appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from gpumarket.protocol.errors import RemoteProtocolError

Item: TypeAlias = "bytes | list[Item]"
_DEPTH_MAX: Final = 4
"""Lists within lists; a trie node holds at most short nodes within short nodes."""


def decode_rlp_untrusted(raw: bytes) -> Item:
    """Decode canonical RLP, all of it; raise `RemoteProtocolError` for anything else."""
    item, end = _decode_item(raw, 0, len(raw), 0)
    if end != len(raw):
        raise RemoteProtocolError("bytes follow the end of RLP")
    return item


def _decode_item(raw: bytes, start: int, end: int, depth: int) -> tuple[Item, int]:
    if start >= end:
        raise RemoteProtocolError("RLP is cut off")
    head = raw[start]
    if head < 0x80:
        return raw[start : start + 1], start + 1
    is_list = head >= 0xC0
    size, begin = _decode_size(raw, start, end, head - (0xC0 if is_list else 0x80))
    stop = begin + size
    if stop > end:
        raise RemoteProtocolError("RLP is cut off")
    if not is_list:
        if size == 1 and raw[begin] < 0x80:
            raise RemoteProtocolError("RLP is not canonical")
        return raw[begin:stop], stop
    if depth >= _DEPTH_MAX:
        raise RemoteProtocolError("RLP is nested too deep")
    items: list[Item] = []
    while begin < stop:
        item, begin = _decode_item(raw, begin, stop, depth + 1)
        items.append(item)
    return items, stop


def _decode_size(raw: bytes, start: int, end: int, size: int) -> tuple[int, int]:
    if size < 56:
        return size, start + 1
    begin = start + 1 + size - 55
    field = raw[start + 1 : begin]
    actual = int.from_bytes(field, "big")
    if begin > end or field[0] == 0 or actual < 56:
        raise RemoteProtocolError("RLP is not canonical")
    return actual, begin


def encode_rlp(items: Sequence[bytes]) -> bytes:
    """Encode a flat list of byte strings."""
    content = b"".join(map(_encode_bytes, items))
    return _encode_head(len(content), 0xC0) + content


def _encode_bytes(item: bytes) -> bytes:
    if len(item) == 1 and item[0] < 0x80:
        return item
    return _encode_head(len(item), 0x80) + item


def _encode_head(size: int, base: int) -> bytes:
    if size < 56:
        return bytes([base + size])
    field = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([base + 55 + len(field)]) + field
