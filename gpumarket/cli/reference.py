"""`gpumarket explain | schema | version | completion`: answers that need no market."""

from __future__ import annotations

import json
from typing import Any, Final

import click

from gpumarket.cli.output import Console, Outcome, command
from gpumarket.protocol.catalog import CATALOG, Entry, get_entry
from gpumarket.protocol.errors import InvalidInput

SCHEMAS: Final = ("job", "proof")


@command("explain/1", name="explain")
@click.argument("code", default="")
@click.option("--list", "is_list", is_flag=True, help="List all codes.")
def explain(console: Console, *, code: str, is_list: bool) -> Outcome:
    """Explain an error code: what it means, whose fault, what to do."""
    if is_list:
        text = "\n".join(f"{entry.code}  {entry.title}" for entry in CATALOG.values())
        return Outcome([describe_entry(entry) for entry in CATALOG.values()], text)
    if not code:
        raise InvalidInput("which code?", hints=("gpumarket explain --list",))
    entry = get_entry(code)
    return Outcome(describe_entry(entry), format_entry(entry))


def describe_entry(entry: Entry) -> dict[str, Any]:
    """Write a page of the catalog for machines."""
    return {
        "code": entry.code,
        "title": entry.title,
        "http_status": entry.http_status,
        "exit": int(entry.exit),
        "fault": entry.fault,
        "retryable": entry.retryable,
        "summary": entry.summary,
        "remedies": list(entry.remedies),
    }


def format_entry(entry: Entry) -> str:
    """Write a page of the catalog for people."""
    again = "may go well when tried again" if entry.retryable else "will not go well as it is"
    lines = [
        f"{entry.code}  {entry.title}",
        f"  {entry.summary}",
        f"  exit {int(entry.exit)} · HTTP {entry.http_status} · fault: {entry.fault} · {again}",
        "  what to do",
        *(f"    {remedy}" for remedy in entry.remedies),
    ]
    return "\n".join(lines)


@command("schema/1", name="schema")
@click.argument("name", default="job", type=click.Choice(SCHEMAS))
def schema(console: Console, *, name: str) -> Outcome:
    """Print the JSON Schema of a file format, for editors and other tools."""
    from gpumarket.jobfile import load_schema
    from gpumarket.protocol.proof_schema import make_proof_schema

    found = load_schema() if name == "job" else make_proof_schema()
    return Outcome(found, json.dumps(found, indent=2, ensure_ascii=False))


@command("version/1", name="version")
def version(console: Console) -> Outcome:
    """Print versions of this tool and of Python."""
    import platform

    from gpumarket import __version__

    data = {"gpumarket": __version__, "python": platform.python_version()}
    return Outcome(data, f"gpumarket {__version__} (Python {platform.python_version()})")


@command("completion/1", name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(console: Console, *, shell: str) -> Outcome:
    """Print a completion script, like: gpumarket completion bash >> ~/.bashrc."""
    from click.shell_completion import get_completion_class

    from gpumarket.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows the three shells"
    source = found(cli, {}, "gpumarket", "_GPUMARKET_COMPLETE")
    # `source()` of bash asks for the shell's version; the script itself needs no shell.
    text = source.source_template % source.source_vars()
    return Outcome({"shell": shell, "script": text}, text.rstrip())
