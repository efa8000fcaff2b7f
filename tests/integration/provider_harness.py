"""A provider process for tests, and a coordinator in the test that says what the test wants."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import trio

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.adapters.keys import create_identity, write_password
from gpumarket.adapters.market_link import LinkIdentity, Member, MemberHall
from gpumarket.adapters.p2p import open_network
from gpumarket.protocol import messages
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.ids import Address, format_hex
from gpumarket.protocol.job import JobSpec, compute_verify_hash
from gpumarket.protocol.lease import LeaseOffer, compute_lease_id, make_assignment
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.signing import Domain, PrivateKey, Signable, Signed
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil
from gpumarket.testing.factories import (
    make_address,
    make_image,
    make_input,
    make_key,
    make_order,
    make_output,
    make_resources,
    make_secret,
    make_spec,
)
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
DAY = 86_400
MONEY = 10**12
PROVIDER = "provider-1"
PROVIDER_SECRET = b"p" * 32
SEED = b"coordinator seed of these tests!"

M = TypeVar("M")
S = TypeVar("S", bound=Signable)


@dataclass
class Desk:
    """What the coordinator of a test was told, in order."""

    content_peers: tuple[str, ...] = ()
    hellos: list[messages.ProviderHello] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    left: int = 0

    def make_welcome(self) -> messages.Welcome:
        return messages.Welcome(
            coordinator=make_address("coordinator"), content_peers=self.content_peers
        )

    async def handle_joined(self, member: Member) -> None:
        assert isinstance(member.hello, messages.ProviderHello)
        self.hellos.append(member.hello)

    async def handle_left(self, _member: Member) -> None:
        self.left += 1

    async def handle_message(self, _member: Member, message: messages.Message) -> None:
        self.heard.append(message)

    def get(self, kind: type[M], lease: LeaseOffer | None = None) -> list[M]:
        """All messages of a kind, of one lease if it is named."""
        return [
            message
            for message in self.heard
            if isinstance(message, kind)
            and (lease is None or getattr(message, "lease_id", None) == lease.lease_id)
        ]


@dataclass
class Office:
    """A coordinator with content and sessions, in the test's own process."""

    desk: Desk
    hall: MemberHall
    content: EmbeddedNode
    address: str
    domain: Domain
    rpc_url: str
    image: tuple[Path, str]
    archive: str = ""
    nonce: int = 0

    async def make_job(self, program: str, **changes: Any) -> JobSpec:
        """A job that runs a Python program given as text, with its program as an input."""
        if not self.archive:
            self.archive = await self.content.add_file(self.image[0])
        cid = await self.content.add_bytes(program.encode())
        values: dict[str, Any] = {
            "name": "test",
            "image": make_image(
                archive=self.archive,
                digest=f"sha256:{self.image[1]}",
                archive_bytes=self.image[0].stat().st_size,
            ),
            "command": ("python3", "/in/program.py"),
            "inputs": (
                make_input(name="program", cid=cid, path="/in/program.py", size_bytes=len(program)),
            ),
            "outputs": (make_output(path="/out", bytes_max=10**6),),
            "resources": make_resources(
                devices=DeviceNeed(count=0),
                cpus=1,
                memory_bytes=256 << 20,
                disk_bytes=10**6,
            ),
        }
        return make_spec(**(values | changes))

    def make_lease(self, job: JobSpec, unit: int = 0, **changes: Any) -> LeaseOffer:
        """A lease of one unit, in force now."""
        now = SystemClock().now()
        order = make_order(
            job,
            job_hash=job.compute_hash(),
            verify_hash=compute_verify_hash(job.verify),
            settle_by=now + 7_200,
            expiry=now + 14_400,
        )
        values: dict[str, Any] = {
            "lease_id": compute_lease_id(order.compute_struct_hash(), unit, 0),
            "provider": self.provider,
            "order": self.sign(order, "requester"),
            "job": job,
            "unit": unit,
            "attempt": 0,
            "price_per_device_hour": 450_000,
            "price_max": order.max_unit_price,
            "deadline": now + 600,
            "sources": self.desk.content_peers,
        }
        return LeaseOffer(**(values | changes))

    def sign(self, value: S, name: str) -> Signed[S]:
        return make_key(name).sign(value, self.domain).as_signed()

    @property
    def provider(self) -> Address:
        return make_provider_address()

    async def propose(self, lease: LeaseOffer) -> None:
        message = messages.LeaseProposed(
            lease=self.sign(lease, "coordinator"),
            assignment=self.sign(make_assignment(lease), "coordinator"),
        )
        assert await self.hall.send(self.provider, message)

    async def say(self, message: messages.Message) -> None:
        assert await self.hall.send(self.provider, message)

    async def await_message(self, kind: type[M], lease: LeaseOffer | None = None) -> M:
        await until(lambda: self.desk.get(kind, lease))
        return self.desk.get(kind, lease)[-1]


@dataclass
class Node:
    """One provider process after another on one data folder."""

    config: Path
    data_dir: Path
    process: subprocess.Popen[str] | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    """What starts the process, where it is not started directly."""

    async def start(self) -> None:
        line = await trio.to_thread.run_sync(self._spawn)
        if not line.startswith("ready "):
            raise AssertionError(f"the provider did not start:\n{self.read_log()[-3_000:]}")
        self.ready = json.loads(line.removeprefix("ready "))

    def read_log(self) -> str:
        return (self.data_dir / "stderr.log").read_text()

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE)
        self.close()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    async def read_page(self, path: str) -> str:
        def read() -> str:
            with urllib.request.urlopen(self.ready["url"] + path, timeout=PATIENCE) as answer:
                return str(answer.read().decode())

        return await trio.to_thread.run_sync(read)

    def close(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.stop()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _spawn(self) -> str:
        """Start the process and return its first line, which says that it is ready."""
        with open(self.data_dir / "stderr.log", "a") as log:
            self.process = subprocess.Popen(
                [*self.launcher, sys.executable, "-m", "provider_node", "--config", self.config],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def make_provider_address() -> Address:
    return PrivateKey(PROVIDER_SECRET).address


@asynccontextmanager
async def open_office(folder: Path, image: tuple[Path, str], rpc_url: str) -> AsyncIterator[Office]:
    """Open a coordinator for one test."""
    _, contract = await deploy_devnet(rpc_url, replace(QUICK_CONFIG, exit_delay=DAY))
    await put_up_money(rpc_url, contract)
    domain = Domain(chain_id=DEVNET_CHAIN_ID, contract=contract)
    async with (
        open_network(key_seed=SEED, listen_port=0) as network,
        open_node(network, folder / "coordinator", quota_bytes=10**9) as content,
    ):
        desk = Desk(content_peers=network.addresses)
        identity = LinkIdentity(make_key("coordinator"), domain, SystemClock())
        hall = MemberHall(network, identity, desk)
        yield Office(desk, hall, content, network.addresses[0], domain, rpc_url, image)


async def put_up_money(rpc_url: str, contract: Address) -> None:
    """Give the requester an escrow and the coordinator its bond: without them nobody works."""
    for name in ("requester", "coordinator"):
        await fund_devnet(rpc_url, make_address(name), 10**18)
        chain = Chain(rpc_url=rpc_url, contract=contract, secret=make_secret(name))
        await chain.mint_test_token(make_address(name), MONEY)
        await (chain.deposit(MONEY) if name == "requester" else chain.bond(MONEY))


def make_node(folder: Path, office: Office, *, extra: str = "", slots: int = 1) -> Node:
    """Write a provider's keys and configuration."""
    data_dir = folder / "node"
    password_file = folder / "password"
    write_password(password_file, "test")
    data_dir.mkdir(mode=0o700)
    shutil.copytree(find_keys(), data_dir / "keys")
    config = folder / "provider.toml"
    config.write_text(f"""
[role]
data_dir = "{data_dir}"
password_file = "{password_file}"
rpc_url = "{office.rpc_url}"
chain_id = {DEVNET_CHAIN_ID}
contract = "{format_hex(office.domain.contract)}"
coordinators = ["{office.address}"]

[provider]
price_per_device_hour = "0.45 USDC"
region = "SE"
slots = {slots}
{extra}
""")
    return Node(config, data_dir)


@cache
def find_keys() -> Path:
    """Make the provider's keys once: the key derivation takes seconds by design."""
    folder = Path(tempfile.mkdtemp(prefix="gpumarket-test-keys-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    create_identity(folder, password="test", secret=PROVIDER_SECRET)
    return folder / "keys"


async def until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    with trio.fail_after(seconds):
        while not condition():
            await trio.sleep(0.05)


def run_chain(folder: Path) -> Iterator[str]:
    with run_anvil(folder, block_seconds=None) as url:
        yield url


def list_containers(owner: str) -> list[str]:
    """Names of the containers of one provider, running or not."""
    label = f"label=gpumarket.owner={owner}"
    found = subprocess.run(
        ["docker", "ps", "-a", "--filter", label, "--format", "{{.Names}}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=dict(os.environ),
    )
    return found.stdout.split()
