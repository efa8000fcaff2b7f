"""
The hour ledger: what each device did with each second of each hour, one use a second.

Seconds are those of the wall clock, so that every hour that is over sums to 3,600 whatever the
clock did meanwhile. What nobody watched counts as offline: time before the node's first start,
between two lives of the process, and steps of the clock that no event explains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.units import Timestamp

T = TypeVar("T")

SECONDS_PER_HOUR: Final = 3_600
HOURS_PER_DAY: Final = 24
HOURS_KEPT: Final = 8 * HOURS_PER_DAY
"""A week, and the day that is not over."""
SILENCE_SECONDS_MAX: Final = 180
"""The node notes each minute that it lives: a longer silence is a suspended machine, or a clock
that was set."""
SPANS_MAX: Final = 4_096
"""Parts of hours remembered for one lease until it is judged; more stay what they were."""

IDLE: Final = "idle"
OFFLINE: Final = "offline"
CHECKING: Final = "checking"
"""Answering a hardware challenge."""
RUNNING: Final = "running"
"""A task's program, not judged yet."""
PAID: Final = "paid"
UNPAID: Final = "unpaid"
FAILED: Final = "failed"

_TAKEN_BACK_FIRST: Final = (OFFLINE, IDLE)

Seconds = dict[str, int]
"""Seconds by use."""


class Span(msgspec.Struct, kw_only=True):
    """Seconds that a lease had of one device in one hour in one use."""

    device: int
    hour: int
    use: str
    seconds: int


class HourLedger(msgspec.Struct, kw_only=True):
    """Seconds of each device by hour and use; hours are counted from 1970, in UTC."""

    counted_to: Timestamp | None = None
    uses: list[str] = []
    """The present use of each device."""
    holders: list[Hash32 | None] = []
    """Whose lease that is for."""
    hours: list[dict[int, Seconds]] = []
    """Of each device."""
    totals: list[Seconds] = []
    """Of each device since its first second; verdicts change nothing in them."""
    spans: dict[Hash32, list[Span]] = {}
    """What leases had that are not judged yet."""
    judged: dict[Hash32, str] = {}
    """Leases judged by the event that is being decided."""
    earned: dict[int, int] = {}
    """Base units of accepted receipts, by the hour in which the work was finished."""
    silences: dict[int, int] = {}
    """By hour: how often it was not known what happened since the last event."""
    corrections: dict[int, int] = {}
    """By hour: how often the clock was set back."""

    def count(
        self, at: Timestamp, uses: Sequence[str], holders: Sequence[Hash32 | None] = ()
    ) -> None:
        """Give the time since the last count to what the devices did, then note what they do."""
        if self.counted_to is not None and at < self.counted_to - SILENCE_SECONDS_MAX:
            self._take_back(at)
        self._add_devices(at, len(uses))
        start = at if self.counted_to is None else self.counted_to
        if at - start > SILENCE_SECONDS_MAX:
            hour = at // SECONDS_PER_HOUR
            self.silences[hour] = self.silences.get(hour, 0) + 1
            self.note_stop()
        # A clock set back by a little waits until the seconds are new again.
        for hour, seconds in _split(start, at):
            for device in range(len(self.hours)):
                self._add(device, hour, seconds)
        self.counted_to = Timestamp(max(at, start))
        self._judge()
        self.uses = [*uses, *[OFFLINE] * (len(self.hours) - len(uses))]
        self.holders = [*holders, *[None] * len(self.hours)][: len(self.hours)]
        self._forget(at)

    def note_stop(self) -> None:
        """Count the time since the last event as offline: nobody was there to say otherwise."""
        self.uses = [OFFLINE] * len(self.hours)
        self.holders = [None] * len(self.hours)

    def note_judged(self, lease: Hash32, use: str) -> None:
        """Note what a lease came to: paid, unpaid or failed. Its time becomes that."""
        self.judged[lease] = use

    def note_earned(self, finished_at: int, amount: int) -> None:
        """Count an accepted receipt in the hour in which its work was finished."""
        hour = finished_at // SECONDS_PER_HOUR
        self.earned[hour] = self.earned.get(hour, 0) + amount

    def list_hours(self, device: int, hours: Sequence[int], now: Timestamp) -> list[Seconds]:
        """
        Return a device's seconds by use in each of some hours, up to now.

        An hour that is over sums to 3,600, one that is not begun to nothing.
        """
        known = self.hours[device] if device < len(self.hours) else {}
        found = [dict(known.get(hour, {})) for hour in hours]
        since = self.counted_to
        if since is None or device >= len(self.uses):
            return found
        use = OFFLINE if now - since > SILENCE_SECONDS_MAX else self.uses[device]
        for hour, seconds in _split(since, now):
            if hour in hours:
                row = found[hours.index(hour)]
                row[use] = row.get(use, 0) + seconds
        return found

    # ---- inside ----------------------------------------------------------------------------

    def _add_devices(self, at: Timestamp, count: int) -> None:
        """Begin an hour's record for devices that are new: before now they were not here."""
        hour, passed = divmod(at if self.counted_to is None else self.counted_to, SECONDS_PER_HOUR)
        for _ in range(count - len(self.hours)):
            self.hours.append({hour: {OFFLINE: passed} if passed else {}})
            self.totals.append({})
            self.uses.append(OFFLINE)
            self.holders.append(None)

    def _add(self, device: int, hour: int, seconds: int) -> None:
        use, holder = self.uses[device], self.holders[device]
        row = self.hours[device].setdefault(hour, {})
        row[use] = row.get(use, 0) + seconds
        total = self.totals[device]
        total[use] = total.get(use, 0) + seconds
        if holder is None:
            return
        spans = self.spans.setdefault(holder, [])
        for span in spans[-2 * len(self.hours) :]:
            if (span.device, span.hour, span.use) == (device, hour, use):
                span.seconds += seconds
                return
        if len(spans) < SPANS_MAX:
            spans.append(Span(device=device, hour=hour, use=use, seconds=seconds))

    def _judge(self) -> None:
        for lease, verdict in self.judged.items():
            for span in self.spans.pop(lease, ()):
                # Fetching and storing for work that counts is what it is; for none, it is waste.
                if verdict == FAILED or span.use == RUNNING:
                    self._move(span, verdict)
        self.judged = {}

    def _move(self, span: Span, use: str) -> None:
        row = self.hours[span.device].get(span.hour, {})
        seconds = min(span.seconds, row.get(span.use, 0))
        if seconds:
            row[use] = row.get(use, 0) + seconds
            _take(row, span.use, seconds)

    def _take_back(self, at: Timestamp) -> None:
        """Drop what was counted for a time that is not yet: the clock ran ahead, and was set."""
        present, passed = divmod(at, SECONDS_PER_HOUR)
        self.corrections[present] = self.corrections.get(present, 0) + 1
        for hours in self.hours:
            for hour in [hour for hour in hours if hour > present]:
                del hours[hour]
            row = hours.get(present, {})
            excess = sum(row.values()) - passed
            for use in (*_TAKEN_BACK_FIRST, *sorted(row.keys() - {*_TAKEN_BACK_FIRST})):
                taken = min(max(0, excess), row.get(use, 0))
                if taken:
                    _take(row, use, taken)
                    excess -= taken
            if excess < 0:
                # The clock is before all that is known of this hour.
                hours[present] = row | {OFFLINE: row.get(OFFLINE, 0) - excess}
        self.counted_to = at

    def _forget(self, at: Timestamp) -> None:
        oldest = at // SECONDS_PER_HOUR - HOURS_KEPT
        for hours in self.hours:
            _drop(hours, oldest)
        for counts in (self.earned, self.silences, self.corrections):
            _drop(counts, oldest)


def _drop(table: dict[int, T], oldest: int) -> None:
    for hour in [hour for hour in table if hour <= oldest]:
        del table[hour]


def _split(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch of time at full hours; of a very long one only the end, which is kept."""
    at = max(start, (end // SECONDS_PER_HOUR - HOURS_KEPT) * SECONDS_PER_HOUR)
    while at < end:
        hour = at // SECONDS_PER_HOUR
        until = min(end, (hour + 1) * SECONDS_PER_HOUR)
        yield hour, until - at
        at = until


def _take(row: Seconds, use: str, seconds: int) -> None:
    row[use] -= seconds
    if not row[use]:
        del row[use]


def round_to_minutes(seconds: Seconds) -> dict[str, int]:
    """
    Write seconds as whole minutes that sum to what the seconds sum to, rounded down.

    The largest remainders get the minutes that rounding down each use lost.
    """
    minutes = {use: count // 60 for use, count in seconds.items()}
    lost = sum(seconds.values()) // 60 - sum(minutes.values())
    for use in sorted(seconds, key=lambda use: (-(seconds[use] % 60), use))[:lost]:
        minutes[use] += 1
    return minutes
