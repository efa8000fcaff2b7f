"""`gpumarket coordinator`: run one, and order what tests its verifiers."""

from __future__ import annotations

import secrets
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from gpumarket.cli.access import make_client, open_signer, with_connection
from gpumarket.cli.output import Console, Outcome, command, show_money
from gpumarket.client.connection import Connection
from gpumarket.config import CoordinatorConfig, load_config
from gpumarket.protocol.errors import GpuMarketError

if TYPE_CHECKING:
    from gpumarket.client import Client

PAUSE_SECONDS: Final = 600
_Files = tuple[Path, ...]


@click.group()
def coordinator() -> None:
    """The coordinator on this machine."""


@coordinator.command("run")
@click.option("--config", type=click.Path(path_type=Path), required=True, help="A TOML file.")
def run(config: Path) -> int:
    """Run the coordinator until it is stopped."""
    from coordinator.service import serve
    from gpumarket.adapters.equipment import run_role

    settings = load_config(config, CoordinatorConfig)
    return run_role("coordinator", partial(serve, settings), log_level=settings.role.log_level)


@command("coordinator.canaries/1", name="canaries")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--once", is_flag=True, help="Order one if it is due, and end.")
@click.option(
    "--pause",
    type=click.IntRange(min=1),
    default=PAUSE_SECONDS,
    show_default=True,
    help="Seconds between two looks, on the average.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before signing.")
@with_connection
def canaries(
    console: Console, *, connection: Connection, files: _Files, once: bool, pause: int, yes: bool
) -> Outcome:
    """
    Order jobs in which our own provider forges results, as often as the rate asks for.

    Each file is a job like those of others that names our provider; one is drawn at a time.
    """
    with make_client(connection) as client:
        while True:
            found = order_canary(console, client, connection, files=files, is_yes=yes)
            if once:
                return found
            # When the next one comes must not follow from what everybody can count.
            time.sleep(pause * (secrets.randbelow(2_000) + 1) / 1_000)


def order_canary(
    console: Console, client: Client, connection: Connection, *, files: _Files, is_yes: bool
) -> Outcome:
    """Order one of the jobs if a canary is due, and wait until it is settled."""
    page: dict[str, Any] = client.canaries()
    counts = {name: page.get(name) for name in ("checks", "canaries", "rate_ppm")}
    said = f"{counts['canaries']} of {counts['checks']} checks were of canaries"
    if not page.get("is_due"):
        return Outcome({**counts, "job": None}, f"none is due: {said}")
    plan = client.plan(secrets.choice(files))
    signer = open_signer(console, connection, chain_id=plan.market.domain.chain_id)
    console.confirm(f"Sign for up to {show_money(plan.exposure)} and submit?", is_yes=is_yes)
    job_id = str(client.submit(plan, signer).get("id", "?"))
    console.note(f"{job_id}: {said}")
    try:
        state = str(client.wait(job_id).get("state", "?"))
    except GpuMarketError as error:
        state = error.message
    return Outcome({**counts, "job": job_id, "state": state}, f"{job_id} {state}")


coordinator.add_command(canaries)
