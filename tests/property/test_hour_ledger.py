"""Whatever the clock and the process do, each second of a device is in one use and hours sum."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.factories import make_hash
from provider_node.core.hours import (
    CHECKING,
    FAILED,
    HOURS_KEPT,
    IDLE,
    OFFLINE,
    PAID,
    RUNNING,
    SECONDS_PER_HOUR,
    SILENCE_SECONDS_MAX,
    UNPAID,
    HourLedger,
    round_to_minutes,
)

START = 1_790_000_000
LEASES = tuple(make_hash(f"lease {number}") for number in range(3))
USES = (IDLE, "preparing", RUNNING, "uploading", CHECKING)

doing = st.tuples(st.sampled_from(USES), st.sampled_from([None, *LEASES]))
steps = st.one_of(
    st.tuples(st.just("pass"), st.integers(0, SILENCE_SECONDS_MAX), doing),
    st.tuples(st.just("silence"), st.integers(SILENCE_SECONDS_MAX + 1, 10**6), doing),
    st.tuples(st.just("back"), st.integers(1, 10**6), doing),
    st.tuples(st.just("judge"), st.sampled_from(LEASES), st.sampled_from([PAID, UNPAID, FAILED])),
    st.tuples(st.just("stop"), st.integers(0, 10_000), doing),
    st.tuples(st.just("crash"), st.none(), st.none()),
)


def start(devices: int = 2) -> HourLedger:
    ledger = HourLedger()
    ledger.count(Timestamp(START), [IDLE] * devices)
    return ledger


def check(ledger: HourLedger) -> None:
    """Every hour that is over sums to 3,600, the present one to what of it is over."""
    counted_to = ledger.counted_to
    assert counted_to is not None
    present, passed = divmod(counted_to, SECONDS_PER_HOUR)
    for hours in ledger.hours:
        assert len(hours) <= HOURS_KEPT
        assert all(count > 0 for row in hours.values() for count in row.values())
        sums = {hour: sum(row.values()) for hour, row in hours.items()}
        # At a full hour nothing of the next is there yet.
        assert sums.pop(present, 0) == passed
        assert set(sums.values()) <= {SECONDS_PER_HOUR}
        assert sorted(sums) == list(range(min(sums, default=0), min(sums, default=0) + len(sums)))
        assert max(sums, default=present - 1) == present - 1


@given(st.lists(steps, max_size=40))
def test_hours_sum_whatever_happens(events: list[tuple[str, Any, Any]]) -> None:
    ledger, now = start(), START
    for kind, value, what in events:
        if kind == "crash":
            # What a snapshot holds is the whole of it.
            ledger = msgspec.msgpack.decode(msgspec.msgpack.encode(ledger), type=HourLedger)
            continue
        if kind == "judge":
            ledger.note_judged(value, what)
            ledger.count(Timestamp(now), ledger.uses, ledger.holders)
        else:
            if kind == "stop":
                ledger.note_stop()
            now += -value if kind == "back" else value
            use, holder = what
            ledger.count(Timestamp(now), [use, IDLE], [holder, None])
        check(ledger)
    rows = ledger.list_hours(0, [now // SECONDS_PER_HOUR - 1], Timestamp(now + 10_000))
    assert sum(rows[0].values()) in (0, SECONDS_PER_HOUR)


@given(st.dictionaries(st.sampled_from([*USES, PAID, FAILED]), st.integers(0, 3_600), min_size=1))
def test_minutes_sum_to_what_the_seconds_do(seconds: dict[str, int]) -> None:
    minutes = round_to_minutes(seconds)
    assert sum(minutes.values()) == sum(seconds.values()) // 60
    assert all(0 <= minutes[use] * 60 - seconds[use] + 60 < 120 for use in seconds)


def at_full_hour() -> tuple[HourLedger, int]:
    ledger, now = HourLedger(), START - START % SECONDS_PER_HOUR
    ledger.count(Timestamp(now), [IDLE])
    return ledger, now


def run(ledger: HourLedger, now: int, *stages: tuple[str, int], lease: Hash32 | None) -> int:
    """Do one thing after the other, each in minutes, with the node's own ticks between."""
    for use, minutes in stages:
        for _ in range(minutes):
            ledger.count(Timestamp(now), [use], [None if use == IDLE else lease])
            now += 60
    ledger.count(Timestamp(now), [IDLE])
    return now


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (PAID, {IDLE: 10, "preparing": 5, PAID: 40, "uploading": 5}),
        (UNPAID, {IDLE: 10, "preparing": 5, UNPAID: 40, "uploading": 5}),
        (FAILED, {IDLE: 10, FAILED: 50}),
    ],
)
def test_a_leases_time_becomes_what_it_came_to(verdict: str, expected: dict[str, int]) -> None:
    ledger, begin = at_full_hour()
    stages = ((IDLE, 10), ("preparing", 5), (RUNNING, 40), ("uploading", 5))
    now = run(ledger, begin, *stages, lease=LEASES[0])
    hour = begin // SECONDS_PER_HOUR
    assert ledger.hours[0][hour][RUNNING] == 40 * 60
    ledger.note_judged(LEASES[0], verdict)
    ledger.count(Timestamp(now), [IDLE])
    assert round_to_minutes(ledger.hours[0][hour]) == expected
    assert ledger.totals[0][RUNNING] == 40 * 60


def test_time_that_nobody_watched_is_offline() -> None:
    ledger, begin = at_full_hour()
    ledger.count(Timestamp(begin + 60), [IDLE])
    ledger.count(Timestamp(begin + 60 + SILENCE_SECONDS_MAX + 1), [IDLE])
    assert ledger.hours[0][begin // SECONDS_PER_HOUR] == {IDLE: 60, OFFLINE: 181}
    assert list(ledger.silences.values()) == [1]


def test_a_node_that_began_in_an_hour_was_not_there_before() -> None:
    ledger = HourLedger()
    begin = START - START % SECONDS_PER_HOUR
    ledger.count(Timestamp(begin + 600), [IDLE])
    ledger.count(Timestamp(begin + 660), [IDLE, IDLE])
    assert [row[begin // SECONDS_PER_HOUR] for row in ledger.hours] == [
        {OFFLINE: 600, IDLE: 60},
        {OFFLINE: 660},
    ]


def test_hours_that_a_wrong_clock_made_up_are_taken_back() -> None:
    ledger, begin = at_full_hour()
    ledger.count(Timestamp(begin + 120), [RUNNING], [LEASES[0]])
    ledger.count(Timestamp(begin + 5 * SECONDS_PER_HOUR), [IDLE])
    ledger.count(Timestamp(begin + 300), [IDLE])
    hour = begin // SECONDS_PER_HOUR
    assert ledger.hours[0] == {hour: {IDLE: 120, OFFLINE: 180}}
    assert ledger.corrections == {hour: 1}
