"""`gpumarket devnet`: a whole market on this machine, with play money and its own chain."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumarket.cli.output import Console, Outcome, command, show_money
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.units import parse_money

if TYPE_CHECKING:
    from gpumarket.testing.devnet import Devnet


@click.group()
def devnet() -> None:
    """A whole market on this machine, no money."""


@command("devnet.up/1", name="up")
@click.option("--cheat", is_flag=True, help="Let the third provider forge half of its results.")
@click.option("--canary", is_flag=True, help="Let the third forge for us, to test the verifier.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it lives; .gpumarket here.")
@click.option(
    "--verifiers",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="From 3 on, a jury of them decides about a forged result.",
)
def up(
    console: Console, *, cheat: bool, canary: bool, verifiers: int, folder: Path | None
) -> Outcome:
    """Start a chain, a coordinator, three providers and a verifier, each its own process."""
    from gpumarket.testing.devnet import (
        PROVIDERS,
        PROVIDERS_WITH_CANARY,
        PROVIDERS_WITH_CHEAT,
        Devnet,
        list_verifiers,
    )

    network = Devnet((folder or Path(".gpumarket")).resolve())
    began = time.monotonic()
    reporter = _Reporter(console)
    if cheat and canary:
        raise InvalidInput("--cheat and --canary exclude each other", code="GM-1001")
    profiles = PROVIDERS_WITH_CHEAT if cheat else PROVIDERS
    profiles = PROVIDERS_WITH_CANARY if canary else profiles
    network.up(providers=profiles, verifiers=list_verifiers(verifiers), report=reporter.report)
    seconds = time.monotonic() - began
    state = network.state
    logs = _show_path(state["logs"])
    lines = [
        f"ready in {seconds:.0f} s. Coordinator {state['url']}, logs in {logs}",
        "next: gpumarket run examples/embeddings/job.yaml --follow",
    ]
    return Outcome(state, "\n".join(lines))


@command("devnet.down/1", name="down")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it lives.")
def down(console: Console, *, folder: Path | None) -> Outcome:
    """Stop everything that `devnet up` started, and nothing else."""
    network = _open(folder)
    names = [name for name, alive in network.list_processes().items() if alive]
    killed = network.down()
    if killed:
        console.warn(f"had to be killed: {', '.join(killed)}")
    stopped = ", ".join(names) or "nothing"
    text = f"stopped {stopped}; logs and data stay in {_show_path(network.folder)}"
    return Outcome({"stopped": names, "killed": killed, "folder": str(network.folder)}, text)


@command("devnet.status/1", name="status")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it lives.")
def status(_console: Console, *, folder: Path | None) -> Outcome:
    """Show which processes run."""
    network = _open(folder)
    processes = network.list_processes()
    lines = [f"{name:<12} {'running' if alive else 'ended'}" for name, alive in processes.items()]
    return Outcome({"processes": processes, "folder": str(network.folder)}, "\n".join(lines))


@command("devnet.faucet/1", name="faucet")
@click.argument("account", default="alice")
@click.option("--amount", default="100 USDC", help="How much play money.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it lives.")
def faucet(_console: Console, *, account: str, amount: str, folder: Path | None) -> Outcome:
    """Give an account play money."""
    import trio

    network = _open(folder)
    base_units = parse_money(amount)
    address = trio.run(network.give, account, base_units)
    shown = show_money(base_units)
    return Outcome({"account": account, "address": address}, f"{account} {address} got {shown}")


for _command in (up, down, status, faucet):
    devnet.add_command(_command)


def _show_path(path: Path | str) -> str:
    """Write a path as short as it can be typed from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else str(path)


def _open(folder: Path | None) -> Devnet:
    from gpumarket.testing.devnet import STATE_FOLDER, Devnet, find_devnet

    found = folder or find_devnet(Path.cwd()) or Path(STATE_FOLDER)
    return Devnet.open(found.resolve())


class _Reporter:
    """Prints each part as it becomes ready, with how long it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()

    def report(self, what: str, detail: str) -> None:
        """Print one line."""
        now = time.monotonic()
        self._console.note(f"  {what:<12} {detail}  ready {now - self._last:.1f} s")
        self._last = now
