"""
The entry point: finds the command, imports its module, turns its end into an exit code.

Start-up is part of the interface: `gpumarket --help` imports nothing but click. Roles add
their own groups through the entry-point group `gpumarket.commands`.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

if TYPE_CHECKING:
    from gpumarket.protocol.errors import GpuMarketError

ENTRY_POINTS: Final = "gpumarket.commands"
INTERRUPTED: Final = 130
REPORT_BYTES_MAX: Final = 64 * 1024


class _Place(NamedTuple):
    """Where a command lives and what one line says of it."""

    target: str
    help: str


COMMANDS: Final[dict[str, _Place]] = {
    "run": _Place("gpumarket.cli.job_run:run", "Plan, sign and run a job file."),
    "ps": _Place("gpumarket.cli.job:ps", "List jobs that have not ended."),
    "logs": _Place("gpumarket.cli.job:logs", "Print what a job's program printed."),
    "stop": _Place("gpumarket.cli.job:cancel", "Cancel a job."),
    "offers": _Place("gpumarket.cli.market:offers", "List what providers offer now."),
    "job": _Place("gpumarket.cli.job:job", "Jobs: validate, plan, run, watch, fetch."),
    "market": _Place("gpumarket.cli.market:market", "What is offered, by whom, who checks it."),
    "data": _Place("gpumarket.cli.data:data", "Content: add files, look at CIDs."),
    "wallet": _Place("gpumarket.cli.wallet:wallet", "Accounts, balances, escrow."),
    "audit": _Place("gpumarket.cli.audit:audit", "Check proofs without trusting anybody."),
    "devnet": _Place("gpumarket.cli.devnet:devnet", "A whole market on this machine, no money."),
    "doctor": _Place("gpumarket.cli.doctor:doctor", "Check this machine and configuration."),
    "explain": _Place("gpumarket.cli.reference:explain", "Explain an error code."),
    "schema": _Place("gpumarket.cli.reference:schema", "Print the JSON Schema of a file format."),
    "version": _Place("gpumarket.cli.reference:version", "Print versions."),
    "config": _Place("gpumarket.cli.settings:config", "Show settings and where they come from."),
    "completion": _Place("gpumarket.cli.reference:completion", "Print shell completion."),
}
ROLE_COMMANDS: Final = {
    "coordinator": "Run a coordinator, test its verifiers.",
    "provider": "Run a provider node.",
    "verifier": "Run a verifier.",
}
"""Groups that the roles bring; listed without looking, since looking takes 50 ms."""


class LazyGroup(click.Group):
    """A group whose commands are imported when called; its help needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order people need them."""
        return [*COMMANDS, *ROLE_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command, or return None for an unknown name."""
        place = COMMANDS.get(cmd_name)
        if place is not None:
            module, _, name = place.target.partition(":")
            found: click.Command = getattr(import_module(module), name)
            return found
        return _find_role_command(cmd_name) if cmd_name in ROLE_COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table."""
        rows = [(name, place.help) for name, place in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows + list(ROLE_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest for a typo."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            close = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            advice = f" Did you mean '{close[0]}'?" if close else ""
            ctx.fail(f"No such command '{args[0]}'.{advice}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def cli() -> None:
    """Buy and sell verified compute on an open market."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line; return its exit code. Never raises, but for a broken stdout."""
    try:
        code = cli.main(args=list(argv), prog_name="gpumarket", standalone_mode=False)
    except click.ClickException as error:
        return _fail_usage(error, argv)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away, as `| head` does; nothing more can be said to it.
        sys.stderr.close()
        return 0
    except Exception as error:
        # The last supervisor: whatever comes up here is a bug and becomes a report.
        return _fail(error, argv)
    return int(code or 0)


def _find_role_command(name: str) -> click.Command | None:
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=name):
        command = entry.load()
        if isinstance(command, click.Command):
            return command
    raise click.ClickException(
        f"the role '{name}' is not installed; pip install 'gpumarket[node]' brings it"
    )


def _fail_usage(error: click.ClickException, argv: Sequence[str]) -> int:
    from gpumarket.protocol.errors import InvalidInput

    context = getattr(error, "ctx", None)
    path = context.command_path if context else "gpumarket"
    message = error.format_message().rstrip(".")
    return _show(InvalidInput(message, hints=(f"{path} --help",)), argv)


def _fail(error: Exception, argv: Sequence[str]) -> int:
    from gpumarket.protocol.errors import GpuMarketError, LocalProtocolError

    if "-vv" in argv:
        traceback.print_exception(error)
    if isinstance(error, GpuMarketError):
        return _show(error, argv)
    report = _write_report(error)
    bug = LocalProtocolError(
        f"a bug of ours: {type(error).__name__}: {str(error)[:200]}",
        why=f"the trace is in {report}" if report else "the trace could not be saved",
        money="look at `gpumarket job list` to see what was sent",
    )
    return _show(bug, argv)


def _show(error: GpuMarketError, argv: Sequence[str]) -> int:
    from gpumarket.cli.output import ERROR_SCHEMA, Console

    return Console(ERROR_SCHEMA, is_json="--json" in argv, is_quiet=False).fail(error)


def _write_report(error: Exception) -> Path | None:
    # The trace only: no arguments, environment or values, which may hold secrets.
    import tempfile

    text = "".join(traceback.format_tb(error.__traceback__))[-REPORT_BYTES_MAX:]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="gpumarket-bug-", suffix=".txt", delete=False
        ) as file:
            file.write(f"{type(error).__name__}\n{text}")
            return Path(file.name)
    except OSError:
        return None


if __name__ == "__main__":
    main()
