"""Keeps one session to one address alive: dials for ever, ever more slowly, until cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from gpumarket.adapters.logs import Log
from gpumarket.adapters.session import PeerUnreachable, Session, StreamClosed
from gpumarket.protocol.errors import RemoteProtocolError

log = Log("reconnect")


class Dialer(Protocol):
    """Whoever can open a session: a PeerNetwork, or a fake in a test."""

    async def dial(self, address: str, protocol: str) -> Session:
        """Open a session; raises PeerUnreachable."""


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait between dials, in seconds."""

    first_seconds: float = 0.5
    factor: float = 2.0
    seconds_max: float = 15.0
    """Half of the grace that a coordinator gives its members after its own restart."""
    steady_seconds: float = 60.0
    """A session that lasted this long makes the next wait start at the first again."""

    def compute_wait(self, failures: int, jitter: float) -> float:
        """Seconds before dial number `failures + 1`; `jitter` from 0 to 1 spreads the peers."""
        # Bounded exponent: a float overflows after some thousand failures.
        ceiling = min(self.seconds_max, self.first_seconds * self.factor ** min(failures, 64))
        return ceiling * (0.5 + 0.5 * jitter)


async def keep_session(
    dialer: Dialer,
    address: str,
    protocol: str,
    *,
    on_session: Callable[[Session], Awaitable[None]],
    draw_jitter: Callable[[], float],
    backoff: Backoff | None = None,
) -> None:
    """
    Call `on_session` with a fresh session for ever; ends only when it is cancelled.

    `draw_jitter` returns a number from 0 to 1. `on_session` owns the session until it returns
    or raises StreamClosed or RemoteProtocolError; then it is closed and dialed again. Any other
    exception is a bug and passes through.
    """
    backoff = backoff or Backoff()
    failures = 0
    while True:
        started_at = trio.current_time()
        try:
            session = await dialer.dial(address, protocol)
            try:
                await on_session(session)
            finally:
                await session.aclose()
            reason = "the session was closed"
        except (PeerUnreachable, StreamClosed, RemoteProtocolError) as error:
            reason = f"{error.message} {error.why}".strip()
        if trio.current_time() - started_at >= backoff.steady_seconds:
            failures = 0
        wait = backoff.compute_wait(failures, draw_jitter())
        failures += 1
        log.info("dialing again", address=address, wait_seconds=round(wait, 1), reason=reason)
        await trio.sleep(wait)
