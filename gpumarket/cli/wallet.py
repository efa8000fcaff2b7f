"""`gpumarket wallet …`: key files of this machine, and their money on the chain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from gpumarket.cli.access import (
    ask_password,
    describe_account,
    make_client,
    open_signer,
    with_connection,
)
from gpumarket.cli.job_run import normalize_money
from gpumarket.cli.output import (
    Console,
    Outcome,
    command,
    encode_amount,
    format_table,
    show_money,
)
from gpumarket.client.connection import Connection
from gpumarket.protocol.catalog import Exit
from gpumarket.protocol.errors import GpuMarketError, InvalidInput
from gpumarket.protocol.ids import Address, format_hex, parse_address
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.units import Amount, parse_money

if TYPE_CHECKING:
    from gpumarket.adapters.chain import Chain, TxOutcome
    from gpumarket.client.wallet import Signer

T = TypeVar("T")
SECRET_BYTES: Final = 32
TAKE_COMMAND: Final = "gpumarket wallet withdraw"


@click.group()
def wallet() -> None:
    """Accounts, balances, escrow."""


# ---- key files -----------------------------------------------------------------------------


@command("wallet.new/1", name="new")
@click.argument("name", default="default")
@with_connection
def new(console: Console, *, connection: Connection, name: str) -> Outcome:
    """Make a new account: a key file that only its password opens."""
    from gpumarket.client.wallet import create_account

    password = _find_new_password(connection)
    account = create_account(connection.keystore, name, password=password)
    console.note("Keep the file and the password; without both the money is lost.")
    return Outcome(describe_account(account), f"{format_hex(account.address)}  {account.path}")


@command("wallet.import/1", name="import")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--name", default="imported", help="Name of the account here.")
@click.option("--private-key", is_flag=True, help="Read a private key from the terminal or stdin.")
@with_connection
def import_key(
    console: Console,
    *,
    connection: Connection,
    source: Path | None,
    name: str,
    private_key: bool,
) -> Outcome:
    """Take over a key file of geth or foundry, or a private key."""
    from gpumarket.adapters.keys import read_keystore
    from gpumarket.client.wallet import create_account

    if private_key == (source is not None):
        raise InvalidInput("give either a key file or --private-key", code="GM-1001")
    if source is not None:
        password = _find_new_password(connection, question=f"Password of {source.name}")
        secret = read_keystore(source, password=password)
    else:
        secret = _read_secret()
        password = _find_new_password(connection)
    account = create_account(connection.keystore, name, password=password, secret=secret)
    return Outcome(describe_account(account), f"{format_hex(account.address)}  {account.path}")


@command("wallet.list/1", name="list")
@with_connection
def list_all(console: Console, *, connection: Connection) -> Outcome:
    """List accounts."""
    from gpumarket.client.wallet import list_accounts

    accounts = list_accounts(connection)
    rows = [
        (each.name, format_hex(each.address), "TEST KEY" if each.is_test_key else "")
        for each in accounts
    ]
    text = format_table(("NAME", "ADDRESS", ""), rows) if rows else "no accounts"
    return Outcome([describe_account(each) for each in accounts], text)


@command("wallet.address/1", name="address")
@click.argument("name", default="")
@with_connection
def address(console: Console, *, connection: Connection, name: str) -> Outcome:
    """Print an account's address."""
    from gpumarket.client.wallet import find_account

    account = find_account(connection, name)
    return Outcome(describe_account(account), format_hex(account.address))


def _find_new_password(connection: Connection, *, question: str = "New password") -> str:
    from gpumarket.client.wallet import find_password

    password = find_password(connection, None)
    if password is None:
        password = ask_password(question, is_new=question == "New password")
    if not password:
        raise InvalidInput("the password is empty", code="GM-3103")
    return password


def _read_secret() -> bytes:
    import sys

    if sys.stdin.isatty():
        text = ask_password("Private key (hex)")
    else:
        text = sys.stdin.readline()
    try:
        secret = bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        # Never show what was typed: it may be nearly the key.
        raise InvalidInput(f"a private key is {SECRET_BYTES} bytes in hex", code="GM-3103")
    return secret


# ---- money ---------------------------------------------------------------------------------


@command("wallet.balance/1", name="balance")
@click.argument("who", metavar="[ACCOUNT]", default="")
@with_connection
def balance(console: Console, *, connection: Connection, who: str) -> Outcome:
    """Show an account's tokens, escrow and credit on the chain."""
    from gpumarket.client.wallet import find_account

    account = parse_address(who) if who.startswith("0x") else find_account(connection, who).address

    async def read(chain: Chain) -> tuple[Amount, Amount, Amount, Amount]:
        claimable, maturing = await chain.read_credit(account)
        return (
            await chain.read_token_balance(account),
            await chain.read_escrow(account),
            claimable,
            maturing,
        )

    tokens, escrow, claimable, maturing = _ask_chain(connection, read)
    amounts = {
        "wallet": tokens,
        "escrow": escrow,
        "claimable": claimable,
        "maturing": maturing,
    }
    data = {name: encode_amount(amount) for name, amount in amounts.items()}
    text = "\n".join(f"{name:<10} {show_money(amount)}" for name, amount in amounts.items())
    return Outcome({"address": format_hex(account), **data}, text)


@command("wallet.deposit/1", name="deposit")
@click.argument("amount")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_connection
def deposit(console: Console, *, connection: Connection, amount: str, yes: bool) -> Outcome:
    """Move tokens into escrow, from which jobs are paid."""
    value = parse_money(normalize_money(amount))
    console.confirm(f"Move {show_money(value)} into escrow?", is_yes=yes)

    async def move(chain: Chain, signer: Signer) -> TxOutcome:
        held = await chain.read_token_balance(signer.address)
        if held < value:
            raise InvalidInput(
                f"not enough: {show_money(value)} wanted, the wallet holds {show_money(held)}",
                code="GM-3010",
                money="nothing was moved",
                hints=("gpumarket wallet balance",),
            )
        return await chain.deposit(value)

    done = _sign_on_chain(console, connection, move)
    return _show_transaction(done, f"{show_money(value)} moved into escrow", value)


@command("wallet.withdraw/1", name="withdraw")
@click.argument("amount", default="")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_connection
def withdraw(console: Console, *, connection: Connection, amount: str, yes: bool) -> Outcome:
    """
    Ask for escrow back; without an amount, take what was asked for and has matured.
    """  # noqa: D200  click takes the first paragraph as the help text
    if not amount:
        console.confirm("Take the escrow that was asked for?", is_yes=yes)
        done = _sign_on_chain(console, connection, lambda chain, by: chain.withdraw(by.address))
        return _show_transaction(done, "withdrawn to the wallet", None)
    value = parse_money(normalize_money(amount))
    console.confirm(f"Ask for {show_money(value)} back from escrow?", is_yes=yes)
    done = _sign_on_chain(console, connection, lambda chain, _: chain.request_withdraw(value))
    text = f"{show_money(value)} asked for; after the exit delay: gpumarket wallet withdraw"
    return _show_transaction(done, text, value)


@command("wallet.faucet/1", name="faucet")
@click.argument("amount", default="100 USDC")
@with_connection
def faucet(console: Console, *, connection: Connection, amount: str) -> Outcome:
    """Get play money; works on the devnet only."""
    value = parse_money(normalize_money(amount))

    async def mint(chain: Chain, signer: Signer) -> TxOutcome:
        return await chain.mint_test_token(signer.address, value)

    if _find_chain_id(connection) != DEVNET_CHAIN_ID:
        raise InvalidInput("play money exists on the devnet only", code="GM-1303")
    done = _sign_on_chain(console, connection, mint)
    return _show_transaction(done, f"{show_money(value)} of play money", value)


# ---- watching ------------------------------------------------------------------------------


@command("wallet.watch/1", name="watch")
@click.option("--once", is_flag=True, help="Look at all that is new, then end.")
@with_connection
def watch(console: Console, *, connection: Connection, once: bool) -> Outcome:
    """Watch what batches take from your escrow; contest what is wrong."""
    import trio

    chain_id = _find_chain_id(connection)
    signer = open_signer(console, connection, chain_id=chain_id)
    seen: list[str] = []

    def tell(kind: str, text: str) -> None:
        seen.append(kind)
        console.emit_line({"kind": kind, "text": text}, f"{kind:<9} {text}")

    trio.run(partial(_watch, connection, signer, once=once, tell=tell))
    return Outcome(None, "" if seen else "nothing new was paid from this escrow", _judge(seen))


def _judge(seen: list[str]) -> Exit:
    """Something wrong beats something not shown beats all right, as in an audit."""
    if any(kind in ("wrong", "refused", "no-bond", "failed", "done") for kind in seen):
        return Exit.AUDIT_FAIL
    return Exit.AUDIT_INCOMPLETE if "withheld" in seen else Exit.DONE


async def _watch(
    connection: Connection, signer: Signer, *, once: bool, tell: Callable[[str, str], None]
) -> None:
    import secrets

    from gpumarket.adapters.batch_papers import HttpArchive
    from gpumarket.adapters.jury_chain import JuryChain
    from gpumarket.adapters.logs import Log
    from gpumarket.adapters.transaction_rules import Patience
    from gpumarket.adapters.watchtower import Owner, Watchtower
    from gpumarket.config import CONFIRMATIONS
    from gpumarket.protocol.signing import Domain
    from gpumarket.protocol.watching import Viewer

    chain_id, contract = _find_chain_id(connection), _find_contract(connection)
    chain = JuryChain(
        rpc_url=connection.require("rpc_url"),
        contract=contract,
        secret=signer.secret,
        patience=Patience(confirmations=0 if chain_id == DEVNET_CHAIN_ID else CONFIRMATIONS),
    )
    await chain.check_network(chain_id)
    # One folder for each account and contract: two markets have nothing in common.
    folder = connection.keystore.parent / "watch" / f"{contract.hex()}-{signer.address.hex()}"
    folder.mkdir(parents=True, exist_ok=True)
    viewer = Viewer(
        me=signer.address,
        payers=frozenset({signer.address}),
        coordinators=_find_coordinators(connection),
    )

    async def leave(_coordinator: Address) -> str:
        free, asked_back, _ = await chain.read_confirmed_escrow(signer.address)
        if free == 0:
            return ""
        await chain.request_withdraw(free + asked_back)
        return f"asked all escrow back; after the exit delay: {TAKE_COMMAND}"

    tower = Watchtower(
        chain=chain,
        archive=HttpArchive(connection.url, folder),
        domain=Domain(chain_id=chain_id, contract=contract),
        rules=await chain.read_rules(),
        owner=Owner(
            folder=folder,
            log=Log("wallet"),
            find_viewer=lambda: viewer,
            leave=leave,
            tell=lambda notice: tell(notice.kind, notice.text),
        ),
        draw=lambda: secrets.randbits(64),
    )
    if not once:
        await tower.run()
    while True:
        await tower.look()
        if tower.next_block + chain.confirmations > (await chain.head())[0]:
            return


def _find_coordinators(connection: Connection) -> frozenset[Address]:
    """Return the coordinator we order from; none where it does not answer: it may be gone."""
    try:
        with make_client(connection) as client:
            return frozenset({client.market().coordinator})
    except GpuMarketError:
        return frozenset()


def _show_transaction(done: TxOutcome, text: str, amount: Amount | None) -> Outcome:
    data: dict[str, Any] = {
        "tx": format_hex(done.tx_hash),
        "block": done.block,
        "gas_used": done.gas_used,
    }
    if amount is not None:
        data["moved"] = encode_amount(amount)
    return Outcome(data, f"{text} in block {done.block}, {format_hex(done.tx_hash)}")


def _sign_on_chain(
    console: Console,
    connection: Connection,
    act: Callable[[Chain, Signer], Awaitable[TxOutcome]],
) -> TxOutcome:
    signer = open_signer(console, connection, chain_id=_find_chain_id(connection))
    return _ask_chain(connection, lambda chain: act(chain, signer), secret=signer.secret)


def _ask_chain(
    connection: Connection,
    ask: Callable[[Chain], Awaitable[T]],
    *,
    secret: bytes | None = None,
) -> T:
    # The chain adapter and trio are part of the node; only these commands need them here.
    import trio

    from gpumarket.adapters.chain import Chain

    rpc_url = connection.require("rpc_url")
    chain_id = _find_chain_id(connection)
    chain = Chain(rpc_url=rpc_url, contract=_find_contract(connection), secret=secret)

    async def work() -> T:
        await chain.check_network(chain_id)
        return await ask(chain)

    return trio.run(work)


def _find_chain_id(connection: Connection) -> int:
    found = connection.chain_id
    if found is not None:
        return found
    with make_client(connection) as client:
        return client.market().domain.chain_id


def _find_contract(connection: Connection) -> Address:
    text = connection.find("contract")
    if text:
        return parse_address(text)
    with make_client(connection) as client:
        return client.market().domain.contract


for _command in (new, import_key, list_all, address, balance, deposit, withdraw, faucet, watch):
    wallet.add_command(_command)
