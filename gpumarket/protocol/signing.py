"""
Promises: EIP-712 digests under one domain, secp256k1 signatures, and the types that hold them.

`Signed[T]` is a claim; `Verified[T]` is the same claim after its signature was checked, and
only functions in this file make one. Code that moves money accepts `Verified` values only.
Source: EIP-712, EIP-2 (low s).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Generic, Protocol, TypeVar

import coincurve
import msgspec

from gpumarket.protocol.codec import compute_content_hash, remember_content_hash
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32, Signature
from gpumarket.protocol.keccak import hash_keccak
from gpumarket.protocol.units import U64

DOMAIN_NAME = "gpumarket"
DOMAIN_VERSION = "1"
_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class Signable(Protocol):
    """Anything with an EIP-712 struct hash."""

    def compute_struct_hash(self) -> Hash32:
        """Return the struct hash of this value."""


T = TypeVar("T", bound=Signable)


def keccak256(data: bytes) -> Hash32:
    """Hash with Keccak-256, as the chain does."""
    return hash_keccak(data)


def encode_uint(value: int) -> bytes:
    """Encode an integer as a 32-byte big-endian ABI word."""
    return value.to_bytes(32, "big")


def encode_address(value: bytes) -> bytes:
    """Encode an address as a 32-byte ABI word."""
    return value.rjust(32, b"\0")


class Domain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a promise counts: one chain and one settlement contract."""

    chain_id: U64
    contract: Address

    def compute_separator(self) -> Hash32:
        """Return the EIP-712 domain separator."""
        return _compute_separator(self.chain_id, self.contract)

    def compute_digest(self, struct_hash: Hash32) -> Hash32:
        """Return what is signed: the struct hash bound to this domain."""
        return keccak256(b"\x19\x01" + self.compute_separator() + struct_hash)


@lru_cache(maxsize=64)
def _compute_separator(chain_id: int, contract: Address) -> Hash32:
    return keccak256(
        _DOMAIN_TYPE
        + keccak256(DOMAIN_NAME.encode())
        + keccak256(DOMAIN_VERSION.encode())
        + encode_uint(chain_id)
        + encode_address(contract)
    )


_DOMAIN_TYPE = keccak256(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
_DOCUMENT_TYPE = keccak256(b"Document(string kind,bytes32 contentHash)")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signed value the contract need not understand: its kind and content hash are signed."""

    KIND: ClassVar[str] = ""
    IS_SMALL: ClassVar[bool] = False
    """Whether its hash is worth remembering: an audit asks for it several times."""

    def compute_content_hash(self) -> Hash32:
        """Return the hash of the document's bytes."""
        return remember_content_hash(self) if self.IS_SMALL else compute_content_hash(self)

    def compute_struct_hash(self) -> Hash32:
        """Return the hash of `Document(string kind,bytes32 contentHash)`."""
        return keccak256(_DOCUMENT_TYPE + _hash_kind(self.KIND) + self.compute_content_hash())


@lru_cache(maxsize=64)
def _hash_kind(kind: str) -> Hash32:
    return keccak256(kind.encode())


class Signed(msgspec.Struct, Generic[T], frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value somebody claims to have signed; worth nothing until verified."""

    body: T
    signer: Address
    signature: Signature


@dataclass(frozen=True, slots=True)
class Verified(Generic[T]):
    """A value whose signer is known; made by `verify` only."""

    body: T
    signer: Address
    signature: Signature

    def as_signed(self) -> Signed[T]:
        """Return the claim for sending or storing."""
        return Signed(body=self.body, signer=self.signer, signature=self.signature)


class PrivateKey:
    """A secp256k1 key that signs digests; its bytes never leave this object."""

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        public = self._key.public_key.format(compressed=False)
        self.address: Address = keccak256(public[1:])[12:]

    def sign_digest(self, digest: Hash32) -> Signature:
        """Sign a 32-byte digest; v is 27 or 28."""
        raw = self._key.sign_recoverable(digest, hasher=None)
        return raw[:64] + bytes([raw[64] + 27])

    def sign(self, value: T, domain: Domain) -> Verified[T]:
        """Sign a typed value under `domain`."""
        digest = domain.compute_digest(value.compute_struct_hash())
        return Verified(value, self.address, self.sign_digest(digest))


def verify(signed: Signed[T], domain: Domain) -> Verified[T]:
    """Check a claim's signature; raise `RemoteProtocolError` unless its signer made it."""
    digest = domain.compute_digest(signed.body.compute_struct_hash())
    if recover_signer(digest, signed.signature) != signed.signer:
        raise RemoteProtocolError(
            f"the signature of a {type(signed.body).__name__} is not by 0x{signed.signer.hex()}"
        )
    return Verified(signed.body, signed.signer, signed.signature)


@lru_cache(maxsize=4096)
def recover_signer(digest: Hash32, signature: Signature) -> Address | None:
    """
    Return who signed `digest`, or None where the signature is malformed or malleable.

    What was recovered lately is remembered: one audit looks at most signatures twice.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        return None
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    raw = signature[:64] + bytes([signature[64] - 27])
    try:
        public = coincurve.PublicKey.from_signature_and_message(raw, digest, hasher=None)
    except ValueError:
        return None
    return keccak256(public.format(compressed=False)[1:])[12:]
