"""
How bytes are cut into frames on a session's stream, and what a frame may hold.

    length (4 bytes, big-endian, counts what follows) | kind (1 byte) | body

    kind 0 DATA   a message of the caller; request ids inside it are the caller's business
    kind 1 PING   8 bytes, sent every heartbeat
    kind 2 PONG   the same 8 bytes back, so that a round trip can be measured
    kind 3 HELLO  version (1 byte) | the longest DATA body the sender accepts (4 bytes)

Both sides send one HELLO first. Until the answer has come a dialer does not know that it is
connected: beyond its connection limit a libp2p host lets a peer believe so.
"""

import enum
from dataclasses import dataclass

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError

FRAME_VERSION = 1
LENGTH_BYTES = 4
KIND_BYTES = 1
PING_BYTES = 8
HELLO_BYTES = 5
MAX_FRAME_BYTES = 1 << 20
"""The default for the longest DATA body in bytes."""
MIN_FRAME_BYTES = 64
"""A HELLO that accepts less than this is refused: no message of ours would fit."""

CODE_BAD_FRAME = "GM-8210"
CODE_TOO_LARGE = "GM-8211"
CODE_OTHER_VERSION = "GM-8212"


class FrameKind(enum.IntEnum):
    """The one byte that says what a frame's body is."""

    DATA = 0
    PING = 1
    PONG = 2
    HELLO = 3


_KNOWN_KINDS = frozenset(int(kind) for kind in FrameKind)
_FIXED_BODY_BYTES = {
    FrameKind.PING: PING_BYTES,
    FrameKind.PONG: PING_BYTES,
    FrameKind.HELLO: HELLO_BYTES,
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One whole frame as it came from the wire."""

    kind: FrameKind
    body: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer says of itself in its first frame."""

    version: int
    max_frame_bytes: int
    """The longest DATA body that the sender of this HELLO accepts."""


def encode_frame(kind: FrameKind, body: bytes) -> bytes:
    """Return the wire bytes of one frame; raises InvalidInput if the length does not fit."""
    length = KIND_BYTES + len(body)
    if length >= 1 << (8 * LENGTH_BYTES):
        raise InvalidInput("the message is too long for a frame", code=CODE_TOO_LARGE)
    return length.to_bytes(LENGTH_BYTES, "big") + bytes((kind,)) + body


def encode_hello(hello: Hello) -> bytes:
    """Return the wire bytes of a HELLO frame."""
    body = bytes((hello.version,)) + hello.max_frame_bytes.to_bytes(4, "big")
    return encode_frame(FrameKind.HELLO, body)


def decode_hello_untrusted(frame: Frame) -> Hello:
    """Read a peer's first frame; raises RemoteProtocolError if we cannot follow it."""
    if frame.kind is not FrameKind.HELLO:
        raise RemoteProtocolError(
            "the peer's first frame is not a HELLO",
            code=CODE_BAD_FRAME,
            why=f"it is {frame.kind.name}",
        )
    hello = Hello(version=frame.body[0], max_frame_bytes=int.from_bytes(frame.body[1:], "big"))
    if hello.version != FRAME_VERSION:
        raise RemoteProtocolError(
            "the peer speaks another version of the framing",
            code=CODE_OTHER_VERSION,
            why=f"theirs is {hello.version}, ours is {FRAME_VERSION}",
        )
    if hello.max_frame_bytes < MIN_FRAME_BYTES:
        raise RemoteProtocolError(
            "the peer accepts no message of a useful length",
            code=CODE_BAD_FRAME,
            why=f"{hello.max_frame_bytes} bytes, at least {MIN_FRAME_BYTES} are needed",
        )
    return hello


class FrameDecoder:
    """
    Cuts a stream of hostile bytes into frames, whatever the size of the pieces it comes in.

    Never holds more than one incomplete frame of `max_frame_bytes` plus the piece last fed.
    After an error the stream cannot be found again: drop it.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    @property
    def has_partial_frame(self) -> bool:
        """Whether the stream would break off inside a frame if it ended now."""
        return bool(self._buffer)

    def decode_untrusted(self, piece: bytes) -> list[Frame]:
        """Take the next bytes of the stream; returns the frames they complete, in order."""
        self._buffer += piece
        frames: list[Frame] = []
        start = 0
        while (end := self._find_end(start)) is not None:
            frames.append(self._read_frame(start, end))
            start = end
        del self._buffer[:start]
        return frames

    def _find_end(self, start: int) -> int | None:
        """The index after the frame at `start`, or None while its bytes are incomplete."""
        if len(self._buffer) < start + LENGTH_BYTES + KIND_BYTES:
            return None
        length = int.from_bytes(self._buffer[start : start + LENGTH_BYTES], "big")
        self._check_head(length, self._buffer[start + LENGTH_BYTES])
        end = start + LENGTH_BYTES + length
        return end if len(self._buffer) >= end else None

    def _check_head(self, length: int, kind: int) -> None:
        # Checked before the body is here, so that a lying length never reserves memory.
        if length == 0:
            raise RemoteProtocolError("a frame has no kind", code=CODE_BAD_FRAME)
        if kind not in _KNOWN_KINDS:
            raise RemoteProtocolError(
                "a frame's kind is unknown", code=CODE_BAD_FRAME, why=f"{kind}"
            )
        body_bytes = length - KIND_BYTES
        fixed = _FIXED_BODY_BYTES.get(FrameKind(kind))
        if fixed is not None and body_bytes != fixed:
            raise RemoteProtocolError(
                f"a {FrameKind(kind).name} frame has a wrong length",
                code=CODE_BAD_FRAME,
                why=f"{body_bytes} bytes, it is always {fixed}",
            )
        if body_bytes > self._max_frame_bytes:
            raise RemoteProtocolError(
                "a frame is longer than we accept",
                code=CODE_TOO_LARGE,
                why=f"{body_bytes} bytes, at most {self._max_frame_bytes}",
            )

    def _read_frame(self, start: int, end: int) -> Frame:
        body_start = start + LENGTH_BYTES + KIND_BYTES
        kind = FrameKind(self._buffer[start + LENGTH_BYTES])
        return Frame(kind=kind, body=bytes(self._buffer[body_start:end]))
