"""`gpumarket market`: what can be bought now, from whom, and who checks it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import click

from gpumarket.cli.access import make_client, with_connection
from gpumarket.cli.job_run import normalize_money
from gpumarket.cli.output import Console, Outcome, command, format_table, show_amount
from gpumarket.client.connection import Connection
from gpumarket.protocol.gpu import DeviceNeed, normalize_model
from gpumarket.protocol.units import Amount, format_size, parse_money

OFFERS_SHOWN: Final = 50
_CHECKERS: Final = ("VERIFIER", "USDC/CHECK", "STAKE", "FOUND", "MISSED", "STATE")
_TITLES: Final = ("PROVIDER", "DEVICE", "VRAM", "USDC/H", "FREE", "REP", "ISOLATION", "COUNTRY")


@click.group()
def market() -> None:
    """What is offered, by whom, and who checks it."""


@command("market.offers/1", name="offers")
@click.option("--gpu", default="", help="Only these devices, like 24GB.. or RTX4090:1.")
@click.option("--max-price", default="", metavar="AMOUNT", help="At most this for a device hour.")
@click.option("--country", default="", help="Only providers that say they are there.")
@click.option("--limit", type=click.IntRange(1, 1000), default=OFFERS_SHOWN, show_default=True)
@click.option("-w", "--wide", is_flag=True, help="Addresses in full.")
@with_connection
def offers(
    console: Console,
    *,
    connection: Connection,
    gpu: str,
    max_price: str,
    country: str,
    limit: int,
    wide: bool,
) -> Outcome:
    """List what providers offer now, cheapest first."""
    from gpumarket.shorthand import parse_gpu

    need = parse_gpu(gpu) if gpu else None
    price_max = parse_money(normalize_money(max_price)) if max_price else None
    with make_client(connection) as client:
        rows = [row for row in client.offers() if row.get("online", True)]
    fitting = [
        row
        for row in rows
        if (need is None or _fits(row, need))
        and (price_max is None or _read_price(row) <= price_max)
        and (not country or row.get("region") == country)
    ]
    fitting.sort(key=_read_price)
    shown = fitting[:limit]
    table = format_table(_TITLES, [_format_offer(row, is_wide=wide) for row in shown])
    text = (
        f"{table}\nShown {len(shown)} of {len(fitting)} that match ({len(rows)} providers online)."
    )
    return Outcome(shown, text if shown else f"no offer matches ({len(rows)} providers online)")


def _fits(row: Mapping[str, Any], need: DeviceNeed) -> bool:
    wanted = {normalize_model(model) for model in need.models}
    fitting = [
        device
        for device in _read_devices(row)
        if need.vram_bytes_min <= int(device.get("vram_bytes", 0)) <= need.vram_bytes_max
        and (not wanted or normalize_model(str(device.get("model", ""))) in wanted)
        and need.vendor in ("any", device.get("vendor"))
    ]
    return len(fitting) >= need.count


def _format_offer(row: Mapping[str, Any], *, is_wide: bool) -> tuple[str, ...]:
    devices = _read_devices(row)
    first = devices[0] if devices else {}
    address = str(row.get("provider", "?"))
    simulated = " (simulated)" if any(device.get("simulated") for device in devices) else ""
    reputation = row.get("reputation")
    free = row.get("free_slots", row.get("slots", "?"))
    return (
        address if is_wide else f"{address[:6]}…{address[-4:]}",
        f"{first.get('model', '?')} x{len(devices)}{simulated}",
        format_size(int(first.get("vram_bytes", 0))),
        show_amount(row.get("price_per_device_hour")),
        f"{free}/{row.get('slots', '?')}",
        f"{reputation:.2f}" if isinstance(reputation, int | float) else "-",
        str(row.get("isolation", "?")),
        str(row.get("region", "?")),
    )


def _read_devices(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    devices = row.get("devices")
    return (
        [each for each in devices if isinstance(each, Mapping)] if isinstance(devices, list) else []
    )


def _read_price(row: Mapping[str, Any]) -> Amount:
    from gpumarket.client.ordering import read_amount

    return read_amount(row.get("price_per_device_hour"))


@command("market.verifiers/1", name="verifiers")
@click.option("--limit", type=click.IntRange(1, 1000), default=OFFERS_SHOWN, show_default=True)
@click.option("-w", "--wide", is_flag=True, help="Addresses in full.")
@with_connection
def verifiers(_console: Console, *, connection: Connection, limit: int, wide: bool) -> Outcome:
    """List who checks results, and what came of results forged on purpose."""
    with make_client(connection) as client:
        rows = client.verifiers()
    shown = rows[:limit]
    table = format_table(_CHECKERS, [_format_verifier(row, is_wide=wide) for row in shown])
    text = f"{table}\nShown {len(shown)} of {len(rows)}."
    return Outcome(shown, text if shown else "no verifier is in the book")


def _format_verifier(row: Mapping[str, Any], *, is_wide: bool) -> tuple[str, ...]:
    address, barred = str(row.get("verifier", "?")), row.get("barred_until")
    state = "online" if row.get("online") else "away"
    return (
        address if is_wide else f"{address[:6]}…{address[-4:]}",
        show_amount(row.get("price_per_check")),
        show_amount(row.get("stake")),
        str(row.get("found_canaries", "?")),
        str(row.get("missed_canaries", "?")),
        f"barred until {barred}" if barred else state,
    )


market.add_command(offers)
market.add_command(verifiers)
