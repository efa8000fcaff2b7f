"""`gpumarket data add | stat`: content by its CID."""

from __future__ import annotations

from pathlib import Path

import click

from gpumarket.cli.access import make_client, with_connection
from gpumarket.cli.output import Console, Outcome, command
from gpumarket.client.connection import Connection
from gpumarket.protocol.units import format_size


@click.group()
def data() -> None:
    """Content: add files, look at CIDs."""


@command("data.add/1", name="add")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Print the CID; send nothing.")
@with_connection
def add(console: Console, *, connection: Connection, path: Path, dry_run: bool) -> Outcome:
    """Send a file or folder to the coordinator's content store and print its CID."""
    if dry_run:
        from gpumarket.client.packing import pack

        packed = pack(path)
    else:
        with make_client(connection) as client:
            packed = client.add_content(path)
    console.note(f"{packed.file_count} files, {format_size(packed.file_bytes)}")
    return Outcome(
        {
            "cid": packed.cid,
            "path": str(path),
            "files": packed.file_count,
            "bytes": packed.file_bytes,
            "sent": not dry_run,
        },
        packed.cid,
    )


@command("data.stat/1", name="stat")
@click.argument("cid")
@with_connection
def stat(console: Console, *, connection: Connection, cid: str) -> Outcome:
    """Say what a CID is: file or folder, how large, how many files."""
    with make_client(connection) as client:
        found = client.stat_content(cid.removeprefix("ipfs://"))
    kind = "folder" if found.is_directory else "file"
    data = {
        "cid": found.cid,
        "kind": kind,
        "bytes": found.size_bytes,
        "files": found.file_count,
    }
    return Outcome(data, f"{kind}, {found.file_count} files, {format_size(found.size_bytes)}")


data.add_command(add)
data.add_command(stat)
