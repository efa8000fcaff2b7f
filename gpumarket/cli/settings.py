"""`gpumarket config show`: every setting and where it comes from."""

from __future__ import annotations

import click

from gpumarket.cli.access import with_connection
from gpumarket.cli.output import Console, Outcome, command, format_table
from gpumarket.client.connection import KEYS, Connection


@click.group()
def config() -> None:
    """Show settings and where they come from."""


@command("config.show/1", name="show")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@with_connection
def show(console: Console, *, connection: Connection, origin: bool) -> Outcome:
    """Print the settings in use; a setting nobody set is shown with a dash."""
    data, rows = {}, []
    for key in KEYS:
        setting = connection.settings.get(key)
        value, source = (setting.value, setting.origin) if setting else ("", "not set")
        data[key] = {"value": value or None, "origin": source}
        rows.append((key, value or "-", source) if origin else (key, value or "-"))
    titles = ("KEY", "VALUE", "ORIGIN") if origin else ("KEY", "VALUE")
    return Outcome(data, format_table(titles, rows))


config.add_command(show)
