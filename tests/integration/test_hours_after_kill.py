"""The hour ledger of a node that is killed in the middle of a write, and whose journal is torn."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpumarket.adapters.journal import SqlJournal
from gpumarket.protocol.units import Timestamp
from gpumarket.runtime import Runtime
from gpumarket.testing.factories import NOW
from provider_node.core.decide import Provider
from provider_node.core.effects import Effect
from provider_node.core.events import EVENT, Event, MinutePassed, ProcessStarted
from provider_node.core.hours import IDLE, OFFLINE, SECONDS_PER_HOUR
from provider_node.core.terms import Terms

LIVES = 3
TICKS = 40
PROGRAM = """
import sys
from pathlib import Path
import trio
from tests.integration.test_hours_after_kill import live
trio.run(live, Path(sys.argv[1]), int(sys.argv[2]))
"""


class Clock:
    def __init__(self, now: int) -> None:
        self.at = Timestamp(now)

    def now(self) -> Timestamp:
        return self.at


def open_runtime(folder: Path, now: int) -> tuple[Runtime[Event, Effect], SqlJournal]:
    from tests.unit.test_provider_hours import make_state

    async def perform(_effect: object) -> None:
        """Nothing is asked for here."""

    terms: Terms = make_state().terms
    journal = SqlJournal(folder)
    runtime: Runtime[Event, Effect] = Runtime(
        state=Provider(terms=terms),
        event_type=EVENT,
        journal=journal,
        perform=perform,
        clock=Clock(now),
        make_started=lambda at: ProcessStarted(at=at, terms=terms),
        make_time_passed=lambda at: MinutePassed(at=at),
    )
    runtime.snapshot_every = 7
    return runtime, journal


async def live(folder: Path, now: int) -> None:
    """Tick as a node does, in a time of its own, and say each minute that is on disk."""
    import trio

    runtime, _ = open_runtime(folder, now)
    async with trio.open_nursery() as nursery:
        await nursery.start(runtime.run)
        while True:
            now += 60
            await runtime.post(MinutePassed(at=Timestamp(now)))
            sys.stdout.write(f"{now}\n")
            sys.stdout.flush()


def run_and_kill(folder: Path, now: int) -> int:
    """Start a node at a time and kill it while it writes; return the last minute it told."""
    node = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(now)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdout is not None
    try:
        told = [int(node.stdout.readline()) for _ in range(TICKS)]
    finally:
        node.send_signal(signal.SIGKILL)
        rest = node.stdout.read().split()
        node.wait(timeout=30)
        node.stdout.close()
    return int(rest[-1]) if rest else told[-1]


async def replay(folder: Path) -> Provider:
    runtime, journal = open_runtime(folder, 0)
    await runtime._recover()
    journal.close()
    state: Provider = runtime.state
    return state


@pytest.mark.parametrize("is_torn", [False, True])
async def test_each_second_is_there_once_after_kills(tmp_path: Path, is_torn: bool) -> None:
    now, last = int(NOW), 0
    for _ in range(LIVES):
        last = run_and_kill(tmp_path, now)
        log = tmp_path / "journal.sqlite-wal"
        if is_torn and log.exists():
            # Power was lost within a page: what is behind the last whole one does not count.
            with log.open("r+b") as file:
                file.truncate(max(0, log.stat().st_size - 100))
        now = last + 3_700
    ledger = (await replay(tmp_path)).ledger
    assert ledger.counted_to is not None
    lost = 1 + is_torn
    assert last - 60 * lost <= ledger.counted_to <= last + 60
    for hours in ledger.hours:
        *over, _present = sorted(hours)
        assert over
        assert {sum(hours[hour].values()) for hour in over} == {SECONDS_PER_HOUR}
        found = {use for row in hours.values() for use in row}
        assert found == {IDLE, OFFLINE}
    assert ledger.totals[0][IDLE] >= 60 * (TICKS - lost) * LIVES
    assert sum(ledger.silences.values()) == LIVES - 1
