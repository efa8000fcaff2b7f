"""One Bitswap peer: what it and we owe each other, and how its stream is cut into messages."""

from __future__ import annotations

from collections import OrderedDict

import trio

from gpumarket.adapters.session import RawStream
from gpumarket.protocol.bitswap import LENGTH_PREFIX_BYTES_MAX, Presence, Want
from gpumarket.protocol.cids import ContentId
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.varint import decode_varint_untrusted

ASKED_MEMORY = 8_192
"""Blocks asked of one peer that may still arrive although another was faster."""
READ_BYTES = 256 * 2**10
MESSAGE_DEADLINE_S = 60.0


class Link:
    """What we and one peer owe each other, and the task that writes to it."""

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id
        self.address = ""
        self.own_wants: dict[bytes, Want] = {}
        self.presences: list[Presence] = []
        self.to_send: dict[bytes, ContentId] = {}
        self.waiting: dict[bytes, Want] = {}
        self.asked: OrderedDict[bytes, ContentId] = OrderedDict()
        self.stream_count = 0
        self.is_sending = False
        self.wake = trio.Event()
        self.drained = trio.Event()

    def remember_asked(self, cid: ContentId) -> None:
        """Note that this peer may send a block."""
        self.asked[cid.digest] = cid
        self.asked.move_to_end(cid.digest)
        if len(self.asked) > ASKED_MEMORY:
            self.asked.popitem(last=False)

    @property
    def has_work(self) -> bool:
        """Whether something waits to be written."""
        return bool(self.own_wants or self.presences or self.to_send)

    def signal(self) -> None:
        """Wake the writer."""
        self.wake.set()


class MessageReader:
    """Cuts a stream into length-prefixed messages, holding at most one."""

    def __init__(self, stream: RawStream) -> None:
        self._stream = stream
        self._buffer = bytearray()

    async def read(self, bytes_max: int) -> bytes | None:
        """
        Give the next message, or None when the stream has ended between two.

        A message that has begun must be whole within a minute. Raises `RemoteProtocolError` for
        one longer than `bytes_max` and for a stream that ends inside one, `StreamClosed`,
        `trio.TooSlowError`.
        """
        if not self._buffer and not await self._fill():
            return None
        with trio.fail_after(MESSAGE_DEADLINE_S):
            while (length := self._find_length(bytes_max)) is None:
                await self._require()
            start, size = length
            while len(self._buffer) < start + size:
                await self._require()
        body = bytes(memoryview(self._buffer)[start : start + size])
        del self._buffer[: start + size]
        return body

    def _find_length(self, bytes_max: int) -> tuple[int, int] | None:
        head = bytes(self._buffer[:LENGTH_PREFIX_BYTES_MAX])
        if len(head) < LENGTH_PREFIX_BYTES_MAX and all(byte >= 0x80 for byte in head):
            return None
        size, start = decode_varint_untrusted(head, 0)
        if size > bytes_max:
            raise RemoteProtocolError(f"a message of {size} bytes, limit {bytes_max}")
        return start, size

    async def _require(self) -> None:
        if not await self._fill():
            raise RemoteProtocolError("the stream ended inside a message")

    async def _fill(self) -> bool:
        piece = await self._stream.read(READ_BYTES)
        self._buffer += piece
        return bool(piece)
