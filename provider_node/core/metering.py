"""Metering: what was proposed, what became of the work, and what it is worth."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.units import Amount, Timestamp, compute_price
from provider_node.core.hours import HOURS_KEPT, SECONDS_PER_HOUR


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
    """As long as the hour ledger: hour since 1970 -> reason or `accepted` -> count."""

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
