"""Jobs of two requesters share one batch on the real chain; who cannot pay then holds up nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import fund_devnet
from gpumarket.adapters.keys import Identity
from gpumarket.protocol.ids import parse_address
from gpumarket.protocol.settlement import PaymentLeaf, make_lanes
from gpumarket.testing.devnet import GAS_WEI, RULES
from tests.e2e.market import DETACHED, PROVIDERS, Json, Market, wait_for

pytestmark = pytest.mark.filterwarnings(DETACHED)
INTERVAL = 20
"""Seconds that a finished job waits for the other: far more than lies between them here."""
ESCROW = 5_000_000
RIVAL = "rival"
"""A second coordinator, to which bob has promised the same money."""


@pytest.fixture(scope="module", name="shared")
def shared_fixture(market: Market) -> Market:
    """A market whose coordinator waits long enough for both, with a second requester."""
    market.devnet.kill("coordinator")
    path = market.devnet.folder / "config" / "coordinator.toml"
    text = path.read_text()
    assert "settle_interval_seconds = 1\n" in text
    path.write_text(text.replace("_interval_seconds = 1\n", f"_interval_seconds = {INTERVAL}\n"))
    market.devnet.restart("coordinator")
    market.devnet._wait_members(len(PROVIDERS))
    trio.run(open_accounts, market)
    return market


async def open_accounts(market: Market) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fill_account, market, "bob", ESCROW)
        nursery.start_soon(fill_account, market, RIVAL, RULES.min_bond)
    market.devnet._save()


async def fill_account(market: Market, name: str, amount: int) -> None:
    chain, identity = await open_account(market, name)
    await fund_devnet(market.devnet.state["rpc_url"], identity.address, GAS_WEI)
    await chain.mint_test_token(identity.address, 2 * amount)
    await (chain.deposit(amount) if name == "bob" else chain.bond(amount))


async def open_account(market: Market, name: str) -> tuple[Chain, Identity]:
    """Connect one of the devnet's accounts to its chain, a new one if need be."""
    identity = await trio.to_thread.run_sync(market.devnet._open_identity, name)
    state = market.devnet.state
    contract = parse_address(state["contract"])
    return Chain(rpc_url=state["rpc_url"], contract=contract, secret=identity.secret), identity


def submit_both(market: Market, name: str) -> tuple[str, str]:
    """Submit a job of one task for alice and one for bob."""

    def submit(account: str) -> str:
        path: Path = market.write_job(f"{name}-{account}", tasks=1, verify={"mode": "none"})
        answer = market.run("run", path, "-y", "--id-only", env={"GPUMARKET_ACCOUNT": account})
        assert answer.exit == 0, answer.stderr
        return answer.stdout.strip()

    return submit("alice"), submit("bob")


def list_batches(market: Market) -> list[Any]:
    mine = parse_address(market.address("coordinator"))
    return [f for f in market.read_facts("BatchPosted") if f.args["coordinator"] == mine]


def check_proof(market: Market, job: Json, fact: Any) -> None:
    """A proof names the batch that paid, and holds before the chain."""
    (settlement,) = market.read_proof(job["id"]).settlements
    assert settlement.sequence == fact.args["seq"]
    answer = market.run("audit", "verify", job["id"])
    assert answer.exit == 0, answer.stdout
    assert "PASS" in answer.stdout and "FAIL" not in answer.stdout


def test_two_requesters_are_settled_in_one_batch_and_both_proofs_hold(shared: Market) -> None:
    names = submit_both(shared, "together")
    jobs = [shared.wait_settled(name) for name in names]
    (fact,) = list_batches(shared)
    assert set(fact.args["requesters"]) == {parse_address(job["requester"]) for job in jobs}
    assert len({job["requester"] for job in jobs}) == 2
    for job in jobs:
        check_proof(shared, job, fact)


@pytest.fixture(name="emptied")
def emptied_fixture(shared: Market) -> tuple[str, str]:
    """Two finished jobs in the settlement pool, and then an escrow that is gone."""
    names = submit_both(shared, "apart")
    for name in names:
        shared.wait_job(name, until="settling")
    assert len(list_batches(shared)) == 1
    trio.run(empty_escrow, shared)
    return names


async def empty_escrow(market: Market) -> None:
    chain, identity = await open_account(market, RIVAL)
    bob = parse_address(market.address("bob"))
    left = await chain.read_escrow(bob)
    leaf = PaymentLeaf(order_hash=b"o" * 32, line=0, evidence_hash=b"e" * 32, price=left)
    await chain.post_batch(b"d" * 32, make_lanes([(bob, identity.address, leaf)]))


def test_who_cannot_pay_any_more_is_left_out_and_settled_once_it_can(
    shared: Market, emptied: tuple[str, str]
) -> None:
    alices, bobs = emptied
    job = shared.wait_settled(alices)
    _, fact = list_batches(shared)
    assert set(fact.args["requesters"]) == {parse_address(job["requester"])}
    check_proof(shared, job, fact)

    def look() -> Json | None:
        step: Json = shared.ask(f"/v1/jobs/{bobs}")["next"]
        return step if step["code"] == "GM-3011" else None

    assert wait_for(look, "bob to be asked for money")["actor"] == "requester"
    answer = shared.run("wallet", "deposit", "5 USDC", "-y", env={"GPUMARKET_ACCOUNT": "bob"})
    assert answer.exit == 0, answer.stderr
    job = shared.wait_settled(bobs)
    *_, fact = list_batches(shared)
    check_proof(shared, job, fact)
