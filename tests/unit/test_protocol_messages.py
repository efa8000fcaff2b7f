"""The wire: every message comes back as it was sent, to whom it was sent, once, in time."""

from random import Random
from typing import Any, get_args

import pytest

from gpumarket.protocol import messages
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.messages import (
    CLOCK_SKEW_SECONDS,
    FRAME_BYTES_MAX,
    MESSAGE_LIFETIME_SECONDS,
    Envelope,
    LeaseAccepted,
    UnitFailed,
    Welcome,
    decode_message_untrusted,
    seal_message,
)
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.units import Timestamp
from gpumarket.testing import factories
from gpumarket.testing.factories import DOMAIN, NOW, change, make_address, make_hash, make_key, sign
from gpumarket.testing.shapes import make_value

MESSAGES = get_args(messages.Message)
HELLO = LeaseAccepted(lease_id=make_hash("lease"))
RECIPIENT = make_address("coordinator")


def seal(message: messages.Message = HELLO, **changes: Any) -> bytes:
    values: dict[str, Any] = {"key": make_key("provider-1"), "domain": DOMAIN, "now": NOW}
    values |= {"recipient": RECIPIENT, "sequence": 7}
    return seal_message(message, **(values | changes))


def open_frame(frame: bytes, **changes: Any) -> tuple[messages.Message, bytes, int]:
    values: dict[str, Any] = {"domain": DOMAIN, "recipient": RECIPIENT, "now": NOW}
    values |= {"sequence_after": 6}
    return decode_message_untrusted(frame, **(values | changes))


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_every_message_comes_back(kind: type) -> None:
    for seed in range(8):
        message = make_value(kind, Random(seed))
        opened, sender, sequence = open_frame(seal(message))
        assert (opened, type(opened)) == (message, kind)
        assert (sender, sequence) == (make_address("provider-1"), 7)


def test_every_message_has_a_type_of_its_own() -> None:
    tags = [kind.__struct_config__.tag for kind in MESSAGES]
    assert tags == [kind.__name__.lower() for kind in MESSAGES]
    assert len(set(tags)) == len(MESSAGES) >= 19


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "misdirected": ({"recipient": make_address("somebody")}, "GM-8202"),
    "repeated": ({"sequence_after": 7}, "GM-8203"),
    "overtaken": ({"sequence_after": 9}, "GM-8203"),
    "late": ({"now": Timestamp(NOW + MESSAGE_LIFETIME_SECONDS + 1)}, "GM-8204"),
    "from the future": ({"now": Timestamp(NOW - CLOCK_SKEW_SECONDS - 1)}, "GM-8204"),
    "of another chain": ({"domain": Domain(chain_id=1, contract=DOMAIN.contract)}, "GM-8201"),
    "of another market": ({"domain": Domain(chain_id=31337, contract=bytes(20))}, "GM-8201"),
}


@pytest.mark.parametrize(("where", "code"), REFUSED.values(), ids=REFUSED)
def test_a_message_is_refused_that_is(where: dict[str, Any], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        open_frame(seal(), **where)
    assert caught.value.code == code


def test_a_message_is_good_at_both_ends_of_its_time() -> None:
    for now in (NOW - CLOCK_SKEW_SECONDS, NOW + MESSAGE_LIFETIME_SECONDS):
        assert open_frame(seal(), now=now)[0] == HELLO


def reseal(**changes: Any) -> bytes:
    """Sign an envelope whose fields say something else."""
    envelope = decode_document_untrusted(seal(), Signed[Envelope]).body
    return encode_document(sign(change(envelope, **changes), "provider-1"))


def test_a_message_to_all_is_taken_by_anybody() -> None:
    assert open_frame(reseal(recipient=bytes(20)))[0] == HELLO


def test_a_message_that_says_it_lives_longer_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="deadline"):
        open_frame(reseal(deadline=2**62))


@pytest.mark.parametrize("field", ["recipient", "sequence", "deadline", "message"])
def test_a_changed_envelope_is_refused(field: str) -> None:
    signed = decode_document_untrusted(seal(), Signed[Envelope])
    before = getattr(signed.body, field)
    after = before + 1 if isinstance(before, int) else before[:-1] + bytes([before[-1] ^ 1])
    forged = change(signed, body=change(signed.body, **{field: after}))
    with pytest.raises(RemoteProtocolError, match="signature"):
        open_frame(encode_document(forged))


def test_a_message_in_somebody_elses_name_is_refused() -> None:
    signed = decode_document_untrusted(seal(), Signed[Envelope])
    with pytest.raises(RemoteProtocolError, match="signature"):
        open_frame(encode_document(change(signed, signer=make_address("provider-2"))))


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    reason = factories.make_reason()
    large = UnitFailed(lease_id=make_hash("lease"), reason=reason, log_tail="x" * FRAME_BYTES_MAX)
    with pytest.raises(RemoteProtocolError, match="the limit is"):
        open_frame(seal(large))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xa0",
        encode_document({"type": "unknown"}),
        encode_document({"type": "leaseaccepted"}),
        encode_document({"type": "leaseaccepted", "lease_id": b"short"}),
        encode_document({"type": "leaseaccepted", "lease_id": bytes(32), "extra": 1}),
        encode_document({"lease_id": bytes(32)}),
    ],
    ids=["empty", "no type", "unknown", "no field", "short", "too much", "untyped"],
)
def test_a_signed_message_without_sense_is_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_frame(reseal(message=message))


def test_noise_is_refused() -> None:
    draw = Random(1)
    frame = seal(Welcome(coordinator=RECIPIENT, content_peers=("/ip4/127.0.0.1/tcp/1",)))
    for _ in range(300):
        at = draw.randrange(len(frame))
        changed = frame[:at] + bytes([frame[at] ^ draw.randrange(1, 256)]) + frame[at + 1 :]
        with pytest.raises(RemoteProtocolError):
            open_frame(changed)
    for length in range(0, len(frame), 7):
        with pytest.raises(RemoteProtocolError):
            open_frame(frame[:length])
