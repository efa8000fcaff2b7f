"""
A whole market on this machine: a chain, a coordinator, providers and a verifier as processes.

Each role has its own keys, data folder and ports, and they find each other over libp2p on
loopback. Everything lives in one folder; `devnet.json` there says what runs and how to reach
it. Money here is play money and the keys are made for the day.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import ContractConfig, deploy_devnet, fund_devnet
from gpumarket.adapters.keys import (
    KEYSTORE_NAME,
    SCRYPT_N_DEVNET,
    Identity,
    create_identity,
    load_identity,
    read_keystore,
    write_password,
)
from gpumarket.protocol.errors import InvalidInput, Unrecoverable
from gpumarket.protocol.ids import Address, format_hex, format_short, parse_address
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.testing.anvil import find_free_port, start_anvil

STATE_FOLDER: Final = ".gpumarket"
STATE_NAME: Final = "devnet.json"
REQUESTER: Final = "alice"
PASSWORD: Final = "devnet"
"""Opens keys that hold play money only."""
READY_SECONDS_MAX: Final = 120.0
STOP_SECONDS_MAX: Final = 30.0
BLOCK_SECONDS: Final = 1
RULES: Final = ContractConfig(
    epoch=60,
    open=20,
    response=20,
    # Orders must end before escrow can leave; a job may take hours.
    exit_delay=86_400,
    seed_delay_blocks=4,
    nonce_timeout_blocks=60,
    min_bond=100_000_000,
    min_stake=10_000_000,
    challenge_bond=1_000_000,
    jury_bond=2_000_000,
    bond_slash=25_000_000,
    stake_slash=10_000_000,
)
GAS_WEI: Final = 10**19
REQUESTER_TOKENS: Final = 1_000_000_000
REQUESTER_ESCROW: Final = 100_000_000
OPERATOR_TOKENS: Final = 500_000_000
COORDINATOR_ESCROW: Final = 10 * RULES.jury_bond
"""What it puts up, and nearly always gets back, when a result goes before a jury."""

Report = Callable[[str, str], None]
"""Told (what, detail) as each part becomes ready."""


@dataclass(frozen=True, slots=True)
class ProviderProfile:
    """What one provider of the devnet sells."""

    name: str
    settings: str
    """The `[provider]` table in TOML."""
    is_canary: bool = False
    """Whether it is the coordinator's own, and forges what alice orders of it to test verifiers."""


@dataclass(frozen=True, slots=True)
class VerifierProfile:
    """One verifier of the devnet; its name begins with `verifier`."""

    name: str = "verifier"
    settings: str = ""
    """More of the `[verifier]` table in TOML."""


CPU_PROVIDER = ProviderProfile(
    "provider-1",
    'price_per_device_hour = "0.30 USDC"\nregion = "SE"\nslots = 1\n',
)
RTX_PROVIDER = ProviderProfile(
    "provider-2",
    'price_per_device_hour = "0.45 USDC"\nregion = "DE"\nslots = 1\n'
    'simulate = [{model = "RTX 4090", vram = "24GB"}]\n',
)
A100_PROVIDER = ProviderProfile(
    "provider-3",
    'price_per_device_hour = "0.60 USDC"\nregion = "FR"\nslots = 1\n'
    'simulate = [{model = "A100", vram = "80GB", compute_capability = [8, 0]}]\n',
)
IMPOSTOR = ProviderProfile(
    "provider-2",
    'price_per_device_hour = "0.45 USDC"\nregion = "DE"\nslots = 1\n'
    'simulate = [{model = "RTX 2060", vram = "6GB"}]\ncheat = {poses = true}\n',
)
"""Offers this machine's processor as a card, and does not say so."""
CHEATING_PROVIDER = ProviderProfile(
    A100_PROVIDER.name, A100_PROVIDER.settings + "cheat = {forge_share = 0.5}\n"
)
CANARY_PROVIDER = ProviderProfile(A100_PROVIDER.name, A100_PROVIDER.settings, is_canary=True)
PROVIDERS = (CPU_PROVIDER, RTX_PROVIDER, A100_PROVIDER)
PROVIDERS_WITH_CHEAT = (CPU_PROVIDER, RTX_PROVIDER, CHEATING_PROVIDER)
PROVIDERS_WITH_CANARY = (CPU_PROVIDER, RTX_PROVIDER, CANARY_PROVIDER)


def list_verifiers(count: int) -> tuple[VerifierProfile, ...]:
    """Return so many verifiers, all alike."""
    names = ("verifier", *(f"verifier-{number}" for number in range(2, count + 1)))
    return tuple(VerifierProfile(name) for name in names)


@dataclass(slots=True)
class Devnet:
    """One market's processes, started and stopped by name; its folder is its memory."""

    folder: Path
    state: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Devnet:
        """Return the devnet that lives in `folder`; GM-1401 where there is none."""
        path = folder / STATE_NAME
        if not path.is_file():
            raise InvalidInput(
                f"there is no devnet in {folder}",
                code="GM-1401",
                hints=("gpumarket devnet up",),
            )
        return cls(folder, json.loads(path.read_text()))

    # ---- starting --------------------------------------------------------------------------

    def up(
        self,
        *,
        providers: tuple[ProviderProfile, ...] = PROVIDERS,
        verifiers: tuple[VerifierProfile, ...] = (VerifierProfile(),),
        report: Report | None = None,
    ) -> None:
        """Start everything and return when the coordinator sees all of it."""
        if self._list_alive():
            raise InvalidInput(
                f"a devnet already runs in {self.folder}",
                code="GM-1402",
                hints=("gpumarket devnet down",),
            )
        tell = report or (lambda _what, _detail: None)
        for name in ("logs", "run", "config"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._start_chain(tell)
            roles = ["coordinator", *(p.name for p in providers), *(v.name for v in verifiers)]
            trio.run(self._prepare_money, roles, tell)
            self._start_coordinator(tell, [p.name for p in providers if p.is_canary])
            for profile in providers:
                canary = self._make_canary_setting() if profile.is_canary else ""
                self._start_member(profile.name, "provider_node", profile.settings + canary)
            for judge in verifiers:
                price = 'price_per_check = "0.0002 USDC"\n'
                self._start_member(judge.name, "verifier", price + judge.settings)
            for name in roles[1:]:
                ready = self._wait_ready(name)
                tell(name, f"{format_short(parse_address(ready['account']))}  {ready['summary']}")
            self._wait_members(len(providers), len(verifiers))
        except BaseException:
            self.down()
            raise

    def restart(self, name: str) -> None:
        """Start a stopped role again with the configuration it had; wait until it is ready."""
        entry = self.state["processes"][name]
        self._spawn(name, entry["command"])
        self._wait_ready(name)

    def _start_chain(self, tell: Report) -> None:
        port = find_free_port()
        process = start_anvil(port, self.folder / "logs" / "chain.log", block_seconds=BLOCK_SECONDS)
        self.state = {
            "rpc_url": f"http://127.0.0.1:{port}",
            "chain_id": DEVNET_CHAIN_ID,
            "logs": str(self.folder / "logs"),
            "accounts": {},
            "processes": {},
        }
        self._remember("chain", process.pid, [])
        tell("chain", f"anvil 127.0.0.1:{port}, chain {DEVNET_CHAIN_ID}, a block a second")

    async def _prepare_money(self, roles: list[str], tell: Report) -> None:
        rpc_url = self.state["rpc_url"]
        password_file = self.folder / "data" / "password"
        if not password_file.exists():
            write_password(password_file, PASSWORD)
        token, contract = await deploy_devnet(rpc_url, RULES)
        self.state |= {"token": format_hex(token), "contract": format_hex(contract)}
        tell("contracts", f"settlement {self.state['contract']}, play token deployed")
        async with trio.open_nursery() as nursery:
            for role in [REQUESTER, *roles]:
                # Named in order: the first account is the one that commands use.
                self.state["accounts"][role] = {}
                nursery.start_soon(self._fund, role, contract)
        self._save()
        alice = format_short(parse_address(self.state["accounts"][REQUESTER]["address"]))
        tell(
            "wallets",
            f"alice {alice} holds {REQUESTER_TOKENS // 10**6} USDC (play money), escrow 100",
        )

    async def _fund(self, role: str, contract: Address) -> None:
        identity = await trio.to_thread.run_sync(self._open_identity, role)
        rpc_url = self.state["rpc_url"]
        await fund_devnet(rpc_url, identity.address, GAS_WEI)
        chain = Chain(rpc_url=rpc_url, contract=contract, secret=identity.secret)
        if role == REQUESTER:
            await chain.mint_test_token(identity.address, REQUESTER_TOKENS)
            await chain.deposit(REQUESTER_ESCROW)
            return
        await chain.mint_test_token(identity.address, OPERATOR_TOKENS)
        if role == "coordinator":
            await chain.bond(RULES.min_bond)
            await chain.deposit(COORDINATOR_ESCROW)
        elif role.startswith("verifier"):
            await chain.stake_verifier(RULES.min_stake, identity.address, role)
        else:
            await chain.stake_provider(RULES.min_stake, identity.address, role)

    def _open_identity(self, role: str) -> Identity:
        data_dir = self._data_dir(role)
        password_file = self.folder / "data" / "password"
        if (data_dir / "keys").exists():
            identity = load_identity(data_dir, password=PASSWORD)
        else:
            identity = create_identity(data_dir, password=PASSWORD, scrypt_n=SCRYPT_N_DEVNET)
        self.state["accounts"][role] = {
            "address": format_hex(identity.address),
            "keystore": str(data_dir / "keys" / KEYSTORE_NAME),
            "password_file": str(password_file),
        }
        return identity

    def _data_dir(self, role: str) -> Path:
        # A job can read the host paths of its mounts: they must not tell who runs it.
        return self.folder / "data" / hashlib.sha256(role.encode()).hexdigest()[:8]

    def _list_addresses(self, names: list[str]) -> str:
        return json.dumps([self.state["accounts"][name]["address"] for name in names])

    def _make_canary_setting(self) -> str:
        return f"canary = {{requesters = {self._list_addresses([REQUESTER])}, share = 1.0}}\n"

    def _start_coordinator(self, tell: Report, canaries: list[str]) -> None:
        # One epoch for a whole small job, so that its sample means something.
        tables = "[coordinator]\nepoch_seconds_max = 300\nsettle_interval_seconds = 1\n"
        if canaries:
            tables += f"canary_providers = {self._list_addresses(canaries)}\n"
            tables += f"canary_requesters = {self._list_addresses([REQUESTER])}\n"
        path = self._write_config("coordinator", http_port=find_free_port(), tables=tables)
        self._spawn("coordinator", [sys.executable, "-m", "coordinator", "--config", str(path)])
        ready = self._wait_ready("coordinator")
        self.state |= {"url": ready["url"], "coordinator": ready["address"]}
        self._save()
        tell("coordinator", f"{format_short(parse_address(ready['account']))}  {ready['url']}")

    def _start_member(self, name: str, module: str, settings: str) -> None:
        section = "provider" if module == "provider_node" else module
        tables = f"[{section}]\n{settings}"
        path = self._write_config(name, http_port=find_free_port(), tables=tables)
        self._spawn(name, [sys.executable, "-m", module, "--config", str(path)])

    def _write_config(self, name: str, *, http_port: int, tables: str) -> Path:
        coordinators = [self.state["coordinator"]] if "coordinator" in self.state else []
        text = (
            "[role]\n"
            f"data_dir = {json.dumps(str(self._data_dir(name)))}\n"
            f"password_file = {json.dumps(str(self.folder / 'data' / 'password'))}\n"
            f"listen_port = {find_free_port()}\n"
            f"http_port = {http_port}\n"
            f"rpc_url = {json.dumps(self.state['rpc_url'])}\n"
            f"chain_id = {self.state['chain_id']}\n"
            f"contract = {json.dumps(self.state['contract'])}\n"
            f"coordinators = {json.dumps(coordinators)}\n"
        )
        path = self.folder / "config" / f"{name}.toml"
        path.write_text(f"{text}\n{tables}")
        return path

    def _spawn(self, name: str, command: list[str]) -> None:
        out, log = self.folder / "run" / f"{name}.out", self.folder / "logs" / f"{name}.log"
        out.unlink(missing_ok=True)
        with out.open("wb") as stdout, log.open("ab") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        self._remember(name, process.pid, command)

    def _wait_ready(self, name: str) -> dict[str, Any]:
        out, pid = self.folder / "run" / f"{name}.out", self.state["processes"][name]["pid"]
        deadline = time.monotonic() + READY_SECONDS_MAX
        while time.monotonic() < deadline:
            for line in out.read_text().splitlines():
                if line.startswith("ready "):
                    ready: dict[str, Any] = json.loads(line.removeprefix("ready "))
                    return ready
            if _find_start_time(pid) is None:
                break
            time.sleep(0.05)
        log = self.folder / "logs" / f"{name}.log"
        raise Unrecoverable(
            f"{name} did not become ready", why="\n".join(log.read_text().splitlines()[-8:])
        )

    def _wait_members(self, providers: int, verifiers: int = 1) -> None:
        deadline = time.monotonic() + READY_SECONDS_MAX
        seen: dict[str, Any] = {}
        while time.monotonic() < deadline:
            seen = self.ask("/v1/info").get("members", {})
            is_complete = (
                seen.get("providers", 0) >= providers and seen.get("verifiers", 0) >= verifiers
            )
            if is_complete and not self._list_being_challenged():
                return
            time.sleep(0.1)
        raise Unrecoverable(
            f"the coordinator sees only {seen} of {providers} providers and {verifiers} verifiers"
        )

    def _list_being_challenged(self) -> list[str]:
        offers = self.ask("/v1/offers")["data"]
        return [
            offer["provider"]
            for offer in offers
            if offer["hardware"] and offer["hardware"]["code"] == "GM-4050"
        ]

    def ask(self, path: str) -> dict[str, Any]:
        """GET a path of the coordinator's API as JSON."""
        # The URL is our own coordinator's, on loopback.
        with urllib.request.urlopen(self.state["url"] + path, timeout=10) as response:  # noqa: S310  own http URL
            answer: dict[str, Any] = json.load(response)
            return answer

    async def give(self, account: str, amount: int) -> str:
        """Mint play money to one of the devnet's accounts; return its address."""
        entry = self.state["accounts"].get(account)
        if entry is None:
            known = ", ".join(self.state["accounts"])
            raise InvalidInput(f"the devnet has no account {account!r}; it has {known}")
        secret = read_keystore(Path(entry["keystore"]), password=PASSWORD)
        chain = Chain(
            rpc_url=self.state["rpc_url"],
            contract=parse_address(self.state["contract"]),
            secret=secret,
        )
        await chain.mint_test_token(parse_address(entry["address"]), amount)
        address: str = entry["address"]
        return address

    # ---- stopping --------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """End one process at once, as a power cut would."""
        self._signal(name, signal.SIGKILL)
        self._wait_gone([name], STOP_SECONDS_MAX)

    def down(self) -> list[str]:
        """Stop everything this devnet started, and nothing else; return what had to be killed."""
        # Roles first, so that they can still clean up; the chain last.
        names = sorted(self._list_alive(), key=lambda name: name == "chain")
        for name in names:
            if name != "chain":
                self._signal(name, signal.SIGTERM)
        stubborn = self._wait_gone([n for n in names if n != "chain"], STOP_SECONDS_MAX)
        if "chain" in names:
            self._signal("chain", signal.SIGTERM)
            stubborn += self._wait_gone(["chain"], STOP_SECONDS_MAX)
        for name in stubborn:
            self._signal(name, signal.SIGKILL)
        self._wait_gone(stubborn, STOP_SECONDS_MAX)
        (self.folder / STATE_NAME).unlink(missing_ok=True)
        return stubborn

    def list_processes(self) -> dict[str, bool]:
        """Return each process by name and whether it runs."""
        alive = set(self._list_alive())
        return {name: name in alive for name in self.state.get("processes", {})}

    def _list_alive(self) -> list[str]:
        return [
            name
            for name, entry in self.state.get("processes", {}).items()
            if _find_start_time(entry["pid"]) == entry["started"]
        ]

    def _signal(self, name: str, number: int) -> None:
        entry = self.state["processes"][name]
        # A pid alone may meanwhile belong to somebody else; its start time tells.
        if _find_start_time(entry["pid"]) == entry["started"]:
            os.kill(entry["pid"], number)

    def _wait_gone(self, names: list[str], seconds: float) -> list[str]:
        deadline = time.monotonic() + seconds
        left = list(names)
        while left and time.monotonic() < deadline:
            alive = set(self._list_alive())
            left = [name for name in left if name in alive]
            if left:
                time.sleep(0.05)
        return left

    def _remember(self, name: str, pid: int, command: list[str]) -> None:
        started = _find_start_time(pid)
        self.state["processes"][name] = {"pid": pid, "started": started, "command": command}
        self._save()

    def _save(self) -> None:
        path = self.folder / STATE_NAME
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.state, indent=2) + "\n")
        temporary.replace(path)


def _find_start_time(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), or None where it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in parentheses may hold anything; fields are counted after it.
    fields = text.rpartition(")")[2].split()
    if fields[0] == "Z":
        _reap(pid)
        return None
    return int(fields[19])


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # somebody else's child: init takes care of it
        os.waitpid(pid, os.WNOHANG)


def find_devnet(start: Path) -> Path | None:
    """Return the nearest folder with a running devnet's state, from `start` upwards."""
    for folder in _walk_up(start):
        if (folder / STATE_FOLDER / STATE_NAME).is_file():
            return folder / STATE_FOLDER
    return None


def _walk_up(start: Path) -> Iterator[Path]:
    yield start
    yield from start.parents
