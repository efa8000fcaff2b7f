"""How a job is shown: its state, its money, its history, and what its end means for the shell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpumarket.cli.output import show_amount, show_money
from gpumarket.client.views import Event, find_reason, find_state
from gpumarket.protocol.catalog import Exit, find_entry

_ID_SHOWN: Final = 7
ROUTINE: Final = ("task.", "unit.", "lease.")
"""Kinds of events that come once a task; shown only where somebody is at fault."""
SUMMED_UP: Final = frozenset({"task.rejected", "running", "checking", "settling"})
"""Said by another line: one for all tasks of a provider, or the progress line."""
TELLING: Final = frozenset({"task.mismatch", "task.inconclusive"})
"""Events of one task that a person who watches wants to see."""


def find_job_exit(job: Mapping[str, Any]) -> Exit:
    """Return how a command ends that waited for this job."""
    state = find_state(job)
    if state in ("settled", "settling"):
        return Exit.DONE
    if state == "cancelled":
        return Exit.JOB_CANCELLED
    if state != "failed":
        return Exit.NOT_FINISHED
    reason = find_reason(job)
    entry = find_entry(str(reason.get("code", "")))
    fault = reason.get("fault") or (entry.fault if entry else "")
    if entry is not None and entry.exit is Exit.NO_OFFER:
        return Exit.NO_OFFER
    return Exit.JOB_FAILED if fault == "requester" else Exit.MARKET_FAILED


def is_important(event: Event) -> bool:
    """Tell whether a person who watches should see this event."""
    if event.type in SUMMED_UP:
        return False
    return (
        event.type in TELLING
        or not event.type.startswith(ROUTINE)
        or event.fault not in ("", "none")
    )


def describe_event(event: Event) -> dict[str, Any]:
    """Write an event for machines."""
    return event.as_json()


def format_event(event: Event) -> str:
    """Write an event as one line: time, what happened, who did it, whose fault."""
    clock = event.time[11:19] or "--:--:--"
    task = "" if event.task is None else f"task {event.task}: "
    fault = "" if event.fault in ("", "none") else f", fault: {event.fault}"
    who = f"{event.actor[:6]}…{event.actor[-4:]}" if event.actor.startswith("0x") else event.actor
    actor = f"  ({who}{fault})" if who else fault.removeprefix(",")
    return f"{clock}  {task}{event.text or event.type}{actor}"


def format_job(job: Mapping[str, Any]) -> str:
    """Write a job for people; the last lines name who acts next and where the money is."""
    lines = [
        f"job      {job.get('id', '?')}  {job.get('name', '')}".rstrip(),
        f"         requester {job.get('requester', '?')}  order {job.get('order_hash', '?')}",
        f"state    {find_state(job)}{_format_next(job)}",
    ]
    reason = find_reason(job)
    if reason:
        fault = reason.get("fault") or "none"
        lines.append(f"reason   {reason.get('code', '?')} {reason.get('text', '')}, fault: {fault}")
    lines.append(f"tasks    {format_units(job)}")
    lines.append(f"money    {format_money_line(job)}")
    batches = job.get("batches") or [job.get("batch")]
    lines += [f"settled  {format_batch(batch)}" for batch in batches if isinstance(batch, Mapping)]
    return "\n".join(lines)


def format_batch(batch: Mapping[str, Any]) -> str:
    """Write where a job was settled: `batch 3 in block 17, 0x…`."""
    return (
        f"batch {batch.get('seq', '?')} in block {batch.get('block', '?')}, {batch.get('tx', '?')}"
    )


def format_units(job: Mapping[str, Any]) -> str:
    """Write where the tasks stand: `14/24 ok, 3 running, 7 waiting`."""
    units = _read_units(job)
    parts = [f"{units['ok']}/{units['total']} ok"]
    parts += [f"{units[name]} {name}" for name in ("running", "waiting") if units[name]]
    if units["retries"]:
        parts.append(f"{units['retries']} tried again")
    return ", ".join(parts)


def format_money_line(job: Mapping[str, Any]) -> str:
    """Write where the money is, in one line."""
    money = job.get("money")
    if not isinstance(money, Mapping):
        return "?"
    names = ("locked", "payable", "checks", "fee", "spent", "returned")
    parts = [f"{name} {show_amount(money[name])}" for name in names if money.get(name) is not None]
    return f"{job.get('id', '')} {find_state(job)}: {' · '.join(parts)} USDC"


def format_row(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Write a job as a row of a list."""
    units = _read_units(job)
    money = job.get("money")
    money = money if isinstance(money, Mapping) else {}
    spent = f"{show_amount(money.get('spent', 0))}/{show_amount(money.get('locked', 0))}"
    return (
        str(job.get("id", "?"))[:_ID_SHOWN],
        str(job.get("name", "")),
        find_state(job),
        f"{units['ok']}/{units['total']}",
        spent,
        _format_next(job).removeprefix("   next: "),
    )


def format_progress(job: Mapping[str, Any]) -> str:
    """Write the one line that is rewritten while a job runs; money is part of it."""
    units = _read_units(job)
    providers = len({each.get("provider") for each in _read_placements(job)} - {None})
    money = job.get("money")
    money = money if isinstance(money, Mapping) else {}
    tried = units["retries"]
    return (
        f"{find_state(job):<9} {units['ok']}/{units['total']} tasks ok, "
        f"{tried} {'retry' if tried == 1 else 'retries'}, {units['failed']} failed   "
        f"{providers} provider{'s' * (providers != 1)}   "
        f"spent {show_amount(money.get('spent', 0))} of {show_money(money.get('locked', 0))}"
    )


def _format_next(job: Mapping[str, Any]) -> str:
    step = job.get("next")
    if not isinstance(step, Mapping) or not step.get("what"):
        return ""
    by = f" by {step['deadline']}" if step.get("deadline") else ""
    return f"   next: {step.get('actor', '?')} {step['what']}{by}"


def _read_units(job: Mapping[str, Any]) -> dict[str, int]:
    units = job.get("units")
    units = units if isinstance(units, Mapping) else {}

    def read(name: str) -> int:
        value = units.get(name, 0)
        return value if isinstance(value, int) else 0

    return {
        "total": read("total"),
        "ok": read("finished") + read("accepted"),
        "running": read("running"),
        "waiting": read("waiting"),
        "failed": read("failed"),
        "retries": read("retries"),
    }


def _read_placements(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    placements = job.get("placements")
    if not isinstance(placements, list):
        return []
    return [each for each in placements if isinstance(each, Mapping)]
