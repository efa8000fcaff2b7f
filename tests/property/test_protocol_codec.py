"""One value, one spelling: documents come back from both encodings, anything else is refused."""

import base64
import json
from contextlib import suppress
from random import Random
from typing import Any

import libipld
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, OwnResult, Seal
from gpumarket.protocol.codec import (
    compute_content_hash,
    decode_document_untrusted,
    encode_document,
    from_dag_json_untrusted,
    to_dag_json,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.job import JobSpec, VerifyPolicy
from gpumarket.protocol.lease import LeaseOffer, Reason
from gpumarket.protocol.messages import Envelope
from gpumarket.protocol.offer import Offer, VerifierCard
from gpumarket.protocol.order import CancelOrder, Order
from gpumarket.protocol.proof import EpochDocument, ProofOfExecution
from gpumarket.protocol.receipt import ProviderRoot, Receipt, UnitResult
from gpumarket.protocol.settlement import Batch, Lane, PaymentLeaf
from gpumarket.protocol.signing import Signed
from gpumarket.testing import factories
from gpumarket.testing.shapes import make_value

DOCUMENTS: tuple[Any, ...] = (
    Order, CancelOrder, JobSpec, VerifyPolicy, Offer, VerifierCard, LeaseOffer, Reason, Receipt,
    UnitResult, ProviderRoot, OwnResult, Seal, Opening, Attestation, Evidence, PaymentLeaf, Lane,
    Batch, EpochDocument, ProofOfExecution, Envelope, Signed[Order], Signed[Receipt],
)  # fmt: skip
ORDER = encode_document(factories.make_order())


def spell(plain: Any) -> bytes:
    return bytes(libipld.encode_dag_cbor(plain))


@pytest.mark.parametrize("as_type", DOCUMENTS, ids=str)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_every_document_comes_back_from_both_encodings(as_type: Any, seed: int) -> None:
    value = make_value(as_type, Random(seed))
    encoded = encode_document(value)
    assert decode_document_untrusted(encoded, as_type) == value
    returned = from_dag_json_untrusted(to_dag_json(value), as_type)
    assert returned == value
    assert encode_document(returned) == encoded


@given(st.integers(0, 99), st.integers(0, 99))
def test_two_values_have_one_hash_only_if_they_are_equal(one: int, other: int) -> None:
    a, b = make_value(Order, Random(one)), make_value(Order, Random(other))
    assert (compute_content_hash(a) == compute_content_hash(b)) == (a == b)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_hostile_bytes_give_a_document_or_a_refusal(data: bytes) -> None:
    for as_type in (Order, JobSpec, Signed[Order], dict[str, int]):
        with suppress(RemoteProtocolError):
            decode_document_untrusted(data, as_type)
        with suppress(RemoteProtocolError):
            from_dag_json_untrusted(data, as_type)


@settings(max_examples=200)
@given(st.data())
def test_a_changed_byte_gives_another_value_or_a_refusal(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(ORDER) - 1))
    changed = ORDER[:at] + bytes([ORDER[at] ^ data.draw(st.integers(1, 255))]) + ORDER[at + 1 :]
    with suppress(RemoteProtocolError):
        value = decode_document_untrusted(changed, Order)
        assert value != factories.make_order()
        assert encode_document(value) == changed


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("/", "bytes", "a", "units")), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(json_values)
def test_hostile_json_gives_a_document_or_a_refusal(value: Any) -> None:
    text = json.dumps(value)
    for as_type in (Order, JobSpec, dict[str, bytes]):
        with suppress(RemoteProtocolError):
            from_dag_json_untrusted(text, as_type)


# ---- refusals ------------------------------------------------------------------------------


def read_plain() -> dict[str, Any]:
    plain: dict[str, Any] = libipld.decode_dag_cbor(ORDER)
    return plain


@pytest.mark.parametrize("key", sorted(read_plain()))
def test_a_missing_key_is_refused_also_where_it_has_a_default(key: str) -> None:
    plain = read_plain()
    del plain[key]
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(spell(plain), Order)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(spell(read_plain() | {"tip": 1}), Order)


@pytest.mark.parametrize("value", [-1, 2**32, 1.0, "6", True, None, b"\x06", [6]], ids=repr)
def test_a_value_of_another_type_or_range_is_refused(value: Any) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(spell(read_plain() | {"units": value}), Order)


MALFORMED = {
    "nothing": "",
    "two documents": "a0a0",
    "keys out of order": "a2616201616102",
    "a key twice": "a2616101616102",
    "a long integer": "a161611805",
    "an open-ended map": "bf616101ff",
    "an undefined": "a16161f7",
    "a float": "a16161f93c00",
    "a key that is a number": "a10101",
    "text that is not text": "a1616162c328",
    "a longer list than there are bytes": "a161619b00ffffffffffffff",
    "a deep nest": "81" * 5_000 + "01",
}


@pytest.mark.parametrize("spelling", MALFORMED.values(), ids=MALFORMED)
def test_what_is_not_canonical_is_refused(spelling: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(bytes.fromhex(spelling), dict[str, int])


def test_a_link_does_not_pass_for_bytes() -> None:
    as_link = bytes.fromhex("a16161d82a450001550000")
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(as_link, dict[str, bytes])


def test_the_size_limit_counts_every_byte() -> None:
    assert decode_document_untrusted(ORDER, Order, bytes_max=len(ORDER)) == factories.make_order()
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        decode_document_untrusted(ORDER, Order, bytes_max=len(ORDER) - 1)
    text = to_dag_json(factories.make_order())
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        from_dag_json_untrusted(text, Order, bytes_max=len(text) - 1)


def test_bytes_that_look_like_a_link_stay_bytes() -> None:
    for text in ("01550000", "01551220" + "61" * 32, "0155001c" + "61" * 28, "1220" + "61" * 32):
        data = bytes.fromhex(text)
        encoded = encode_document({"a": data})
        assert encoded[:3] == b"\xa1\x61a"
        assert encoded[3] >> 5 == 2, "a byte string, not a tag"
        assert decode_document_untrusted(encoded, dict[str, bytes]) == {"a": data}


@settings(max_examples=300)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**64), 2**64 - 1)
        | st.text(max_size=8)
        | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_our_writer_agrees_with_libipld(value: Any) -> None:
    assert encode_document(value) == spell(value)


@pytest.mark.parametrize("length", [0, 23, 24, 255, 256, 65_535, 65_536])
def test_lengths_have_the_shortest_head(length: int) -> None:
    for value in (b"x" * length, "x" * length, [None] * length, length, -length):
        assert encode_document(value) == spell(value)


@pytest.mark.parametrize("value", [2**64, -(2**64) - 1, {1: 1}, 0.5, "\ud800", {"\ud800": 1}])
def test_what_no_document_holds_cannot_be_written(value: Any) -> None:
    with pytest.raises(InvalidInput):
        encode_document(value)


def test_half_a_character_in_json_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        from_dag_json_untrusted('{"a": "\\ud800"}', dict[str, str])


def test_documents_hold_no_floats() -> None:
    with pytest.raises(InvalidInput):
        encode_document({"price": 0.1})


def test_dag_json_refuses_a_key_twice_and_bytes_that_are_none() -> None:
    for text in (
        '{"a":1,"a":2}',
        '{"a":{"/":{"bytes":"?"}}}',
        '{"a":{"/":{"x":1}}}',
        '{"a":{"/":1}}',
    ):
        with pytest.raises(RemoteProtocolError):
            from_dag_json_untrusted(text, dict[str, int | bytes])


def test_dag_json_is_canonical() -> None:
    value = {"b": b"\x00\xff", "a": "ü"}
    assert to_dag_json(value) == '{"a":"ü","b":{"/":{"bytes":"AP8"}}}'
    assert base64.b64decode("AP8=") == b"\x00\xff"


def test_a_list_of_names_is_no_struct() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_document_untrusted(spell(["requester"]), Order)
    assert msgspec.structs.fields(Order)
