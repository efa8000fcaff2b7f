"""
Bitswap 1.2 messages: "I want these blocks", "I have it", "here it is".

A message goes one way on a stream; the answer comes back on a stream that the other side opens.
Versions 1.1 and 1.0 are the same message with fewer fields.
Source: specs.ipfs.tech/bitswap-protocol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from gpumarket.protocol.cids import ContentId, decode_cid_bytes_untrusted, encode_cid_prefix
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.unixfs import Block
from gpumarket.protocol.varint import (
    WIRE_BYTES,
    WIRE_VARINT,
    Field,
    decode_varint_untrusted,
    encode_bytes_field,
    encode_varint,
    encode_varint_field,
    split_fields_untrusted,
)

MESSAGE_BYTES_MAX = 4 * 2**20
"""Every implementation must take this much in one message."""
WANTS_PER_MESSAGE_MAX = 4_096
BLOCKS_PER_MESSAGE_MAX = 4_096
LENGTH_PREFIX_BYTES_MAX = 4

_PREFIX_BYTES_MAX = 16
_SHA2_256_PREFIX_END = b"\x12\x20"


class Want(NamedTuple):
    """
    One line of a want list.

    `is_have_only` asks whether, not for the bytes; `wants_refusal` asks for a "don't have".
    """

    cid: ContentId
    is_cancel: bool = False
    is_have_only: bool = False
    wants_refusal: bool = False
    priority: int = 1


class Presence(NamedTuple):
    """The answer to a want that is not the block itself."""

    cid: ContentId
    has: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BitswapMessage:
    """
    All that one message may carry.

    `blocks` are bytes without a name: whoever receives them hashes them and sees whether that is
    something it asked for.
    """

    wants: tuple[Want, ...] = ()
    is_full: bool = False
    blocks: tuple[bytes, ...] = ()
    presences: tuple[Presence, ...] = ()


def encode_message(
    *,
    wants: Sequence[Want] = (),
    blocks: Sequence[Block] = (),
    presences: Sequence[Presence] = (),
) -> bytes:
    """Write a message with its length before it."""
    parts = []
    if wants:
        parts.append(
            encode_bytes_field(
                1, b"".join(encode_bytes_field(1, _encode_want(want)) for want in wants)
            )
        )
    parts.extend(encode_bytes_field(3, _encode_block(block)) for block in blocks)
    parts.extend(encode_bytes_field(4, _encode_presence(presence)) for presence in presences)
    body = b"".join(parts)
    return encode_varint(len(body)) + body


def decode_message_untrusted(body: bytes) -> BitswapMessage:
    """
    Read a message without its length prefix, or raise `RemoteProtocolError`.

    Refused: over 4 MiB, over 4,096 wants, blocks or presences, blocks over 2 MiB, hashes that are
    not sha2-256, unknown fields. CIDs that we do not speak are skipped where they are wants, as
    an honest peer asks everybody it knows for whatever it needs.
    """
    if len(body) > MESSAGE_BYTES_MAX:
        raise RemoteProtocolError(f"a message of {len(body)} bytes, limit {MESSAGE_BYTES_MAX}")
    wants: tuple[Want, ...] = ()
    is_full = False
    blocks: list[bytes] = []
    presences: list[Presence] = []
    limit = 2 * BLOCKS_PER_MESSAGE_MAX
    for field in split_fields_untrusted(body, fields_max=limit):
        match field.tag, field.wire:
            case 1, w if w == WIRE_BYTES:
                wants, is_full = _decode_wants_untrusted(field.data)
            case 2, w if w == WIRE_BYTES:
                blocks.append(field.data)
            case 3, w if w == WIRE_BYTES:
                blocks.append(_decode_block_untrusted(field.data))
            case 4, w if w == WIRE_BYTES:
                presences.append(_decode_presence_untrusted(field.data))
            case 5, w if w == WIRE_VARINT:
                pass  # how much the sender has queued for us; we bound by what we ask
            case _:
                raise RemoteProtocolError(f"a Bitswap message has no field {field.tag}")
    if any(len(block) > BLOCK_BYTES_MAX for block in blocks):
        raise RemoteProtocolError(f"a block is over {BLOCK_BYTES_MAX} bytes")
    return BitswapMessage(
        wants=wants, is_full=is_full, blocks=tuple(blocks), presences=tuple(presences)
    )


def _encode_want(want: Want) -> bytes:
    out = encode_bytes_field(1, bytes(want.cid)) + encode_varint_field(2, want.priority)
    if want.is_cancel:
        out += encode_varint_field(3, 1)
    if want.is_have_only:
        out += encode_varint_field(4, 1)
    if want.wants_refusal:
        out += encode_varint_field(5, 1)
    return out


def _encode_block(block: Block) -> bytes:
    return encode_bytes_field(1, encode_cid_prefix(block.cid)) + encode_bytes_field(2, block.data)


def _encode_presence(presence: Presence) -> bytes:
    kind = 0 if presence.has else 1
    return encode_bytes_field(1, bytes(presence.cid)) + encode_varint_field(2, kind)


def _decode_wants_untrusted(data: bytes) -> tuple[tuple[Want, ...], bool]:
    wants: list[Want] = []
    is_full = False
    for field in split_fields_untrusted(data, fields_max=WANTS_PER_MESSAGE_MAX + 1):
        if (field.tag, field.wire) == (1, WIRE_BYTES):
            want = _decode_want_untrusted(field.data)
            if want is not None:
                wants.append(want)
        elif (field.tag, field.wire) == (2, WIRE_VARINT):
            is_full = field.number != 0
        else:
            raise RemoteProtocolError(f"a want list has no field {field.tag}")
    return tuple(wants), is_full


def _decode_want_untrusted(data: bytes) -> Want | None:
    by_tag = _collect_fields(data, bytes_tags=(1,), varint_tags=(2, 3, 4, 5))
    name = by_tag[1].data if 1 in by_tag else b""
    try:
        cid = decode_cid_bytes_untrusted(name)
    except RemoteProtocolError:
        return None
    return Want(
        cid,
        is_cancel=_is_set(by_tag, 3),
        is_have_only=_is_set(by_tag, 4),
        wants_refusal=_is_set(by_tag, 5),
        priority=by_tag[2].number if 2 in by_tag else 1,
    )


def _decode_block_untrusted(data: bytes) -> bytes:
    by_tag = _collect_fields(data, bytes_tags=(1, 2), varint_tags=())
    prefix = by_tag[1].data if 1 in by_tag else b""
    _version, at = decode_varint_untrusted(prefix[:_PREFIX_BYTES_MAX], 0)
    _codec, at = decode_varint_untrusted(prefix[:_PREFIX_BYTES_MAX], at)
    if prefix[at:] != _SHA2_256_PREFIX_END:
        raise RemoteProtocolError("a block is not named by sha2-256")
    return by_tag[2].data if 2 in by_tag else b""


def _decode_presence_untrusted(data: bytes) -> Presence:
    by_tag = _collect_fields(data, bytes_tags=(1,), varint_tags=(2,))
    cid = decode_cid_bytes_untrusted(by_tag[1].data if 1 in by_tag else b"")
    return Presence(cid, has=not _is_set(by_tag, 2))


def _is_set(by_tag: dict[int, Field], tag: int) -> bool:
    return tag in by_tag and by_tag[tag].number != 0


def _collect_fields(
    data: bytes, *, bytes_tags: tuple[int, ...], varint_tags: tuple[int, ...]
) -> dict[int, Field]:
    by_tag: dict[int, Field] = {}
    fields_max = len(bytes_tags) + len(varint_tags)
    for field in split_fields_untrusted(data, fields_max=fields_max):
        tags = bytes_tags if field.wire == WIRE_BYTES else varint_tags
        if field.tag not in tags or field.tag in by_tag:
            raise RemoteProtocolError(f"field {field.tag} is unknown here or given twice")
        by_tag[field.tag] = field
    return by_tag
