"""Batches are watched by all; an honest coordinator outlives a challenge and a power cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from web3 import Web3
from web3.types import RPCEndpoint

from gpumarket.adapters.chain import ChainFact
from gpumarket.adapters.disputes_chain import DisputesChain
from gpumarket.adapters.keys import read_keystore
from gpumarket.protocol.ids import parse_address
from gpumarket.protocol.openings import PostedBatch
from gpumarket.testing.devnet import PASSWORD
from tests.e2e.market import DETACHED, Market, make_program, wait_for

pytestmark = pytest.mark.filterwarnings(DETACHED)


def open_chain(market: Market, account: str) -> DisputesChain:
    state = market.devnet.state
    keystore = Path(state["accounts"][account]["keystore"])
    return DisputesChain(
        rpc_url=state["rpc_url"],
        contract=parse_address(state["contract"]),
        secret=read_keystore(keystore, password=PASSWORD),
    )


def settle_a_job(market: Market, name: str) -> str:
    job_id = market.submit(market.write_job(name, program=make_program(), tasks=2))
    market.wait_settled(job_id)
    return job_id


def read_facts(chain: DisputesChain, name: str) -> list[ChainFact]:
    return [fact for fact in trio.run(chain.read_facts, 0) if fact.name == name]


@contextmanager
def stopped_chain_clock(market: Market) -> Iterator[None]:
    """Blocks go on, their time does not: how fast a role comes back here decides nothing."""
    provider = Web3(Web3.HTTPProvider(market.devnet.state["rpc_url"])).provider
    provider.make_request(RPCEndpoint("anvil_setBlockTimestampInterval"), [0])
    yield
    provider.make_request(RPCEndpoint("anvil_removeBlockTimestampInterval"), [])


def describe_batch(fact: ChainFact) -> PostedBatch:
    args: dict[str, Any] = fact.args
    return PostedBatch(
        coordinator=args["coordinator"],
        sequence=args["seq"],
        posted_at=args["postedAt"],
        data_hash=args["dataHash"],
        root=args["root"],
        requesters=tuple(args["requesters"]),
        payees=tuple(args["payees"]),
        lanes=args["lanes"],
    )


def test_a_requester_sees_that_what_it_paid_is_right(market: Market) -> None:
    settle_a_job(market, "watched")
    chain = open_chain(market, "provider-1")
    bond = trio.run(chain.read_rules).challenge_bond
    escrow = trio.run(chain.read_escrow, parse_address(market.address("provider-1")))
    assert escrow == 2 * bond  # for demands of its own
    answer = market.run("wallet", "watch", "--once", "--account", "alice")
    assert answer.exit == 0, answer
    assert "every payment is right" in answer.stdout
    again = market.run("wallet", "watch", "--once", "--account", "alice")
    assert again.exit == 0
    assert "nothing new" in again.stdout


def test_a_challenge_raised_while_the_coordinator_is_dead_is_answered_when_it_is_back(
    market: Market,
) -> None:
    settle_a_job(market, "doubted")
    chain = open_chain(market, "alice")
    fact = read_facts(chain, "BatchPosted")[-1]
    coordinator = fact.args["coordinator"]
    bond = trio.run(chain.read_bond, coordinator)
    market.devnet.kill("coordinator")

    async def doubt() -> None:
        await chain.challenge_withheld(describe_batch(fact), lane=0, index=0)

    with stopped_chain_clock(market):
        trio.run(doubt)
        market.devnet.restart("coordinator")
        ended = wait_for(lambda: read_facts(chain, "ChallengeEnded"), "the challenge to end")
    assert [each.args["answered"] for each in ended] == [True]
    assert [each.args["bondTo"] for each in ended] == [coordinator]
    assert trio.run(chain.read_bond, coordinator) == bond
