"""
One encoding for every document: canonical DAG-CBOR, with DAG-JSON as the form people read.

DAG-CBOR allows one byte string for one value, so the hash of a document is the hash of its
bytes, and its CID finds it on IPFS. Documents hold integers and text, never floats.
Source: ipld.io/specs/codecs/dag-cbor and dag-json.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar

import libipld
import msgspec

from gpumarket.protocol.dagcbor import write_dag_cbor
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import Hash32

T = TypeVar("T")

DOCUMENT_BYTES_MAX = 8 * 2**20
"""The largest document anybody decodes; wire messages have a smaller limit of their own."""


def encode_document(value: object) -> bytes:
    """Encode a typed value as canonical DAG-CBOR."""
    return write_dag_cbor(msgspec.to_builtins(value, builtin_types=(bytes,)))


def decode_document_untrusted(
    data: bytes, as_type: type[T], *, bytes_max: int = DOCUMENT_BYTES_MAX
) -> T:
    """
    Decode hostile bytes into `as_type`, or raise `RemoteProtocolError`.

    Refused: over `bytes_max`, any spelling but the one `encode_document` writes, unknown or
    missing or repeated keys, wrong types, values out of range.
    """
    if len(data) > bytes_max:
        raise RemoteProtocolError(f"document has {len(data)} bytes, the limit is {bytes_max}")
    try:
        plain = libipld.decode_dag_cbor(data)
        value = msgspec.convert(plain, as_type, strict=True, builtin_types=(bytes,))
        # The decoder lets long integers and tagged links through, and a missing key may have a
        # default: only bytes that we would have written ourselves have the hash that is signed.
        is_canonical = encode_document(value) == data
    except (ValueError, RecursionError, TypeError, OverflowError, InvalidInput) as error:
        raise RemoteProtocolError(
            f"not a canonical {_name(as_type)}: {str(error)[:200]}"
        ) from error
    if not is_canonical:
        raise RemoteProtocolError(f"not the canonical bytes of a {_name(as_type)}")
    return value


def compute_content_hash(value: object) -> Hash32:
    """Hash a document's bytes with sha2-256: the digest inside its CID."""
    return hashlib.sha256(encode_document(value)).digest()


@lru_cache(maxsize=2048)
def remember_content_hash(value: Hashable) -> Hash32:
    """Return `compute_content_hash` of a small document that is hashed again and again."""
    return compute_content_hash(value)


def to_dag_json(value: object) -> str:
    """Write a document as canonical DAG-JSON: bytes as `{"/": {"bytes": …}}`, keys sorted."""
    return json.dumps(
        _json_ready(_to_plain(value)), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    )


def from_dag_json_untrusted(
    text: str | bytes, as_type: type[T], *, bytes_max: int = 4 * DOCUMENT_BYTES_MAX
) -> T:
    """Read the DAG-JSON form of a document, with the same refusals as the binary form."""
    if len(text) > bytes_max:
        raise RemoteProtocolError(f"document has {len(text)} bytes, the limit is {bytes_max}")
    try:
        parsed = json.loads(text, object_pairs_hook=_refuse_repeated_keys)
        plain = _from_json(parsed)
        value = msgspec.convert(plain, as_type, strict=True, builtin_types=(bytes,))
        encode_document(value)  # JSON can spell half a character, which no document holds
        return value
    except (ValueError, RecursionError, TypeError, OverflowError, InvalidInput) as error:
        raise RemoteProtocolError(f"not DAG-JSON of a {_name(as_type)}: {error}") from error


def _to_plain(value: object) -> Any:
    return _untuple(msgspec.to_builtins(value, builtin_types=(bytes,)))


def _untuple(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untuple(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_untuple(item) for item in value]
    if isinstance(value, float):
        raise InvalidInput("documents hold no floats; write a decimal as text or an integer")
    return value


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_ready(item) for item in value]
    if isinstance(value, bytes):
        return {"/": {"bytes": base64.b64encode(value).decode().rstrip("=")}}
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"/"}:
            if not isinstance(value["/"], dict) or set(value["/"]) != {"bytes"}:
                raise ValueError("a map with the one key '/' is bytes and nothing else")
            text = value["/"]["bytes"]
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        return {key: _from_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return value


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key appears twice")
    return result


def _name(as_type: object) -> str:
    return getattr(as_type, "__name__", str(as_type))
