"""
Short forms of a job file: `16GB..24GB`, `A100,H100:80GB..:8`, `8.6..`, as typed values.

A bare number or size means at least; only an explicit upper end is an upper bound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import DeviceNeed, Version
from gpumarket.protocol.units import PPM, parse_size

DEVICES_PER_TASK_MAX = 16
_VRAM = re.compile(r"^[0-9]+(\.[0-9]+)?(KB|MB|GB|TB)(\.\.([0-9]+(\.[0-9]+)?(KB|MB|GB|TB))?)?$")
_COUNT = re.compile(r"^[0-9]{1,3}$")
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9 ._-]{0,62}$")
_VENDORS = ("nvidia", "amd", "intel", "any")
_PARTS_MAX = 3


class Range(NamedTuple):
    """At least `low`; at most `high`, or None for no upper end."""

    low: int
    high: int | None


def parse_range(text: str | int) -> Range:
    """Read `16GB`, `16GB..`, `16GB..24GB` or a bare number, as bytes or a count."""
    low_text, dots, high_text = str(text).partition("..")
    low = parse_size(low_text)
    high = parse_size(high_text) if dots and high_text else None
    if high is not None and high < low:
        raise InvalidInput(f"'{text}' ends below where it starts")
    return Range(low, high)


def parse_gpu(value: str | Mapping[str, Any]) -> DeviceNeed:
    """
    Read what a task needs of devices, in the short or the long form.

    Short: `NAMES:VRAM:COUNT`, every part optional, in this order; one device where no count
    is given. A vendor may stand for a name.
    """
    return _parse_short(value) if isinstance(value, str) else _parse_long(value)


def _parse_short(text: str) -> DeviceNeed:
    parts = [part.strip() for part in text.split(":")]
    names: tuple[str, ...] = ()
    vram, count, stage = Range(0, None), 1, 0
    for part in parts:
        if _VRAM.match(part) and stage < 2:
            vram, stage = parse_range(part), 2
        elif _COUNT.match(part) and stage < 3:
            count, stage = int(part), 3
        elif part and stage < 1:
            names, stage = tuple(name.strip() for name in part.split(",")), 1
        elif part:
            raise InvalidInput(f"'{part}' is out of place; the order is NAMES:VRAM:COUNT")
    if len(parts) > _PARTS_MAX or not any(parts):
        raise InvalidInput(f"'{text}' is not NAMES:VRAM:COUNT")
    vendors = [name for name in names if name.lower() in _VENDORS]
    if vendors and len(names) > 1:
        raise InvalidInput(f"'{vendors[0]}' is a vendor and cannot stand beside model names")
    return _make_need(
        names=() if vendors else names,
        vendor=vendors[0].lower() if vendors else "any",
        vram=vram,
        count=count,
    )


def _parse_long(value: Mapping[str, Any]) -> DeviceNeed:
    return _make_need(
        names=tuple(value.get("name", ())),
        vendor=value.get("vendor", "any"),
        vram=parse_range(value.get("vram", 0)),
        count=value.get("count", 1),
        capability=parse_version(value.get("compute_capability", "0.0")),
        cuda=parse_version(value.get("cuda", "0.0")),
        same_model=value.get("same_model", True),
    )


def _make_need(
    *,
    names: tuple[str, ...],
    vendor: str,
    vram: Range,
    count: int,
    capability: Version = (0, 0),
    cuda: Version = (0, 0),
    same_model: bool = True,
) -> DeviceNeed:
    for name in names:
        if not _NAME.match(name):
            raise InvalidInput(f"'{name}' is not the name of a device")
    if count > DEVICES_PER_TASK_MAX:
        raise InvalidInput(f"{count} devices for one task, the limit is {DEVICES_PER_TASK_MAX}")
    need = DeviceNeed(
        count=count,
        vendor=vendor,  # type: ignore[arg-type]  # the schema or _VENDORS checked it
        models=names,
        vram_bytes_min=vram.low,
        compute_capability_min=capability,
        cuda_min=cuda,
        same_model=same_model,
    )
    if vram.high is None:
        return need
    import msgspec

    return msgspec.structs.replace(need, vram_bytes_max=vram.high)


def parse_version(text: str) -> Version:
    """Read `8.6` or `8.6..`, both at least, as (8, 6)."""
    major, _, minor = text.removesuffix("..").partition(".")
    return int(major), int(minor)


def to_ppm(share: float) -> int:
    """Turn a share that a person wrote, like 0.05, into parts per million, exactly."""
    scaled = Decimal(str(share)) * PPM
    if scaled != scaled.to_integral_value():
        raise InvalidInput(f"{share} has more than six decimals")
    return int(scaled)


def to_decimal_text(value: float | str) -> str:
    """Write a number from a job file as the decimal text that documents hold."""
    text = format(Decimal(str(value)), "f")
    if text.startswith("-"):
        raise InvalidInput(f"{value} is below zero")
    return text.rstrip("0").rstrip(".") if "." in text else text
