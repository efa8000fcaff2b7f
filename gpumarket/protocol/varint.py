"""
Unsigned varints and the protobuf fields made of them: the bottom layer of IPFS's formats.

Protobuf's own library is not used, because it accepts what it should refuse (unknown fields,
overlong numbers, fields given twice) and two spellings of one block would have two CIDs.
Source: github.com/multiformats/unsigned-varint, protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gpumarket.protocol.errors import RemoteProtocolError

VARINT_MAX = 2**63 - 1
"""The multiformats limit: nine bytes."""
_VARINT_BYTES_MAX = 9

WIRE_VARINT = 0
WIRE_BYTES = 2


class Field(NamedTuple):
    """One protobuf field: `number` for a varint, `data` for bytes; the other is empty."""

    tag: int
    wire: int
    number: int
    data: bytes


def encode_varint(value: int) -> bytes:
    """Write a number in 7-bit groups, lowest first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint_untrusted(data: bytes, at: int) -> tuple[int, int]:
    """Read the varint at `at`; give its value and the place after it."""
    value = shift = 0
    for index in range(at, min(at + _VARINT_BYTES_MAX, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and index > at:
                raise RemoteProtocolError("a varint is not minimal")
            return value, index + 1
        shift += 7
    raise RemoteProtocolError("a varint is cut short or over nine bytes")


def encode_bytes_field(tag: int, data: bytes) -> bytes:
    """Write a length-delimited protobuf field; `tag` is below 16."""
    return bytes((tag << 3 | WIRE_BYTES,)) + encode_varint(len(data)) + data


def encode_varint_field(tag: int, value: int) -> bytes:
    """Write a varint protobuf field; `tag` is below 16."""
    return bytes((tag << 3 | WIRE_VARINT,)) + encode_varint(value)


def split_fields_untrusted(data: bytes, *, fields_max: int) -> Iterator[Field]:
    """
    Take a protobuf message apart, field by field.

    Refused: other wire types than varint and bytes, fields that reach past the end, more than
    `fields_max` fields. Negative int32 values (ten bytes on the wire) are refused as varints.
    """
    at = count = 0
    while at < len(data):
        count += 1
        if count > fields_max:
            raise RemoteProtocolError(f"a message has more than {fields_max} fields")
        key, at = decode_varint_untrusted(data, at)
        tag, wire = key >> 3, key & 7
        value, at = decode_varint_untrusted(data, at)
        if wire == WIRE_VARINT:
            yield Field(tag, wire, value, b"")
        elif wire == WIRE_BYTES:
            if value > len(data) - at:
                raise RemoteProtocolError("a field reaches past the end of its message")
            yield Field(tag, wire, 0, data[at : at + value])
            at += value
        else:
            raise RemoteProtocolError(f"protobuf wire type {wire} is not used here")
