"""The hour report: the minutes of each device in each hour, from the hour ledger."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final

from gpumarket.cli.output import encode_amount, show_money
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.units import Timestamp
from provider_node.core.hours import (
    CHECKING,
    FAILED,
    HOURS_KEPT,
    HOURS_PER_DAY,
    IDLE,
    OFFLINE,
    PAID,
    RUNNING,
    SECONDS_PER_HOUR,
    UNPAID,
    round_to_minutes,
)
from provider_node.core.state import Phase, ProviderState

HOURS_PAGE: Final = "/v1/hours"
"""Where the running node gives its ledger to the command."""
COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "paid": (PAID,),
    "run": (RUNNING,),
    "start": (Phase.PREPARING.value,),
    "store": (Phase.UPLOADING.value, Phase.SIGNING.value),
    "check": (CHECKING,),
    "idle": (IDLE,),
    "failed": (FAILED,),
    "unpaid": (UNPAID,),
    "offline": (OFFLINE,),
}
"""What a column of the report holds of the ledger's uses; together they hold all."""
USEFUL: Final = ("paid", "run")
MINUTES_PER_HOUR: Final = 60


def render_hours(state: ProviderState, *, now: Timestamp) -> str:
    """Write all hours that are kept, seconds by use, for the command that reports them."""
    return json.dumps(describe_hours(state, now=now))


def describe_hours(state: ProviderState, *, now: Timestamp) -> dict[str, Any]:
    """Describe every kept hour of every device in seconds, and what is known of the hours."""
    ledger, present = state.ledger, now // SECONDS_PER_HOUR
    hours = range(present - HOURS_KEPT + 1, present + 1)
    return {
        "now": now,
        "devices": [
            {
                "index": index,
                "model": device.model,
                "hours": {
                    str(hour): seconds
                    for hour, seconds in zip(
                        hours, ledger.list_hours(index, hours, now), strict=True
                    )
                    if seconds
                },
            }
            for index, device in enumerate(state.terms.devices)
        ],
        "earned": {str(hour): str(amount) for hour, amount in ledger.earned.items()},
        "declined": {
            str(hour): {reason: count for reason, count in counts.items() if reason != "accepted"}
            for hour, counts in state.tally.hours.items()
        },
        "silences": {str(hour): count for hour, count in ledger.silences.items()},
        "corrections": {str(hour): count for hour, count in ledger.corrections.items()},
    }


def make_report(hours: Mapping[str, Any], day: date | None) -> dict[str, Any]:
    """
    Choose one day (UTC) of what `describe_hours` gave and write it in minutes.

    None is today. Raises `InvalidInput` GM-1001 for a day of which nothing is kept.
    """
    now = int(hours["now"])
    chosen = day or datetime.fromtimestamp(now, UTC).date()
    first = int(datetime(chosen.year, chosen.month, chosen.day, tzinfo=UTC).timestamp())
    keys = [str(first // SECONDS_PER_HOUR + number) for number in range(HOURS_PER_DAY)]
    devices = [_report_device(device, keys, hours) for device in hours["devices"]]
    if not any(device["hours"] for device in devices):
        known = sorted(int(key) for device in hours["devices"] for key in device["hours"])
        raise InvalidInput(
            f"nothing is kept of {chosen.isoformat()}",
            why=f"the ledger holds {_format_day(known[0])} to {_format_day(known[-1])}"
            if known
            else "the ledger is empty",
            money="nothing was changed",
            hints=("gpumarket provider report --hourly",),
        )
    return {
        "date": chosen.isoformat(),
        "devices": devices,
        "earned": {_name_hour(key): hours["earned"][key] for key in keys if key in hours["earned"]},
        "gaps": sum(hours["silences"].get(key, 0) for key in keys),
        "clock_corrections": sum(hours["corrections"].get(key, 0) for key in keys),
    }


def _report_device(
    device: Mapping[str, Any], keys: Sequence[str], hours: Mapping[str, Any]
) -> dict[str, Any]:
    rows = []
    for key in keys:
        if not (seconds := device["hours"].get(key)):
            continue
        minutes = round_to_minutes(_sum_columns(seconds))
        rows.append(
            {
                "hour": _name_hour(key),
                "minutes": minutes,
                "seconds": seconds,
                "utilization": _find_share(minutes),
                "declined": hours["declined"].get(key, {}) if minutes["idle"] else {},
                "is_over": sum(seconds.values()) == SECONDS_PER_HOUR,
            }
        )
    total = {name: sum(row["minutes"][name] for row in rows) for name in COLUMNS}
    return {
        "index": device["index"],
        "model": device["model"],
        "hours": rows,
        "total": total,
        "utilization": _find_share(total),
    }


def _sum_columns(seconds: Mapping[str, int]) -> dict[str, int]:
    return {name: sum(seconds.get(use, 0) for use in uses) for name, uses in COLUMNS.items()}


def _find_share(minutes: Mapping[str, int]) -> float:
    counted = sum(minutes.values())
    return round(sum(minutes[name] for name in USEFUL) / counted, 3) if counted else 0.0


def format_report(report: Mapping[str, Any], *, is_hourly: bool) -> Iterator[str]:
    """Write a report for people: a table for each device, whose hours sum to 60 minutes."""
    gaps, corrections = report["gaps"], report["clock_corrections"]
    source = f"source: state log, {gaps} gap{'s' * (gaps != 1)}"
    if corrections:
        source += f", clock set back {corrections} time{'s' * (corrections != 1)}"
    for device in report["devices"]:
        yield (
            f"dev {device['index']} {device['model']}, {report['date']} (UTC)   "
            f"minutes, exactly one state each   {source}"
        )
        yield (
            f"{'HOUR' if is_hourly else '':<7}"
            + "".join(f"{name:>8}" for name in COLUMNS)
            + "    UTIL"
        )
        notes: list[str] = []
        for row in device["hours"] if is_hourly else ():
            mark = ""
            if row["declined"]:
                mark = f"  {len(notes) + 1}"
                notes.append(f"{len(notes) + 1}) {_explain(row['declined'])}")
            yield _format_row(row["hour"], row["minutes"], row["utilization"]) + mark
        yield _format_row(f"{len(device['hours'])} h", device["total"], device["utilization"])
        counted = sum(device["total"].values())
        full = MINUTES_PER_HOUR * len(device["hours"])
        is_over = all(row["is_over"] for row in device["hours"])
        end = f"of {full} minutes." if is_over else f"minutes; the last of {full} are to come."
        yield "   ".join([f"sum {counted} {end}", *notes])
    earned = encode_amount(sum(int(amount["base"]) for amount in report["earned"].values()))
    yield f"earned {show_money(earned)} by work that was finished on this day"


def _format_row(name: str, minutes: Mapping[str, int], share: float) -> str:
    cells = "".join(f"{minutes[column]:>8}" for column in COLUMNS)
    return f"{name:<7}{cells}{share * 100:>6.0f} %"


def _explain(declined: Mapping[str, int]) -> str:
    most = max(sorted(declined), key=lambda reason: declined[reason])
    others = sum(declined.values()) - declined[most]
    rest = f", {others} for other reasons" if others else ""
    return f"while idle: {declined[most]} declined for {most}{rest}"


def _name_hour(key: str) -> str:
    return f"{int(key) % HOURS_PER_DAY:02}:00"


def _format_day(hour: int) -> str:
    return datetime.fromtimestamp(hour * SECONDS_PER_HOUR, UTC).date().isoformat()
