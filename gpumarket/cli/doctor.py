"""
`gpumarket doctor`: what stands between this machine and work, with the fix beside it.

A check that could not be done is its own mark, `?`: not knowing is not failing.
"""

from __future__ import annotations

import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import click

from gpumarket.cli.access import make_client, with_connection
from gpumarket.cli.output import Console, Outcome, command
from gpumarket.client.connection import Connection
from gpumarket.protocol.catalog import Exit, find_entry
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.units import format_size

Mark = Literal["ok", "warn", "BLOCK", "?"]
DISK_BYTES_MIN: Final = 5 * 10**9
CLOCK_SECONDS_MAX: Final = 30
DOCKER_SECONDS: Final = 10
PYTHON_MIN: Final = (3, 11)
ROLES: Final = ("requester", "provider", "verifier", "coordinator", "auditor")
_COUNTED: Final = (("warn", "warnings"), ("?", "not checked"), ("ok", "ok"))
NEEDS_DOCKER: Final = frozenset({"provider", "verifier"})


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    group: str
    mark: Mark
    text: str
    code: str = ""
    why: str = ""
    fix: tuple[str, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Write the finding for machines."""
        return {name: getattr(self, name) for name in self.__slots__}


@command("doctor/1", name="doctor")
@click.option("--role", type=click.Choice(ROLES), default="requester", show_default=True)
@with_connection
def doctor(console: Console, *, connection: Connection, role: str) -> Outcome:
    """Check this machine and this configuration; exits 12 where something blocks."""
    findings = [finding for check in list_checks(role) for finding in check(connection)]
    blocks = sum(each.mark == "BLOCK" for each in findings)
    counts = {mark: sum(each.mark == mark for each in findings) for mark, _ in _COUNTED}
    lines = _format_findings(findings)
    rest = ", ".join(f"{counts[mark]} {word}" for mark, word in _COUNTED)
    lines.append(f"{blocks} blocking, {rest}")
    return Outcome(
        {"role": role, "findings": [each.describe() for each in findings]},
        "\n".join(lines),
        exit=Exit.DOCTOR_BLOCKS if blocks else Exit.DONE,
        is_ok=not blocks,
    )


Check = Callable[[Connection], Iterator[Finding]]


def list_checks(role: str) -> list[Check]:
    """Return the checks that matter to a role, in the order they are printed."""
    checks: list[Check] = [check_python, check_disk]
    if role == "provider":
        checks.append(check_devices)
    if role in NEEDS_DOCKER:
        checks.append(check_docker)
    if role != "coordinator":
        checks.append(check_coordinator)
    return [*checks, check_chain, check_keystore]


def check_python(connection: Connection) -> Iterator[Finding]:
    """Check the interpreter's version."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        yield Finding("machine", "BLOCK", f"Python {found}, 3.11 or newer is needed", "GM-2001")
    else:
        yield Finding("machine", "ok", f"Python {found}")


def check_disk(connection: Connection) -> Iterator[Finding]:
    """Check the space where results and content go."""
    free = shutil.disk_usage(connection.folder).free
    mark: Mark = "ok" if free >= DISK_BYTES_MIN else "warn"
    code = "" if mark == "ok" else "GM-2201"
    yield Finding("machine", mark, f"disk of {connection.folder}: {format_size(free)} free", code)


def check_devices(connection: Connection) -> Iterator[Finding]:
    """Check that the devices that are there can be sold, and run as fast as they should."""
    try:
        from gpumarket.adapters.gpus import detect
    except ImportError:
        return  # what is missing is said beside the engine
    found = detect()
    for index, (device, now) in enumerate(zip(found.devices, found.readings, strict=True)):
        memory = f" {format_size(device.vram_bytes)}" if device.vram_bytes else ""
        driver = f", driver {device.driver}" if device.driver else ""
        heat = "" if now.temperature_celsius is None else f", {now.temperature_celsius} C"
        text = f"device {index}: {device.vendor} {device.model}{memory}{driver}{heat}"
        if now.slowed_by:
            why = f"its clocks are held down by {', '.join(now.slowed_by)}"
            yield Finding("machine", "warn", text, "GM-2144", why)
        else:
            yield Finding("machine", "ok", text)
    for fault in found.faults:
        yield Finding("machine", "warn", fault.text, fault.code, fix=fault.fix)


def check_docker(connection: Connection) -> Iterator[Finding]:
    """Check that an engine answers and enforces the limits that tasks run under."""
    import tempfile

    try:
        import trio

        from gpumarket.adapters.sandbox import DockerSandbox
    except ImportError as error:
        why = f"{error.name} is not installed"
        fix = ("pip install 'gpumarket[node]'",)
        yield Finding("containers", "BLOCK", "the node's packages are missing", "GM-2001", why, fix)
        return

    async def probe(folder: Path) -> Any:
        sandbox = DockerSandbox(owner="doctor", folder=folder)
        try:
            with trio.fail_after(DOCKER_SECONDS):
                return await sandbox.probe()
        finally:
            sandbox.close()

    with tempfile.TemporaryDirectory(prefix="gpumarket-doctor-") as folder:
        try:
            facts = trio.run(probe, Path(folder))
        except GpuMarketError as error:
            yield _from_error("containers", error)
            return
        except trio.TooSlowError:
            yield Finding(
                "containers", "?", f"no answer from Docker in {DOCKER_SECONDS} s", "GM-2101"
            )
            return
    text = f"Docker {facts.engine_version}, cgroup v{facts.cgroup_version}, limits are enforced"
    yield Finding("containers", "ok", text)


def check_coordinator(connection: Connection) -> Iterator[Finding]:
    """Check that the coordinator answers, settles where we think, and has our time."""
    origin = connection.settings["url"].origin
    try:
        with make_client(connection) as client:
            info = client.info()
            now = time.time()
            market = client.market()
    except GpuMarketError as error:
        yield _from_error("market", error)
        return
    text = f"coordinator {connection.url} ({origin}), version {market.version or '?'}"
    yield Finding("market", "ok", text)
    yield _check_clock(info.get("time"), now)


def _check_clock(told: object, now: float) -> Finding:
    try:
        is_unix = isinstance(told, int | float)
        theirs = float(str(told)) if is_unix else datetime.fromisoformat(str(told)).timestamp()
    except ValueError:
        return Finding("market", "?", "the coordinator does not say its time")
    offset = abs(now - theirs)
    if offset > CLOCK_SECONDS_MAX:
        fix = ("sudo timedatectl set-ntp true",)
        return Finding(
            "market", "BLOCK", f"the clocks are {offset:.0f} s apart", "GM-2202", "", fix
        )
    return Finding("market", "ok", f"the clocks are {offset:.0f} s apart")


def check_chain(connection: Connection) -> Iterator[Finding]:
    """Check that the RPC answers and is the chain that was configured."""
    rpc_url = connection.find("rpc_url")
    if not rpc_url:
        why = "needed for wallet commands and audits"
        yield Finding("chain and money", "?", "no rpc_url is set", "GM-1302", why)
        return
    try:
        chain_id = _ask_chain_id(rpc_url)
    except GpuMarketError as error:
        yield _from_error("chain and money", error)
        return
    if connection.chain_id not in (None, chain_id):
        text = f"the RPC is chain {chain_id}, configured is {connection.chain_id}"
        fix = ("gpumarket config show --origin",)
        yield Finding("chain and money", "BLOCK", text, "GM-3020", "", fix)
        return
    yield Finding("chain and money", "ok", f"RPC {rpc_url}, chain {chain_id}")


def check_keystore(connection: Connection) -> Iterator[Finding]:
    """Check that there is an account and that others cannot read its key."""
    from gpumarket.client.wallet import list_accounts

    try:
        accounts = list_accounts(connection)
    except GpuMarketError as error:
        yield _from_error("chain and money", error)
        return
    if not accounts:
        fix = ("gpumarket wallet new",)
        yield Finding("chain and money", "warn", "no account yet", "GM-3101", "", fix)
    for account in accounts:
        mode = account.path.stat().st_mode if account.path.exists() else 0
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            text = f"{account.path} can be read by others"
            fix = (f"chmod 600 {account.path}",)
            yield Finding("chain and money", "BLOCK", text, "GM-3102", "", fix)
        else:
            suffix = " (TEST KEY)" if account.is_test_key else ""
            text = f"account {account.name} 0x{account.address.hex()}{suffix}"
            yield Finding("chain and money", "ok", text)


def _ask_chain_id(rpc_url: str) -> int:
    # One plain JSON-RPC question; the chain adapter would need the node's packages.
    import asyncio

    from gpumarket.client.transport import CoordinatorUnreachable, Transport
    from gpumarket.protocol.errors import ChainError

    async def ask() -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []}
        async with Transport(rpc_url) as transport:
            return await transport.post("", body)

    try:
        return int(asyncio.run(ask())["result"], 16)
    except CoordinatorUnreachable as error:
        raise ChainError(f"no contact with the chain at {rpc_url}", why=error.why) from error
    except (GpuMarketError, KeyError, TypeError, ValueError) as error:
        raise ChainError(f"{rpc_url} does not answer as a chain", why=str(error)[:200]) from error


def _from_error(group: str, error: GpuMarketError) -> Finding:
    entry = find_entry(error.code)
    fix = error.hints or (entry.remedies if entry else ())
    return Finding(group, "BLOCK", error.message, error.code, error.why, tuple(fix))


def _format_findings(findings: list[Finding]) -> list[str]:
    lines = []
    group = ""
    for each in findings:
        if each.group != group:
            group = each.group
            lines.append(group)
        lines.append(f"  {each.mark:<6} {each.text}" + (f"   {each.code}" if each.code else ""))
        if each.why:
            lines.append(f"           why   {each.why}")
        for index, step in enumerate(each.fix):
            lines.append(f"           {'fix' if index == 0 else '   '}   {step}")
    return lines
