"""
What a deployment of the contracts is, and when its parameters make sense: rules without a chain.

A deployment file is written by whoever deployed and read by everybody who is asked to trust it, so
nothing in it counts until `deployment.py` has compared it with the chain.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.header import HISTORY_WINDOW
from gpumarket.protocol.units import U64

CONTRACTS: Final = ("Disputes", "Jury", "Settlement")
"""In the order in which they are created."""
FILE_BYTES_MAX: Final = 65_536
DECIMALS_MAX: Final = 6
SYMBOL_MAX: Final = 32
MIN_SLASHES: Final = 4
NOTHING_SENT: Final = "nothing was sent and no gas was spent"
_AMOUNT_MAX: Final = 2**64 - 1


class PlacedContract(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One contract of a deployment, as its creation left it."""

    address: str
    transaction: str
    """The one that created it; its input is all that the contract was made of."""
    block: U64
    code_hash: str
    """keccak256 of the code at the address, immutables included."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A deployment file: addresses and hashes in hex, amounts in base units."""

    chain_id: U64
    token: str
    token_symbol: str
    token_decimals: int
    deployer: str
    parameters: dict[str, int]
    """By the names of `ContractConfig`."""
    contracts: dict[str, PlacedContract]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was compared."""

    passed: bool
    text: str

    def describe(self) -> str:
        """Return the line for people and for `grep`."""
        return f"{'PASS' if self.passed else 'FAIL'} {self.text}"


def decode_deployment_untrusted(raw: bytes) -> Deployment:
    """Read a deployment file; raise `RemoteProtocolError` for anything that is none."""
    if len(raw) > FILE_BYTES_MAX:
        raise RemoteProtocolError(f"a deployment file has at most {FILE_BYTES_MAX} bytes")
    try:
        deployment = msgspec.json.decode(raw, type=Deployment)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"this is no deployment file: {error}") from error
    missing = set(CONTRACTS) ^ set(deployment.contracts)
    if missing:
        raise RemoteProtocolError(f"a deployment has exactly the contracts {', '.join(CONTRACTS)}")
    for placed in deployment.contracts.values():
        _check_hex(placed.address, 20)
        _check_hex(placed.transaction, 32)
        _check_hex(placed.code_hash, 32)
    _check_hex(deployment.token, 20)
    _check_hex(deployment.deployer, 20)
    # These are printed, and a terminal obeys what it is printed.
    if not is_plain(deployment.token_symbol):
        raise RemoteProtocolError("a token's symbol is a short word")
    if not all(name.isascii() and name.isidentifier() for name in deployment.parameters):
        raise RemoteProtocolError("a parameter has a name")
    return deployment


def is_plain(symbol: str) -> bool:
    """Tell whether a token's symbol can be shown to people as it is."""
    return 0 < len(symbol) <= SYMBOL_MAX and symbol.isascii() and symbol.isprintable()


def _check_hex(text: str, length: int) -> None:
    try:
        is_right = text.startswith("0x") and len(bytes.fromhex(text[2:])) == length
    except ValueError:
        is_right = False
    if not is_right:
        raise RemoteProtocolError(f"a deployment file wants {length} bytes in hex: {text[:80]!r}")


def encode_deployment(deployment: Deployment) -> bytes:
    """Write a deployment file, one value a line."""
    return msgspec.json.format(msgspec.json.encode(deployment), indent=2) + b"\n"


# ---- parameters ----------------------------------------------------------------------------


def parse_parameters(text: str, names: Sequence[str]) -> dict[str, int]:
    """
    Read the `[contract]` table of a parameters file: exactly these names, whole numbers.

    Raises `InvalidInput` with every fault at once.
    """
    try:
        table = tomllib.loads(text).get("contract", {})
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            "the parameters file is not TOML", why=str(error), money=NOTHING_SENT
        ) from error
    faults = [f"{name} is missing" for name in names if name not in table]
    faults += [f"{name} is no parameter" for name in table if name not in names]
    faults += [
        f"{name} must be a whole number of at most 64 bits"
        for name in names
        if name in table and (type(table[name]) is not int or not 0 <= table[name] <= _AMOUNT_MAX)
    ]
    faults = faults or list_faults(table)
    if faults:
        raise InvalidInput(
            f"the parameters file has {len(faults)} faults",
            why="; ".join(faults),
            money=NOTHING_SENT,
        )
    return {name: table[name] for name in names}


def list_faults(parameters: Mapping[str, int]) -> list[str]:
    """
    Return why a market with these parameters would be refused, or would not be safe.

    The constructors refuse most of it too, after two of three contracts have been paid for.
    """
    value = parameters.__getitem__
    bounds = (
        ("open", 1),
        ("response", 1),
        ("challenge_bond", 1),
        ("jury_bond", 1),
        ("bond_slash", 1),
        ("stake_slash", 1),
        ("seed_delay_blocks", 1),
        ("min_bond", MIN_SLASHES * value("bond_slash")),
        ("min_stake", value("stake_slash")),
        ("epoch", value("open") + 2 * value("response")),
        ("exit_delay", 2 * value("epoch")),
    )
    faults = [
        f"{name} is {value(name)}, at least {bound} is needed"
        for name, bound in bounds
        if value(name) < bound
    ]
    faults += [
        f"{name} is {value(name)}, a block hash can be read for {HISTORY_WINDOW} blocks only"
        for name in ("seed_delay_blocks", "nonce_timeout_blocks")
        if value(name) >= HISTORY_WINDOW
    ]
    # An appeal costs four times the first bond, and a reporter earns ten challenge bonds: both are
    # computed in 64 bits.
    faults += [
        f"{name} is {value(name)}, {factor} times that passes 64 bits"
        for name, factor in (("jury_bond", 4), ("challenge_bond", 10))
        if value(name) * factor > _AMOUNT_MAX
    ]
    return faults


def find_randomness_fault(mix_hashes: Sequence[bytes]) -> str:
    """
    Say why blocks with these mixHashes cannot seed samples and juries, or nothing.

    Some chains put a constant there: whoever commits to work would know what is checked.
    """
    if len(mix_hashes) < 2:
        return "the chain has too few blocks to tell"
    if not all(any(mix_hash) for mix_hash in mix_hashes):
        return "a block has none"
    if len(set(mix_hashes)) < len(mix_hashes):
        return "two blocks have the same"
    return ""


# ---- code ----------------------------------------------------------------------------------


def mask_code(code: bytes, immutables: Mapping[str, Sequence[str]]) -> bytes:
    """Return code with zeros where the constructor writes: `start+length` in bytes, by name."""
    masked = bytearray(code)
    for place in (place for places in immutables.values() for place in places):
        start, length = (int(part) for part in place.split("+"))
        masked[start : start + length] = bytes(len(masked[start : start + length]))
    return bytes(masked)


# ---- what wallets show ---------------------------------------------------------------------


def fill_descriptor(
    name: str, descriptor: dict[str, Any], deployment: Deployment
) -> dict[str, Any]:
    """
    Return an ERC-7730 descriptor with this deployment's addresses.

    `name` is its file's: `calldata-<contract>`, or `eip712-<any>` for documents, which are signed
    for Settlement.
    """
    kind, _, contract = name.partition("-")
    is_call = kind == "calldata"
    placed = deployment.contracts[contract if is_call else "Settlement"]
    place = {"chainId": deployment.chain_id, "address": placed.address}
    key = "contract" if is_call else "eip712"
    context = descriptor["context"]
    metadata = dict(descriptor["metadata"])
    if "constants" in metadata:
        metadata["constants"] = {**metadata["constants"], "token": deployment.token}
    filled = {**context, key: {**context[key], "deployments": [place]}}
    return {**descriptor, "context": filled, "metadata": metadata}
