"""
The contracts as they were compiled: what their code must be on chain, and where they keep what.

Immutables are written into the code when a contract is created. So who knows a contract's
parameters and the compiled code knows the hash of the code on chain, and the other way round: a
code hash that fits proves the parameters.
Source: Solidity, "Layout of State Variables in Storage"; OpenZeppelin's EIP712 and ShortStrings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.signing import (
    DOMAIN_NAME,
    DOMAIN_VERSION,
    Domain,
    encode_address,
    encode_uint,
    keccak256,
)
from gpumarket.protocol.units import U64

_WORD: Final = 32


class ContractClaim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The parameters of a settlement contract, as `Config` of the contract has them."""

    token: Address
    disputes: Address
    jury: Address
    epoch: U64
    open: U64
    response: U64
    exit_delay: U64
    seed_delay: U64
    """Blocks."""
    nonce_timeout: U64
    """Blocks."""
    min_bond: U64
    min_stake: U64
    challenge_bond: U64
    jury_bond: U64
    bond_slash: U64
    stake_slash: U64


@dataclass(frozen=True, slots=True)
class CompiledContract:
    """A contract as the compiler left it."""

    runtime: bytes
    """Zeros stand where immutables belong."""
    immutables: Mapping[str, tuple[tuple[int, int], ...]]
    """(start, length) of each place, by name."""
    storage: Mapping[str, StorageVariable]


@dataclass(frozen=True, slots=True)
class StorageVariable:
    """A state variable: its slot, and where the members of its struct are from there."""

    slot: int
    members: Mapping[str, tuple[int, int, int]]
    """Slot from that of the struct, offset and size in bytes."""

    def find_slot(self, *keys: bytes) -> Hash32:
        """Return the slot of what a mapping holds at `keys`, each one ABI word."""
        slot = encode_uint(self.slot)
        for key in keys:
            slot = keccak256(key + slot)
        return slot

    def read(self, name: str, words: tuple[int, ...]) -> int:
        """Take a member out of the struct's words."""
        slot, offset, size = self.members[name]
        return (words[slot] >> (8 * offset)) & ((1 << (8 * size)) - 1)


def read_contract(artifact: Mapping[str, Any]) -> CompiledContract:
    """Take an artifact of scripts/compile-contracts for what it says about code and storage."""
    return CompiledContract(
        runtime=bytes.fromhex(artifact["runtime"][2:]),
        immutables={
            name: tuple((int(start), int(size)) for start, _, size in map(_split, places))
            for name, places in artifact["immutables"].items()
        },
        storage={
            name: StorageVariable(
                slot=each["slot"],
                members={key: tuple(place) for key, place in each["members"].items()},
            )
            for name, each in artifact["storage"].items()
        },
    )


def _split(place: str) -> tuple[str, str, str]:
    return place.partition("+")


def compute_settlement_code_hash(
    compiled: CompiledContract, claim: ContractClaim, domain: Domain
) -> Hash32:
    """Return the code hash of the settlement contract of `domain` with these parameters."""
    words = {
        name.upper(): encode_uint(value) if isinstance(value, int) else encode_address(value)
        for name, value in msgspec.structs.asdict(claim).items()
    }
    lifetime = claim.exit_delay - claim.open - claim.response
    words |= {
        "ORDER_LIFETIME": encode_uint(max(0, lifetime)),
        "_cachedChainId": encode_uint(domain.chain_id),
        "_cachedDomainSeparator": domain.compute_separator(),
        "_cachedThis": encode_address(domain.contract),
        "_hashedName": keccak256(DOMAIN_NAME.encode()),
        "_hashedVersion": keccak256(DOMAIN_VERSION.encode()),
        "_name": _encode_short_text(DOMAIN_NAME),
        "_version": _encode_short_text(DOMAIN_VERSION),
    }
    return _compute_code_hash(compiled, words)


def compute_judge_code_hash(compiled: CompiledContract, domain: Domain) -> Hash32:
    """Return the code hash of the disputes or the jury that belongs to a settlement contract."""
    return _compute_code_hash(compiled, {"_SETTLEMENT": encode_address(domain.contract)})


def _compute_code_hash(compiled: CompiledContract, words: Mapping[str, bytes]) -> Hash32:
    code = bytearray(compiled.runtime)
    for name, places in compiled.immutables.items():
        for start, size in places:
            code[start : start + size] = words[name]
    return keccak256(bytes(code))


def _encode_short_text(text: str) -> bytes:
    raw = text.encode()
    return raw.ljust(_WORD - 1, b"\0") + bytes([len(raw)])
