"""
One long-lived framed stream to a peer: bounded both ways, throttled, and checked for life.

Knows nothing of libp2p: it runs on anything that reads and writes bytes in order. A session
has four tasks. The reader throttles and fills the inbox, the writer empties the outbox, the
pulse sends a PING every heartbeat and ends the session when nothing at all is heard for
`missed_heartbeats_max` of them; and the caller. Whichever ends first ends the session.

Delivery is not confirmed: what was sent may be lost when the session breaks. Whoever needs
to know answers in its own messages.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from gpumarket.protocol.errors import GpuMarketError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.frames import (
    CODE_TOO_LARGE,
    FRAME_VERSION,
    MAX_FRAME_BYTES,
    PING_BYTES,
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    decode_hello_untrusted,
    encode_frame,
    encode_hello,
)
from gpumarket.protocol.token_bucket import TokenBucket

READ_BYTES = 64 * 1024
"""The most bytes asked of a stream at once."""
WRITE_BATCH_BYTES = 64 * 1024
"""Small frames that wait together are written together up to this many bytes."""
FRAME_OVERHEAD_BYTES = 5
RESET_SECONDS_MAX = 1.0
"""How long a stream may take to tell the peer that it is broken off."""

CODE_UNREACHABLE = "GM-8108"
CODE_SESSION_CLOSED = "GM-8103"
CODE_NO_LIFE = "GM-8104"


class StreamClosed(GpuMarketError):
    """The stream to a peer is over: dial again, or wait until the peer does."""

    default_code = CODE_SESSION_CLOSED


class SessionClosed(StreamClosed):
    """The session is over: what was not answered may not have arrived."""


class PeerUnreachable(GpuMarketError):
    """A peer could not be reached or did not answer: try again later or another address."""

    default_code = CODE_UNREACHABLE


class RawStream(Protocol):
    """An ordered byte stream to one authenticated peer; every method may raise StreamClosed."""

    @property
    def remote_peer_id(self) -> str:
        """The peer's libp2p id, proven by the handshake."""

    async def read(self, bytes_max: int) -> bytes:
        """Return at least one byte, or b"" once the peer has finished writing."""

    async def write(self, data: bytes) -> None:
        """Send all of it, waiting while the peer is slow."""

    async def close(self) -> None:
        """Finish writing; what was written still arrives."""

    async def reset(self) -> None:
        """Break off both ways at once; never raises."""


@dataclass(frozen=True, kw_only=True)
class SessionLimits:
    """Every bound of one session; durations in seconds, sizes in bytes."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    outbox_frames_max: int = 256
    outbox_bytes_max: int = 4 << 20
    inbox_frames_max: int = 256
    inbox_bytes_max: int = 4 << 20
    heartbeat_seconds: float = 10.0
    missed_heartbeats_max: int = 3
    hello_seconds_max: float = 10.0
    linger_seconds_max: float = 2.0
    """How long `aclose` waits for the outbox to reach the wire."""
    frames_per_second: int = 500
    frames_burst: int = 2_000
    bytes_per_second: int = 32 << 20
    bytes_burst: int = 64 << 20


class Budget:
    """What one peer may send us per second, over all its sessions together."""

    def __init__(self, limits: SessionLimits) -> None:
        now_ms = _now_ms()
        self._frames = TokenBucket(
            per_second=limits.frames_per_second,
            burst=limits.frames_burst,
            now_ms=now_ms,
        )
        self._bytes = TokenBucket(
            per_second=limits.bytes_per_second, burst=limits.bytes_burst, now_ms=now_ms
        )

    def take_frame(self, size: int) -> int:
        """Count one frame of `size` bytes; returns the milliseconds to wait before the next."""
        now_ms = _now_ms()
        return max(self._frames.take(1, now_ms=now_ms), self._bytes.take(size, now_ms=now_ms))

    def is_idle(self) -> bool:
        """Whether the peer owes nothing, so that its budget can be forgotten."""
        now_ms = _now_ms()
        return self._frames.is_full(now_ms=now_ms) and self._bytes.is_full(now_ms=now_ms)


class FrameQueue:
    """A queue bounded in items and in bytes; one item always fits into an empty queue."""

    def __init__(self, *, items_max: int, bytes_max: int) -> None:
        self._items: deque[bytes] = deque()
        self._bytes = 0
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._is_closed = False
        self._putters = trio.lowlevel.ParkingLot()
        self._getters = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size_bytes(self) -> int:
        """The bytes that wait."""
        return self._bytes

    async def put(self, item: bytes) -> bool:
        """Append, waiting for room; returns False if the queue is closed."""
        await trio.lowlevel.checkpoint()
        while not self._is_closed and not self._has_room(len(item)):
            await self._putters.park()
        return self.put_now(item)

    def put_now(self, item: bytes) -> bool:
        """Append without waiting; returns False if the queue is closed or full."""
        if self._is_closed or not self._has_room(len(item)):
            return False
        self._items.append(item)
        self._bytes += len(item)
        self._getters.unpark_all()
        return True

    async def get(self) -> bytes | None:
        """Take the oldest, waiting for one; None once the queue is closed and empty."""
        batch = await self.get_batch(0)
        return batch[0] if batch else None

    async def get_batch(self, bytes_max: int) -> list[bytes]:
        """Take the oldest and what follows it up to `bytes_max` together; empty at the end."""
        await trio.lowlevel.checkpoint()
        while not self._items and not self._is_closed:
            await self._getters.park()
        batch: list[bytes] = []
        size = 0
        while self._items and (not batch or size + len(self._items[0]) <= bytes_max):
            batch.append(self._items.popleft())
            size += len(batch[-1])
        self._bytes -= size
        self._putters.unpark_all()
        return batch

    def close(self) -> None:
        """Take nothing more; what is in the queue can still be read."""
        self._is_closed = True
        self._putters.unpark_all()
        self._getters.unpark_all()

    def _has_room(self, size: int) -> bool:
        if not self._items:
            return True
        return len(self._items) < self._items_max and self._bytes + size <= self._bytes_max


class EndedBy(enum.Enum):
    """Who or what ended a session."""

    US = "we closed it"
    PEER = "the peer closed it"
    BROKEN = "the connection broke"
    MISBEHAVED = "the peer broke the protocol"
    NO_LIFE = "the peer gave no sign of life"


@dataclass
class _Pulse:
    """When the peer was last heard, and whether we are listening at all."""

    heard_at: float
    is_listening: bool = False
    pings_unanswered: dict[bytes, float] = field(default_factory=dict)
    round_trip_seconds: float | None = None


class Session:
    """A framed stream to one peer; made by PeerNetwork, which also runs it."""

    def __init__(
        self,
        stream: RawStream,
        *,
        limits: SessionLimits,
        budget: Budget,
        drop_peer: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.remote_peer_id = stream.remote_peer_id
        self.ended_by: EndedBy | None = None
        self._end_detail = ""
        self._stream = stream
        self._limits = limits
        self._budget = budget
        self._drop_peer = drop_peer
        self._decoder = FrameDecoder(limits.max_frame_bytes)
        self._early: list[Frame] = []
        self._outbox = FrameQueue(
            items_max=limits.outbox_frames_max, bytes_max=limits.outbox_bytes_max
        )
        self._inbox = FrameQueue(
            items_max=limits.inbox_frames_max, bytes_max=limits.inbox_bytes_max
        )
        self._peer_max_frame_bytes = 0
        self._pulse = _Pulse(heard_at=trio.current_time())
        self._ping_count = 0
        self._written = trio.Event()
        self._ended = trio.Event()
        self._tasks = trio.CancelScope()

    @property
    def round_trip_seconds(self) -> float | None:
        """The last measured round trip of a PING, None before the first."""
        return self._pulse.round_trip_seconds

    async def send(self, message: bytes) -> None:
        """
        Queue one message, waiting while the outbox is full.

        Raises InvalidInput if it is longer than the peer accepts, SessionClosed if the session
        is over. Returning means queued, not arrived.
        """
        if len(message) > self._peer_max_frame_bytes:
            raise InvalidInput(
                "the message is longer than the peer accepts",
                code=CODE_TOO_LARGE,
                why=f"{len(message)} bytes, at most {self._peer_max_frame_bytes}",
            )
        if not await self._outbox.put(encode_frame(FrameKind.DATA, message)):
            raise self._explain_end()

    async def receive(self) -> bytes:
        """Return the next message; raises SessionClosed after the last one."""
        message = await self._inbox.get()
        if message is None:
            raise self._explain_end()
        return message

    async def wait_closed(self) -> None:
        """Return once the session is over, for whatever reason."""
        await self._ended.wait()

    async def aclose(self) -> None:
        """Send what is queued within `linger_seconds_max`, then end the session."""
        self._outbox.close()
        try:
            with trio.move_on_after(self._limits.linger_seconds_max):
                await self._ended.wait()
        finally:
            self._tasks.cancel()
        with trio.CancelScope(shield=True), trio.move_on_after(RESET_SECONDS_MAX * 2):
            await self._ended.wait()

    # What follows is for the one who runs the session.

    def break_off(self, detail: str) -> None:
        """End the session at once, as a broken connection would."""
        self._end(EndedBy.BROKEN, detail)

    async def shake_hands(self) -> None:
        """Exchange HELLOs, both sides at once; raises SessionClosed or RemoteProtocolError."""
        try:
            with trio.fail_after(self._limits.hello_seconds_max):
                await self._exchange_hello()
        except trio.TooSlowError:
            await self._break_off()
            raise SessionClosed(
                "the peer did not answer in time",
                why=f"no HELLO within {self._limits.hello_seconds_max} s",
            ) from None
        except BaseException:
            # Also on cancellation: an abandoned stream would stay open at the peer.
            await self._break_off()
            raise

    async def run(self) -> None:
        """Run the session until it ends; returns normally whatever the peer does."""
        self._hear()
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_frames)
                    nursery.start_soon(self._write_frames)
                    nursery.start_soon(self._keep_pulse)
            self._note_end(EndedBy.US)
        finally:
            with trio.CancelScope(shield=True):
                await self._clean_up()

    async def _clean_up(self) -> None:
        self._note_end(EndedBy.US, "it was cancelled")
        self._outbox.close()
        self._inbox.close()
        if self.ended_by is EndedBy.NO_LIFE and self._drop_peer is not None:
            # Before the reset: a write to a peer that is frozen would wait for ever.
            await self._drop_peer()
        if not self._written.is_set():
            await self._break_off()
        self._ended.set()

    async def _exchange_hello(self) -> None:
        hello = Hello(version=FRAME_VERSION, max_frame_bytes=self._limits.max_frame_bytes)
        await self._stream.write(encode_hello(hello))
        frames: list[Frame] = []
        while not frames:
            piece = await self._stream.read(READ_BYTES)
            if not piece:
                raise SessionClosed("the peer closed the stream instead of answering")
            frames = self._decoder.decode_untrusted(piece)
        self._peer_max_frame_bytes = decode_hello_untrusted(frames[0]).max_frame_bytes
        self._early = frames[1:]

    async def _read_frames(self) -> None:
        try:
            await self._handle_frames(self._early)
            while True:
                self._pulse.is_listening = True
                piece = await self._stream.read(READ_BYTES)
                self._hear()
                if not piece:
                    break
                await self._handle_frames(self._decoder.decode_untrusted(piece))
            if self._decoder.has_partial_frame:
                self._end(EndedBy.BROKEN, "the stream ended inside a frame")
            else:
                self._end(EndedBy.PEER)
        except StreamClosed as error:
            self._end(EndedBy.BROKEN, error.why or error.message)
        except RemoteProtocolError as error:
            self._end(EndedBy.MISBEHAVED, f"{error.message} {error.why}".strip())

    async def _handle_frames(self, frames: list[Frame]) -> None:
        self._pulse.is_listening = False
        for frame in frames:
            wait_ms = self._budget.take_frame(len(frame.body) + FRAME_OVERHEAD_BYTES)
            if wait_ms:
                await trio.sleep(wait_ms / 1_000)
            match frame.kind:
                case FrameKind.DATA:
                    await self._inbox.put(frame.body)
                case FrameKind.PING:
                    self._queue_control(FrameKind.PONG, frame.body)
                case FrameKind.PONG:
                    self._measure(frame.body)
                case FrameKind.HELLO:
                    raise RemoteProtocolError("a second HELLO came")
        # Time that we spent throttling or waiting for our own caller is no silence of the peer.
        self._hear()

    async def _write_frames(self) -> None:
        try:
            while batch := await self._outbox.get_batch(WRITE_BATCH_BYTES):
                await self._stream.write(b"".join(batch))
            await self._stream.close()
            self._written.set()
            self._end(EndedBy.US)
        except StreamClosed as error:
            self._end(EndedBy.BROKEN, error.why or error.message)

    async def _keep_pulse(self) -> None:
        silence_max = self._limits.heartbeat_seconds * self._limits.missed_heartbeats_max
        while True:
            await trio.sleep(self._limits.heartbeat_seconds)
            silence = trio.current_time() - self._pulse.heard_at
            if self._pulse.is_listening and silence >= silence_max:
                self._end(EndedBy.NO_LIFE, f"nothing heard for {silence:.1f} s")
                return
            self._ping_count += 1
            ping = self._ping_count.to_bytes(PING_BYTES, "big")
            self._pulse.pings_unanswered = {ping: trio.current_time()}
            self._queue_control(FrameKind.PING, ping)

    def _queue_control(self, kind: FrameKind, body: bytes) -> None:
        # Never waits: if the outbox is full, the frames in it are sign of life enough.
        self._outbox.put_now(encode_frame(kind, body))

    def _measure(self, ping: bytes) -> None:
        sent_at = self._pulse.pings_unanswered.pop(ping, None)
        if sent_at is not None:
            self._pulse.round_trip_seconds = trio.current_time() - sent_at

    def _hear(self) -> None:
        self._pulse.heard_at = trio.current_time()

    def _end(self, ended_by: EndedBy, detail: str = "") -> None:
        self._note_end(ended_by, detail)
        self._tasks.cancel()

    def _note_end(self, ended_by: EndedBy, detail: str = "") -> None:
        if self.ended_by is None:
            self.ended_by = ended_by
            self._end_detail = detail

    async def _break_off(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(RESET_SECONDS_MAX):
            await self._stream.reset()

    def _explain_end(self) -> SessionClosed:
        ended_by = self.ended_by or EndedBy.US
        code = CODE_NO_LIFE if ended_by is EndedBy.NO_LIFE else CODE_SESSION_CLOSED
        why = f"{ended_by.value}; {self._end_detail}" if self._end_detail else ended_by.value
        return SessionClosed("the session is over", code=code, why=why)


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
