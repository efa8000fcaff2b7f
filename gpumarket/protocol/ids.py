"""Names of things: addresses, hashes, jobs, leases, and how they are shown."""

from __future__ import annotations

import base64
import re
from typing import Annotated

from msgspec import Meta

from gpumarket.protocol.errors import InvalidInput

Address = Annotated[bytes, Meta(min_length=20, max_length=20)]
"""An Ethereum account."""
Hash32 = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""A keccak256 or sha2-256 digest."""
Signature = Annotated[bytes, Meta(min_length=65, max_length=65)]
"""secp256k1: r, s (low half), v in {27, 28}."""
Cid = Annotated[str, Meta(min_length=46, max_length=100)]
"""A content identifier as text; see `cids.py`."""
ImageDigest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
"""The digest of an image's configuration, which names its layers."""
PeerId = Annotated[str, Meta(min_length=1, max_length=100)]
Multiaddr = Annotated[str, Meta(min_length=1, max_length=300)]
ShortText = Annotated[str, Meta(max_length=200)]

ZERO_ADDRESS: Address = bytes(20)
ZERO_HASH: Hash32 = bytes(32)

JOB_ID_LENGTH = 10
_ADDRESS = re.compile(r"^0x[0-9a-fA-F]{40}$")


def format_hex(value: bytes) -> str:
    """Write bytes as 0x-prefixed lower-case hex."""
    return "0x" + value.hex()


def format_short(address: bytes) -> str:
    """Write an address for tables: `0x7099…79C8` without checksum case."""
    text = address.hex()
    return f"0x{text[:4]}…{text[-4:]}"


def parse_address(text: str) -> Address:
    """Read a 0x-prefixed address; the checksum case is not required."""
    if not _ADDRESS.fullmatch(text):
        raise InvalidInput(f"{text!r} is not an address; it needs 0x and 40 hex digits")
    return bytes.fromhex(text[2:])


def parse_hash(text: str) -> Hash32:
    """Read a 0x-prefixed 32-byte hash."""
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != 32:
        raise InvalidInput(f"{text!r} is not a 32-byte hash in hex")
    return value


def make_job_id(order_hash: bytes) -> str:
    """Name a job after its order: `gm-` and ten base32 characters."""
    return "gm-" + base64.b32encode(order_hash).decode().lower()[:JOB_ID_LENGTH]
