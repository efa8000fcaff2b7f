"""`gpumarket provider`: run a node, and ask the running one where it stands."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from gpumarket.cli.output import (
    Console,
    Outcome,
    command,
    encode_amount,
    show_amount,
    show_money,
    show_time,
)
from gpumarket.config import ProviderConfig, RoleSettings, load_config
from gpumarket.protocol.errors import GpuMarketError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import format_hex, format_short, make_job_id, parse_address
from gpumarket.protocol.units import format_size
from provider_node.api import URL_FILE

ANSWER_SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 4 << 20
SECONDS_PER_HOUR: Final = 3600

_config = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    envvar="GPUMARKET_CONFIG",
    help="The node's TOML file.",
)


@click.group()
def provider() -> None:
    """Sell this machine's devices: run a node, look at it."""


@provider.command("run")
@_config
def run(config: Path) -> int:
    """Run a provider node until it is stopped."""
    from gpumarket.adapters.equipment import run_role
    from provider_node.service import serve

    settings = load_config(config, ProviderConfig)
    return run_role("provider", partial(serve, settings), log_level=settings.role.log_level)


@command("provider.status/1", name="status")
@_config
def status(_console: Console, *, config: Path) -> Outcome:
    """Show where the node stands: sessions, devices, running tasks, money."""
    data = read_page(config, "/v1/status")
    return Outcome(data=data, text="\n".join(format_status(data)))


@command("provider.why-idle/1", name="why-idle")
@_config
def why_idle(_console: Console, *, config: Path) -> Outcome:
    """Say why the node has no work, from what was proposed to it."""
    data = read_page(config, "/v1/why-idle")
    return Outcome(data=data, text="\n".join(format_idleness(data)))


@command("provider.report/1", name="report")
@click.option("--hourly", is_flag=True, help="A row for each hour, not for the day only.")
@click.option(
    "--date",
    "day",
    type=click.DateTime(formats=["%Y-%m-%d"]),
    help="A day of the last week, UTC; today unless given.",
)
@_config
def report(_console: Console, *, hourly: bool, day: datetime | None, config: Path) -> Outcome:
    """Show the minutes of a day by what each device did; those of every hour sum to 60."""
    from provider_node.report import HOURS_PAGE, format_report, make_report

    data = make_report(read_page(config, HOURS_PAGE), day.date() if day else None)
    return Outcome(data=data, text="\n".join(format_report(data, is_hourly=hourly)))


@command("provider.accept/1", name="accept")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_config
def accept(_console: Console, *, file: Path, config: Path) -> Outcome:
    """Keep a requester's acceptances of our work, from the file that it has written."""
    found = keep_file(load_config(config, ProviderConfig).role, file)
    text = (
        f"{found['kept']} acceptances kept, worth {show_money(found['amount'])}"
        f"; {found['known']} were here, {found['others']} are other providers'\n"
        f"what no batch has paid by {found['settle_by']} the running node settles itself"
    )
    return Outcome(data=found, text=text)


for _command in (status, why_idle, report, accept):
    provider.add_command(_command)


def read_page(config: Path, path: str) -> dict[str, Any]:
    """Ask the running node of a configuration; raise GM-8003 where none answers."""
    role = load_config(config, ProviderConfig).role
    url_file = Path(role.data_dir) / URL_FILE
    try:
        found = urlsplit(url_file.read_text().strip())
        connection = http.client.HTTPConnection(
            found.hostname or "", found.port, timeout=ANSWER_SECONDS_MAX
        )
        try:
            connection.request("GET", path)
            body = connection.getresponse().read(ANSWER_BYTES_MAX)
        finally:
            connection.close()
        answer: dict[str, Any] = json.loads(body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise GpuMarketError(
            "no provider node answers",
            code="GM-8003",
            why=f"{role.data_dir}: {error}",
            money="nothing was changed",
            hints=(f"gpumarket provider run --config {config}",),
        ) from error
    return answer


def keep_file(role: RoleSettings, path: Path) -> dict[str, Any]:
    """
    Put what is ours of a file of approvals where the node finds it; the node may run or not.

    Raises `InvalidInput` GM-1304 for a file that is none or none of this market, and where
    nothing of it is ours.
    """
    from gpumarket.adapters.approvals import ApprovalFolder
    from gpumarket.adapters.keys import find_keystore
    from gpumarket.client.wallet import read_account
    from gpumarket.protocol.approvals import APPROVALS_BYTES_MAX, decode_approvals_untrusted

    data_dir = Path(role.data_dir)
    me = read_account(find_keystore(data_dir)).address
    folder = ApprovalFolder(data_dir, domain=role.domain)
    try:
        with path.open("rb") as file:
            said = decode_approvals_untrusted(file.read(APPROVALS_BYTES_MAX + 1))
        ours = [each for each in said.approvals if each.receipt.signer == me]
        new = [each for each in ours if folder.keep(each, said.order)]
    except (OSError, RemoteProtocolError) as error:
        why = error.message if isinstance(error, RemoteProtocolError) else str(error)
        raise _refuse_file(path, why) from error
    if not ours:
        raise _refuse_file(path, f"none of its receipts is signed by {format_hex(me)}")
    return {
        "job": make_job_id(said.order.compute_struct_hash()),
        "provider": format_hex(me),
        "kept": len(new),
        "known": len(ours) - len(new),
        "others": len(said.approvals) - len(ours),
        "amount": encode_amount(sum(each.receipt.body.price for each in ours)),
        "settle_by": show_time(said.order.settle_by),
        "expiry": show_time(said.order.expiry),
    }


def _refuse_file(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"nothing of {path} can be kept", code="GM-1304", why=why, money="no money has moved"
    )


def format_status(data: Mapping[str, Any]) -> Iterator[str]:
    """Write the node's state for people, one line a thing."""
    short = format_short(parse_address(data["provider"]))
    slots, ready = data["slots"], "READY" if data["is_ready"] else "NOT READY"
    coordinators = len(data["coordinators"])
    yield (
        f"node   {short}   {ready}   {coordinators} coordinator{'s' * (coordinators != 1)}"
        f"   {slots['used']} of {slots['total']} slots in use"
    )
    for device in data["devices"]:
        yield _format_device(device)
    for lease in data["running"]:
        yield _format_task(lease)
    money = data["money"]
    yield (
        f"money  earned {show_money(money['earned'])} · in checking "
        f"{show_amount(money['in_checking'])} · unpaid {show_amount(money['unpaid'])}"
    )
    ended = {name: sum(faults.values()) for name, faults in data["outcomes"].items()}
    yield "tasks  " + (" · ".join(f"{name} {count}" for name, count in ended.items()) or "none yet")


def _format_device(device: Mapping[str, Any]) -> str:
    memory = f" {format_size(device['vram_bytes'])}" if device["vram_bytes"] else ""
    simulated = " (simulated)" if device["simulated"] else ""
    hours = " · ".join(
        f"{use} {seconds / SECONDS_PER_HOUR:.2f} h"
        for use, seconds in sorted(device["seconds"].items())
    )
    name = f"{device['model']}{memory}{simulated}"
    return f"dev {device['index']}  {name}   {device['use']}   {hours}"


def _format_task(lease: Mapping[str, Any]) -> str:
    progress = lease["progress"]
    share = f" {progress['done']}/{progress['total']}" if progress["total"] else ""
    task = f"task {lease['task'] + 1}/{lease['tasks']}"
    return f"work   {lease['job']} {task} ({lease['name']})   {lease['phase']}{share}"


def format_idleness(data: Mapping[str, Any]) -> Iterator[str]:
    """Write the funnel for people: what was seen, where each part of it ended."""
    yield f"In the last 24 h this node was proposed {data['seen']} tasks:"
    yield _format_step(data["seen"], "seen")
    for reason, count in data["declined"].items():
        yield _format_step(-count, DECLINED.get(reason, reason))
    yield _format_step(data["ran"], "taken")
    yield f"Now: {data['because']}"


def _format_step(count: int, text: str) -> str:
    return f"{count:>6}  {text}"


DECLINED: Final[dict[str, str]] = {
    "price": "asked a lower price than yours    provider.price_per_device_hour",
    "price_cap": "allowed less for a task than the lease did",
    "devices": "needed devices that you do not have",
    "devices_busy": "needed devices that were busy",
    "memory": "needed more memory than was free",
    "disk": "needed more disk than was free    provider.disk",
    "cpus": "needed more processor cores than were free",
    "slots": "came when every slot was in use    provider.slots",
    "isolation": "asked for another isolation    provider.isolation",
    "region": "asked for another country    provider.region",
    "excluded": "named other providers, or excluded you",
    "deadline": "came too late to be finished in time",
    "signature": "were not properly signed",
}
