"""
CAR version 1: a stream of blocks, each checked against its own name as it is read.

A CAR is cut off silently when a connection drops, so an archive that ends well still proves only
the blocks it held: whoever needs a whole graph walks it from its root afterwards.
Source: ipld.io/specs/transport/car/carv1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from gpumarket.protocol.cids import (
    CID_BYTES,
    ContentId,
    decode_cid_bytes_untrusted,
    format_cid,
    is_block_of,
)
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.unixfs import Block
from gpumarket.protocol.varint import decode_varint_untrusted, encode_varint

ROOTS_MAX = 15
_SECTION_BYTES_MAX = CID_BYTES + BLOCK_BYTES_MAX
_LENGTH_BYTES_MAX = 4
_V0_CID_BYTES = 34
_ROOTS_KEY = b"\xa2\x65roots"
_VERSION_1 = b"\x67version\x01"
_CID_TAG = b"\xd8\x2a\x58"


def encode_car(roots: Sequence[ContentId], blocks: Iterable[Block]) -> Iterator[bytes]:
    """Write a CAR piece by piece: its header, then one section for each block."""
    header = _encode_header(roots)
    yield encode_varint(len(header)) + header
    for block in blocks:
        name = bytes(block.cid)
        yield encode_varint(len(name) + len(block.data)) + name
        yield block.data


def decode_car_untrusted(
    pieces: Iterable[bytes], *, bytes_max: int, roots: Sequence[ContentId] = ()
) -> Iterator[Block]:
    """
    Yield the checked blocks of a CAR that arrives in pieces of any length.

    Raises `RemoteProtocolError` at the first wrong byte, over `bytes_max` in all, when the
    stream ends inside a section, or when `roots` are given and the header names others.
    """
    decoder = CarDecoder(bytes_max=bytes_max, roots=roots)
    for piece in pieces:
        yield from decoder.feed_untrusted(piece)
    decoder.finish_untrusted()


class CarDecoder:
    """
    Takes a CAR as it arrives and gives blocks as they become whole.

    Holds at most one section and one piece. `roots` is None until the header has been read.
    """

    def __init__(self, *, bytes_max: int, roots: Sequence[ContentId] = ()) -> None:
        self._bytes_left = bytes_max
        self._wanted_roots = tuple(roots)
        self._buffer = bytearray()
        self.roots: tuple[ContentId, ...] | None = None

    def feed_untrusted(self, piece: bytes) -> Iterator[Block]:
        """Take the next bytes; yield every block that they complete."""
        self._bytes_left -= len(piece)
        if self._bytes_left < 0:
            raise RemoteProtocolError("an archive is larger than was agreed")
        self._buffer += piece
        at = 0
        while (section := self._find_section(at)) is not None:
            start, end = section
            data = bytes(self._buffer[start:end])
            at = end
            if self.roots is None:
                self.roots = _decode_header_untrusted(data)
                self._check_roots(self.roots)
            else:
                yield _decode_section_untrusted(data)
        del self._buffer[:at]

    def finish_untrusted(self) -> None:
        """Say that the stream has ended; it may not end inside a section."""
        if self._buffer or self.roots is None:
            raise RemoteProtocolError("an archive is cut short")

    def _find_section(self, at: int) -> tuple[int, int] | None:
        head = bytes(self._buffer[at : at + _LENGTH_BYTES_MAX])
        if not any(byte < 0x80 for byte in head) and len(head) < _LENGTH_BYTES_MAX:
            return None
        length, used = decode_varint_untrusted(head, 0)
        if not 0 < length <= _SECTION_BYTES_MAX:
            raise RemoteProtocolError(f"a section of {length} bytes, limit {_SECTION_BYTES_MAX}")
        end = at + used + length
        return (at + used, end) if end <= len(self._buffer) else None

    def _check_roots(self, found: tuple[ContentId, ...]) -> None:
        if self._wanted_roots and found != self._wanted_roots:
            names = ", ".join(format_cid(cid) for cid in found)
            raise RemoteProtocolError(f"the archive is of {names or 'nothing'}, not what was asked")


def _encode_header(roots: Sequence[ContentId]) -> bytes:
    if len(roots) > ROOTS_MAX:
        raise InvalidInput(f"an archive of {len(roots)} roots, the limit is {ROOTS_MAX}")
    names = [b"\x00" + bytes(root) for root in roots]
    listed = b"".join(_CID_TAG + bytes((len(name),)) + name for name in names)
    return _ROOTS_KEY + bytes((0x80 | len(roots),)) + listed + _VERSION_1


def _decode_header_untrusted(data: bytes) -> tuple[ContentId, ...]:
    # The header has one possible shape, so it is compared, not parsed as general CBOR.
    at = len(_ROOTS_KEY)
    if not data.startswith(_ROOTS_KEY) or len(data) <= at or data[at] & 0xF0 != 0x80:
        raise RemoteProtocolError("an archive does not begin with a CAR version 1 header")
    count = data[at] & 0x0F
    at += 1
    roots = []
    for _ in range(count):
        length = data[at + 3] if data[at : at + 3] == _CID_TAG and len(data) > at + 3 else 0
        name = data[at + 4 : at + 4 + length]
        if length not in (1 + _V0_CID_BYTES, 1 + CID_BYTES) or name[:1] != b"\x00":
            raise RemoteProtocolError("the header of an archive holds something else than CIDs")
        roots.append(decode_cid_bytes_untrusted(name[1:]))
        at += 4 + length
    if data[at:] != _VERSION_1:
        raise RemoteProtocolError("an archive is not CAR version 1")
    return tuple(roots)


def _decode_section_untrusted(data: bytes) -> Block:
    length = _V0_CID_BYTES if data[:1] == b"\x12" else CID_BYTES
    cid = decode_cid_bytes_untrusted(data[:length])
    block = data[length:]
    if not is_block_of(cid, block):
        raise RemoteProtocolError(f"the bytes given for {format_cid(cid)} hash to something else")
    return Block(cid, block)
