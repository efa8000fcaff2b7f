"""What commands share to reach the market: connection options, the client, the signer."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from gpumarket.client.connection import Connection, find_connection
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import format_hex

if TYPE_CHECKING:
    from gpumarket.cli.output import Console
    from gpumarket.client import Client
    from gpumarket.client.wallet import Account, Signer

_FLAGS = (
    ("url", "Address of the coordinator."),
    ("rpc_url", "RPC endpoint of the chain."),
    ("chain_id", "Chain that must be meant."),
    ("contract", "Settlement contract that must be meant."),
    ("account", "Account by name or address."),
    ("keystore", "Folder of key files."),
    ("password_file", "File with the account's password."),
)


def with_connection(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the connection options and pass it a `Connection`."""

    @functools.wraps(function)
    def run(console: Console, **options: Any) -> Any:
        flags = {name: options.pop(name) for name, _ in _FLAGS}
        return function(console, connection=find_connection(flags), **options)

    for name, text in reversed(_FLAGS):
        run = click.option(f"--{name.replace('_', '-')}", name, help=text, metavar="TEXT")(run)
    return run


def make_client(connection: Connection) -> Client:
    """Make the synchronous client; importing it takes a moment, so it is done here."""
    from gpumarket.client.sync import Client

    return Client(connection=connection)


def open_signer(console: Console, connection: Connection, *, chain_id: int) -> Signer:
    """Open the configured account; asks for the password where nobody set one."""
    from gpumarket.client.wallet import find_account, find_password, open_account

    account = find_account(connection)
    if account.is_test_key:
        console.warn(f"{account.name} {format_hex(account.address)} is a TEST KEY, known to all")
    password = find_password(connection, account)
    if password is None:
        password = ask_password(f"Password of {account.name}")
    return open_account(account, password=password, chain_id=chain_id)


def ask_password(question: str, *, is_new: bool = False) -> str:
    """Ask for a password on the terminal; raise `InvalidInput` where nobody can be asked."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InvalidInput(
            "a password is needed, but nobody can be asked",
            code="GM-1003",
            money="nothing was signed",
            hints=("set GPUMARKET_PASSWORD_FILE to a file with the password",),
        )
    password: str = click.prompt(question, hide_input=True, confirmation_prompt=is_new, err=True)
    return password


def describe_account(account: Account) -> dict[str, Any]:
    """Write an account for machines."""
    return {
        "name": account.name,
        "address": format_hex(account.address),
        "path": str(account.path),
        "test_key": account.is_test_key,
    }
