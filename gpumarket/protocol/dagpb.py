"""
dag-pb: the block format that links other blocks, one spelling for one node.

Source: ipld.io/specs/codecs/dag-pb/spec. Two messages: `PBNode{Links=2, Data=1}`, links first,
and `PBLink{Hash=1, Name=2, Tsize=3}`, links ordered by the bytes of their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpumarket.protocol.cids import ContentId, decode_cid_bytes_untrusted
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.varint import (
    WIRE_BYTES,
    WIRE_VARINT,
    Field,
    encode_bytes_field,
    encode_varint_field,
    split_fields_untrusted,
)

BLOCK_BYTES_MAX = 2 * 2**20
"""The largest block that Bitswap peers must carry; a larger one is refused everywhere."""
LINKS_MAX = 8_192
"""A node of today's writers has 174 links, a directory below Kubo's sharding limit 7,000."""
LINK_NAME_BYTES_MAX = 255
"""What a file system takes as one name."""


class Link(NamedTuple):
    """
    An edge of the graph.

    `total_bytes` is what the writer claims lies below: all blocks, repeated ones counted again.
    """

    cid: ContentId
    name: str
    total_bytes: int


class Node(NamedTuple):
    """A dag-pb block: its links and whatever UnixFS or another format put beside them."""

    links: tuple[Link, ...]
    data: bytes


def encode_node(links: Sequence[Link], data: bytes) -> bytes:
    """Write a node; the caller has the links in order."""
    out = [encode_bytes_field(2, _encode_link(link)) for link in links]
    out.append(encode_bytes_field(1, data))
    return b"".join(out)


def _encode_link(link: Link) -> bytes:
    return (
        encode_bytes_field(1, bytes(link.cid))
        + encode_bytes_field(2, link.name.encode())
        + encode_varint_field(3, link.total_bytes)
    )


def decode_node_untrusted(block: bytes) -> Node:
    """
    Read a dag-pb block, or raise `RemoteProtocolError`.

    Refused: over 2 MiB or 8,192 links, unknown or repeated fields, links after data or out of
    order, names over 255 bytes.
    """
    if len(block) > BLOCK_BYTES_MAX:
        raise RemoteProtocolError(f"a block of {len(block)} bytes, the limit is {BLOCK_BYTES_MAX}")
    links: list[Link] = []
    data: bytes | None = None
    for field in split_fields_untrusted(block, fields_max=LINKS_MAX + 1):
        if data is not None:
            raise RemoteProtocolError("a dag-pb node has something after its data")
        if (field.tag, field.wire) == (2, WIRE_BYTES):
            links.append(_decode_link_untrusted(field.data))
        elif (field.tag, field.wire) == (1, WIRE_BYTES):
            data = field.data
        else:
            raise RemoteProtocolError(f"a dag-pb node has no field {field.tag}")
    names = [link.name.encode() for link in links]
    if names != sorted(names):
        raise RemoteProtocolError("the links of a dag-pb node are not in order")
    return Node(tuple(links), data or b"")


def _decode_link_untrusted(data: bytes) -> Link:
    fields = tuple(split_fields_untrusted(data, fields_max=3))
    tags = [field.tag for field in fields]
    if tags != sorted(set(tags)) or any(not _is_link_field(field) for field in fields):
        raise RemoteProtocolError("a dag-pb link has unknown, repeated or unordered fields")
    by_tag = {field.tag: field for field in fields}
    if 1 not in by_tag:
        raise RemoteProtocolError("a dag-pb link names no block")
    name = by_tag[2].data if 2 in by_tag else b""
    if len(name) > LINK_NAME_BYTES_MAX:
        raise RemoteProtocolError(f"a link name of {len(name)} bytes, limit {LINK_NAME_BYTES_MAX}")
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a link name is not UTF-8") from error
    total_bytes = by_tag[3].number if 3 in by_tag else 0
    return Link(decode_cid_bytes_untrusted(by_tag[1].data), text, total_bytes)


def _is_link_field(field: Field) -> bool:
    return field.wire == {1: WIRE_BYTES, 2: WIRE_BYTES, 3: WIRE_VARINT}.get(field.tag)
