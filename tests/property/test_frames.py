"""Frames: any cutting of the stream gives the same frames, and no bytes do worse than a refusal."""

import itertools
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.frames import (
    PING_BYTES,
    Frame,
    FrameDecoder,
    FrameKind,
    Hello,
    decode_hello_untrusted,
    encode_frame,
    encode_hello,
)
from gpumarket.protocol.token_bucket import TokenBucket

MAX_BYTES = 300

frames = st.one_of(
    st.builds(Frame, st.just(FrameKind.DATA), st.binary(max_size=MAX_BYTES)),
    st.builds(
        Frame,
        st.sampled_from((FrameKind.PING, FrameKind.PONG)),
        st.binary(min_size=PING_BYTES, max_size=PING_BYTES),
    ),
)


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 2_600), max_size=12))
def test_frames_come_back_whatever_the_pieces(sent: list[Frame], cuts: list[int]) -> None:
    wire = b"".join(encode_frame(frame.kind, frame.body) for frame in sent)
    edges = [0, *sorted(min(cut, len(wire)) for cut in cuts), len(wire)]
    decoder = FrameDecoder(MAX_BYTES)
    received: list[Frame] = []
    for start, end in itertools.pairwise(edges):
        received += decoder.decode_untrusted(wire[start:end])
    assert received == sent
    assert not decoder.has_partial_frame


@given(st.lists(st.binary(max_size=400), max_size=10))
def test_hostile_bytes_give_frames_or_a_refusal(pieces: list[bytes]) -> None:
    decoder = FrameDecoder(MAX_BYTES)
    with suppress(RemoteProtocolError):
        for piece in pieces:
            for frame in decoder.decode_untrusted(piece):
                assert len(frame.body) <= MAX_BYTES


@given(st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_a_hello_comes_back_or_is_refused(version: int, max_frame_bytes: int) -> None:
    hello = Hello(version=version, max_frame_bytes=max_frame_bytes)
    (frame,) = FrameDecoder().decode_untrusted(encode_hello(hello))
    with suppress(RemoteProtocolError):
        assert decode_hello_untrusted(frame) == hello


@given(
    st.integers(1, 1_000),
    st.integers(1, 1_000),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 50)), max_size=50),
)
def test_a_bucket_never_lets_more_through_than_burst_and_rate(
    per_second: int, burst: int, steps: list[tuple[int, int]]
) -> None:
    bucket = TokenBucket(per_second=per_second, burst=burst, now_ms=0)
    now_ms = passed = 0
    for elapsed_ms, cost in steps:
        now_ms += elapsed_ms
        if bucket.try_take(cost, now_ms=now_ms):
            passed += cost
        assert passed <= burst + per_second * now_ms / 1_000
