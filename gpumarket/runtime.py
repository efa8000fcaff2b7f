"""
The loop every role shares: event, journal, decide, effects, perform.

An event is journaled before it is decided, so a process that dies replays to the state it
had. Replay drops effects; the `ProcessStarted` event that follows asks the state for every
effect still outstanding, which is why effects must be safe to perform twice. A class of events
that says `REPEATABLE` is not waited for on disk: were one lost with the power, its effect would
be performed again and tell the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import msgspec
import trio

from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.units import Timestamp

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

SNAPSHOT_EVERY = 2_000
"""Events between snapshots; the bound on a replay is twice this."""
IDLE_SECONDS = 3_600.0

E = TypeVar("E")
F = TypeVar("F")
E_contra = TypeVar("E_contra", contravariant=True)


class State(Protocol[E_contra, F]):
    """What a role knows; only `decide` changes it, and only from its event."""

    def decide(self, event: E_contra) -> list[F]:
        """Apply one event and return what must be done about it."""

    def find_next_deadline(self) -> Timestamp | None:
        """Return when the state next wants to hear that time passed."""


class Journal(Protocol):
    """What the loop needs of a journal; `adapters/journal.py` has the real one."""

    async def load(self) -> tuple[bytes | None, list[bytes]]:
        """Return the newest snapshot and the events after it."""

    async def append(self, events: list[bytes], *, is_synced: bool = True) -> None:
        """Store events durably before returning; unsynced ones power loss may take."""

    async def save_snapshot(self, snapshot: bytes) -> None:
        """Store the present state and drop older events."""


class Clock(Protocol):
    """Tells the time."""

    def now(self) -> Timestamp:
        """Return the present unix seconds."""


class Runtime(Generic[E, F]):
    """Runs one role's state: owns it, journals for it, and performs what it decides."""

    def __init__(
        self,
        *,
        state: State[E, F],
        event_type: Any,
        journal: Journal,
        perform: Callable[[F], Awaitable[None]],
        clock: Clock,
        make_started: Callable[[Timestamp], E],
        make_time_passed: Callable[[Timestamp], E],
    ) -> None:
        self.state: Any = state
        self._state_type = type(state)
        self._encoder = msgspec.msgpack.Encoder()
        self._event_decoder = msgspec.msgpack.Decoder(event_type)
        self._journal = journal
        self._perform = perform
        self._clock = clock
        self._make_started = make_started
        self._make_time_passed = make_time_passed
        self.snapshot_every = SNAPSHOT_EVERY
        self._since_snapshot = 0
        self._turn = trio.Lock()
        self._moved = trio.Event()
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Recover, then serve until cancelled; an effect that raises ends the process."""
        await self._recover()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self.post(self._make_started(self._clock.now()))
            task_status.started()
            await self._watch_deadlines()

    async def post(self, event: E) -> None:
        """Journal one event, decide it and start its effects; return once it is decided."""
        if self._nursery is None:
            raise LocalProtocolError("an event was posted before the runtime recovered")
        # Shielded: a caller that goes away must not part an event from its effects.
        with trio.CancelScope(shield=True):
            effects = await self._apply(event)
        for effect in effects:
            self._nursery.start_soon(self._perform, effect)
        moved, self._moved = self._moved, trio.Event()
        moved.set()

    async def wait_moved(self) -> None:
        """Return when the next event is decided; read the state first, without a pause between."""
        await self._moved.wait()

    async def _apply(self, event: E) -> list[F]:
        async with self._turn:
            if not getattr(event, "VOLATILE", False):
                is_synced = not getattr(event, "REPEATABLE", False)
                await self._journal.append([self._encoder.encode(event)], is_synced=is_synced)
                self._since_snapshot += 1
            effects: list[F] = self.state.decide(event)
            if self._since_snapshot >= self.snapshot_every:
                await self._journal.save_snapshot(self._encoder.encode(self.state))
                self._since_snapshot = 0
        return effects

    async def _recover(self) -> None:
        snapshot, events = await self._journal.load()
        if snapshot is not None:
            self.state = msgspec.msgpack.decode(snapshot, type=self._state_type)
        for body in events:
            self.state.decide(self._event_decoder.decode(body))
        self._since_snapshot = len(events)

    async def _watch_deadlines(self) -> None:
        while True:
            deadline = self.state.find_next_deadline()
            wait = IDLE_SECONDS if deadline is None else max(0, deadline - self._clock.now())
            with trio.move_on_after(wait) as timer:
                await self.wait_moved()
            if timer.cancelled_caught and deadline is not None:
                await self.post(self._make_time_passed(self._clock.now()))
                # Whole seconds: a deadline that is not cleared must not spin the loop.
                await trio.sleep(0.05)
