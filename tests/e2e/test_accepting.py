"""A coordinator holds its batches back and dies: its providers are paid all the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from web3 import Web3
from web3.types import RPCEndpoint

from gpumarket.adapters.approvals import FOLDER_NAME
from gpumarket.client.wallet import find_account, open_account
from gpumarket.protocol.approvals import Approval, decode_approval_untrusted
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.ids import Address, parse_address
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.testing.devnet import PASSWORD
from tests.e2e.market import DETACHED, PROVIDERS, Market, make_program, wait_for

pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings(DETACHED)]
NEVER = 86_400
UNCHECKED = {"mode": "none"}
ALL_CHECKED = {"mode": "full", "compare": "bytes"}


def hold_batches_back(market: Market) -> None:
    """Let the coordinator settle in a day: by then its chain will be further on."""
    config = market.devnet.folder / "config" / "coordinator.toml"
    lines = config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith("settle_interval_seconds")]
    config.write_text("\n".join([*kept, f"settle_interval_seconds = {NEVER}", ""]))
    market.devnet.kill("coordinator")
    market.devnet.restart("coordinator")
    market.devnet._wait_members(len(PROVIDERS))


def list_approvals(market: Market, provider: str) -> list[Approval]:
    folder = Path(json.loads(market.read_setting(provider, "data_dir"))) / FOLDER_NAME
    return [decode_approval_untrusted(path.read_bytes()) for path in folder.glob("*.json")]


def list_workers(market: Market, job_id: str) -> list[str]:
    return sorted({market.name_of(task["provider"]) for task in market.tasks(job_id)})


def skip_beyond(market: Market, at: int) -> None:
    """Let the chain's clock, not ours, pass a time."""
    web3 = Web3(Web3.HTTPProvider(market.devnet.state["rpc_url"]))
    now = web3.eth.get_block("latest")["timestamp"]
    for name, arguments in (("evm_increaseTime", [at + 1 - now]), ("evm_mine", [])):
        web3.provider.make_request(RPCEndpoint(name), arguments)


def submit(market: Market, name: str, verify: dict[str, str]) -> str:
    client, connection = market.client, market.client.connection
    account = find_account(connection, "alice")
    signer = open_account(account, password=PASSWORD, chain_id=DEVNET_CHAIN_ID)
    plan = client.plan(market.write_job(name, program=make_program(), tasks=1, verify=verify))
    return str(client.submit(plan, signer)["id"])


def accept_with_a_dead_provider(market: Market, job_id: str) -> None:
    """The word is kept for the provider, and said when it is back."""
    (victim,) = list_workers(market, job_id)
    market.devnet.kill(victim)
    wait_for(lambda: market.ask("/v1/info")["members"]["providers"] == 2, "the loss to be seen")
    answer = market.run("job", "accept", job_id, "--yes", "--json")
    assert answer.exit == 0, answer
    assert answer.data["sent"]["absent"] == [market.address(victim)]
    assert "This cannot be taken back" in answer.stderr
    assert count_accepted(market) == 0
    market.devnet.restart(victim)


def accept_by_file(market: Market, proof: Path, results: Path, worker: str) -> None:
    """Without the coordinator: from the proof to a file, from there to a node that is dead."""
    out = market.folder / "accepted.json"
    flags = ("--results", str(results), "--out", str(out))
    answer = market.run("job", "accept", "--proof", str(proof), "--yes", *flags)
    assert answer.exit == 0, answer
    market.devnet.kill(worker)
    config = market.devnet.folder / "config" / f"{worker}.toml"
    answer = market.run("provider", "accept", str(out), "--config", str(config))
    assert answer.exit == 0, answer
    market.devnet.restart(worker)


def count_accepted(market: Market) -> int:
    found = [each for name in PROVIDERS for each in list_approvals(market, name)]
    return sum(each.acceptance is not None for each in found)


def test_providers_that_a_coordinator_leaves_out_settle_with_the_words_of_others(
    market: Market,
) -> None:
    hold_batches_back(market)
    before = market.read_money()
    checked = submit(market, "checked", ALL_CHECKED)
    relayed, by_hand = (submit(market, name, UNCHECKED) for name in ("relayed", "by-hand"))
    for job_id in (checked, relayed, by_hand):
        assert market.wait_job(job_id, until="settling")["state"] == "settling"
    tasks = [market.client.delivery(job_id).tasks for job_id in (checked, relayed, by_hand)]
    receipts = {task.receipt_hash: task.receipt.body for (task,) in tasks}

    (checked_by,) = list_workers(market, checked)
    wait_for(lambda: list_approvals(market, checked_by), "the verifier's word to be relayed")
    (word,) = [each.attestation for each in list_approvals(market, checked_by)]
    assert word is not None
    assert word.body.verdict == Verdict.MATCH
    accept_with_a_dead_provider(market, relayed)
    wait_for(lambda: count_accepted(market) == 1, "the requester's word to be relayed")

    proof, results = market.folder / "proof.cbor", market.folder / "results"
    proof.write_bytes(market.client.receipt(by_hand))
    market.client.download(by_hand, results)
    (worker,) = list_workers(market, by_hand)
    settle_by = max(market.read_proof(job_id).order.body.settle_by for job_id in (checked, by_hand))
    market.devnet.kill("coordinator")
    accept_by_file(market, proof, results, worker)
    assert count_accepted(market) == 2
    assert market.read_facts("DirectSettled") == []

    skip_beyond(market, settle_by)
    wait_for(lambda: len(market.read_facts("DirectSettled")) == 3, "all to be settled directly")
    after = market.read_money()
    assert market.read_facts("BatchPosted") == []
    assert {fact.args["receiptHash"] for fact in market.read_facts("DirectSettled")} == {*receipts}
    for role in PROVIDERS:
        mine = [each for each in receipts.values() if each.provider == read_address(market, role)]
        assert after.credits[role] - before.credits[role] == sum(each.price for each in mine)
    assert before.escrow - after.escrow == sum(each.price for each in receipts.values())


def read_address(market: Market, role: str) -> Address:
    return parse_address(market.address(role))
