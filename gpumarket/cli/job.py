"""`gpumarket job …` on jobs that exist: list, describe, why, logs, events, get, wait, cancel."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import click

from gpumarket.cli.access import make_client, open_signer, with_connection
from gpumarket.cli.job_accept import accept
from gpumarket.cli.job_file import init, plan, validate
from gpumarket.cli.job_run import run
from gpumarket.cli.job_view import (
    describe_event,
    find_job_exit,
    format_event,
    format_job,
    format_money_line,
    format_row,
)
from gpumarket.cli.output import Console, Outcome, command, format_table, show_amount
from gpumarket.client.connection import Connection
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.statement import find_trusted_block, format_statement
from gpumarket.protocol.units import format_size, parse_duration

JOBS_SHOWN: Final = 50
_ROW_TITLES: Final = ("JOB", "NAME", "STATE", "DONE", "SPENT/MAX", "NEXT")


@click.group()
def job() -> None:
    """Jobs: validate, plan, run, watch, fetch."""


@command("job.list/1", name="list")
@click.option("--state", default="", help="Only jobs in this state.")
@click.option("--active", is_flag=True, help="Only jobs that have not ended.")
@click.option("--limit", type=click.IntRange(1, 1000), default=JOBS_SHOWN, show_default=True)
@with_connection
def list_jobs(
    console: Console, *, connection: Connection, state: str, active: bool, limit: int
) -> Outcome:
    """List jobs, newest first."""
    return _list(connection, state=state, is_active=active, limit=limit)


@command("job.list/1", name="ps")
@with_connection
def ps(console: Console, *, connection: Connection) -> Outcome:
    """List jobs that have not ended."""
    return _list(connection, state="", is_active=True, limit=JOBS_SHOWN)


def _list(connection: Connection, *, state: str, is_active: bool, limit: int) -> Outcome:
    from gpumarket.client.views import ENDED, find_state

    with make_client(connection) as client:
        jobs = client.list_jobs(state=state)
    if is_active:
        jobs = [each for each in jobs if find_state(each) not in ENDED]
    shown = jobs[:limit]
    text = format_table(_ROW_TITLES, [format_row(each) for each in shown]) if shown else "no jobs"
    if len(jobs) > limit:
        text += f"\nshown {limit} of {len(jobs)}"
    return Outcome(shown, text)


@command("job.describe/1", name="describe")
@click.argument("job_id", metavar="JOB")
@with_connection
def describe(console: Console, *, connection: Connection, job_id: str) -> Outcome:
    """Show all about a job: state, who acts next, where the money is, what happened."""
    with make_client(connection) as client:
        found = client.job(job_id)
        events = list(client.events(str(found.get("id", job_id))))
    lines = [format_job(found), "timeline (UTC)", *(f" {format_event(each)}" for each in events)]
    data = {**found, "events": [describe_event(each) for each in events]}
    return Outcome(data, "\n".join(lines))


@command("job.why/1", name="why")
@click.argument("job_id", metavar="JOB")
@with_connection
def why(console: Console, *, connection: Connection, job_id: str) -> Outcome:
    """Say why a job is where it is and what would help."""
    with make_client(connection) as client:
        reason = client.why(job_id)
    return Outcome(reason, _format_facts(reason))


@command("job.tasks/1", name="tasks")
@click.argument("job_id", metavar="JOB")
@click.option("--state", default="", help="Only tasks in this state.")
@with_connection
def tasks(console: Console, *, connection: Connection, job_id: str, state: str) -> Outcome:
    """List the tasks of a job with their attempts."""
    with make_client(connection) as client:
        rows = client.tasks(job_id)
    if state:
        rows = [row for row in rows if str(row.get("state", "")).lower() == state.lower()]
    text = format_table(
        ("TASK", "STATE", "TRIES", "PROVIDER", "PRICE", "NOTE"), [_format_task(row) for row in rows]
    )
    return Outcome(rows, text if rows else "no tasks")


@command("job.cost/1", name="cost")
@click.argument("job_id", metavar="JOB")
@with_connection
def cost(console: Console, *, connection: Connection, job_id: str) -> Outcome:
    """Show where a job's money is."""
    with make_client(connection) as client:
        found = client.job(job_id)
    return Outcome(found.get("money", {}), format_money_line(found))


@command("job.logs/1", name="logs")
@click.argument("job_id", metavar="JOB")
@click.option("--task", type=click.IntRange(0), help="Only this task.")
@click.option("--tail", type=click.IntRange(1), help="Only the last lines.")
@with_connection
def logs(
    console: Console,
    *,
    connection: Connection,
    job_id: str,
    task: int | None,
    tail: int | None,
) -> Outcome:
    """Print what a job's program printed."""
    with make_client(connection) as client:
        rows = client.logs(job_id, task=task)
    lines = [line for row in rows for line in _format_log(row)]
    return Outcome(rows, "\n".join(lines[-tail:] if tail else lines))


@command("job.events/1", name="events")
@click.argument("job_id", metavar="JOB")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--after", type=click.IntRange(0), default=0, help="Only events after this number.")
@with_connection
def events(
    console: Console, *, connection: Connection, job_id: str, follow: bool, after: int
) -> Outcome | None:
    """Print a job's history; with -f one line as it happens."""
    with make_client(connection) as client:
        found = client.events(job_id, after=after, follow=follow)
        if follow:
            for event in found:
                console.emit_line(describe_event(event), format_event(event))
            return None
        rows = list(found)
    return Outcome([describe_event(each) for each in rows], "\n".join(map(format_event, rows)))


@command("job.wait/1", name="wait")
@click.argument("job_ids", metavar="JOB...", nargs=-1, required=True)
@click.option("--timeout", help="Give up after this time, like 30m.")
@click.option(
    "--for", "until", type=click.Choice(["finished", "settled"]), default="settled",
    show_default=True, help="Results accepted, or money moved.",
)  # fmt: skip
@with_connection
def wait(
    console: Console,
    *,
    connection: Connection,
    job_ids: tuple[str, ...],
    timeout: str | None,
    until: Literal["finished", "settled"],
) -> Outcome:
    """Wait until jobs have ended; exit as the first one that did not go well."""
    seconds = None if timeout is None else float(parse_duration(timeout))
    with make_client(connection) as client:
        found = [client.wait(each, until=until, timeout=seconds) for each in job_ids]
    exits = [find_job_exit(each) for each in found]
    bad = [each for each in exits if each != 0]
    text = "\n".join(format_money_line(each) for each in found)
    return Outcome(found, text, exit=bad[0] if bad else exits[0], is_ok=not bad)


@command("job.get/1", name="get")
@click.argument("job_id", metavar="JOB")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--task", type=click.IntRange(0), help="Only this task.")
@click.option("--only-verified", is_flag=True, help="Only tasks that were done again and matched.")
@with_connection
def get(
    console: Console,
    *,
    connection: Connection,
    job_id: str,
    output: Path | None,
    task: int | None,
    only_verified: bool,
) -> Outcome:
    """Fetch results, every block checked; run it again to fetch only what is missing."""
    with make_client(connection) as client:
        full_id = str(client.job(job_id).get("id", job_id))
        folder = output or Path(full_id)
        done = client.download(full_id, folder, task=task, only_verified=only_verified)
    data = {
        "folder": str(done.folder),
        "fetched": [str(path) for path in done.fetched],
        "present": [str(path) for path in done.present],
        "skipped": list(done.skipped),
        "received_bytes": done.received_bytes,
    }
    text = f"{len(done.fetched)} tasks fetched into {folder} ({format_size(done.received_bytes)})"
    if done.present:
        text += f", {len(done.present)} were here"
    if done.skipped:
        text += f", {len(done.skipped)} not checked and left out"
    return Outcome(data, text)


@command("job.receipt/1", name="receipt")
@click.argument("job_id", metavar="JOB")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write the proof.")
@click.option("--compact", is_flag=True, help="Only what was sampled; the rest is bound by roots.")
@click.option("--anchored", is_flag=True, help="Fail where the chain's part cannot be proven.")
@click.option("--in-toto", is_flag=True, help="Write an in-toto statement beside the proof.")
@with_connection
def receipt(
    console: Console,
    *,
    connection: Connection,
    job_id: str,
    output: Path | None,
    compact: bool,
    anchored: bool,
    in_toto: bool,
) -> Outcome:
    """Save the proof of execution, which anybody can check without the coordinator."""
    with make_client(connection) as client:
        full_id = str(client.job(job_id).get("id", job_id))
        proof = client.receipt(full_id, compact=compact, anchored=anchored)
    path = output or Path(f"{full_id}.proof.cbor")
    path.write_bytes(proof)
    text = f"{path} ({format_size(len(proof))}); check it: gpumarket audit verify {path}"
    data: dict[str, Any] = {"path": str(path), "bytes": len(proof)}
    trusted = None
    with suppress(RemoteProtocolError):  # whoever checks it is told what it is instead
        trusted = find_trusted_block(proof)
    if trusted is not None:
        data |= {"block": trusted[0], "block_hash": format_hex(trusted[1])}
        text += (
            f"\nwithout a network: --trust-block with the hash of block {trusted[0]}, which is "
            f"{format_hex(trusted[1])} by the coordinator's word: compare it with one you trust"
        )
    if in_toto:
        statement = path.with_name(path.name + ".intoto.json")
        statement.write_text(format_statement(proof, path.name))
        data["statement"] = str(statement)
    return Outcome(data, text)


@command("job.cancel/1", name="cancel")
@click.argument("job_id", metavar="JOB")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_connection
def cancel(console: Console, *, connection: Connection, job_id: str, yes: bool) -> Outcome:
    """End a job; what was accepted until now is paid, the rest is free again."""
    with make_client(connection) as client:
        found = client.job(job_id)
        console.note(format_money_line(found))
        console.confirm(f"End {found.get('id', job_id)}?", is_yes=yes)
        signer = open_signer(console, connection, chain_id=client.market().domain.chain_id)
        ended = client.cancel(str(found.get("id", job_id)), signer)
    return Outcome(ended, format_money_line(ended))


def _format_log(row: Mapping[str, Any]) -> list[str]:
    failures = [line for tail in row.get("failure_tails") or () for line in str(tail).splitlines()]
    lines = [*failures, *(str(line) for line in row.get("last_lines") or ())]
    return [f"task {row.get('task', '?')}: {line}" for line in lines]


def _format_task(row: Mapping[str, Any]) -> tuple[object, ...]:
    failures = row.get("failures") or ()
    reason = failures[-1].get("reason") if failures else None
    note = f"last try: {reason.get('text', '')}" if isinstance(reason, Mapping) else ""
    price = row.get("price")
    return (
        row.get("task", row.get("unit", "?")),
        str(row.get("state", "?")).lower(),
        row.get("attempts", row.get("attempt", "")),
        str(row.get("provider") or "-"),
        show_amount(price) if price is not None else "-",
        note,
    )


def _format_facts(facts: Mapping[str, Any]) -> str:
    from gpumarket.cli.job_file import format_funnel

    lines = []
    for name, value in facts.items():
        if name == "funnel":
            value = format_funnel(value)
        elif isinstance(value, Mapping):
            value = "  ".join(f"{key} {inner}" for key, inner in value.items())
        elif isinstance(value, list):
            value = "; ".join(
                str(each.get("text", each) if isinstance(each, Mapping) else each) for each in value
            )
        if value not in ("", None):
            lines.append(f"{name:<8} {value}")
    return "\n".join(lines)


for _command in (
    *(init, validate, plan, run, list_jobs, describe, why, logs, events),
    *(get, wait, cancel, receipt, accept, cost, tasks),
):
    job.add_command(_command)
