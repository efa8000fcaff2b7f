"""Frames: what is cut out of a stream, and what is refused before it costs memory."""

import pytest

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.frames import (
    FRAME_VERSION,
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    decode_hello_untrusted,
    encode_frame,
    encode_hello,
)
from gpumarket.protocol.token_bucket import TokenBucket


def test_a_frame_is_length_then_kind_then_body() -> None:
    assert encode_frame(FrameKind.DATA, b"ab") == bytes.fromhex("0000000300") + b"ab"


def test_a_hello_has_fixed_bytes() -> None:
    hello = Hello(version=1, max_frame_bytes=1 << 20)
    assert encode_hello(hello) == bytes.fromhex("00000006030100100000")


def test_an_empty_message_is_a_frame() -> None:
    frames = FrameDecoder().decode_untrusted(encode_frame(FrameKind.DATA, b""))
    assert frames == [Frame(FrameKind.DATA, b"")]


@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (bytes.fromhex("0000000000"), "GM-8210"),
        (bytes.fromhex("0000000104"), "GM-8210"),
        (bytes.fromhex("00000001ff"), "GM-8210"),
        (bytes.fromhex("000000080100000000000000"), "GM-8210"),
        (bytes.fromhex("0000000703010010000000"), "GM-8210"),
        (bytes.fromhex("ffffffff00"), "GM-8211"),
        (bytes.fromhex("0000001200"), "GM-8211"),
    ],
)
def test_a_lying_head_is_refused_before_its_body_comes(wire: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        FrameDecoder(max_frame_bytes=16).decode_untrusted(wire)
    assert caught.value.code == code


def test_the_longest_allowed_message_passes() -> None:
    decoder = FrameDecoder(max_frame_bytes=16)
    (frame,) = decoder.decode_untrusted(encode_frame(FrameKind.DATA, b"x" * 16))
    assert frame.body == b"x" * 16
    assert not decoder.has_partial_frame


def test_a_stream_that_ends_inside_a_frame_can_be_told() -> None:
    decoder = FrameDecoder()
    assert decoder.decode_untrusted(encode_frame(FrameKind.DATA, b"abc")[:-1]) == []
    assert decoder.has_partial_frame


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(FrameKind.DATA, b""), "GM-8210"),
        (Frame(FrameKind.HELLO, bytes((FRAME_VERSION + 1, 0, 16, 0, 0))), "GM-8212"),
        (Frame(FrameKind.HELLO, bytes((FRAME_VERSION, 0, 0, 0, 63))), "GM-8210"),
    ],
)
def test_a_first_frame_that_is_no_hello_of_ours_is_refused(frame: Frame, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_hello_untrusted(frame)
    assert caught.value.code == code


def test_a_message_beyond_four_bytes_of_length_is_the_callers_mistake() -> None:
    class Endless(bytes):
        def __len__(self) -> int:
            return 1 << 32

    with pytest.raises(InvalidInput):
        encode_frame(FrameKind.DATA, Endless())


def test_a_bucket_lets_its_burst_through_and_then_its_rate() -> None:
    bucket = TokenBucket(per_second=10, burst=3, now_ms=0)
    assert [bucket.take(1, now_ms=0) for _ in range(4)] == [0, 0, 0, 100]
    assert bucket.take(1, now_ms=100) == 100
    assert bucket.take(1, now_ms=10_000) == 0


def test_a_cost_above_the_burst_passes_as_a_debt() -> None:
    bucket = TokenBucket(per_second=10, burst=1, now_ms=0)
    assert bucket.take(21, now_ms=0) == 2_000
    assert not bucket.is_full(now_ms=2_000)
    assert bucket.is_full(now_ms=2_100)


def test_try_take_never_goes_into_debt() -> None:
    bucket = TokenBucket(per_second=1, burst=2, now_ms=0)
    assert [bucket.try_take(1, now_ms=0) for _ in range(3)] == [True, True, False]
    assert bucket.try_take(1, now_ms=1_000)


def test_a_clock_that_runs_backwards_gives_nothing() -> None:
    bucket = TokenBucket(per_second=1, burst=1, now_ms=5_000)
    assert bucket.try_take(1, now_ms=5_000)
    assert not bucket.try_take(1, now_ms=0)
    assert not bucket.try_take(1, now_ms=5_500)


@pytest.mark.parametrize(("per_second", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_a_bucket_without_rate_or_burst_is_a_bug(per_second: int, burst: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(per_second=per_second, burst=burst, now_ms=0)
