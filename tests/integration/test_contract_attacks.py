"""Attacks on the contracts that need a real node: code at a signer's address, reorgs, races."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account
from eth_typing import ChecksumAddress
from web3 import Web3
from web3.exceptions import ContractCustomError
from web3.logs import DISCARD
from web3.types import RPCEndpoint

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain import NEVER
from gpumarket.adapters.chain_errors import index_errors
from gpumarket.adapters.deployment import deploy_devnet
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane, PaymentLeaf, compute_leaf_path, pack_lanes
from gpumarket.protocol.signing import Domain, PrivateKey
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil
from gpumarket.testing.factories import make_address, make_hash, make_order, make_secret
from tests.patience import PATIENCE

CHAIN_ID = 31337
DAY = 86_400
PRICE = 7_000
FUNDS = 1_000_000
CONFIG = replace(
    QUICK_CONFIG, epoch=3 * DAY, open=DAY, response=DAY, exit_delay=6 * DAY, seed_delay_blocks=2
)
"""Days, which the tests skip by the node's clock, so that none of them is a race."""
DENIES_ALL = bytes.fromhex("63ffffffff60e01b5f5260205ff3")
"""Runtime code that answers `isValidSignature`, and everything else, with 0xffffffff."""
DELEGATION = bytes.fromhex("ef0100")
NO_ATTESTATION = (b"\0" * 32, 0, b"\0" * 32, 0)


class World:
    """The contracts on a node, and what the parties do with them."""

    def __init__(self, web3: Web3, token: bytes, settlement: bytes) -> None:
        self.web3 = web3
        self.token = self._bind("TestToken", token)
        self.settlement = self._bind("Settlement", settlement)
        calls = self.settlement.functions
        self.disputes = self._bind("Disputes", bytes.fromhex(calls.DISPUTES().call()[2:]))
        self.domain = Domain(chain_id=CHAIN_ID, contract=settlement)
        abis = (load_artifact(name)["abi"] for name in ("Settlement", "Disputes", "TestToken"))
        self._errors = index_errors(*abis)

    def rpc(self, method: str, *params: object) -> Any:
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        assert "error" not in answer, answer
        return answer["result"]

    def fund(self, name: str) -> ChecksumAddress:
        """Give a named actor gas and tokens, and let the contract take them."""
        account = _checksum(make_address(name))
        self.rpc("anvil_setBalance", account, hex(10**18))
        self.send(name, self.token.functions.mint(account, FUNDS))
        self.send(name, self.token.functions.approve(self.settlement.address, FUNDS))
        return account

    def send(self, name: str, call: Any, **fields: Any) -> Any:
        """Send a signed transaction and return its receipt; raises the contract's refusal."""
        account = _checksum(make_address(name))
        nonce = self.web3.eth.get_transaction_count(account)
        filled = call.build_transaction({"from": account, "nonce": nonce, **fields})
        return self.send_raw(name, filled)

    def send_raw(self, name: str, transaction: Any) -> Any:
        signed = Account.sign_transaction(transaction, make_secret(name))
        sent = self.web3.eth.send_raw_transaction(signed.raw_transaction)
        return self.web3.eth.wait_for_transaction_receipt(sent, timeout=PATIENCE)

    def skip(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def expect(self, error: str, call: Any, sender: str) -> None:
        """Check that a call would be refused with this error."""
        with pytest.raises(ContractCustomError) as caught:
            call.call({"from": _checksum(make_address(sender))})
        assert self._errors[str(caught.value.data)[:10]]["name"] == error

    def set_code_by_authorization(self, name: str, code: bytes) -> ChecksumAddress:
        """Put code at a key's address by EIP-7702; somebody else pays the transaction."""
        init = bytes.fromhex(f"60{len(code):02x}600c60003960{len(code):02x}6000f3") + code
        sponsor = _checksum(make_address("sponsor"))
        made = self.send_raw("sponsor", self._frame(sponsor, data=init))
        account = _checksum(make_address(name))
        nonce = self.web3.eth.get_transaction_count(account)
        grant = {"chainId": CHAIN_ID, "address": made["contractAddress"], "nonce": nonce}
        authorization = Account.sign_authorization(grant, make_secret(name))
        frame = self._frame(sponsor, to=sponsor, authorizationList=[authorization])
        assert self.send_raw("sponsor", frame)["type"] == 4
        assert bytes(self.web3.eth.get_code(account))[:3] == DELEGATION
        return account

    def _frame(self, sender: ChecksumAddress, **fields: Any) -> dict[str, Any]:
        return {
            "chainId": CHAIN_ID,
            "nonce": self.web3.eth.get_transaction_count(sender),
            "gas": 500_000,
            "maxFeePerGas": 10**10,
            "maxPriorityFeePerGas": 10**9,
            "value": 0,
            **fields,
        }

    def _bind(self, name: str, address: bytes) -> Any:
        abi = load_artifact(name)["abi"]
        return self.web3.eth.contract(address=_checksum(address), abi=abi)


class Sale:
    """One order, one receipt and the batch of one leaf that pays it."""

    def __init__(self, world: World, *, domain: Domain | None = None) -> None:
        self.world = world
        now = int(world.web3.eth.get_block("latest")["timestamp"])
        self.order: Order = make_order(
            units=1,
            checks=0,
            max_unit_price=PRICE,
            settle_by=now + 2 * DAY,
            expiry=now + 3 * DAY,
        )
        self.order_hash = self.order.compute_struct_hash()
        self.receipt = Receipt(
            order_hash=self.order_hash,
            unit=0,
            provider=make_address("provider"),
            result_hash=make_hash("result"),
            price=PRICE,
            finished_at=now,
        )
        receipt_hash = self.receipt.compute_struct_hash()
        self.leaf = PaymentLeaf(
            order_hash=self.order_hash, line=0, evidence_hash=receipt_hash, price=PRICE
        )
        self.lanes = (
            Lane(requester=self.order.requester, payee=self.receipt.provider, leaves=(self.leaf,)),
        )
        signing = domain or world.domain
        self.order_signature = _sign("requester", self.order, signing)
        self.receipt_signature = _sign("provider", self.receipt, signing)

    def post(self, data_hash: bytes = b"d" * 32) -> tuple[Any, ...]:
        """Post the batch and return it as the contract takes it back."""
        packed = pack_lanes(self.lanes)
        parties = [[_checksum(item) for item in group] for group in packed[:2]]
        call = self.world.settlement.functions.postBatch(
            NEVER, data_hash, packed.root, *parties, packed.lanes
        )
        receipt = self.world.send("coordinator", call)
        fact = self.world.settlement.events.BatchPosted().process_receipt(receipt, errors=DISCARD)[
            0
        ]["args"]
        names = ("coordinator", "seq", "postedAt", "dataHash", "root", "requesters", "payees")
        return (*(fact[name] for name in names), fact["lanes"])

    def open(self) -> tuple[Any, ...]:
        path = compute_leaf_path(self.lanes, 0, 0)
        hashes, sums = [item[0] for item in path], [item[1] for item in path]
        return (0, 0, self._leaf(), hashes, sums)

    def challenge(self, batch: tuple[Any, ...]) -> tuple[int, tuple[Any, ...]]:
        """Challenge the leaf; return the challenge's number and its fields."""
        call = self.world.disputes.functions.challengeLeaf(batch, self.open())
        receipt = self.world.send("watcher", call)
        args = self.world.disputes.events.Challenged().process_receipt(receipt, errors=DISCARD)[0][
            "args"
        ]
        fields = args["challenge"]
        place = tuple(fields["place"].values())
        return args["id"], (place, *list(fields.values())[1:])

    def answer(self, number: int, challenge: tuple[Any, ...]) -> Any:
        """Return the call that answers a challenge with the whole evidence."""
        evidence = (
            _fields(self.order),
            self.order_signature,
            _fields(self.receipt),
            self.receipt_signature,
            NO_ATTESTATION,
            b"",
        )
        return self.world.disputes.functions.respond(number, challenge, self._leaf(), evidence)

    def _leaf(self) -> tuple[Any, ...]:
        return (self.leaf.order_hash, self.leaf.line, self.leaf.evidence_hash, self.leaf.price)


def _sign(name: str, value: Any, domain: Domain) -> bytes:
    return PrivateKey(make_secret(name)).sign(value, domain).signature


def _fields(value: Order | Receipt) -> tuple[Any, ...]:
    """Return a struct as the ABI takes it: addresses in checksum, the nonce as a number."""
    fields = ((name, getattr(value, name)) for name in value.__struct_fields__)
    return tuple(
        int.from_bytes(item, "big")
        if name == "nonce"
        else _checksum(item)
        if isinstance(item, bytes) and len(item) == 20
        else item
        for name, item in fields
    )


def _find_event(event: Any, receipt: Any) -> Any:
    """Return the arguments of the one event of its kind in a receipt of many."""
    (found,) = event.process_receipt(receipt, errors=DISCARD)
    return found["args"]


def _checksum(address: bytes) -> ChecksumAddress:
    return Web3.to_checksum_address(address)


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(Path(tmp_path_factory.mktemp("attacks")), block_seconds=None) as url:
        yield url


@pytest.fixture
async def world(rpc_url: str) -> World:
    web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": PATIENCE}))
    world = World(web3, *(await deploy_devnet(rpc_url, CONFIG)))
    for name in ("requester", "provider", "coordinator", "watcher", "sponsor"):
        world.fund(name)
    calls = world.settlement.functions
    world.send("requester", calls.deposit(FUNDS // 2))
    world.send("watcher", calls.deposit(CONFIG.challenge_bond))
    world.rpc("anvil_setBalance", _checksum(make_address("coordinator")), hex(10**18))
    world.send(
        "coordinator",
        world.token.functions.mint(_checksum(make_address("coordinator")), CONFIG.min_bond),
    )
    world.send(
        "coordinator", world.token.functions.approve(world.settlement.address, CONFIG.min_bond)
    )
    world.send("coordinator", calls.bond(CONFIG.min_bond))
    return world


# ---- code at a signer's address (EIP-7702) ---------------------------------------------------


@pytest.mark.parametrize("signer", ["requester", "provider"])
async def test_code_at_a_signers_address_takes_no_signature_back(world: World, signer: str) -> None:
    sale = Sale(world)
    number, challenge = sale.challenge(sale.post())
    account = world.set_code_by_authorization(signer, DENIES_ALL)
    # The code is there and denies: whoever asked it would call the signature false.
    asked = {"to": account, "data": Web3.keccak(text="isValidSignature(bytes32,bytes)")[:4]}
    assert bytes(world.web3.eth.call(asked))[:4] == b"\xff" * 4  # type: ignore[arg-type]  # a call
    receipt = world.send("coordinator", sale.answer(number, challenge))
    ended = world.disputes.events.ChallengeEnded().process_receipt(receipt, errors=DISCARD)[0][
        "args"
    ]
    assert ended["answered"]
    coordinator = _checksum(make_address("coordinator"))
    assert world.settlement.functions.coordinatorOf(coordinator).call()[0] == CONFIG.min_bond
    credit = world.settlement.functions.payeeOf(coordinator).call()
    assert sum(credit[:3]) == CONFIG.challenge_bond


async def test_an_account_with_code_still_deposits_and_withdraws(world: World) -> None:
    account = world.set_code_by_authorization("requester", DENIES_ALL)
    calls = world.settlement.functions
    world.send("requester", calls.deposit(1_000))
    escrow = calls.requesterOf(account).call()[0]
    assert escrow == FUNDS // 2 + 1_000
    world.send("requester", calls.requestWithdraw(escrow))
    world.skip(CONFIG.exit_delay)
    before = world.token.functions.balanceOf(account).call()
    world.send("requester", calls.withdraw(account))
    assert world.token.functions.balanceOf(account).call() == before + escrow


# ---- reorgs ----------------------------------------------------------------------------------


async def test_a_batch_that_is_reorged_away_takes_its_challenges_along(world: World) -> None:
    sale = Sale(world)
    calls = world.settlement.functions
    escrows = [
        calls.requesterOf(_checksum(make_address(name))) for name in ("requester", "watcher")
    ]
    before = [call.call()[0] for call in escrows]
    first = sale.post()
    sale.challenge(first)
    world.rpc("anvil_reorg", 2, [])
    # The chain has neither of them; the money is where it was.
    assert bytes(calls.batchOf(first[0], first[1]).call()) == b"\0" * 32
    assert [call.call()[0] for call in escrows] == before
    assert calls.held().call() == 0
    world.skip(100)
    second = sale.post()
    assert second[2] > first[2], "posted at another time"
    assert (second[0], second[1]) == (first[0], first[1]), "under the same number"
    stale = world.disputes.functions.challengeLeaf(first, sale.open())
    world.expect("UnknownBatch", stale, "watcher")
    # Whoever sends it all the same loses gas and nothing else.
    receipt = world.send("watcher", stale, gas=500_000)
    assert receipt["status"] == 0
    assert escrows[1].call()[0] == before[1]
    number, challenge = sale.challenge(second)
    world.send("coordinator", sale.answer(number, challenge))
    assert escrows[0].call()[0] == before[0] - PRICE
    assert calls.held().call() == 0


async def test_a_challenge_of_the_old_chain_cannot_be_answered_on_the_new(world: World) -> None:
    sale = Sale(world)
    batch = sale.post()
    number, challenge = sale.challenge(batch)
    world.rpc("anvil_reorg", 1, [])
    world.skip(100)
    again, renewed = sale.challenge(batch)
    assert again == number
    assert renewed != challenge, "another deadline"
    world.expect("UnknownChallenge", sale.answer(number, challenge), "coordinator")
    world.send("coordinator", sale.answer(again, renewed))


# ---- races and domains -----------------------------------------------------------------------


async def test_a_permit_that_somebody_sends_first_does_not_stop_the_deposit(world: World) -> None:
    owner = _checksum(make_address("requester"))
    token = world.token.functions
    world.send("requester", token.approve(world.settlement.address, 0))
    deadline = int(world.web3.eth.get_block("latest")["timestamp"]) + DAY
    types = {
        "Permit": [
            {"name": "owner", "type": "address"},
            {"name": "spender", "type": "address"},
            {"name": "value", "type": "uint256"},
            {"name": "nonce", "type": "uint256"},
            {"name": "deadline", "type": "uint256"},
        ]
    }
    value = {
        "owner": owner,
        "spender": world.settlement.address,
        "value": 5_000,
        "nonce": token.nonces(owner).call(),
        "deadline": deadline,
    }
    domain = {
        "name": token.name().call(),
        "version": "1",
        "chainId": CHAIN_ID,
        "verifyingContract": world.token.address,
    }
    signed = Account.sign_typed_data(make_secret("requester"), domain, types, value)
    v, r, s = signed.v, signed.r.to_bytes(32, "big"), signed.s.to_bytes(32, "big")
    spender = world.settlement.address
    world.send("watcher", token.permit(owner, spender, 5_000, deadline, v, r, s))
    before = world.settlement.functions.requesterOf(owner).call()[0]
    call = world.settlement.functions.depositWithPermit(5_000, deadline, v, r, s)
    world.send("requester", call)
    assert world.settlement.functions.requesterOf(owner).call()[0] == before + 5_000
    # And it is no second permit: the allowance is used up.
    with pytest.raises(ContractCustomError):
        call.call({"from": owner})


@pytest.mark.parametrize("wrong", ["chain", "contract"])
async def test_signatures_of_another_deployment_do_not_count(world: World, wrong: str) -> None:
    domain = (
        Domain(chain_id=1, contract=world.domain.contract)
        if wrong == "chain"
        else Domain(chain_id=CHAIN_ID, contract=bytes.fromhex(world.token.address[2:]))
    )
    sale = Sale(world, domain=domain)
    number, challenge = sale.challenge(sale.post())
    world.expect("WrongSigner", sale.answer(number, challenge), "coordinator")
