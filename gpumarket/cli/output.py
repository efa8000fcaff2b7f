"""
What a command prints: the result on stdout, everything else on stderr, one envelope for --json.

A command returns an `Outcome`; nothing else decides its exit code.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from gpumarket.protocol.catalog import Exit, find_entry, find_exit, find_fault
from gpumarket.protocol.errors import GpuMarketError, InvalidInput
from gpumarket.protocol.units import TOKEN_DECIMALS, TOKEN_SYMBOL, format_amount

SCHEMA_PREFIX: Final = "gpumarket."
ERROR_SCHEMA: Final = "error/1"
_LABEL_WIDTH: Final = 7
_DECIMALS_SHOWN_MIN: Final = 2


@dataclass(frozen=True, slots=True)
class Outcome:
    """A command's result: `data` for machines, `text` for people, and how to exit."""

    data: Any
    text: str
    exit: Exit = Exit.DONE
    warnings: tuple[str, ...] = ()
    is_ok: bool = True


class Console:
    """Where one command prints; made by `command` from the options every command has."""

    def __init__(self, schema: str, *, is_json: bool, is_quiet: bool, verbosity: int = 0) -> None:
        self.schema = SCHEMA_PREFIX + schema
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.verbosity = verbosity

    @property
    def is_live(self) -> bool:
        """Whether stderr is a terminal on which a line can be rewritten."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not self.is_quiet

    def note(self, text: str) -> None:
        """Tell the person something beside the result."""
        if not self.is_quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Tell the person something that should not be overlooked."""
        click.echo(f"warning: {text}", err=True)

    def emit(self, outcome: Outcome) -> None:
        """Print a command's result."""
        if self.is_json:
            click.echo(
                encode_envelope(
                    self.schema, outcome.data, ok=outcome.is_ok, warnings=outcome.warnings
                )
            )
            return
        for warning in outcome.warnings:
            self.warn(warning)
        if outcome.text:
            click.echo(outcome.text)

    def emit_line(self, data: Mapping[str, Any], text: str) -> None:
        """Print one line of a stream: JSON Lines with a schema each, or text."""
        if self.is_json:
            click.echo(_dump({"schema": self.schema, **data}))
        else:
            click.echo(text)

    def fail(self, error: GpuMarketError) -> Exit:
        """Print an error in the form of its kind and return how to exit."""
        if self.is_json:
            click.echo(encode_envelope(self.schema, None, ok=False, errors=[describe_error(error)]))
            click.echo(f"error[{error.code}]: {error.message}", err=True)
        else:
            click.echo(format_error(error), err=True)
        return find_exit(error)

    def confirm(self, question: str, *, is_yes: bool) -> None:
        """
        Ask before money moves or something is lost; the answer is never yes by default.

        Raises `InvalidInput` GM-1003 where nobody can be asked, GM-1004 where the answer is no.
        """
        if is_yes:
            return
        if self.is_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise InvalidInput(
                "an answer is needed, but nobody can be asked",
                code="GM-1003",
                why=question,
                money="nothing was locked or spent",
                hints=(suggest_yes(),),
            )
        if not click.confirm(question, default=False, err=True):
            raise InvalidInput(
                "the answer was no", code="GM-1004", money="nothing was locked or spent"
            )


def command(
    schema: str, **settings: Any
) -> Callable[[Callable[..., Outcome | None]], click.Command]:
    """
    Make a click command out of a function `f(console, …) -> Outcome`.

    Adds `--json`, `--quiet` and `--verbose`; prints the outcome or the error; the command's
    return value is the exit code.
    """

    def decorate(function: Callable[..., Outcome | None]) -> click.Command:
        @functools.wraps(function)
        def run(*, as_json: bool, quiet: bool, verbose: int, **options: Any) -> int:
            console = Console(schema, is_json=as_json, is_quiet=quiet, verbosity=verbose)
            try:
                outcome = function(console, **options)
            except GpuMarketError as error:
                if verbose > 1:
                    raise
                return console.fail(error)
            if outcome is None:
                return Exit.DONE
            console.emit(outcome)
            return outcome.exit

        for option in (_VERBOSE, _QUIET, _JSON):
            run = option(run)
        made: click.Command = click.command(**settings)(run)
        return made

    return decorate


_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print the result and errors only.")
_VERBOSE = click.option("-v", "--verbose", count=True, help="Say more; twice for traces.")


# ---- errors --------------------------------------------------------------------------------


def format_error(error: GpuMarketError) -> str:
    """Write an error for people: what happened, why, where the money is, what to try."""
    lines = [f"error[{error.code}]: {error.message}"]
    lines += _label("why", error.why.split("\n") if error.why else [])
    lines += _label("money", [error.money] if error.money else [])
    lines += _label("try", find_hints(error))
    lines += _label("more", [f"gpumarket explain {error.code}"])
    return "\n".join(lines)


def find_hints(error: GpuMarketError) -> tuple[str, ...]:
    """Return what to try: the error's own hints, else the catalog's remedies."""
    entry = find_entry(error.code)
    return error.hints or (entry.remedies if entry else ())


def describe_error(error: GpuMarketError) -> dict[str, Any]:
    """Write an error for machines."""
    entry = find_entry(error.code)
    described: dict[str, Any] = {
        "code": error.code,
        "message": error.message,
        "why": error.why,
        "money": error.money,
        "fault": find_fault(error),
        "retryable": bool(entry and entry.retryable),
        "exit": int(find_exit(error)),
        "hints": list(find_hints(error)),
    }
    mistakes = getattr(error, "mistakes", None)
    if mistakes:
        described["mistakes"] = [
            {"line": each.line, "code": each.code, "pointer": each.pointer, "message": each.text}
            for each in mistakes
        ]
    problem = getattr(error, "problem", None)
    if problem and problem.get("funnel"):
        described["funnel"] = problem["funnel"]
    return described


def suggest_yes() -> str:
    """Return this very command with -y, to be run again."""
    import shlex

    return shlex.join(["gpumarket", *sys.argv[1:], "-y"])


def encode_envelope(
    schema: str,
    data: Any,
    *,
    ok: bool,
    warnings: Sequence[str] = (),
    errors: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Write the one JSON document of a command."""
    return _dump(
        {
            "schema": schema,
            "ok": ok,
            "data": data,
            "warnings": list(warnings),
            "errors": list(errors),
        }
    )


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _label(name: str, lines: Iterable[str]) -> list[str]:
    names = [name]
    return [f"  {(names.pop() if names else ''):<{_LABEL_WIDTH}}{line}".rstrip() for line in lines]


# ---- values --------------------------------------------------------------------------------


def encode_amount(amount: int) -> dict[str, Any]:
    """Write base units as the amount object of the API; never a float."""
    return {
        "amount": format_amount(amount),
        "token": TOKEN_SYMBOL,
        "base": str(amount),
        "decimals": TOKEN_DECIMALS,
    }


def show_amount(value: object) -> str:
    """Write an amount object or base units for people: zeros at the end cut, at least cents."""
    if isinstance(value, Mapping):
        text = str(value.get("amount", "?"))
    elif isinstance(value, int):
        text = format_amount(value)
    else:
        return "?"
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0").ljust(_DECIMALS_SHOWN_MIN, "0")
    return f"{whole}.{fraction}"


def show_money(value: object) -> str:
    """Write an amount with its token."""
    return f"{show_amount(value)} {TOKEN_SYMBOL}"


def show_time(at: int) -> str:
    """Write unix seconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Write columns as wide as their longest cell, two spaces apart."""
    cells = [list(titles), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(titles))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join(line.rstrip() for line in lines)
