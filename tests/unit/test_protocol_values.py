"""Small rules of the protocol: lines of orders, states of leases, environments, headers."""

from itertools import product
from typing import Any

import msgspec
import pytest
import rlp

from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.errors import InvalidInput, LocalProtocolError, RemoteProtocolError
from gpumarket.protocol.header import HEADER_BYTES_MAX, decode_header_untrusted
from gpumarket.protocol.ids import make_job_id, parse_address, parse_hash
from gpumarket.protocol.job import (
    JobSpec,
    Split,
    VerifyPolicy,
    compute_verify_hash,
    make_unit_env,
)
from gpumarket.protocol.lease import NEXT, LeaseState, check_transition, compute_lease_id
from gpumarket.protocol.order import check_order_fits
from gpumarket.protocol.receipt import compute_input_hash
from gpumarket.protocol.signing import keccak256
from gpumarket.testing.factories import NOW, change, make_hash, make_order, make_spec
from gpumarket.testing.proofs import make_header

# ---- orders --------------------------------------------------------------------------------


def test_each_line_of_an_order_has_its_cap_and_no_other_line_has_one() -> None:
    order = make_order(units=4, checks=2, max_fee=9)
    caps = [order.find_line_cap(line) for line in range(-1, 9)]
    assert caps == [None, *[1_000_000] * 4, *[200_000] * 2, 9, None, None]
    assert sum(cap for cap in caps if cap is not None) == order.compute_exposure() == 4_400_009


def test_an_order_fits_its_own_job_until_its_time_to_settle() -> None:
    spec, order = make_spec(), make_order()
    check_order_fits(order, spec, now=NOW)
    for wrong, code in (
        ({"job_hash": make_hash("x")}, "GM-1201"),
        ({"verify_hash": make_hash("x")}, "GM-1201"),
        ({"units": 5}, "GM-1201"),
        ({"settle_by": NOW}, "GM-1202"),
        ({"expiry": order.settle_by - 1}, "GM-1202"),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_order_fits(change(order, **wrong), spec, now=NOW)
        assert caught.value.code == code


# ---- leases --------------------------------------------------------------------------------


def test_a_lease_moves_only_as_its_table_says() -> None:
    allowed = {
        ("proposed", "active"), ("proposed", "ended"), ("active", "finished"), ("active", "ended"),
        ("finished", "accepted"), ("finished", "ended"),
    }  # fmt: skip
    for before, after in product(LeaseState, LeaseState):
        if (before.value, after.value) in allowed:
            check_transition(before, after)
        else:
            with pytest.raises(LocalProtocolError):
                check_transition(before, after)
    assert set(NEXT) == set(LeaseState)


def test_lease_ids_and_questions_differ_by_all_they_name() -> None:
    a, b = make_hash("a"), make_hash("b")
    ids = {compute_lease_id(order, unit, n) for order in (a, b) for unit in (0, 1) for n in (0, 1)}
    assert len(ids) == 8
    assert len({compute_input_hash(job, unit) for job in (a, b) for unit in (0, 1)}) == 4


# ---- jobs ----------------------------------------------------------------------------------


def test_a_task_knows_its_place_and_the_last_one_gets_what_is_left() -> None:
    split = Split(over="texts", by="lines", size=3, items=10)
    spec = make_spec(split=split, env={"MODE": "fast"})
    env = make_unit_env(spec, 3, job_id="gm-x")
    assert env["GPUMARKET_SPLIT_START"] == "9" and env["GPUMARKET_SPLIT_END"] == "10"
    assert env["GPUMARKET_TASK_INDEX"] == "3" and env["GPUMARKET_TASK_COUNT"] == "4"
    assert env["MODE"] == "fast"


def test_a_job_cannot_replace_our_variables_and_each_task_has_its_own_seed() -> None:
    spec = make_spec(env={"GPUMARKET_TASK_INDEX": "99", "GPUMARKET_SEED": "1"})
    first, second = (make_unit_env(spec, unit, job_id="gm-x") for unit in (0, 1))
    assert first["GPUMARKET_TASK_INDEX"] == "0"
    assert int(second["GPUMARKET_SEED"]) == int(first["GPUMARKET_SEED"]) + 1
    assert make_unit_env(spec, 0, job_id="gm-x") == first


def test_every_part_of_a_policy_is_signed() -> None:
    policy = VerifyPolicy()
    hashes = {compute_verify_hash(policy)}
    changes: list[dict[str, Any]] = [
        {"mode": "none"}, {"rate_ppm": 1}, {"forged_share_ppm": 1}, {"confidence_ppm": 1},
        {"units_min": 2}, {"comparison": NpyRule()}, {"bribe_ppm": 1}, {"power_ppm": 999_999},
        {"critical": (1,)},
    ]  # fmt: skip
    hashes |= {compute_verify_hash(change(policy, **each)) for each in changes}
    assert len(hashes) == len(VerifyPolicy.__struct_fields__) + 1


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("image", "digest"), "sha256:" + "1a" * 32 + "\n"),
        (("image", "digest"), "sha256:" + "1A" * 32),
        (("inputs", 0, "path"), "input"),
        (("inputs", 0, "path"), "/in\n"),
        (("inputs", 0, "path"), "/in;rm"),
        (("verify", "comparison", "rtol"), "-1"),
        (("verify", "comparison", "rtol"), "nan"),
        (("verify", "comparison", "rtol"), "1\n"),
        (("verify", "mode"), "maybe"),
        (("verify", "rate_ppm"), 1_000_001),
        (("units",), 0),
        (("units",), 10_001),
        (("network",), "host"),
    ],
    ids=str,
)
def test_a_job_with_an_impossible_value_is_refused(
    where: tuple[str | int, ...], value: object
) -> None:
    spec = make_spec(verify=VerifyPolicy(comparison=NpyRule()))
    plain = msgspec.to_builtins(spec, builtin_types=(bytes,))
    plain = msgspec.json.decode(msgspec.json.encode(plain))
    holder = plain
    for key in where[:-1]:
        holder = holder[key]
    holder[where[-1]] = value
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(encode_document(plain), JobSpec)


# ---- headers -------------------------------------------------------------------------------


def test_a_header_comes_back_and_hashes_to_its_block() -> None:
    encoded = make_header(12)
    header = decode_header_untrusted(encoded)
    assert (header.number, header.block_hash) == (12, keccak256(encoded))
    assert header.timestamp == NOW + 12
    assert (header.mix_hash, header.parent_hash) == (
        make_hash("mixHash 12"),
        make_hash("parentHash 12"),
    )


def nest(depth: int) -> bytes:
    data = b"\xc0"
    for _ in range(depth):
        data = rlp.codec.length_prefix(len(data), 0xC0) + data
    return data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80",
        rlp.encode([b""] * 14),
        rlp.encode([b""] * 20),
        rlp.encode([[b""]] * 20),
        make_header(1)[:-1],
        make_header(1) + b"\x00",
        b"\xff" * HEADER_BYTES_MAX,
        b"\x00" * (HEADER_BYTES_MAX + 1),
        nest(300),
    ],
    ids=["empty", "text", "short", "blank", "nested", "cut", "longer", "noise", "large", "deep"],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_header_untrusted(data)


# ---- names ---------------------------------------------------------------------------------


def test_names_are_read_strictly() -> None:
    assert parse_address("0x" + "aB" * 20) == b"\xab" * 20
    assert parse_hash("0x" + "01" * 32) == b"\x01" * 32
    for text in ("", "0x", "ab" * 20, "0x" + "ab" * 19, "0x" + "ab" * 20 + "\n", "0X" + "ab" * 20):
        with pytest.raises(InvalidInput):
            parse_address(text)
    for text in ("", "0x01", "0x" + "zz" * 32):
        with pytest.raises(InvalidInput):
            parse_hash(text)
    assert len(make_job_id(make_hash("order"))) == 13
