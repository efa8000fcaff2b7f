"""Quantities: what people write and what programs count are the same, to the last base unit."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.units import (
    compute_price,
    format_amount,
    format_money,
    parse_duration,
    parse_money,
    parse_size,
)

amounts = st.integers(0, 10**19 - 1)


@given(amounts)
def test_money_comes_back_exactly(amount: int) -> None:
    assert parse_money(format_money(amount)) == amount
    shown = format_amount(amount).rstrip("0").rstrip(".")
    assert parse_money(f"{shown} USDC") == amount
    assert Fraction(format_amount(amount)) * 10**6 == amount


@given(st.integers(1, 10**12))
def test_a_debt_is_written_with_its_sign(amount: int) -> None:
    assert format_amount(-amount) == "-" + format_amount(amount)


@given(st.text(max_size=20))
def test_whatever_is_read_as_money_is_money(text: str) -> None:
    try:
        amount = parse_money(text)
    except InvalidInput:
        return
    assert re.fullmatch(r"[0-9]+(\.[0-9]+)? USDC", text) and amount >= 0


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1 usdc", "1 EUR", "-1 USDC", "+1 USDC", "1,5 USDC", "1. USDC", ".5 USDC",
        "1e3 USDC", "1 USDC ", " 1 USDC", "1 USDC\n", "1  USDC", "0.0000001 USDC",
        "1.00000010 USDC", "\u0661 USDC", "1_000 USDC", "99999999999999 USDC", "inf USDC",
    ],
)  # fmt: skip
def test_what_is_no_money_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_money(text)


@pytest.mark.parametrize(
    ("text", "amount"),
    [("12.50 USDC", 12_500_000), ("0 USDC", 0), ("0.000001 USDC", 1), ("1.0000000000 USDC", 10**6)],
)
def test_money_is_read_as_it_is_written(text: str, amount: int) -> None:
    assert parse_money(text) == amount


@given(st.integers(0, 999), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_durations_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    expected = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == expected


@pytest.mark.parametrize(
    "text", ["", "5", "h", "1h 30m", "30m1h", "-1h", "1.5h", "1H", "1h\n", "1w"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_duration(text)


@given(st.integers(0, 10**9), st.sampled_from(("", "KB", "MB", "GB", "TB")))
def test_sizes_are_decimal_multiples(number: int, unit: str) -> None:
    scale = 10 ** (3 * ("", "KB", "MB", "GB", "TB").index(unit))
    assert parse_size(f"{number}{unit}") == number * scale
    assert parse_size(number) == number


@pytest.mark.parametrize("text", ["", "GB", "1 GB", "1gb", "1GiB", "-1GB", "1.GB", "1GB\n", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


def test_a_part_of_a_unit_is_a_size() -> None:
    assert parse_size("1.5GB") == 1_500_000_000


@given(st.integers(0, 10**9), st.integers(1, 64), st.integers(0, 10**9))
def test_a_price_is_rounded_up_to_the_next_base_unit(ms: int, devices: int, hourly: int) -> None:
    price = compute_price(duration_ms=ms, devices=devices, price_per_device_hour=hourly)
    exact = Fraction(ms * devices * hourly, 3_600_000)
    assert price - 1 < exact <= price
