"""The loop and the real journal together: what was acknowledged survives, effects come again."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
import sqlalchemy as sa
import trio
import trio.testing

from gpumarket.adapters.journal import SqlJournal
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.units import Timestamp
from gpumarket.runtime import Runtime


class Started(msgspec.Struct, frozen=True, tag=True):
    at: int


class Passed(msgspec.Struct, frozen=True, tag=True):
    at: int


class Added(msgspec.Struct, frozen=True, tag=True):
    amount: int


class Repeated(msgspec.Struct, frozen=True, tag=True):
    REPEATABLE: ClassVar[bool] = True


class Glimpsed(msgspec.Struct, frozen=True, tag=True):
    VOLATILE: ClassVar[bool] = True


Event = Started | Passed | Added | Repeated | Glimpsed


class Counter(msgspec.Struct):
    """Adds up; asks for an announcement of each total until the process that heard it is gone."""

    total: int = 0
    glimpses: int = 0
    deadline: int | None = None

    def decide(self, event: Event) -> list[int]:
        match event:
            case Added(amount=amount):
                self.total += amount
                return [self.total]
            case Repeated():
                self.total += 10
                return []
            case Glimpsed():
                self.glimpses += 1
                return []
            case Passed():
                self.deadline = None
                return [-1]
            case Started():
                return [self.total]

    def find_next_deadline(self) -> Timestamp | None:
        return None if self.deadline is None else Timestamp(self.deadline)


class StoppedClock:
    def now(self) -> Timestamp:
        return Timestamp(100)


async def run_counter(
    folder: Path, events: list[Event], *, snapshot_every: int = 2_000, deadline: int | None = None
) -> tuple[Counter, list[int]]:
    """Start a process, so to speak, post the events, and stop without any farewell."""
    performed: list[int] = []

    async def perform(effect: int) -> None:
        performed.append(effect)

    journal = SqlJournal(folder)
    runtime: Runtime[Event, int] = Runtime(
        state=Counter(deadline=deadline),
        event_type=Event,
        journal=journal,
        perform=perform,
        clock=StoppedClock(),
        make_started=lambda at: Started(at=at),
        make_time_passed=lambda at: Passed(at=at),
    )
    runtime.snapshot_every = snapshot_every
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: runtime.run(task_status=task_status))
        for event in events:
            await runtime.post(event)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    journal.close()
    return runtime.state, performed


async def test_acknowledged_events_survive_and_outstanding_effects_come_again(
    tmp_path: Path,
) -> None:
    await run_counter(tmp_path, [Added(amount=2), Added(amount=3)])
    state, performed = await run_counter(tmp_path, [])
    assert state.total == 5
    assert performed == [5]


async def test_a_replay_over_snapshots_gives_the_same_state(tmp_path: Path) -> None:
    for _ in range(3):
        await run_counter(tmp_path, [Added(amount=1)] * 7, snapshot_every=3)
    state, _ = await run_counter(tmp_path, [], snapshot_every=3)
    assert state.total == 21


async def test_volatile_events_are_seen_but_not_remembered(tmp_path: Path) -> None:
    state, _ = await run_counter(tmp_path, [Glimpsed(), Added(amount=1)])
    assert state.glimpses == 1
    state, _ = await run_counter(tmp_path, [])
    assert (state.glimpses, state.total) == (0, 1)


async def test_repeatable_events_are_remembered_in_their_place_by_the_next_process(
    tmp_path: Path,
) -> None:
    await run_counter(tmp_path, [Added(amount=1), Repeated(), Added(amount=1), Repeated()])
    state, _ = await run_counter(tmp_path, [])
    assert state.total == 22


async def test_only_synced_events_wait_for_the_disk(tmp_path: Path) -> None:
    journal = SqlJournal(tmp_path)
    levels: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("PRAGMA"):
            levels.append(statement.partition("=")[2])

    sa.event.listen(journal._engine, "before_cursor_execute", note)
    await journal.load()
    await journal.append([b"a"], is_synced=False)
    await journal.append([b"b"])
    journal.close()
    assert levels == ["NORMAL", "FULL"]


async def test_whoever_waits_for_a_move_hears_of_the_next_event(tmp_path: Path) -> None:
    async def perform(_effect: int) -> None:
        pass

    journal = SqlJournal(tmp_path)
    runtime: Runtime[Event, int] = Runtime(
        state=Counter(),
        event_type=Event,
        journal=journal,
        perform=perform,
        clock=StoppedClock(),
        make_started=lambda at: Started(at=at),
        make_time_passed=lambda at: Passed(at=at),
    )
    heard: list[int] = []

    async def listen() -> None:
        while True:
            await runtime.wait_moved()
            heard.append(runtime.state.total)

    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: runtime.run(task_status=task_status))
        nursery.start_soon(listen)
        await trio.testing.wait_all_tasks_blocked()
        for amount in (1, 2):
            await runtime.post(Added(amount=amount))
            await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    journal.close()
    assert heard == [1, 3]


async def test_a_deadline_in_the_past_is_heard_of_once(tmp_path: Path) -> None:
    _, performed = await run_counter(tmp_path, [], deadline=99)
    assert performed.count(-1) == 1


async def test_a_second_process_on_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    journal = SqlJournal(tmp_path)
    with pytest.raises(InvalidInput) as refusal:
        SqlJournal(tmp_path)
    journal.close()
    assert refusal.value.code == "GM-8102"
    assert "process" in refusal.value.why
    SqlJournal(tmp_path).close()
