"""CAR archives: what is cut, swapped or too large is found where it happens."""

import pytest

from gpumarket.protocol.car import CarDecoder, decode_car_untrusted, encode_car
from gpumarket.protocol.cids import Codec, ContentId, compute_cid
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.unixfs import KUBO_V0, Block, build_file

FILE = list(build_file([bytes(range(256)) * 3_000]))
ROOT = FILE[-1].cid
CAR = b"".join(encode_car([ROOT], FILE))
MB = 10**6


def decode(data: bytes, **options: object) -> list[Block]:
    return list(decode_car_untrusted([data], bytes_max=MB, **options))  # type: ignore[arg-type]  # as given by the test


def test_an_archive_has_the_bytes_that_the_format_says() -> None:
    header = bytes.fromhex("3aa265726f6f747381d82a582500") + bytes(ROOT)
    assert CAR.startswith(header + b"\x67version\x01")


def test_an_archive_reads_back_in_pieces_of_one_byte() -> None:
    small = list(build_file([b"small"]))
    data = b"".join(encode_car([small[-1].cid], small))
    pieces = [data[i : i + 1] for i in range(len(data))]
    assert list(decode_car_untrusted(pieces, bytes_max=MB)) == small


def test_an_archive_of_version_0_cids_reads_back() -> None:
    old = list(build_file([bytes(300_000)], KUBO_V0))
    data = b"".join(encode_car([old[-1].cid], old))
    assert decode(data, roots=[old[-1].cid]) == old


def test_blocks_before_the_first_wrong_byte_are_given_and_none_after() -> None:
    at = CAR.index(FILE[1].data[:64], 262_144 + 200)
    wrong = CAR[:at] + b"\xff" + CAR[at + 1 :]
    received = []
    with pytest.raises(RemoteProtocolError, match="something else"):
        for block in decode_car_untrusted([wrong], bytes_max=MB):
            received.append(block)  # noqa: PERF402  the blocks before the error are wanted
    assert received == FILE[:1]


@pytest.mark.parametrize("length", [0, 1, 30, 60, 61, 70, len(CAR) - 1])
def test_an_archive_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(CAR[:length])


def test_an_archive_over_the_limit_is_refused_before_it_is_read() -> None:
    decoder = CarDecoder(bytes_max=1_000)
    with pytest.raises(RemoteProtocolError, match="larger"):
        list(decoder.feed_untrusted(CAR))


def test_a_section_that_claims_too_much_is_refused_by_its_length() -> None:
    with pytest.raises(RemoteProtocolError, match="section"):
        decode(CAR[:59] + b"\xff\xff\xff\x7f")
    with pytest.raises(RemoteProtocolError, match="section"):
        decode(CAR[:59] + b"\x00")


def test_an_archive_of_something_else_is_refused() -> None:
    other = compute_cid(b"other", Codec.RAW)
    with pytest.raises(RemoteProtocolError, match="not what was asked"):
        decode(CAR, roots=[other])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xa0",
        b"\xa2\x65roots\x80\x67version\x02",
        b"\xa2\x65roots\x81\x01\x67version\x01",
        b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + bytes(36) + b"\x67version\x01",
        b"\xa2\x67version\x01\x65roots\x80",
    ],
)
def test_a_header_of_another_shape_is_refused(header: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes((len(header),)) + header)


def test_more_roots_than_the_header_can_hold_are_refused() -> None:
    with pytest.raises(InvalidInput):
        list(encode_car([ContentId(Codec.RAW, bytes(32))] * 16, []))
