"""
Metering: what the devices did with their time, and what became of the work.

Device time is counted in whole seconds between events, each second of each device in exactly one
use, so that the sums always add up to the time since the node first started.
"""

from __future__ import annotations

from typing import Final

import msgspec

from gpumarket.protocol.units import Amount, Timestamp, compute_price

HOURS_KEPT: Final = 24
SECONDS_PER_HOUR: Final = 3_600
IDLE: Final = "idle"
OFFLINE: Final = "offline"


class Meter(msgspec.Struct, kw_only=True):
    """Seconds of each device in each use."""

    counted_to: Timestamp | None = None
    uses: list[str] = []
    """The present use of each device."""
    seconds: list[dict[str, int]] = []

    def count(self, at: Timestamp, uses: list[str]) -> None:
        """Add the time since the last count to the uses the devices had, then note new ones."""
        if self.counted_to is not None:
            elapsed = max(0, at - self.counted_to)
            for use, seconds in zip(self.uses, self.seconds, strict=False):
                seconds[use] = seconds.get(use, 0) + elapsed
        self.counted_to = Timestamp(max(at, self.counted_to or 0))
        self.uses = uses
        self.seconds += [{} for _ in range(len(uses) - len(self.seconds))]

    def note_stop(self) -> None:
        """Count the time since the last event as offline: nobody was there to say otherwise."""
        self.uses = [OFFLINE] * len(self.uses)


class Tally(msgspec.Struct, kw_only=True):
    """How many leases were seen, declined and ended, and how much was earned."""

    seen: int = 0
    declined: dict[str, int] = {}
    """By reason."""
    outcomes: dict[str, dict[str, int]] = {}
    """By outcome (paid, unpaid, failed), then by fault."""
    earned: Amount = Amount(0)
    """Sum of accepted receipts; the batch that pays them may still be under way."""
    unpaid: Amount = Amount(0)
    hours: dict[int, dict[str, int]] = {}
    """Of the last day: hour since 1970 -> reason or `accepted` -> count."""

    def note_seen(self, at: Timestamp, what: str) -> None:
        """Count one proposed lease as `accepted`, or as declined for a reason."""
        self.seen += 1
        if what != "accepted":
            self.declined[what] = self.declined.get(what, 0) + 1
        hour = at // SECONDS_PER_HOUR
        counts = self.hours.setdefault(hour, {})
        counts[what] = counts.get(what, 0) + 1
        for old in [past for past in self.hours if past <= hour - HOURS_KEPT]:
            del self.hours[old]

    def note_end(self, outcome: str, fault: str) -> None:
        """Count the end of one lease."""
        faults = self.outcomes.setdefault(outcome, {})
        faults[fault] = faults.get(fault, 0) + 1


def compute_receipt_price(
    *, duration_ms: int, devices: int, price_per_device_hour: int, price_max: int
) -> Amount:
    """Price a unit's run time, at most what the lease allows; no device counts as one."""
    price = compute_price(
        duration_ms=duration_ms,
        devices=max(1, devices),
        price_per_device_hour=price_per_device_hour,
    )
    return Amount(min(price, price_max))
