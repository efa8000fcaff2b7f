"""
Content identifiers: the name of a block is the sha2-256 of its bytes.

Two spellings exist. Version 1 (`bafy…`, `bafk…`) says how the bytes are encoded and is what we
write; version 0 (`Qm…`) is what older Kubo nodes write and always means dag-pb. Only sha2-256 is
spoken here: any other hash is refused, so that a digest in a CID is a digest on chain.
Source: github.com/multiformats/cid.
"""

from __future__ import annotations

import base64
import hashlib
from enum import IntEnum
from typing import NamedTuple

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Cid, Hash32
from gpumarket.protocol.varint import decode_varint_untrusted, encode_varint

CID_TEXT_LENGTH_MAX = 100
CID_BYTES = 36
"""Version, codec, hash name and digest length take one byte each for all that we speak."""

_SHA2_256 = 0x12
_DIGEST_BYTES = 32
_V0_PREFIX = bytes((_SHA2_256, _DIGEST_BYTES))
_V0_TEXT_LENGTH = 46
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUE = {character: value for value, character in enumerate(_BASE58)}


class Codec(IntEnum):
    """How the bytes of a block are to be read."""

    RAW = 0x55
    DAG_PB = 0x70
    DAG_CBOR = 0x71


class ContentId(NamedTuple):
    """
    A CID taken apart.

    `digest` alone finds the block: the same bytes may be called by several CIDs.
    """

    codec: Codec
    digest: Hash32
    version: int = 1

    def __str__(self) -> str:
        return format_cid(self)

    def __bytes__(self) -> bytes:
        multihash = _V0_PREFIX + self.digest
        return multihash if self.version == 0 else bytes((1, self.codec)) + multihash


def compute_digest(data: bytes) -> Hash32:
    """Hash a block's bytes with sha2-256."""
    return hashlib.sha256(data).digest()


def compute_cid(data: bytes, codec: Codec, *, version: int = 1) -> ContentId:
    """Name a block after its bytes."""
    return ContentId(codec, compute_digest(data), version)


def is_block_of(cid: ContentId, data: bytes) -> bool:
    """Say whether `data` is the block that `cid` names."""
    return compute_digest(data) == cid.digest


def format_cid(cid: ContentId) -> Cid:
    """Write a CID as text: base32 for version 1, base58 for version 0."""
    if cid.version == 0:
        return _encode_base58(bytes(cid))
    return "b" + base64.b32encode(bytes(cid)).decode("ascii").rstrip("=").lower()


def parse_cid(text: str) -> ContentId:
    """Read a CID that our own side gave; a bad one is the caller's mistake."""
    try:
        return decode_cid_untrusted(text)
    except RemoteProtocolError as error:
        raise InvalidInput(
            f"{text[:CID_TEXT_LENGTH_MAX]!r} is not a CID", code="GM-6010", why=error.message
        ) from error


def decode_cid_untrusted(text: str) -> ContentId:
    """
    Read a CID from text that a peer sent, or raise `RemoteProtocolError`.

    Only the one canonical spelling is taken: lower-case base32 (`b…`) or a version 0 `Qm…`.
    """
    if len(text) > CID_TEXT_LENGTH_MAX:
        raise RemoteProtocolError(f"a CID of {len(text)} characters, limit {CID_TEXT_LENGTH_MAX}")
    if len(text) == _V0_TEXT_LENGTH and text.startswith("Qm"):
        return decode_cid_bytes_untrusted(_decode_base58_untrusted(text))
    if not text.startswith("b"):
        raise RemoteProtocolError("a CID must be base32 (b…) or version 0 (Qm…)")
    try:
        data = base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8))
    except ValueError as error:
        raise RemoteProtocolError("a CID is not base32") from error
    cid = decode_cid_bytes_untrusted(data)
    if format_cid(cid) != text:
        raise RemoteProtocolError("a CID is not in its canonical spelling")
    return cid


def decode_cid_bytes_untrusted(data: bytes) -> ContentId:
    """Read a binary CID, as links and Bitswap carry it, or raise `RemoteProtocolError`."""
    if len(data) == 2 + _DIGEST_BYTES and data[:2] == _V0_PREFIX:
        return ContentId(Codec.DAG_PB, data[2:], 0)
    codec, rest = split_cid_prefix_untrusted(data)
    if len(rest) != _DIGEST_BYTES:
        raise RemoteProtocolError(f"a CID has {len(rest)} digest bytes, sha2-256 has 32")
    return ContentId(codec, rest)


def split_cid_prefix_untrusted(data: bytes) -> tuple[Codec, bytes]:
    """Read version 1, codec and sha2-256 with its length; give the codec and what follows."""
    version, at = decode_varint_untrusted(data, 0)
    if version != 1:
        raise RemoteProtocolError(f"CID version {version} is not supported, only 0 and 1")
    codec, at = decode_varint_untrusted(data, at)
    hash_name, at = decode_varint_untrusted(data, at)
    length, at = decode_varint_untrusted(data, at)
    if codec not in Codec._value2member_map_:
        raise RemoteProtocolError(f"CID codec 0x{codec:x} is not raw, dag-pb or dag-cbor")
    if hash_name != _SHA2_256 or length != _DIGEST_BYTES:
        raise RemoteProtocolError(f"CID hash 0x{hash_name:x} is not sha2-256 of 32 bytes")
    return Codec(codec), data[at:]


def encode_cid_prefix(cid: ContentId) -> bytes:
    """Write all of a CID but its digest, as Bitswap sends it before a block."""
    version = bytes((cid.version,)) + encode_varint(cid.codec)
    return version + _V0_PREFIX


def _encode_base58(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "".join(reversed(digits))


def _decode_base58_untrusted(text: str) -> bytes:
    number = 0
    for character in text:
        value = _BASE58_VALUE.get(character)
        if value is None:
            raise RemoteProtocolError("a CID is not base58")
        number = number * 58 + value
    try:
        return number.to_bytes(2 + _DIGEST_BYTES, "big")
    except OverflowError as error:
        raise RemoteProtocolError("a CID is too long for sha2-256") from error
