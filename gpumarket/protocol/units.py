"""Quantities and how people write them: money, sizes and durations as integers."""

from __future__ import annotations

import re
from typing import Annotated, Final, NewType

from msgspec import Meta

from gpumarket.protocol.errors import InvalidInput

TOKEN_SYMBOL: Final = "USDC"
TOKEN_DECIMALS: Final = 6
BASE_UNITS_PER_TOKEN: Final = 10**TOKEN_DECIMALS
MS_PER_SECOND: Final = 1_000
MS_PER_HOUR: Final = 3_600 * MS_PER_SECOND
PPM: Final = 1_000_000
"""Parts per million: how shares and probabilities travel, since documents hold no floats."""

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A count that fits the chain's uint64 and also the signed 64 bits of SQL and JSON readers."""
ShareInPpm = Annotated[int, Meta(ge=0, le=PPM)]

Amount = NewType("Amount", int)
"""Token base units (10**-6 USDC); never a float."""
Timestamp = NewType("Timestamp", int)
"""Unix seconds."""

_MONEY = re.compile(r"^(\d{1,13})(?:\.(\d{1,18}))? ([A-Z][A-Z0-9]{1,9})$", re.ASCII)
_SIZE = re.compile(r"^(\d{1,15})(?:\.(\d{1,6}))?(KB|MB|GB|TB)?$", re.ASCII)
_DURATION = re.compile(r"^(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?$", re.ASCII)
_SIZE_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_PLACES: Final = {10**9: "GB", 10**6: "MB", 10**3: "KB"}


def parse_money(text: str) -> Amount:
    """Read `12.50 USDC` exactly; refuse another token and digits below one base unit."""
    match = _MONEY.fullmatch(text)
    if match is None or match[3] != TOKEN_SYMBOL:
        raise InvalidInput(f"{text!r} is not money; write it like 12.50 {TOKEN_SYMBOL}")
    fraction = (match[2] or "").rstrip("0")
    if len(fraction) > TOKEN_DECIMALS:
        raise InvalidInput(f"{text!r} has more than {TOKEN_DECIMALS} decimals")
    return Amount(int(match[1]) * BASE_UNITS_PER_TOKEN + int(fraction.ljust(TOKEN_DECIMALS, "0")))


def format_amount(amount: int, *, decimals: int = TOKEN_DECIMALS) -> str:
    """Write base units as a decimal without the token: 12500000 is `12.500000`."""
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), BASE_UNITS_PER_TOKEN)
    return f"{sign}{whole}.{fraction:06d}"[: len(sign) + len(str(whole)) + 1 + decimals]


def format_money(amount: int) -> str:
    """Write base units with the token: 12500000 is `12.500000 USDC`."""
    return f"{format_amount(amount)} {TOKEN_SYMBOL}"


def parse_size(text: str | int) -> int:
    """Read `16GB` (decimal units) or a bare number as bytes."""
    match = _SIZE.fullmatch(str(text))
    if match is None:
        raise InvalidInput(f"{text!r} is not a size; write it like 16GB")
    unit = _SIZE_UNITS[match[3] or ""]
    digits = match[2] or ""
    scale: int = 10 ** len(digits)
    return int(match[1]) * unit + int(digits or 0) * unit // scale


def format_size(size_bytes: int) -> str:
    """Write bytes for people: 24000000000 is `24 GB`, 91500000 is `91.5 MB`."""
    for unit, name in _PLACES.items():
        if size_bytes >= unit:
            value = f"{size_bytes / unit:.1f}".removesuffix(".0")
            return f"{value} {name}"
    return f"{size_bytes} B"


def parse_duration(text: str) -> int:
    """Read `1h30m` as whole seconds."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise InvalidInput(f"{text!r} is not a duration; write it like 45m or 1h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def compute_price(*, duration_ms: int, devices: int, price_per_device_hour: int) -> Amount:
    """Price device time to the next whole base unit: what a receipt claims before its cap."""
    return Amount(-(-duration_ms * devices * price_per_device_hour // MS_PER_HOUR))
