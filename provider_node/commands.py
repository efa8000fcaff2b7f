"""`gpumarket provider`: run a node, and ask the running one where it stands."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
import msgspec

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
from gpumarket.protocol.topology import find_nearness
from gpumarket.protocol.units import format_size
from provider_node.api import URL_FILE

ANSWER_SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 4 << 20
SECONDS_PER_HOUR: Final = 3600
PAIRS_SHOWN_MAX: Final = 12

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


@command("provider.bench/1", name="bench")
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="GPUMARKET_CONFIG",
    help="The node's TOML file: the node offers what was measured from its next start.",
)
@click.option(
    "--seconds",
    type=float,
    default=2.0,
    show_default=True,
    help="How long to measure memory, writing and reading; at most 60.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    show_default=True,
    help="Where the kernel's files are, as in a copy of another machine's.",
)
def bench(_console: Console, *, config: Path | None, seconds: float, root: Path) -> Outcome:
    """Show what this machine has to sell, and measure memory and disk."""
    data = measure_machine(config, seconds=seconds, root=root)
    return Outcome(data=data, text="\n".join(format_machine(data)))


for _command in (status, why_idle, report, accept, bench):
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


def measure_machine(config: Path | None, *, seconds: float, root: Path) -> dict[str, Any]:
    """Detect and measure; where there is a configuration, keep what was measured for its node."""
    from gpumarket.adapters.bandwidth import keep_measured, measure
    from gpumarket.adapters.clock import SystemClock
    from gpumarket.adapters.gpus import detect, measure_memory_bytes, read_processor
    from gpumarket.adapters.machine import inspect_machine, read_machine

    settings = None if config is None else load_config(config, ProviderConfig)
    folder = Path(settings.role.data_dir) if settings else Path.cwd()
    if settings:
        folder.mkdir(parents=True, exist_ok=True)
    processor = read_processor()
    found = detect(processor, root=root)
    measured = measure(folder, now=SystemClock().now(), seconds=seconds)
    if settings:
        keep_measured(folder, measured)
        machine = read_machine(settings.provider, folder, root=root)
    else:
        machine = msgspec.structs.replace(inspect_machine(root), measured=measured)
    return {
        "processor": msgspec.to_builtins(asdict(processor))
        | {"memory_bytes": measure_memory_bytes()},
        "devices": [
            msgspec.to_builtins(device) | {"now": asdict(reading)}
            for device, reading in zip(found.devices, found.readings, strict=True)
        ],
        "nearness": [
            [find_nearness(one, other) if one is not other else "" for other in found.devices]
            for one in found.devices
        ],
        "faults": [asdict(fault) for fault in found.faults],
        "machine": msgspec.to_builtins(machine),
        "region": settings.provider.region if settings else "",
        "folder": str(folder),
        "is_kept": settings is not None,
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


def format_machine(data: Mapping[str, Any]) -> Iterator[str]:
    """Write what a machine has to sell for people; what is not known is left out."""
    processor, machine = data["processor"], data["machine"]
    name = processor["model"] or processor["architecture"]
    yield f"host   {name}, {processor['cores']} cores, {format_size(processor['memory_bytes'])}"
    for index, device in enumerate(data["devices"]):
        yield from _format_found(index, device)
    yield from _format_nearness(data["nearness"])
    for fault in data["faults"]:
        yield f"FAULT  {fault['text']}   {fault['code']}"
        yield from (f"         fix   {each}" for each in fault["fix"])
    for port in machine.get("fabric", ()):
        gigabits = f"{port['megabits_per_second'] / 1000:g} Gb/s"
        yield f"net    {port['name']}  {port['kind']} {gigabits}{_format_numa(port)}"
    measured = machine["measured"]
    yield f"memory {format_size(measured['memory_copy'])}/s read and written by copies on all cores"
    yield (
        f"disk   {format_size(measured['disk_write'])}/s written, "
        f"{format_size(measured['disk_read'])}/s read, in {data['folder']}"
    )
    if data["region"]:
        yield f"place  {data['region']}, {machine.get('region_source') or 'no source given'}"
    if "carbon_grams_per_kwh" in machine:
        yield f"carbon {machine['carbon_grams_per_kwh']} g/kWh, {machine['carbon_source']}"
    yield (
        "kept: the node offers this from its next start"
        if data["is_kept"]
        else "nothing was kept; with --config the node offers what was measured"
    )


def _format_found(index: int, device: Mapping[str, Any]) -> Iterator[str]:
    facts, now = device.get("facts", {}), device["now"]
    memory = f" {format_size(device['vram_bytes'])}" if device["vram_bytes"] else ""
    yield f"dev {index}  {device['vendor']} {device['model']}{memory}"
    major, minor = device["compute_capability"]
    cuda = ".".join(map(str, device["cuda"]))
    software = [
        facts.get("architecture", ""),
        f"compute {major}.{minor}" if major else "",
        f"driver {device['driver']}" if device["driver"] else "",
        f"CUDA {cuda}" if cuda != "0.0" else "",
        facts.get("runtime", ""),
    ]
    hardware = [
        f"{facts['power_watts_max']} W" if facts.get("power_watts_max") else "",
        f"{facts['clock_mhz_max']} MHz" if facts.get("clock_mhz_max") else "",
        f"PCIe {facts['pcie_generation']} x{facts.get('pcie_width', 0)}"
        if facts.get("pcie_generation")
        else "",
        f"ECC {facts['ecc']}" if facts.get("ecc") else "",
        f"{facts['links']} {facts['link_kind']} links" if facts.get("links") else "",
        _format_numa(facts).strip(" ,"),
    ]
    state = [
        f"now {now['temperature_celsius']} C" if now["temperature_celsius"] is not None else "",
        f"{now['power_watts']} W" if now["power_watts"] is not None else "",
        f"slowed by {', '.join(now['slowed_by'])}" if now["slowed_by"] else "",
    ]
    for words in (software, hardware, state):
        if any(words):
            yield "         " + " · ".join(word for word in words if word)


def _format_numa(facts: Mapping[str, Any]) -> str:
    return f", memory node {facts['numa_node']}" if "numa_node" in facts else ""


def _format_nearness(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Write each kind of way between devices once, with the pairs that have it."""
    pairs: dict[str, list[str]] = {}
    for one, row in enumerate(rows):
        for other in range(one + 1, len(row)):
            pairs.setdefault(row[other], []).append(f"{one}-{other}")
    for kind, found in pairs.items():
        shown = " ".join(found[:PAIRS_SHOWN_MAX])
        rest = len(found) - PAIRS_SHOWN_MAX
        yield f"near   {kind}: {shown}" + (f" and {rest} more" if rest > 0 else "")


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
    "vendor": "needed devices of another vendor",
    "compute_capability": "needed newer devices",
    "cuda": "needed a newer driver",
    "architecture": "were built for another processor",
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
