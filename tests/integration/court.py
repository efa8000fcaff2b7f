"""The three contracts on a node of our own, and what anybody may say to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import trio
from web3 import Web3
from web3.exceptions import ContractLogicError
from web3.types import RPCEndpoint

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain import NEVER, Chain
from gpumarket.adapters.chain_errors import (
    ContractRefusal,
    convert_value,
    decode_refusal,
    index_errors,
)
from gpumarket.adapters.disputes_abi import encode_account, encode_batch, encode_opening
from gpumarket.protocol.header import encode_header
from gpumarket.protocol.ids import Address
from gpumarket.protocol.ledger import JUDGEMENTS, Ledger, fold_events
from gpumarket.protocol.openings import LeafOpening, PostedBatch
from gpumarket.protocol.settlement import Lane, pack_lanes
from gpumarket.protocol.signing import Domain
from gpumarket.testing.anvil import QUICK_CONFIG
from gpumarket.testing.factories import make_address
from tests.patience import PATIENCE

DAY: Final = 86_400
CONFIG: Final = replace(QUICK_CONFIG, epoch=3 * DAY, open=DAY, response=DAY, exit_delay=7 * DAY)
"""Days, which tests skip by the node's clock, so that none of them is a race."""
START: Final = CONFIG.epoch * 7_000
"""The first second of an epoch, later than any real clock that runs this."""
GAS: Final = 10_000_000
GAS_PRICE: Final = 10**10


@dataclass(frozen=True)
class Done:
    """A transaction that succeeded."""

    block: int
    time: int
    events: tuple[tuple[str, dict[str, Any]], ...]
    """Names and arguments, in order."""

    def get(self, name: str) -> dict[str, Any]:
        """Return the arguments of the one event of this name."""
        (found,) = (args for each, args in self.events if each == name)
        return found


@dataclass
class Court:
    """Calls and transactions from anybody: the node signs for all accounts."""

    web3: Web3
    settlement: Any
    disputes: Any
    jury: Any
    token: Any
    domain: Domain
    funded: set[Address] = field(default_factory=set)

    def __post_init__(self) -> None:
        names = ("Settlement", "Disputes", "Jury", "TestToken")
        self._errors = index_errors(*(load_artifact(name)["abi"] for name in names))
        self.rpc("anvil_autoImpersonateAccount", True)
        self.rpc("anvil_setNextBlockBaseFeePerGas", hex(0))

    def rpc(self, method: str, *params: object) -> Any:
        """Ask the node for something that is no contract's."""
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        assert "error" not in answer, answer
        return answer["result"]

    def ask(self, function: Any, sender: Address) -> Any:
        """Return what a call answers, or the refusal that it ends with."""
        try:
            return function.call({"from": encode_account(sender), "gas": GAS})
        except ContractLogicError as error:
            return self._read(str(error.data))

    def send(self, function: Any, sender: Address) -> Done | ContractRefusal:
        """Send a transaction in a block of its own; return what it did, or why it was refused."""
        if sender not in self.funded:
            self.rpc("anvil_setBalance", encode_account(sender), hex(10**24))
            self.funded.add(sender)
        fields = {"from": encode_account(sender), "gas": GAS, "gasPrice": GAS_PRICE}
        tx_hash = function.transact(fields)
        receipt = self.web3.eth.wait_for_transaction_receipt(
            tx_hash, timeout=PATIENCE, poll_latency=0.002
        )
        if receipt["status"] != 1:
            refusal = self.ask(function, sender)
            assert isinstance(refusal, ContractRefusal), "it passes a block later"
            return refusal
        block = self.web3.eth.get_block(receipt["blockNumber"])
        events = tuple(each for log in receipt["logs"] for each in self._read_log(log))
        return Done(int(block["number"]), int(block["timestamp"]), events)

    def do(self, function: Any, sender: Address) -> Done:
        """Send a transaction that must succeed."""
        done = self.send(function, sender)
        assert isinstance(done, Done), done.describe()
        return done

    # ---- time ------------------------------------------------------------------------------

    @property
    def now(self) -> int:
        """Time of the newest block."""
        return int(self.web3.eth.get_block("latest")["timestamp"])

    def set_next_time(self, time: int) -> None:
        """Choose the next block's time."""
        self.rpc("evm_setNextBlockTimestamp", time)

    def skip_to(self, time: int) -> None:
        """Make a block at this time."""
        self.set_next_time(time)
        self.rpc("evm_mine")

    def mine(self, blocks: int) -> None:
        """Make empty blocks."""
        self.rpc("anvil_mine", hex(blocks))

    def read_header(self, number: int) -> bytes:
        """Return the RLP of a block's header."""
        return encode_header(self.rpc("eth_getBlockByNumber", hex(number), False))

    # ---- parties ---------------------------------------------------------------------------

    def pay_in(self, name: str, amount: int, function: str, *args: object) -> Done:
        """Let a named party put money into the contract: deposit, bond or stake."""
        account = make_address(name)
        self.do(self.token.functions.mint(encode_account(account), amount), account)
        self.do(self.token.functions.approve(self.settlement.address, amount), account)
        return self.do(self.settlement.functions[function](amount, *args), account)

    def stake(self, name: str, role: str, *, payout: str = "", amount: int = 0) -> Done:
        """Register a named party as `Provider` or `Verifier`."""
        return self.pay_in(
            name,
            amount or CONFIG.min_stake,
            f"stake{role}",
            encode_account(make_address(payout or name)),
            b"p" * 32,
        )

    def post(self, coordinator: Address, lanes: Sequence[Lane]) -> PostedBatch:
        """Post lanes and return the batch as its event shows it."""
        packed = pack_lanes(lanes)
        parties = [[encode_account(each) for each in group] for group in packed[:2]]
        function = self.settlement.functions.postBatch(
            NEVER, b"d" * 32, packed.root, *parties, packed.lanes
        )
        fact = self.do(function, coordinator).get("BatchPosted")
        return PostedBatch(
            coordinator=fact["coordinator"],
            sequence=fact["seq"],
            posted_at=fact["postedAt"],
            data_hash=fact["dataHash"],
            root=fact["root"],
            requesters=tuple(fact["requesters"]),
            payees=tuple(fact["payees"]),
            lanes=fact["lanes"],
        )

    def open(self, batch: PostedBatch, opening: LeafOpening) -> Any:
        """Return the place of a leaf by the contract, or its refusal; changes nothing."""
        function = self.disputes.functions.holdForJury(encode_batch(batch), encode_opening(opening))
        return self.ask(function, bytes.fromhex(self.jury.address[2:]))

    # ---- inside ----------------------------------------------------------------------------

    def _read(self, data: str) -> ContractRefusal:
        refusal = decode_refusal(data, self._errors)
        return refusal or ContractRefusal(f"Panic {data}", {})

    def _read_log(self, log: Any) -> list[tuple[str, dict[str, Any]]]:
        for contract in (self.settlement, self.disputes, self.jury):
            if log["address"] == contract.address:
                for entry in contract.abi:
                    if entry["type"] == "event":
                        event = contract.events[entry["name"]]()
                        if bytes(log["topics"][0]) == bytes.fromhex(event.topic[2:]):
                            args = event.process_log(log)["args"]
                            return [(entry["name"], convert_value(args))]
        return []


def open_court(rpc_url: str, token: Address, settlement: Address) -> Court:
    """Return the court of contracts that were just deployed, at `START`."""
    web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": PATIENCE}))

    def bind(name: str, address: str) -> Any:
        abi = load_artifact(name)["abi"]
        return web3.eth.contract(address=web3.to_checksum_address(address), abi=abi)

    contract = bind("Settlement", encode_account(settlement))
    court = Court(
        web3=web3,
        settlement=contract,
        disputes=bind("Disputes", contract.functions.DISPUTES().call()),
        jury=bind("Jury", contract.functions.JURY().call()),
        token=bind("TestToken", encode_account(token)),
        domain=Domain(chain_id=int(web3.eth.chain_id), contract=settlement),
    )
    court.skip_to(START)
    return court


def check_books(court: Court) -> Ledger:
    """Rebuild all balances from the events alone, compare them with the contract, return them."""
    url = str(court.web3.provider.endpoint_uri)  # type: ignore[attr-defined]  # an HTTP provider
    chain = Chain(rpc_url=url, contract=court.domain.contract)
    ledger = fold_events(trio.run(chain.read_facts, 0))
    assert {each.name for each in ledger.judgements} <= set(JUDGEMENTS)
    calls = court.settlement.functions
    assert (ledger.held, ledger.burnt) == (calls.held().call(), calls.burnt().call())
    for account in {*ledger.escrow, *ledger.credit, *ledger.bond, *ledger.stake}:
        name = encode_account(account)
        assert calls.requesterOf(name).call()[0] == ledger.escrow.get(account, 0)
        assert calls.coordinatorOf(name).call()[0] == ledger.bond.get(account, 0)
        assert calls.operatorOf(name).call()[3] == ledger.stake.get(account, 0)
        assert sum(calls.payeeOf(name).call()[:3]) == ledger.credit.get(account, 0)
    books = (ledger.escrow, ledger.credit, ledger.bond, ledger.stake)
    total = sum(sum(book.values()) for book in books) + ledger.held + ledger.burnt
    assert court.token.functions.balanceOf(court.settlement.address).call() == total
    return ledger
