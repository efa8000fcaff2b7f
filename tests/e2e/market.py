"""A whole market for tests, driven as a person does: by commands, job files and kills."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio
import yaml

from gpumarket.adapters.chain import Chain, ChainFact
from gpumarket.client import Client
from gpumarket.client.connection import find_connection
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import parse_address
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import decode_proof_untrusted
from gpumarket.testing.devnet import STATE_FOLDER, Devnet, ProviderProfile, VerifierProfile
from tests.job_image import IMAGE_FOLDER, ROOT
from tests.patience import PATIENCE

COMMAND = ROOT / ".venv/bin/gpumarket"
PROVIDERS = ("provider-1", "provider-2", "provider-3")
DETACHED = "ignore:subprocess .* is still running:ResourceWarning"
"""A role that `Devnet.restart` starts outlives the object that started it, on purpose."""

T = TypeVar("T")
Json = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    exit: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        """What `--json` gave."""
        return json.loads(self.stdout)["data"]

    @property
    def error(self) -> Json:
        """The error that `--json` gave."""
        errors: list[Json] = json.loads(self.stdout)["errors"]
        assert len(errors) == 1, self
        return errors[0]


@dataclass(frozen=True)
class Money:
    """What the chain says: the requester's escrow, and each role's credit, in base units."""

    escrow: int
    credits: dict[str, int]

    @property
    def total(self) -> int:
        """All of it."""
        return self.escrow + sum(self.credits.values())


class Market:
    """A devnet in a folder, its requester's commands, and what the chain says about it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image = ""
        self._devnet: Devnet | None = None
        self._client: Client | None = None

    @property
    def devnet(self) -> Devnet:
        """The running devnet."""
        assert self._devnet is not None
        return self._devnet

    @property
    def client(self) -> Client:
        """An SDK client of the requester."""
        assert self._client is not None
        return self._client

    # ---- its life ------------------------------------------------------------------------------

    def start(self, *flags: str) -> None:
        """Start the devnet by its command and send the job image to it once."""
        answer = self.run("devnet", "up", *flags)
        assert answer.exit == 0, answer.stderr
        self._attach()

    def start_with(
        self, providers: Sequence[ProviderProfile], verifiers: Sequence[VerifierProfile]
    ) -> None:
        """Start a devnet of members that its command does not know."""
        Devnet(self.folder / STATE_FOLDER).up(
            providers=tuple(providers), verifiers=tuple(verifiers)
        )
        self._attach()

    def _attach(self) -> None:
        self._devnet = Devnet.open(self.folder / STATE_FOLDER)
        connection = find_connection(env={}, folder=self.folder)
        self._client = Client(connection=connection)
        self._client.__enter__()
        self.image = str(self._client.add_content(IMAGE_FOLDER / "image.tar").cid)

    def stop(self) -> list[str]:
        """Stop everything; return what had to be killed."""
        if self._client is not None:
            self._client.__exit__(None, None, None)
            self._client = None
        if self._devnet is None:
            # A start that did not come to its end has processes too.
            with contextlib.suppress(InvalidInput):
                self._devnet = Devnet.open(self.folder / STATE_FOLDER)
        return self._devnet.down() if self._devnet is not None else []

    # ---- commands ------------------------------------------------------------------------------

    def run(self, *words: str | Path, env: dict[str, str] | None = None) -> Answer:
        """Run `gpumarket …` in the market's folder."""
        done = subprocess.run(
            [COMMAND, *words],
            cwd=self.folder,
            env=make_env(self.folder) | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=4 * PATIENCE,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def write_job(self, name: str, *, program: str = "", tasks: int = 3, **fields: Any) -> Path:
        """Write a job file of tiny tasks; `fields` replace top-level fields, None removes one."""
        job: Json = {
            "version": 1,
            "name": name,
            "image": f"ipfs://{self.image}",
            "image_digest": f"sha256:{read_image_digest()}",
            "command": ["python3", "-c", program or make_program()],
            "resources": {"gpu": {"count": 0}, "cpu": 1, "memory": "256MB", "disk": "100MB"},
            "outputs": [{"name": "results", "from": "/out", "max_size": "100KB"}],
            "split": {"by": "index", "items": tasks, "size": 1},
            "verify": {"mode": "sample", "forged": 0.5, "confidence": 0.9, "compare": "bytes"},
            "budget": {"max": "1.00 USDC"},
            "limits": {"queue": "2m", "run": "1m"},
        }
        job |= fields
        path = self.folder / f"{name}.yaml"
        kept = {key: value for key, value in job.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return path

    def submit(self, path: Path, *words: str) -> str:
        """Sign and send a job; return its id."""
        answer = self.run("run", path, "-y", "--id-only", *words)
        assert answer.exit == 0, answer.stderr
        return answer.stdout.strip()

    def refuse(self, path: Path, *words: str, env: dict[str, str] | None = None) -> Answer:
        """Try to run a job that must be refused; nothing of it may be known or charged."""
        money, jobs = self.read_money(), len(self.client.list_jobs())
        answer = self.run("run", path, "-y", "--json", *words, env=env)
        assert answer.exit != 0, answer.stdout
        assert self.read_money() == money
        assert len(self.client.list_jobs()) == jobs
        return answer

    # ---- jobs ----------------------------------------------------------------------------------

    def wait_job(self, job_id: str, *, until: str = "", seconds: float = PATIENCE) -> Json:
        """Wait until a job has ended, or is in a state."""
        ends = ("settled", "failed", "cancelled")

        def look() -> Json | None:
            with contextlib.suppress(ConnectionError):
                job = self.ask(f"/v1/jobs/{job_id}")
                if job["state"].lower() in ((until, *ends) if until else ends):
                    return job
            return None

        return wait_for(look, f"{job_id} to reach {until or 'its end'}", seconds)

    def wait_settled(self, job_id: str, *, seconds: float = PATIENCE) -> Json:
        """Wait until a job is settled; say where it stands if it is not."""
        try:
            job = self.wait_job(job_id, seconds=seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.describe(job_id)}") from None
        assert job["state"] == "settled", self.describe(job_id)
        return job

    def describe(self, job_id: str) -> str:
        """Everything the coordinator says of a job, for a test that failed."""
        job = self.ask(f"/v1/jobs/{job_id}")
        events = [f"{e['time']} {e['type']} {e['task']} {e['text']}" for e in self.events(job_id)]
        return json.dumps(job, indent=1) + "\n" + "\n".join(events)

    def events(self, job_id: str) -> list[Json]:
        """A job's history."""
        rows: list[Json] = self.ask(f"/v1/jobs/{job_id}/events")["data"]
        return rows

    def tasks(self, job_id: str) -> list[Json]:
        """A job's tasks."""
        rows: list[Json] = self.ask(f"/v1/jobs/{job_id}/tasks")["data"]
        return rows

    def wait_running(self, job_id: str, *, by: str = "") -> str:
        """Wait until a container runs for a job (of a role if named); return that role."""

        def look() -> str | None:
            names = [by] if by else list(PROVIDERS)
            return next((name for name in names if self.list_containers(name)), None)

        return wait_for(look, f"a task of {job_id} to run")

    def download(self, job_id: str) -> dict[int, str]:
        """Fetch the outputs by command; return the text of each task's result."""
        folder = self.folder / f"results-{job_id}"
        answer = self.run("job", "get", job_id, "-o", folder)
        assert answer.exit == 0, answer.stderr
        return {
            int(path.parent.name.removeprefix("task-")): path.read_text()
            for path in folder.glob("task-*/result.txt")
        }

    def read_proof(self, job_id: str) -> ProofOfExecution:
        """A job's proof, decoded."""
        data = self.client.receipt(job_id)
        return decode_proof_untrusted(data)

    def audit(self, job_id: str) -> Answer:
        """Check a job's proof against the chain, by command."""
        return self.run("audit", "verify", job_id, "--json")

    def ask(self, path: str, *, role: str = "coordinator") -> Json:
        """GET JSON of a role; `ConnectionError` while it is down."""
        answer: Json = json.loads(self.read_page(path, role=role))
        return answer

    def read_page(self, path: str, *, role: str = "coordinator") -> str:
        """GET a page of a role; `ConnectionError` while it is down."""
        port = self.read_setting(role, "http_port")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as page:
                data: bytes = page.read()
                return data.decode()
        except OSError as error:
            raise ConnectionError(f"{role}: {error}") from error

    def read_setting(self, role: str, key: str) -> str:
        """Read one value of a role's configuration."""
        lines = (self.devnet.folder / "config" / f"{role}.toml").read_text().splitlines()
        return next(line for line in lines if line.startswith(f"{key} = ")).partition(" = ")[2]

    # ---- what the chain and the engine say -----------------------------------------------------

    def address(self, role: str) -> str:
        """A role's account."""
        address: str = self.devnet.state["accounts"][role]["address"]
        return address

    def name_of(self, address: str) -> str:
        """The role behind an account."""
        accounts: dict[str, Json] = self.devnet.state["accounts"]
        return next(name for name, entry in accounts.items() if entry["address"] == address)

    @property
    def chain(self) -> Chain:
        """The chain, to read."""
        state = self.devnet.state
        return Chain(rpc_url=state["rpc_url"], contract=parse_address(state["contract"]))

    def read_money(self) -> Money:
        """Read the escrow and all credit, matured or not."""
        chain = self.chain

        async def read() -> Money:
            earned: dict[str, int] = {
                role: sum(await chain.read_credit(parse_address(self.address(role))), start=0)
                for role in ("coordinator", *PROVIDERS, "verifier")
            }
            return Money(await chain.read_escrow(parse_address(self.address("alice"))), earned)

        return trio.run(read)

    def read_facts(self, name: str) -> list[ChainFact]:
        """Read all events of one name."""
        return [fact for fact in trio.run(self.chain.read_facts, 0) if fact.name == name]

    def list_containers(self, *roles: str) -> list[str]:
        """List the containers of roles, of all roles of this market if none is named."""
        members = set(self.devnet.state["accounts"]) - {"alice", "coordinator"}
        names = roles or sorted(members)
        return list_containers([self.address(name).removeprefix("0x") for name in names])

    def check_paid_once(self, job: Json, before: Money) -> None:
        """Hold the chain to a settled job: one batch, every task once, all money accounted for."""
        after = self.read_money()
        spent = int(job["money"]["spent"]["base"])
        assert after.total == before.total
        assert before.escrow - after.escrow == spent
        proof = self.read_proof(job["id"])
        accepted = {
            unit["task"]: unit["provider"]
            for unit in self.tasks(job["id"])
            if unit["state"].lower() == "accepted"
        }
        assert len(accepted) == job["units"]["total"]
        (settlement,) = proof.settlements
        data_hash = compute_content_hash(settlement.batch)
        facts = self.read_facts("BatchPosted")
        assert [fact.args["dataHash"] for fact in facts].count(data_hash) == 1
        paid = {
            role: after.credits[role] - before.credits[role]
            for role in after.credits
            if after.credits[role] != before.credits[role]
        }
        workers = {self.name_of(address) for address in accepted.values()}
        assert set(paid) - {"verifier"} == workers, (paid, workers)
        assert sum(paid[role] for role in workers) == int(job["money"]["payable"]["base"])


def make_program(*, seconds: float = 0, then: str = "") -> str:
    """A task: wait, write `task N` to its result, and do what else a test wants."""
    return (
        "import os, sys, time\n"
        f"time.sleep({seconds})\n"
        "open('/out/result.txt', 'w').write('task ' + os.environ['GPUMARKET_TASK_INDEX'])\n"
        f"{then}\n"
    )


def expect_results(tasks: int) -> dict[int, str]:
    """What `make_program` leaves."""
    return {index: f"task {index}" for index in range(tasks)}


def read_image_digest() -> str:
    """The digest that a job signs."""
    digest: str = json.loads((IMAGE_FOLDER / "image.json").read_text())["config_digest"]
    return digest.removeprefix("sha256:")


def make_env(folder: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the person who runs the tests is found."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("GPUMARKET_")}
    home = {"XDG_CONFIG_HOME": str(folder / "home"), "XDG_DATA_HOME": str(folder / "home")}
    return kept | home | {"PATH": f"{COMMAND.parent}:{os.environ['PATH']}"} | more


def wait_for(look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Look again and again until there is something to see."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s for {what}")


def list_containers(owners: Sequence[str]) -> list[str]:
    """List containers of these owners, running or not."""
    done = subprocess.run(
        ["docker", "ps", "--all", "--format", '{{.ID}} {{.Label "gpumarket.owner"}}'],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    rows = [line.split(" ", 1) for line in done.stdout.splitlines()]
    return [row[0] for row in rows if row[-1] in owners]


def list_marked_processes(mark: str) -> dict[int, str]:
    """List the processes that have `mark` in their environment, by pid, with their command."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found[int(folder.name)] = command
    return found


def can_connect(port: int) -> bool:
    """Tell whether somebody listens on a loopback port."""
    import socket

    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def start_marked(
    words: Sequence[str | Path], *, mark: str, folder: Path
) -> Iterator[subprocess.Popen[str]]:
    """Start a command in a process group of its own; all that is marked is killed at the end."""
    process = subprocess.Popen(
        # A shell cannot trap a signal that its parent ignored, as a job in the background does.
        ["env", "--default-signal=INT", *words],
        env=make_env(folder, GPUMARKET_TEST_MARK=mark, PYTHONUNBUFFERED="1"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in list_marked_processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE)
        assert process.stdout is not None
        process.stdout.close()


def run_role(module: str, config: Path, **env: str) -> Answer:
    """Run a role's process until it ends by itself."""
    done = subprocess.run(
        [sys.executable, "-m", module, "--config", config],
        env=make_env(config.parent) | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def keep_logs(market: Market) -> None:
    """Leave the logs of a market whose test failed where a person looks for them."""
    if market._devnet is not None:
        target = ROOT / "build/e2e-logs" / market.folder.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(market.devnet.folder / "logs", target)
