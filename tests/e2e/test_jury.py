"""A market with a jury: one verifier finds a forger, three convict it, and it loses its stake."""

from __future__ import annotations

import time

import trio

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.ids import parse_address
from gpumarket.testing.devnet import RULES
from tests.e2e.market import Json, Market, expect_results, wait_for
from tests.patience import PATIENCE

JURORS = ("verifier", "verifier-2", "verifier-3")
DEVNET_FLAGS = ("--cheat", "--verifiers", str(len(JURORS)))
CHEAT = "provider-3"
TASKS = 6


def read_stake(market: Market, role: str) -> int:
    return int(trio.run(market.chain.read_stake, parse_address(market.address(role))))


def wait_until_they_may_sit(market: Market) -> None:
    """Who judges has been listed for an epoch: nobody can come to judge a case of today."""

    async def read_time() -> int:
        return (await market.chain.head())[1]

    began = trio.run(read_time)
    deadline = time.monotonic() + 2 * RULES.epoch + PATIENCE
    while trio.run(read_time) <= began + RULES.epoch:
        assert time.monotonic() < deadline, "the chain stands still"
        time.sleep(1)


def find_event(market: Market, job_id: str, type_: str) -> Json | None:
    return next((entry for entry in market.events(job_id) if entry["type"] == type_), None)


def test_a_forger_is_convicted_by_a_jury_and_slashed_and_the_job_is_done_by_others(
    market: Market,
) -> None:
    wait_until_they_may_sit(market)
    before = {role: read_stake(market, role) for role in (CHEAT, *JURORS)}
    assert before[CHEAT] == RULES.stake_slash
    harmed = market.read_money()
    job_id = market.submit(market.write_job("forged", tasks=TASKS))
    job = market.wait_settled(job_id, seconds=2 * PATIENCE)
    convicted = find_event(market, job_id, "task.convicted")
    assert convicted is not None, market.describe(job_id)
    assert market.download(job_id) == expect_results(TASKS)
    assert market.address(CHEAT) not in {task["provider"] for task in market.tasks(job_id)}

    wait_for(
        lambda: find_event(market, job_id, "task.case-closed"), "the case to close", 2 * PATIENCE
    )
    (closed,) = market.read_facts("CaseClosed")
    assert closed.args["verdict"] == Verdict.MISMATCH
    assert closed.args["provider"] == parse_address(market.address(CHEAT))
    after = {role: read_stake(market, role) for role in (CHEAT, *JURORS)}
    assert after == before | {CHEAT: 0}
    # A quarter is the requester's, whose order it was.
    gained = market.read_money().escrow - harmed.escrow + int(job["money"]["spent"]["base"])
    assert gained == RULES.stake_slash // 4

    audit = market.run("audit", "verify", job_id)
    assert audit.exit == 0, audit.stdout
    line = next(row for row in audit.stdout.splitlines() if "forgery" in row)
    assert market.address(CHEAT)[:6] in line, line
