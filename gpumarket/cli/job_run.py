"""`gpumarket job run`: plan, ask, sign, send, and watch with the money on one line."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gpumarket.cli.access import make_client, open_signer, with_connection
from gpumarket.cli.job_file import describe_plan, format_plan, parse_overrides
from gpumarket.cli.job_view import (
    find_job_exit,
    format_event,
    format_job,
    format_progress,
    is_important,
)
from gpumarket.cli.output import Console, Outcome, command, show_money
from gpumarket.client.connection import Connection
from gpumarket.client.views import ENDED, find_state
from gpumarket.protocol.catalog import Exit
from gpumarket.protocol.errors import GpuMarketError, InvalidInput
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.units import Timestamp, format_size, parse_duration, parse_money

if TYPE_CHECKING:
    from gpumarket.client import Client, Plan, Signer

REFRESH_SECONDS: Final = 0.5
"""How often the progress line asks for the job's state, at most."""
SILENT_SECONDS: Final = 60
"""Elsewhere than on a terminal a line comes at least this often."""
RESULTS_FOLDER: Final = "results"
PROOF_NAME: Final = "proof.cbor"


@command("job.run/1", name="run")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-f", "--follow", is_flag=True, help="Watch until it is settled, then fetch results.")
@click.option("-d", "--detach", is_flag=True, help="Return at once; the default.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for the results.")
@click.option("--set", "sets", multiple=True, metavar="PATH=VALUE", help="Replace a field.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="Set a variable of the job.")
@click.option("--max", "maximum", metavar="AMOUNT", help="Replace budget.max, like 5USDC.")
@click.option("--wait-for-capacity", metavar="TIME", help="Queue even if nobody fits now, like 2h.")
@click.option("--idempotency-key", default="", help="A repeat with this key sends nothing new.")
@click.option("--id-only", is_flag=True, help="Print the job's id and nothing else.")
@click.option("--dry-run", is_flag=True, help="Print what would be signed; send nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before signing.")
@with_connection
def run(
    console: Console,
    *,
    connection: Connection,
    file: Path,
    yes: bool,
    dry_run: bool,
    **options: Any,
) -> Outcome:
    """Plan, sign and run a job file."""
    if options["follow"] and options["detach"]:
        raise InvalidInput("--follow and --detach exclude each other", code="GM-1001")
    overrides = parse_overrides(options["sets"], options["env"])
    if options["maximum"]:
        overrides["budget.max"] = normalize_money(options["maximum"])
    wait_s = parse_duration(options["wait_for_capacity"]) if options["wait_for_capacity"] else 0
    with make_client(connection) as client:
        plan = client.plan(file, overrides=overrides)
        console.note(format_plan(plan))
        signer = open_signer(console, connection, chain_id=plan.market.domain.chain_id)
        if dry_run:
            return _show_order(plan, signer)
        question = f"Sign for up to {show_money(plan.exposure)} and submit?"
        console.confirm(question, is_yes=yes)
        job = client.submit(
            plan,
            signer,
            wait_for_capacity_s=wait_s,
            idempotency_key=options["idempotency_key"],
            on_progress=_Uploads(console).show,
        )
        job_id = str(job.get("id", "?"))
        address = format_hex(signer.address)
        console.note(f"{job_id}  signed by {address}, at most {show_money(plan.exposure)}")
        if options["follow"]:
            return Follower(console, client, job_id, options["output"]).follow()
    text = job_id if options["id_only"] else f"{job_id}\nnext: gpumarket job events {job_id} -f"
    return Outcome({**job, "plan": describe_plan(plan)}, text)


def normalize_money(text: str) -> str:
    """Read `5USDC` or `5 USDC` and write it as a job file does."""
    amount = text.strip().removesuffix("USDC").strip()
    written = f"{amount} USDC"
    parse_money(written)
    return written


class _Uploads:
    """Says what is being sent, once for each path and for each tenth of a gigabyte."""

    STEP_BYTES: Final = 10**8

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[Path, int] = {}

    def show(self, path: Path, sent: int) -> None:
        """Say how much of `path` has been sent."""
        step = sent // self.STEP_BYTES
        if self._shown.get(path) != step:
            self._shown[path] = step
            self._console.note(f"sending  {path.name}  {format_size(sent)}")


class Follower:
    """
    Watches one job to its end, then saves its results and its proof.

    On a terminal one line is rewritten; elsewhere a line comes for each change. Ctrl-C leaves;
    the job goes on.
    """

    def __init__(self, console: Console, client: Client, job_id: str, output: Path | None) -> None:
        self._console = console
        self._client = client
        self._job_id = job_id
        self._folder = output or Path(RESULTS_FOLDER) / job_id
        self._line = ""
        self._shown_at = 0.0

    def follow(self) -> Outcome:
        """Watch, save, and say how it ended."""
        try:
            for event in self._client.events(self._job_id, follow=True):
                if is_important(event):
                    self._print(format_event(event))
                self._refresh(is_forced=False)
            job = self._client.job(self._job_id)
            self._refresh(is_forced=True)
            self._clear()
            saved = self._save(job)
        except KeyboardInterrupt:
            self._clear()
            return self._detach()
        lines = [format_job(job), *(f"{name:<8} {path}" for name, path in saved.items())]
        code = find_job_exit(job)
        return Outcome({**job, "saved": saved}, "\n".join(lines), exit=code, is_ok=code == 0)

    def _refresh(self, *, is_forced: bool) -> None:
        now = time.monotonic()
        if not is_forced and now - self._shown_at < REFRESH_SECONDS:
            return
        line = format_progress(self._client.job(self._job_id))
        is_news = line != self._line or now - self._shown_at >= SILENT_SECONDS
        self._shown_at = now
        if not is_news:
            return
        self._line = line
        if self._console.is_live:
            click.echo(f"\r\x1b[2K{line}", err=True, nl=False)
        else:
            self._console.note(line)

    def _print(self, text: str) -> None:
        self._clear()
        self._console.note(f" {text}")
        if self._console.is_live and self._line:
            click.echo(self._line, err=True, nl=False)

    def _clear(self) -> None:
        if self._console.is_live and self._line:
            click.echo("\r\x1b[2K", err=True, nl=False)

    def _save(self, job: Mapping[str, Any]) -> dict[str, str]:
        if find_state(job) not in ENDED or not self._client.outputs(self._job_id):
            return {}
        done = self._client.download(self._job_id, self._folder)
        count = len(done.fetched) + len(done.present)
        saved = {"results": f"{self._folder}{'/' if count else ''}"}
        try:
            proof = self._client.receipt(self._job_id)
        except GpuMarketError as error:
            self._console.warn(f"no proof file: {error.message}")
            return saved
        path = self._folder / PROOF_NAME
        path.write_bytes(proof)
        return {**saved, "proof": str(path), "check": f"gpumarket audit verify {path}"}

    def _detach(self) -> Outcome:
        self._console.note("detached; the job keeps running.")
        self._console.note(f"    back: gpumarket job events {self._job_id} -f")
        self._console.note(f"    stop: gpumarket stop {self._job_id}")
        return Outcome({"id": self._job_id, "detached": True}, "", exit=Exit.INTERRUPTED)


def _show_order(plan: Plan, signer: Signer) -> Outcome:
    from gpumarket.client.ordering import make_order

    order = make_order(plan, requester=signer.address, now=Timestamp(int(time.time())))
    message = {
        name: format_hex(value) if isinstance(value, bytes) else value
        for name in order.__struct_fields__
        for value in (getattr(order, name),)
    }
    domain = {
        "name": "gpumarket",
        "version": "1",
        "chainId": plan.market.domain.chain_id,
        "verifyingContract": format_hex(plan.market.domain.contract),
    }
    data = {"domain": domain, "primaryType": "Order", "message": message}
    rows = [("domain", f"chain {domain['chainId']}, contract {domain['verifyingContract']}")]
    rows += [(name, str(value)) for name, value in message.items()]
    text = "\n".join(f"{name:<16} {value}" for name, value in rows)
    return Outcome(
        {"order": data, "plan": describe_plan(plan)}, f"{text}\nnothing was signed or sent"
    )
