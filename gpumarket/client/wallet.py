"""
The wallet: a folder of Ethereum keystores, one file an account, readable by its owner only.

Devnet accounts are the public test keys; they open on the devnet's chain and nowhere else.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gpumarket.client.connection import Connection
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Address, format_hex, parse_address
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.signing import PrivateKey

ACCOUNTS_MAX: Final = 1000
KEY_FILE_BYTES_MAX: Final = 2**16
PASSWORD_ENV: Final = "GPUMARKET_PASSWORD"
TEST_ADDRESSES: Final = frozenset(
    parse_address(text)
    for text in (
        "0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
        "0x90f79bf6eb2c4f870365e785982e1f101e93b906",
        "0x15d34aaf54267db7d7c367839aaf71a00a2c6a65",
        "0x9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
        "0x976ea74026e726554db657fa54763abd0c3a0aa9",
        "0x14dc79964da2c08b23698b3d3cc7ca32193d9955",
        "0x23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
        "0xa0ee7a142d267c1f36714e4a8f75612f20a79720",
    )
)
"""Accounts of the mnemonic that every development chain uses; their keys are public."""


@dataclass(frozen=True, slots=True)
class Account:
    """One key file; `name` is the file's name without its ending."""

    name: str
    address: Address
    path: Path

    @property
    def is_test_key(self) -> bool:
        """Whether everybody has this key."""
        return self.address in TEST_ADDRESSES


@dataclass(frozen=True, slots=True)
class Signer:
    """An opened account: signs promises, and transactions through the chain adapter."""

    account: Account
    key: PrivateKey
    secret: bytes = field(repr=False)

    @property
    def address(self) -> Address:
        """The account's address."""
        return self.account.address


def list_accounts(connection: Connection) -> list[Account]:
    """List the accounts of the keystore and, on a devnet, its test accounts."""
    found: dict[Address, Account] = {}
    if connection.devnet is not None:
        for name, entry in connection.devnet.accounts.items():
            account = Account(name, parse_address(entry["address"]), Path(entry["keystore"]))
            found[account.address] = account
    for path in _list_key_files(connection.keystore):
        account = read_account(path)
        found.setdefault(account.address, account)
    return list(found.values())


def find_account(connection: Connection, name: str = "") -> Account:
    """
    Return the account of this name or address, by default the configured or only one.

    Raises `InvalidInput` GM-3101 where there is none or the choice is open.
    """
    accounts = list_accounts(connection)
    wanted = name or connection.find("account")
    matches = [each for each in accounts if _is_called(each, wanted)] if wanted else accounts
    if len(matches) == 1:
        return matches[0]
    if wanted:
        message = f"there is no account '{wanted}' in {connection.keystore}"
    elif accounts:
        message = f"there are {len(accounts)} accounts; say which one"
    else:
        message = f"there is no account in {connection.keystore}"
    hints = ("gpumarket wallet list",) if accounts else ("gpumarket wallet new",)
    raise InvalidInput(message, code="GM-3101", money="nothing was signed", hints=hints)


def open_account(account: Account, *, password: str, chain_id: int) -> Signer:
    """
    Open a key file for signing on one chain.

    Raises `InvalidInput` for a wrong password, a file that others can read, and for a test key
    on any chain but the devnet's.
    """
    if account.is_test_key and chain_id != DEVNET_CHAIN_ID:
        raise InvalidInput(
            f"{account.name} is a TEST KEY and chain {chain_id} is not the devnet",
            code="GM-3022",
            money="nothing was signed",
            hints=("gpumarket wallet new",),
        )
    from gpumarket.adapters.keys import read_keystore

    secret = read_keystore(account.path, password=password)
    return Signer(account, PrivateKey(secret), secret)


def find_password(
    connection: Connection, account: Account | None, env: Mapping[str, str] = os.environ
) -> str | None:
    """
    Return an account's password from a password file or the environment, or None to ask for it.

    A devnet's account has its own file; `account` is None for one that is being made.
    """
    from gpumarket.adapters.keys import read_password

    devnet = connection.devnet
    if account is not None and devnet is not None and account.name in devnet.accounts:
        return read_password(Path(devnet.accounts[account.name]["password_file"]))
    path = connection.find("password_file")
    if path:
        return read_password(Path(path).expanduser())
    return env.get(PASSWORD_ENV)


def create_account(
    folder: Path, name: str, *, password: str, secret: bytes | None = None
) -> Account:
    """Write a new key file, or import `secret`; an existing file is never overwritten."""
    from gpumarket.adapters.keys import write_keystore

    if not name or not all(letter.isalnum() or letter in "-_" for letter in name):
        raise InvalidInput(f"'{name[:40]}' cannot name an account; use letters, digits, - and _")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{name}.json"
    address = write_keystore(path, secret or secrets.token_bytes(32), password=password)
    return Account(name, address, path)


def read_account(path: Path) -> Account:
    """Read a key file's name and address without opening it."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(KEY_FILE_BYTES_MAX))
        address = bytes.fromhex(str(document["address"]).removeprefix("0x"))
        if len(address) != len(bytes(20)):
            raise ValueError("an address has 20 bytes")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} is not a version 3 keystore", code="GM-3103", why=str(error)[:200]
        ) from error
    return Account(path.stem, address, path)


def _list_key_files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(place.glob("*.json"))[:ACCOUNTS_MAX]


def _is_called(account: Account, wanted: str) -> bool:
    return wanted in (account.name, format_hex(account.address)) or (
        wanted.lower() == format_hex(account.address)
    )
