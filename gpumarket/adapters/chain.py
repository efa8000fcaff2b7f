"""
The chain: reads, transactions and facts of one settlement contract, through web3 in threads.

Its judges, two contracts that alone may move money in dispute, are found through it.

Every write returns only when it is mined under the wanted confirmations and succeeded. A revert
becomes `BrokenPrecondition` with the contract's own error; silence becomes `ChainError`, after
which the caller must look at the chain before it tries again: `turn` and `find_fact` are for that.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NoReturn, TypeVar

import trio
from eth_typing import ChecksumAddress
from web3 import Web3
from web3.exceptions import ContractLogicError
from web3.types import RPCEndpoint, TxReceipt

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain_errors import (
    RAISED_BY_WEB3,
    compute_signature,
    convert_value,
    index_errors,
    translate_error,
)
from gpumarket.adapters.disputes_abi import decode_account, encode_account
from gpumarket.adapters.transaction_rules import Patience
from gpumarket.adapters.transactions import Sender
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, InvalidInput
from gpumarket.protocol.header import encode_header
from gpumarket.protocol.ids import Address, Hash32, format_hex
from gpumarket.protocol.settlement import Lane, pack_lanes
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.units import Amount, Timestamp

THREADS_MAX = 4
REQUEST_SECONDS = 10
MINED_SECONDS = 60
NEVER = 2**64 - 1
"""A time that does not come."""
EVENTS_BLOCKS_MAX = 5_000
"""Blocks in one log query."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TxOutcome:
    """A mined transaction that succeeded."""

    tx_hash: Hash32
    block: int
    gas_used: int


@dataclass(frozen=True, slots=True)
class ChainFact:
    """One event of the contract, or of one of its judges, as the chain holds it."""

    name: str
    args: dict[str, Any]
    """Addresses and hashes as bytes, numbers as int."""
    block: int
    log_index: int
    tx_hash: Hash32


@dataclass(frozen=True, slots=True)
class Rules:
    """The contract's immutable parameters: seconds, except those that say blocks."""

    token: Address
    disputes: Address
    jury: Address
    epoch: int
    open: int
    """After posting, in which a leaf may be challenged."""
    response: int
    """In which a challenge must be answered, and a jury must decide."""
    exit_delay: int
    order_lifetime: int
    """From now to an order's expiry: what escrow is sure to outlast."""
    seed_delay_blocks: int
    nonce_timeout_blocks: int
    min_bond: Amount
    min_stake: Amount
    challenge_bond: Amount
    jury_bond: Amount
    bond_slash: Amount
    """What a coordinator loses for a faulty lane."""
    stake_slash: Amount


class Chain:
    """One settlement contract seen through one RPC endpoint, with an optional signing key."""

    def __init__(
        self,
        *,
        rpc_url: str,
        contract: Address,
        secret: bytes | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": REQUEST_SECONDS}))
        self._rpc_url = rpc_url
        self._abi = load_artifact("Settlement")["abi"]
        self._contract = self._web3.eth.contract(
            address=Web3.to_checksum_address(contract), abi=self._abi
        )
        abis = (load_artifact(name)["abi"] for name in ("TestToken", "Disputes", "Jury"))
        self._errors = index_errors(*abis, self._abi)
        self._emitters: dict[ChecksumAddress, Any] = {}
        """The three contracts by address, once they have been asked for."""
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._patience = patience or Patience()
        self._sender = (
            Sender(self._web3, secret, ask=self._read, patience=self._patience) if secret else None
        )

    async def check_network(self, expected_chain_id: int) -> None:
        """Raise `InvalidInput` unless this is the expected chain and the contract is there."""
        actual = await self._read(lambda: self._web3.eth.chain_id)
        if actual != expected_chain_id:
            raise InvalidInput(
                f"wrong network: chain {expected_chain_id} is configured, the RPC is {actual}",
                code="GM-3020",
                money="nothing was signed",
            )
        if self._sender is not None:
            self._sender.chain_id = expected_chain_id
        code = await self._read(lambda: self._web3.eth.get_code(self._contract.address))
        if not code:
            raise InvalidInput(
                f"there is no contract at {self._contract.address}",
                code="GM-3021",
                money="nothing was signed",
            )

    # ---- reading ---------------------------------------------------------------------------

    async def head(self) -> tuple[int, int]:
        """Return the newest block's number and time (unix seconds)."""
        block = await self._read(lambda: self._web3.eth.get_block("latest"))
        return int(block["number"]), int(block["timestamp"])

    async def read_rules(self) -> Rules:
        """Return the contract's parameters."""
        values = {
            field.name: await self._call(field.name.upper().removesuffix("_BLOCKS"))
            for field in fields(Rules)
        }
        for name in ("token", "disputes", "jury"):
            values[name] = decode_account(values[name])
        return Rules(**values)

    async def read_escrow(self, requester: Address) -> Amount:
        """Return what a requester holds in escrow, without what it has asked to withdraw."""
        account = await self._call("requesterOf", encode_account(requester))
        return Amount(int(account[0]) - int(account[1]))

    async def read_confirmed_escrow(self, requester: Address) -> tuple[Amount, Amount, int]:
        """
        Return what a requester held in escrow at the newest block that counts, and that block.

        That is what it has not asked to withdraw, what it has and has not taken yet, and the block.
        """
        block = max(0, (await self.head())[0] - self._patience.confirmations)
        call = self._contract.functions.requesterOf(encode_account(requester)).call
        account = await self._read(lambda: call(block_identifier=block))
        held, asked = int(account[0]), int(account[1])
        return Amount(held - asked), Amount(asked), block

    async def read_bond(self, coordinator: Address) -> Amount:
        """Return a coordinator's bond, without what is being unbonded."""
        account = await self._call("coordinatorOf", encode_account(coordinator))
        return Amount(int(account[0]) - int(account[1]))

    async def read_stake(self, operator: Address) -> Amount:
        """Return an operator's stake, without what is being unstaked."""
        account = await self._call("operatorOf", encode_account(operator))
        return Amount(int(account[3]) - int(account[4]))

    async def read_credit(self, payee: Address) -> tuple[Amount, Amount]:
        """Return a payee's claimable and still maturing credit."""
        account = await self._call("payeeOf", encode_account(payee))
        return Amount(int(account[0])), Amount(int(account[1]) + int(account[2]))

    async def read_payout(self, payee: Address) -> Address:
        """Return where a payee's claims go."""
        return decode_account(await self._call("payoutOf", encode_account(payee)))

    async def read_token_balance(self, account: Address) -> Amount:
        """Return the token balance of any account."""
        token = await self._token()
        return Amount(await self._read(token.functions.balanceOf(encode_account(account)).call))

    async def read_commitment_hash(self, committer: Address, sequence: int) -> Hash32:
        """Return the hash of a commitment as it is now, or zero; `compute_commitment_hash`."""
        return bytes(await self._call("commitmentOf", encode_account(committer), sequence))

    async def read_header(self, number: int) -> bytes:
        """Return the RLP of a block's header, checked against the block's hash."""
        block = await self.ask("eth_getBlockByNumber", hex(number), False)
        if not block:
            raise ChainError(f"the RPC does not know block {number}", code="GM-3002")
        header = encode_header(block)
        if format_hex(keccak256(header)) != block["hash"]:
            raise ChainError(f"the header of block {number} does not hash to its block hash")
        return header

    async def ask(self, method: str, *params: object) -> Any:
        """Return what the RPC answers, or None; raise `ChainError` where it answers an error."""
        name = RPCEndpoint(method)
        answer = await self._read(lambda: self._web3.provider.make_request(name, list(params)))
        if "error" in answer:
            said = str(answer["error"])[:300]
            raise ChainError(f"the RPC refuses {method}", code="GM-3002", why=said)
        return answer.get("result")

    async def read_facts(self, from_block: int, to_block: int | None = None) -> list[ChainFact]:
        """
        Return the events of the contract and its judges in order, up to `to_block` or the head.
        """  # noqa: D200  one line is too long
        last = (await self.head())[0] if to_block is None else to_block
        emitters = await self._find_emitters()
        facts: list[ChainFact] = []
        for start in range(from_block, last + 1, EVENTS_BLOCKS_MAX):
            end = min(start + EVENTS_BLOCKS_MAX - 1, last)
            facts += await self._read(partial(_read_logs, self._web3, emitters, start, end))
        return facts

    async def find_fact(
        self, name: str, *, from_block: int, wanted: Mapping[str, object]
    ) -> ChainFact | None:
        """
        Return the newest event of this name with these arguments, confirmed or not.

        The node searches by the indexed arguments among them, newest blocks first.
        """
        events = await self._find_events(name)
        indexed = {
            item["name"]: encode_account(wanted[item["name"]])  # type: ignore[arg-type]  # an address
            if item["type"] == "address"
            else wanted[item["name"]]
            for item in events[0].abi["inputs"]
            if item["indexed"] and item["name"] in wanted
        }
        last = (await self.head())[0]
        for end in range(last, from_block - 1, -EVENTS_BLOCKS_MAX):
            start = max(from_block, end - EVENTS_BLOCKS_MAX + 1)
            for fact in reversed(await self._read(partial(_search, events, indexed, start, end))):
                if all(fact.args[key] == value for key, value in wanted.items()):
                    return fact
        return None

    async def is_confirmed(self, fact: ChainFact) -> bool:
        """Tell whether enough blocks lie on top of an event that was just found."""
        return (await self.head())[0] >= fact.block + self._patience.confirmations

    # ---- writing ---------------------------------------------------------------------------

    @property
    def confirmations(self) -> int:
        """Blocks on top before a transaction or an event counts."""
        return self._patience.confirmations

    @contextlib.asynccontextmanager
    async def turn(self, *, deadline: Timestamp | None = None) -> AsyncIterator[None]:
        """
        Hold the next nonce of this key: what is seen in here is true for what is sent in here.

        A thing that must not be done twice is looked for and sent within one turn; a transaction
        from before a restart was then either mined, and is seen, or can never be. One that is
        stuck is waited for, but not beyond the deadline.
        """
        async with self._get_sender().turn(deadline=deadline):
            yield

    async def clear_pool(self) -> None:
        """Make sure that nothing which this key sent before a restart can still be mined."""
        await self._get_sender().clear()

    async def approve(self, amount: int) -> TxOutcome:
        """Let the contract take exactly `amount` of the signer's tokens."""
        token = await self._token()
        return await self._send(token.functions.approve(self._contract.address, amount))

    async def mint_test_token(self, to: Address, amount: int) -> TxOutcome:
        """Mint play money; works with the devnet's token only."""
        token = await self._token()
        return await self._send(token.functions.mint(encode_account(to), amount))

    async def deposit(self, amount: int) -> TxOutcome:
        """Approve and move `amount` into the signer's escrow."""
        await self.approve(amount)
        return await self._transact("deposit", amount)

    async def request_withdraw(self, amount: int) -> TxOutcome:
        """Ask for escrow back; the exit delay starts."""
        return await self._transact("requestWithdraw", amount)

    async def withdraw(self, to: Address) -> TxOutcome:
        """Take the escrow asked for, after the exit delay."""
        return await self._transact("withdraw", encode_account(to))

    async def bond(self, amount: int) -> TxOutcome:
        """Approve and add to the signer's coordinator bond."""
        await self.approve(amount)
        return await self._transact("bond", amount)

    async def request_unbond(self, amount: int) -> TxOutcome:
        """Ask for bond back; it stops counting and the exit delay starts."""
        return await self._transact("requestUnbond", amount)

    async def unbond(self, to: Address) -> TxOutcome:
        """Take the bond asked for, after the exit delay."""
        return await self._transact("unbond", encode_account(to))

    async def stake_provider(self, amount: int, payout: Address, peer_id: str) -> TxOutcome:
        """Approve and register the signer as a provider with a cold payout address."""
        await self.approve(amount)
        hashed = keccak256(peer_id.encode())
        return await self._transact("stakeProvider", amount, encode_account(payout), hashed)

    async def stake_verifier(self, amount: int, payout: Address, peer_id: str) -> TxOutcome:
        """Approve and register the signer as a verifier with a cold payout address."""
        await self.approve(amount)
        hashed = keccak256(peer_id.encode())
        return await self._transact("stakeVerifier", amount, encode_account(payout), hashed)

    async def commit(self, root: Hash32, nonce_hash: Hash32, data_hash: Hash32) -> TxOutcome:
        """Commit to a root of finished work."""
        return await self._transact("commit", root, nonce_hash, data_hash)

    async def fix_seed(
        self,
        committer: Address,
        sequence: int,
        *,
        header: bytes,
        nonces: bytes,
        from_block: int = 0,
    ) -> TxOutcome:
        """Fix a seed by its block's header and the nonces of a commitment since `from_block`."""
        wanted = {"committer": committer, "seq": sequence}
        fact = await self.find_fact("Committed", from_block=from_block, wanted=wanted)
        if fact is None:
            raise BrokenPrecondition(
                f"{format_hex(committer)} has no commitment {sequence} since block {from_block}",
                money="nothing was sent",
            )
        names = ("root", "nonceHash", "dataHash", "blockNumber")
        commitment = tuple(fact.args[name] for name in names)
        return await self._transact(
            "fixSeed", encode_account(committer), sequence, commitment, header, nonces
        )

    async def post_batch(
        self,
        data_hash: Hash32,
        lanes: Sequence[Lane],
        *,
        deadline: Timestamp | None = None,
        not_after: int = NEVER,
    ) -> TxOutcome:
        """Settle lanes, never after `not_after`; `DeadlinePassed` once nothing can be mined."""
        packed = pack_lanes(lanes)
        return await self._transact(
            "postBatch",
            not_after,
            data_hash,
            packed.root,
            [encode_account(account) for account in packed.requesters],
            [encode_account(account) for account in packed.payees],
            packed.lanes,
            deadline=deadline,
        )

    async def claim(self, payee: Address) -> TxOutcome:
        """Pay a payee's matured credit to its payout address."""
        return await self._transact("claim", encode_account(payee))

    # ---- inside ----------------------------------------------------------------------------

    async def _call(self, name: str, *args: object) -> Any:
        return await self._read(self._contract.functions[name](*args).call)

    async def _token(self) -> Any:
        address = await self._call("TOKEN")
        return self._web3.eth.contract(address=address, abi=load_artifact("TestToken")["abi"])

    async def _find_emitters(self) -> dict[ChecksumAddress, Any]:
        if not self._emitters:
            found: dict[ChecksumAddress, Any] = {self._contract.address: self._contract}
            for name in ("Disputes", "Jury"):
                address = await self._call(name.upper())
                abi = load_artifact(name)["abi"]
                found[address] = self._web3.eth.contract(address=address, abi=abi)
            self._emitters = found
        return self._emitters

    async def _find_events(self, name: str) -> list[Any]:
        """Return the events of this name of all contracts that have it."""
        return [
            contract.events[name]()
            for contract in (await self._find_emitters()).values()
            if any((each["type"], each.get("name")) == ("event", name) for each in contract.abi)
        ]

    async def _transact(
        self, name: str, *args: object, deadline: Timestamp | None = None
    ) -> TxOutcome:
        return await self._send(self._contract.functions[name](*args), deadline=deadline)

    async def _read(self, fn: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(self._guard, fn, limiter=self._limiter)

    async def _send(self, function: Any, *, deadline: Timestamp | None = None) -> TxOutcome:
        receipt = await self._get_sender().send(function.build_transaction, deadline=deadline)
        if receipt["status"] != 1:
            await self._read(lambda: self._explain_revert(function, receipt))
        return TxOutcome(
            tx_hash=bytes(receipt["transactionHash"]),
            block=int(receipt["blockNumber"]),
            gas_used=int(receipt["gasUsed"]),
        )

    def _get_sender(self) -> Sender:
        if self._sender is None:
            raise InvalidInput("this chain connection has no signing key", code="GM-3101")
        return self._sender

    def _explain_revert(self, function: Any, receipt: TxReceipt) -> NoReturn:
        money = f"gas for {receipt['gasUsed']} was paid, nothing else was moved"
        # A receipt has no revert data. What made it fail may have come or gone within its block.
        for block in (receipt["blockNumber"], receipt["blockNumber"] - 1):
            try:
                function.call({"from": receipt["from"]}, block_identifier=block)
            except ContractLogicError as error:
                raise self._translate(error, money=money) from error
        tx_hash = format_hex(bytes(receipt["transactionHash"]))
        raise BrokenPrecondition(f"transaction {tx_hash} reverted", money=money)

    def _guard(self, fn: Callable[[], T]) -> T:
        try:
            return fn()
        except RAISED_BY_WEB3 as error:
            raise self._translate(error) from error

    def _translate(self, error: Exception, money: str = "nothing was moved") -> ChainError:
        return translate_error(error, errors=self._errors, rpc_url=self._rpc_url, money=money)


def _read_logs(
    web3: Web3, emitters: dict[ChecksumAddress, Any], start: int, end: int
) -> list[ChainFact]:
    logs = web3.eth.get_logs({"address": list(emitters), "fromBlock": start, "toBlock": end})
    events = {
        (address, keccak256(compute_signature(entry).encode())): contract.events[entry["name"]]()
        for address, contract in emitters.items()
        for entry in contract.abi
        if entry["type"] == "event"
    }
    return [
        _make_fact(events[entry["address"], bytes(entry["topics"][0])].process_log(entry))
        for entry in logs
    ]


def _search(events: list[Any], indexed: dict[str, object], start: int, end: int) -> list[ChainFact]:
    found = [
        _make_fact(entry)
        for event in events
        for entry in event.get_logs(from_block=start, to_block=end, argument_filters=indexed)
    ]
    return sorted(found, key=lambda fact: (fact.block, fact.log_index))


def _make_fact(entry: Any) -> ChainFact:
    return ChainFact(
        name=entry["event"],
        args={key: convert_value(value) for key, value in entry["args"].items()},
        block=int(entry["blockNumber"]),
        log_index=int(entry["logIndex"]),
        tx_hash=bytes(entry["transactionHash"]),
    )
