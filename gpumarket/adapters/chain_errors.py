"""
What the chain says when it says no, as errors of this house.

A contract's custom error comes as four bytes and packed arguments; it leaves here as a
`ContractRefused` in the words of `gpumarket.adapters.refusals.py`, with its name and values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_abi.exceptions import DecodingError
from web3 import Web3
from web3.exceptions import ContractCustomError, ContractLogicError, Web3Exception

from gpumarket.adapters.recursion import restore_recursion_limit
from gpumarket.adapters.refusals import explain_refusal
from gpumarket.protocol.errors import BrokenPrecondition, ChainError
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.signing import keccak256

restore_recursion_limit()

TEXT_MAX = 300
"""Characters of a stranger's text that we repeat."""
NOTHING_MOVED = "nothing was moved"

Abi = Sequence[dict[str, Any]]
ErrorIndex = Mapping[str, dict[str, Any]]
"""ABI entries of custom errors by their selector in hex."""

_CODEC = Web3().codec


@dataclass(frozen=True, slots=True)
class ContractRefusal:
    """A custom error of the contract as it was raised."""

    name: str
    """As in the ABI: `BondTooSmall`."""
    args: dict[str, Any]
    """Named values: numbers as int, addresses and hashes as bytes."""

    def describe(self) -> str:
        """Return the error as one would write it: `BondTooSmall(minimum=5, actual=0)`."""
        values = (f"{name}={_format_value(value)}" for name, value in self.args.items())
        return f"{self.name}({', '.join(values)})"


class ContractRefused(BrokenPrecondition):
    """The contract refuses this call with an error of its own: do not retry as it is."""

    def __init__(self, refusal: ContractRefusal, *, money: str) -> None:
        said = refusal.describe()[:TEXT_MAX]
        words = explain_refusal(refusal.name, refusal.args)
        if words is None:
            super().__init__(f"the contract refuses: {said}", money=money)
        else:
            why = f"{words.why} ({said})" if words.why else said
            message = f"the contract refuses: {words.text}"
            super().__init__(message, code=words.code, why=why, money=money, hints=words.hints)
        self.refusal = refusal


class ChainSilent(ChainError):
    """The node gave no answer that can be used: nothing is known, and nothing was changed."""


def index_errors(*abis: Abi) -> ErrorIndex:
    """Return the custom errors of some contracts by selector."""
    return {
        format_hex(keccak256(compute_signature(entry).encode())[:4]): entry
        for abi in abis
        for entry in abi
        if entry["type"] == "error"
    }


def compute_signature(entry: dict[str, Any]) -> str:
    """Return the canonical signature of an event or error."""
    return f"{entry['name']}({_list_types(entry['inputs'])})"


def _list_types(inputs: Sequence[dict[str, Any]]) -> str:
    # A struct is written as the tuple of its fields, an array of them with its brackets after.
    return ",".join(
        f"({_list_types(item['components'])}){item['type'].removeprefix('tuple')}"
        if item["type"].startswith("tuple")
        else item["type"]
        for item in inputs
    )


def decode_refusal(data: str, errors: ErrorIndex) -> ContractRefusal | None:
    """Return what revert data in hex says, or None where no known contract says this."""
    entry = errors.get(data[:10])
    if entry is None:
        return None
    inputs = entry["inputs"]
    try:
        values = _CODEC.decode([item["type"] for item in inputs], bytes.fromhex(data[10:]))
    except (DecodingError, ValueError):
        return None
    names = [item["name"] or f"arg{index}" for index, item in enumerate(inputs)]
    return ContractRefusal(
        entry["name"],
        {name: convert_value(value) for name, value in zip(names, values, strict=True)},
    )


def convert_value(value: Any) -> Any:
    """Return an ABI value in our own terms: addresses as bytes, structs dicts, arrays tuples."""
    if isinstance(value, str) and value.startswith("0x") and len(value) == 42:
        return bytes.fromhex(value[2:])
    if isinstance(value, list | tuple):
        return tuple(convert_value(item) for item in value)
    if isinstance(value, Mapping):
        return {name: convert_value(item) for name, item in value.items()}
    return bytes(value) if isinstance(value, bytes) else value


def translate_error(
    error: Exception, *, errors: ErrorIndex, rpc_url: str, money: str = NOTHING_MOVED
) -> ChainError:
    """
    Return the error of ours for what web3 raised.

    `money` says what a refused call left behind: nothing before it was sent, gas after.
    """
    if not isinstance(error, ContractLogicError):
        return ChainSilent(
            f"the chain at {rpc_url} cannot be asked",
            why=str(error)[:TEXT_MAX],
            money="unchanged",
        )
    data = error.data if isinstance(error.data, str) else ""
    refusal = decode_refusal(data, errors)
    if refusal is not None:
        return ContractRefused(refusal, money=money)
    # An error that no known contract has: its selector; else web3 has put the words together.
    said = data[:10] if isinstance(error, ContractCustomError) else str(error.message)[:TEXT_MAX]
    return BrokenPrecondition(
        f"the contract refuses: {said}", why=f"revert data {data[:TEXT_MAX]}", money=money
    )


RAISED_BY_WEB3 = (Web3Exception, OSError, ValueError)
"""All that asking a chain may raise."""


def _format_value(value: Any) -> str:
    return format_hex(value) if isinstance(value, bytes) else str(value)
