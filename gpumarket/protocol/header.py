"""
Block headers: their RLP bytes, which hash to the block hash, and the randomness inside.

Source: the execution specification's `Header`; forks only ever appended fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.rlp_reading import decode_rlp_untrusted, encode_rlp
from gpumarket.protocol.signing import keccak256

HEADER_BYTES_MAX = 1024
HISTORY_WINDOW = 8_191
"""Blocks back of which the state holds the hashes (EIP-2935), for contracts to look up."""
_FIELDS_MIN = 15
_STATE_FIELD = 3
_NUMBER_FIELD = 8
_TIME_FIELD = 11
_MIX_HASH_FIELD = 13
_ORDER = (
    ("parentHash", False),
    ("sha3Uncles", False),
    ("miner", False),
    ("stateRoot", False),
    ("transactionsRoot", False),
    ("receiptsRoot", False),
    ("logsBloom", False),
    ("difficulty", True),
    ("number", True),
    ("gasLimit", True),
    ("gasUsed", True),
    ("timestamp", True),
    ("extraData", False),
    ("mixHash", False),
    ("nonce", False),
)
_APPENDED = (
    ("baseFeePerGas", True),
    ("withdrawalsRoot", False),
    ("blobGasUsed", True),
    ("excessBlobGas", True),
    ("parentBeaconBlockRoot", False),
    ("requestsHash", False),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What the market needs of a block header."""

    block_hash: Hash32
    parent_hash: Hash32
    state_root: Hash32
    number: int
    timestamp: int
    mix_hash: Hash32
    """The block's RANDAO output, which nobody knew before the block."""


def encode_header(block: Mapping[str, str]) -> bytes:
    """Encode a block, with fields in hex as an RPC shows them, into its header's RLP."""
    present = _ORDER + tuple(field for field in _APPENDED if block.get(field[0]) is not None)
    fields = [_encode_field(block[name], is_number=is_number) for name, is_number in present]
    return encode_rlp(fields)


def decode_header_untrusted(data: bytes) -> Header:
    """Read a header's RLP; raise `RemoteProtocolError` unless it has a header's shape."""
    if len(data) > HEADER_BYTES_MAX:
        raise RemoteProtocolError(f"a header has at most {HEADER_BYTES_MAX} bytes")
    try:
        items = decode_rlp_untrusted(data)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"not the RLP of a header: {error.message}") from error
    fields = [item for item in items if isinstance(item, bytes)] if isinstance(items, list) else []
    if len(fields) != len(items) or len(fields) < _FIELDS_MIN:
        raise RemoteProtocolError("not the RLP of a header: wrong shape")
    numbers = (fields[_NUMBER_FIELD], fields[_TIME_FIELD])
    words = (fields[0], fields[_STATE_FIELD], fields[_MIX_HASH_FIELD])
    if any(len(word) != 32 for word in words) or max(map(len, numbers)) > 8:
        raise RemoteProtocolError("not the RLP of a header: wrong field size")
    return Header(
        block_hash=keccak256(data),
        parent_hash=fields[0],
        state_root=fields[_STATE_FIELD],
        number=int.from_bytes(numbers[0], "big"),
        timestamp=int.from_bytes(numbers[1], "big"),
        mix_hash=fields[_MIX_HASH_FIELD],
    )


def _encode_field(text: str, *, is_number: bool) -> bytes:
    if not is_number:
        return bytes.fromhex(text[2:])
    value = int(text, 16)
    return value.to_bytes((value.bit_length() + 7) // 8, "big")
