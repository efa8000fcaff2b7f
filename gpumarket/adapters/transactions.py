"""
Transactions that survive: nonces, fees, replacement, reorgs and restarts of one signing key.

Everything that has the same nonce excludes each other: whatever happens to nodes, pools and
this process, at most one of them is ever mined. All safety here comes from that. So a nonce is
the lowest that is free, a replacement keeps its nonce, and a caller that must not do a thing
twice takes a `turn`: the nonce is fixed first, then it looks whether the thing was done, and what
it sends then can only be mined if nothing else of this key was in between.

Rules that others paid for:
- Every version counts, not only the newest; a mined one outranks whatever a node says about the
  others. (Optimism's transaction manager; EigenDA learned it in its pull request 228.)
- "nonce too low" is believed only after several readings, and never against a receipt. (Optimism's
  `SafeAbortNonceTooLowCount`.)
- Both fees rise, by an eighth: geth wants 10 % on each, and more than nothing on a tip of zero.
  The cap of the fee is the tip and twice the base fee. (go-ethereum's pool; Optimism.)
- "replacement transaction underpriced" means bump at once, not try the same again forever.
  (omni/tokenbridge issue 463.)
- The counter of nonces is the chain's. One kept here would drift after an eviction, and all that is
  sent above a gap waits forever. (status-im/status-web issue 1314.)
- After a restart, what is stuck in the pool is replaced with the same nonce. (berachain's
  offchain-sdk issue 82; stakewise's v3-operator pull request 767.)
- The gas limit is not estimated again for a replacement: once a version is mined, the same call
  would fail. (Optimism.)
- What must not be mined after a time is not forgotten then but outbid: a pool keeps it for days. An
  empty transfer takes its nonce, and only that one is handed out again. (Optimism cancels so too.)
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import trio
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.exceptions import BlockNotFound, TransactionNotFound, Web3RPCError
from web3.types import TxReceipt

from gpumarket.adapters.chain_errors import RAISED_BY_WEB3, TEXT_MAX, ChainSilent
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.transaction_rules import (
    CANCEL_FEE_FACTOR,
    Fees,
    Patience,
    Refusal,
    Seen,
    Step,
    bump_fees,
    classify_refusal,
    compute_fees,
    decide_step,
    find_free_nonce,
)
from gpumarket.protocol.errors import ChainError, DeadlinePassed, LostRace
from gpumarket.protocol.ids import Hash32, format_hex
from gpumarket.protocol.units import Timestamp

GAS_FACTOR = 2
"""Over the estimate: a credit that matures before the block is made costs more storage. What is
not used is not paid for."""
TRANSFER_GAS = 21_000
VERSIONS_MAX = 64
"""Of one transaction; an eighth more each is a factor of 1,600."""

T = TypeVar("T")
Params = dict[str, Any]
"""A transaction by the names of the RPC."""
Build = Callable[[Params], Params]
"""Completes a transaction that has sender, nonce and fees: call data, and gas by an estimate."""


class Ask(Protocol):
    """Runs a call to the node in a thread; what web3 raises comes back as `ChainError`."""

    def __call__(self, fn: Callable[[], T], /) -> Awaitable[T]:
        """Return what `fn` returns."""


@dataclass(frozen=True, slots=True)
class _Look:
    head: int
    now: int
    """Unix seconds, by the newest block or by our clock: whichever is ahead."""
    receipt: TxReceipt | None
    is_used: bool = False
    is_taken: bool = False


@dataclass(slots=True)
class _Transaction:
    """One nonce of ours, with every version that was signed for it."""

    params: Params
    fees: Fees
    """Of the newest version that a node may have."""
    cap_max: int
    deadline: Timestamp | None = None
    cancellations: set[Hash32] = field(default_factory=set)
    """Those of `hashes` that do nothing but take the nonce."""
    is_cancelled: bool = False
    raw: bytes = b""
    """The version to hand out again; empty where there is none."""
    hashes: list[Hash32] = field(default_factory=list)
    """Of all versions that a node may have."""
    priced_at: float = 0.0
    priced_block: int | None = None
    handed_at: float = 0.0
    was_mined: bool = False
    taken_readings: int = 0

    @property
    def nonce(self) -> int:
        """Its place in the account's order."""
        return int(self.params["nonce"])

    def note(self, look: _Look, now: float) -> Seen:
        """Take in what was seen."""
        is_mined = look.receipt is not None
        is_dropped = self.was_mined and not is_mined
        if is_dropped or self.priced_block is None:
            self.priced_at, self.priced_block = now, look.head
        self.was_mined = is_mined
        self.taken_readings = self.taken_readings + 1 if look.is_taken else 0
        return Seen(
            head=look.head,
            mined_in=None if look.receipt is None else int(look.receipt["blockNumber"]),
            is_dropped=is_dropped,
            is_nonce_used=look.is_used,
            taken_readings=self.taken_readings,
            priced_seconds=now - self.priced_at,
            priced_blocks=look.head - self.priced_block,
            handed_seconds=now - self.handed_at,
            left_seconds=None if self.deadline is None else float(self.deadline - look.now),
            is_cancelled=self.is_cancelled,
        )

    def cancel(self, nothing: Params) -> None:
        """Become something empty at the same nonce; only that is handed out from now on."""
        self.params, self.is_cancelled, self.raw = nothing, True, b""
        self.cap_max *= CANCEL_FEE_FACTOR


class Sender:
    """All transactions of one key through one node, one after the other."""

    def __init__(self, web3: Web3, secret: bytes, *, ask: Ask, patience: Patience) -> None:
        self._web3 = web3
        self._account: LocalAccount = Account.from_key(secret)
        self._ask = ask
        self._patience = patience
        self._lock = trio.Lock()
        self.chain_id: int | None = None
        """Where it may sign for, once that is known."""
        self._nonce = 0
        """Of the turn that is held."""
        self._is_foreign = False
        """Whether the pool has something at this nonce that we do not know."""
        self._own: set[int] = set()
        """Nonces that we watch: sent, or mined and not yet confirmed."""

    @contextlib.asynccontextmanager
    async def turn(self, *, deadline: Timestamp | None = None) -> AsyncIterator[None]:
        """
        Hold the next nonce: look whether a thing was done, then send it or leave.

        A turn ends with its block, or once what was sent in it is mined: a second `send` takes a
        turn of its own. What the pool still holds of this key is waited for before, but not
        beyond the deadline.
        """
        await self._take_turn(deadline)
        try:
            yield
        finally:
            self._end_turn()

    async def send(self, build: Build, *, deadline: Timestamp | None = None) -> TxReceipt:
        """
        Return the receipt of a transaction once it is confirmed, whether it succeeded or not.

        From `deadline` on (unix seconds) it is not sent, and something empty takes the place of
        what waits. A block that was already made then counts. Raises `ChainError`: GM-3003 it may
        still be mined, GM-3004 the node refuses it, GM-3012 no gas; `LostRace` GM-3005 another
        program used the nonce: look at the chain first; `DeadlinePassed` GM-3006.
        """
        if not self._has_turn():
            await self._take_turn(deadline)
        nonce = self._nonce
        self._own.add(nonce)
        try:
            if deadline is not None and await self._ask(self._read_time) >= deadline:
                raise self._make_late(None)
            transaction = await self._ask(lambda: self._prepare(build, nonce))
            transaction.deadline = deadline
            await self._offer(transaction, transaction.fees)
            return await self._watch(transaction)
        finally:
            self._own.discard(nonce)
            self._end_turn()

    async def clear(self) -> None:
        """Take back what the pool has of this key and we do not know; return once it is gone."""
        async with self.turn(deadline=Timestamp(0)):
            if self._is_foreign:
                # Lost is as good as won: the nonce is used, by one or the other.
                with contextlib.suppress(LostRace):
                    await self.send(self._build_nothing)

    def _build_nothing(self, asked: Params) -> Params:
        chain_id = self._web3.eth.chain_id
        nothing = {"to": self._account.address, "value": 0, "data": "0x", "gas": TRANSFER_GAS}
        return {**asked, **nothing, "chainId": chain_id}

    # ---- turns -----------------------------------------------------------------------------

    def _has_turn(self) -> bool:
        return self._lock.statistics().owner is trio.lowlevel.current_task()

    def _end_turn(self) -> None:
        if self._has_turn():
            self._lock.release()

    async def _take_turn(self, deadline: Timestamp | None = None) -> None:
        await self._lock.acquire()
        is_ready = False
        try:
            self._nonce = await self._find_nonce(deadline)
            is_ready = True
        finally:
            if not is_ready:
                self._lock.release()

    async def _find_nonce(self, deadline: Timestamp | None) -> int:
        patient_until = trio.current_time() + self._patience.foreign_seconds
        while True:
            mined, pending = await self._ask(self._count)
            nonce = find_free_nonce(mined, frozenset(self._own))
            # What the pool has above is not ours: of a run before this one, or another program's.
            self._is_foreign = pending > nonce
            if not self._is_foreign or trio.current_time() >= patient_until:
                return nonce
            if deadline is not None and await self._ask(self._read_time) >= deadline:
                return nonce
            await trio.sleep(self._patience.poll_seconds)

    def _count(self) -> tuple[int, int]:
        count, address = self._web3.eth.get_transaction_count, self._account.address
        return int(count(address, "latest")), int(count(address, "pending"))

    # ---- sending ---------------------------------------------------------------------------

    def _prepare(self, build: Build, nonce: int) -> _Transaction:
        fees = self._read_market()
        asked = {"from": self._account.address, "nonce": nonce, **_encode_fees(fees)}
        try:
            params = build(asked)
        except Web3RPCError as error:
            said = _read_text(error)
            if classify_refusal(said) is Refusal.POOR:
                raise self._make_refused(Refusal.POOR, said) from error
            raise
        if self.chain_id not in (None, params["chainId"]):
            raise ChainError(
                f"wrong network: chain {self.chain_id} is configured, the RPC is now "
                f"{params['chainId']}",
                code="GM-3020",
                money="nothing was signed",
            )
        limit = int(self._web3.eth.get_block("latest")["gasLimit"])
        params["gas"] = min(GAS_FACTOR * int(params["gas"]), limit)
        params.pop("from", None)
        return _Transaction(params, fees, cap_max=self._patience.max_fee_factor * fees.cap)

    def _read_time(self) -> int:
        # Blocks judge by their own time; ours goes on while there is none.
        return max(int(self._web3.eth.get_block("latest")["timestamp"]), SystemClock().now())

    def _read_market(self) -> Fees:
        base_fee = int(self._web3.eth.get_block("latest").get("baseFeePerGas", 0))
        return compute_fees(base_fee, int(self._web3.eth.max_priority_fee))

    async def _offer(self, transaction: _Transaction, fees: Fees) -> None:
        """Hand out a version at these fees, or at what the node wants more."""
        for _ in range(VERSIONS_MAX):
            signed = self._account.sign_transaction({**transaction.params, **_encode_fees(fees)})
            # Read before: a block that comes right after has passed it over, too.
            head = await self._ask(lambda: int(self._web3.eth.block_number))
            refusal, said = await self._hand(bytes(signed.raw_transaction))
            transaction.priced_at = transaction.handed_at = trio.current_time()
            transaction.priced_block = head
            if refusal in (None, Refusal.KNOWN, Refusal.NONCE_USED, Refusal.UNCLEAR):
                transaction.fees, transaction.raw = fees, bytes(signed.raw_transaction)
                transaction.hashes.append(bytes(signed.hash))
                if transaction.is_cancelled:
                    transaction.cancellations.add(bytes(signed.hash))
                return
            if refusal is not Refusal.UNDERPRICED:
                if not transaction.hashes:
                    raise self._make_refused(refusal, said)
                return
            fees = await self._raise_fees(transaction, fees, said)
        raise self._make_stuck(transaction, f"the node wants more after {VERSIONS_MAX} versions")

    async def _raise_fees(self, transaction: _Transaction, fees: Fees, said: str) -> Fees:
        market = await self._ask(self._read_market)
        higher = bump_fees(fees, market=market, cap_max=transaction.cap_max)
        if higher is None:
            raise self._make_stuck(transaction, said)
        return higher

    async def _bump(self, transaction: _Transaction) -> None:
        said = f"passed over by {self._patience.bump_blocks} blocks or more"
        try:
            fees = await self._raise_fees(transaction, transaction.fees, said)
        except ChainSilent:
            raise
        except ChainError:
            # Left alone it could still come after its deadline.
            if transaction.deadline is None or transaction.is_cancelled:
                raise
            transaction.priced_at, transaction.priced_block = trio.current_time(), None
            return
        await self._offer(transaction, fees)

    async def _hand(self, raw: bytes) -> tuple[Refusal | None, str]:
        def hand() -> tuple[Refusal | None, str]:
            try:
                self._web3.eth.send_raw_transaction(raw)
            except Web3RPCError as error:
                said = _read_text(error)
                return classify_refusal(said), said
            except RAISED_BY_WEB3 as error:
                return Refusal.UNCLEAR, str(error)[:TEXT_MAX]
            return None, ""

        return await self._ask(hand)

    # ---- waiting ---------------------------------------------------------------------------

    async def _watch(self, transaction: _Transaction) -> TxReceipt:
        deadline = trio.current_time() + self._patience.give_up_seconds
        while trio.current_time() < deadline:
            # A node that is silent for a while changes nothing about what is out.
            with contextlib.suppress(ChainSilent):
                receipt = await self._advance(transaction)
                if receipt is not None:
                    return receipt
            await trio.sleep(self._patience.poll_seconds)
        raise self._make_stuck(transaction, f"waited {self._patience.give_up_seconds:.0f} s")

    async def _advance(self, transaction: _Transaction) -> TxReceipt | None:
        look = await self._ask(lambda: self._look(transaction))
        if look.receipt is not None:
            self._end_turn()
        match decide_step(transaction.note(look, trio.current_time()), self._patience):
            case Step.DONE:
                return self._conclude(transaction, look)
            case Step.REPEAT if transaction.raw:
                await self._hand(transaction.raw)
                transaction.handed_at = trio.current_time()
            case Step.CANCEL:
                asked = {"from": self._account.address, "nonce": transaction.nonce}
                transaction.cancel(await self._ask(lambda: self._build_nothing(asked)))
                await self._bump(transaction)
            case Step.BUMP | Step.REPEAT:
                await self._bump(transaction)
            case Step.LOST:
                raise self._make_lost(transaction)
        return None

    def _conclude(self, transaction: _Transaction, look: _Look) -> TxReceipt | None:
        if look.receipt and bytes(look.receipt["transactionHash"]) in transaction.cancellations:
            raise self._make_late(look.receipt)
        return look.receipt

    def _look(self, transaction: _Transaction) -> _Look:
        eth, address = self._web3.eth, self._account.address
        newest = eth.get_block("latest")
        head, now = int(newest["number"]), max(int(newest["timestamp"]), SystemClock().now())
        receipt = self._find_receipt(transaction)
        if receipt is not None:
            return _Look(head, now, receipt)
        is_used = eth.get_transaction_count(address, "latest") > transaction.nonce
        deep = max(0, head - self._patience.confirmations)
        is_taken = is_used and eth.get_transaction_count(address, deep) > transaction.nonce
        return _Look(head, now, None, is_used, is_taken)

    def _find_receipt(self, transaction: _Transaction) -> TxReceipt | None:
        for tx_hash in reversed(transaction.hashes):
            # A node that is between two branches may give a receipt of the one it leaves.
            with contextlib.suppress(TransactionNotFound, BlockNotFound):
                receipt = self._web3.eth.get_transaction_receipt(tx_hash)  # type: ignore[arg-type]  # bytes do
                block = self._web3.eth.get_block(receipt["blockNumber"])
                if block["hash"] == receipt["blockHash"]:
                    return receipt
        return None

    # ---- failing ---------------------------------------------------------------------------

    def _make_refused(self, refusal: Refusal | None, said: str) -> ChainError:
        account, money = self._account.address, "nothing was sent"
        if refusal is Refusal.POOR:
            text = f"the account {account} cannot pay for gas"
            return ChainError(text, code="GM-3012", why=said, money=money)
        text = "the chain's node refuses the transaction"
        return ChainError(text, code="GM-3004", why=said, money=money)

    def _make_stuck(self, transaction: _Transaction, said: str) -> ChainError:
        nonce = transaction.nonce
        if not transaction.hashes:
            return ChainError(
                "an older transaction of this key is neither mined nor replaced",
                code="GM-3003",
                why=f"it has nonce {nonce}; {transaction.cap_max} wei a gas is not enough: {said}",
                money="nothing was sent; the older one may still be mined",
            )
        newest = format_hex(transaction.hashes[-1])
        return ChainError(
            "a transaction was not mined in time",
            code="GM-3003",
            why=f"nonce {nonce}, {len(transaction.hashes)} versions, the last {newest} for up to "
            f"{transaction.fees.cap} of {transaction.cap_max} wei a gas: {said}",
            money="it may still be mined, in one version only",
        )

    def _make_late(self, receipt: TxReceipt | None) -> DeadlinePassed:
        if receipt is None:
            return DeadlinePassed(
                "it is too late to send this transaction", money="nothing was sent"
            )
        return DeadlinePassed(
            "a transaction was not mined in time and was taken back",
            why=f"an empty one has its place in block {receipt['blockNumber']}",
            money=f"gas for {receipt['gasUsed']} was paid, nothing else was moved",
        )

    def _make_lost(self, transaction: _Transaction) -> LostRace:
        return LostRace(
            f"another program used nonce {transaction.nonce} of this key",
            code="GM-3005",
            why=f"account {self._account.address}; none of our {len(transaction.hashes)} versions "
            "was mined, and none can be any more",
            money="this call moved nothing; what the other did is on chain",
        )


def _encode_fees(fees: Fees) -> Params:
    return {"maxFeePerGas": fees.cap, "maxPriorityFeePerGas": fees.tip}


def _read_text(error: Web3RPCError) -> str:
    details = (error.rpc_response or {}).get("error")
    said = details.get("message") if isinstance(details, dict) else None
    return str(said or error)[:TEXT_MAX]
