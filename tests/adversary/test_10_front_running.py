"""
Attack 10: take a fraud report out of the mempool and send it first.

A report names nobody, so whoever pays more gas has its reward: but the thief must take the report
to the chain to get it, and the requester has its money back and the coordinator its slash all the
same, to the last unit what the honest report would have brought. A challenge can be copied too, by
whoever pays its bond first; how it ends pays who opened it, whoever ends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from gpumarket.adapters.chain_errors import ContractRefusal
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_batch,
    encode_opening,
    encode_order,
)
from gpumarket.protocol.ids import Address
from gpumarket.protocol.openings import make_opening
from gpumarket.protocol.order import Order
from gpumarket.protocol.settlement import Lane, PaymentLeaf
from gpumarket.testing.factories import make_address, make_hash, make_order
from tests.integration.court import CONFIG, DAY, GAS, GAS_PRICE, Court, Done

PRICE, CAP = 900, 700
ALICE, COORDINATOR, PROVIDER = map(make_address, ("alice", "coordinator", "provider"))
REPORTER, THIEF = make_address("reporter"), make_address("thief")
REWARD = min(CONFIG.bond_slash // 8, 10 * CONFIG.challenge_bond)


@pytest.fixture(scope="module")
def funded(court: Court) -> Court:
    for name in ("alice", "reporter", "thief"):
        court.pay_in(name, 10**9, "deposit")
    court.pay_in("coordinator", 4 * CONFIG.min_bond, "bond")
    for account in (REPORTER, THIEF):
        court.rpc("anvil_setBalance", encode_account(account), hex(10**24))
    return court


@pytest.fixture
def mempool(funded: Court) -> Iterator[Court]:
    """Transactions wait, and the next block takes the dearest first."""
    funded.rpc("evm_setAutomine", False)
    yield funded
    funded.rpc("evm_setAutomine", True)


class Fraud:
    """A batch whose only leaf pays more than its order allows."""

    def __init__(self, court: Court, name: str) -> None:
        self.order: Order = make_order(
            requester=ALICE,
            units=1,
            max_unit_price=CAP,
            settle_by=court.now + 9 * DAY,
            expiry=court.now + 10 * DAY,
            nonce=make_hash(name),
        )
        leaf = PaymentLeaf(
            order_hash=self.order.compute_struct_hash(),
            line=0,
            evidence_hash=make_hash("receipt"),
            price=PRICE,
        )
        lanes = [Lane(requester=ALICE, payee=PROVIDER, leaves=(leaf,))]
        self.batch = court.post(COORDINATOR, lanes)
        self.place = encode_batch(self.batch), encode_opening(make_opening(lanes, 0, 0))
        self.report = court.disputes.functions.proveBadLeaf(*self.place, encode_order(self.order))


def read_money(court: Court) -> dict[str, int]:
    calls = court.settlement.functions
    owed = {
        name: sum(calls.payeeOf(encode_account(make_address(name))).call()[:3])
        for name in ("reporter", "thief", "provider")
    }
    return owed | {
        "alice": calls.requesterOf(encode_account(ALICE)).call()[0],
        "bond": calls.coordinatorOf(encode_account(COORDINATOR)).call()[0],
        "burnt": calls.burnt().call(),
    }


def send_at(court: Court, function: Any, sender: Address, *, gas_price: int) -> Any:
    """Put a transaction into the mempool."""
    fields = {"from": encode_account(sender), "gas": GAS // 10, "gasPrice": gas_price}
    return function.transact(fields)


def count_changes(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in before if after[name] != before[name]}


def test_whoever_pays_more_gas_has_the_reward_and_the_victim_the_same(mempool: Court) -> None:
    court = mempool
    court.rpc("evm_setAutomine", True)
    honest, copied = Fraud(court, "honest"), Fraud(court, "copied")
    before = read_money(court)
    court.do(honest.report, REPORTER)
    brought = count_changes(before, read_money(court))
    court.rpc("evm_setAutomine", False)
    before = read_money(court)
    first = send_at(court, copied.report, REPORTER, gas_price=GAS_PRICE)
    second = send_at(court, copied.report, THIEF, gas_price=2 * GAS_PRICE)
    court.rpc("evm_mine")
    receipts = [court.web3.eth.get_transaction_receipt(each) for each in (first, second)]
    assert [each["status"] for each in receipts] == [0, 1]
    assert [each["transactionIndex"] for each in receipts] == [1, 0]
    stolen = count_changes(before, read_money(court))
    assert stolen.pop("thief") == brought.pop("reporter") == REWARD
    assert stolen == brought
    assert stolen["alice"] == PRICE + CONFIG.bond_slash // 4
    assert stolen["bond"] == -CONFIG.bond_slash
    assert stolen["burnt"] >= CONFIG.bond_slash // 2


def test_a_challenge_may_be_copied_but_its_end_pays_whoever_paid_the_bond(mempool: Court) -> None:
    court = mempool
    court.rpc("evm_setAutomine", True)
    fraud = Fraud(court, "challenged")
    challenge = court.disputes.functions.challengeLeaf(*fraud.place)
    court.rpc("evm_setAutomine", False)
    late = send_at(court, challenge, REPORTER, gas_price=GAS_PRICE)
    early = send_at(court, challenge, THIEF, gas_price=2 * GAS_PRICE)
    court.rpc("evm_mine")
    court.rpc("evm_setAutomine", True)
    assert [court.web3.eth.get_transaction_receipt(each)["status"] for each in (late, early)] == [
        0,
        1,
    ]
    # One challenge a leaf: the first has paid its bond and stands for whoever comes after.
    again = court.send(challenge, REPORTER)
    assert isinstance(again, ContractRefusal) and again.name == "AlreadyDisputed"
    (log,) = court.disputes.events.Challenged().get_logs(
        from_block=court.web3.eth.get_transaction_receipt(early)["blockNumber"]
    )
    number, fields = log["args"]["id"], log["args"]["challenge"]
    values = (tuple(fields["place"].values()), *list(fields.values())[1:])
    court.skip_to(fields["deadline"] + 1)
    before = read_money(court)
    done = court.send(court.disputes.functions.timeout(number, values), REPORTER)
    assert isinstance(done, Done)
    gained = count_changes(before, read_money(court))
    assert gained["thief"] == REWARD and "reporter" not in gained
    assert gained["alice"] == PRICE + CONFIG.bond_slash // 4
