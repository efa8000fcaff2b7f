"""The committed contracts are what the sources compile to, and do on a real node what they say."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from web3 import Web3
from web3.contract import Contract
from web3.types import RPCEndpoint

from gpumarket.adapters.chain import NEVER
from gpumarket.adapters.deployment import compute_created_address
from gpumarket.protocol.header import decode_header_untrusted, encode_header
from gpumarket.protocol.sampling import compute_commitment_hash
from gpumarket.testing.anvil import run_anvil

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / "gpumarket" / "adapters" / "abi"
SEED_DELAY, NONCE_TIMEOUT = 2, 100
MIN_BOND = 1_000_000
DATA_HASH, BATCH_ROOT = bytes(range(32)), b"r" * 32


@pytest.mark.timeout(300)  # the compiler is WebAssembly on one core
def test_a_fresh_compile_gives_the_committed_bytes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "compile-contracts"), str(tmp_path)],
        check=True,
        timeout=300,
    )
    fresh = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert fresh == {path.name: path.read_bytes() for path in ARTIFACTS.glob("*.json")}


def test_the_shared_vectors_are_what_python_computes() -> None:
    vectors = ROOT / "tests" / "vectors"
    generated = runpy.run_path(str(vectors / "generate.py"))["render_vectors"]()
    assert generated == (vectors / "settlement.json").read_text()


def test_headers_of_the_vectors_are_read_alike() -> None:
    vectors = json.loads((ROOT / "tests" / "vectors" / "settlement.json").read_text())
    assert vectors["headers"]
    for vector in vectors["headers"]:
        header = decode_header_untrusted(bytes.fromhex(vector["rlp"][2:]))
        assert "0x" + header.mix_hash.hex() == vector["mixHash"]
        assert "0x" + header.block_hash.hex() == vector["hash"]


def test_the_contract_has_no_function_for_an_owner() -> None:
    abi = json.loads((ARTIFACTS / "Settlement.json").read_text())["abi"]
    changing = {
        item["name"]
        for item in abi
        if item["type"] == "function" and item["stateMutability"] not in ("view", "pure")
    }
    assert changing == {
        "deposit",
        "depositWithPermit",
        "requestWithdraw",
        "withdraw",
        "bond",
        "requestUnbond",
        "unbond",
        "postBatch",
        "stakeProvider",
        "stakeVerifier",
        "requestUnstake",
        "unstake",
        "changePayout",
        "claim",
        "claimTo",
        "take",
        "give",
        "commit",
        "fixSeed",
    }


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web3]:
    """Run an anvil of our own that mines a block for each transaction."""
    with run_anvil(tmp_path_factory.mktemp("chain")) as url:
        yield Web3(Web3.HTTPProvider(url))


@pytest.fixture(scope="module")
def settlement(chain: Web3) -> Contract:
    """Deploy token and settlement; fund five requesters and bond the first account."""
    accounts = chain.eth.accounts
    chain.eth.default_account = accounts[0]
    token = deploy(chain, "TestToken")
    config = (token.address, 60, 20, 20, 3600, SEED_DELAY, NONCE_TIMEOUT, MIN_BOND, MIN_BOND)
    slashes = (10, 10, MIN_BOND // 4, MIN_BOND)
    nonce = chain.eth.get_transaction_count(accounts[0]) + 2
    expected = compute_created_address(bytes.fromhex(accounts[0][2:]), nonce)
    judges = [deploy(chain, name, expected).address for name in ("Disputes", "Jury")]
    settlement = deploy(chain, "Settlement", (*config, *slashes), *judges)
    for account in accounts[:6]:
        token.functions.mint(account, 10**12).transact()
        token.functions.approve(settlement.address, 10**12).transact({"from": account})
    settlement.functions.bond(MIN_BOND).transact()
    for account in accounts[1:6]:
        settlement.functions.deposit(10**11).transact({"from": account})
    return settlement


@pytest.mark.parametrize(
    ("requesters", "payees", "jobs", "limit"),
    [(1, 1, 1, 75_000), (5, 20, 1000, 420_000)],
)
def test_a_batch_costs_no_more_than_promised(
    chain: Web3, settlement: Contract, requesters: int, payees: int, jobs: int, limit: int
) -> None:
    lanes = b""
    for lane in range(requesters * payees):
        count = jobs // (requesters * payees)
        lanes += (lane % requesters).to_bytes(2, "big") + (lane // requesters).to_bytes(2, "big")
        lanes += count.to_bytes(4, "big") + (1_234_567).to_bytes(8, "big")
    paying = chain.eth.accounts[1 : 1 + requesters]
    paid = [chain.to_checksum_address(Web3.keccak(text=f"payee {i}")[12:]) for i in range(payees)]
    used = []
    for _ in range(2):  # a payee's first credit also pays for its storage slot
        call = settlement.functions.postBatch(NEVER, DATA_HASH, BATCH_ROOT, paying, paid, lanes)
        used.append(chain.eth.wait_for_transaction_receipt(call.transact())["gasUsed"])
    assert used[1] <= limit


@pytest.mark.parametrize("blocks_later", [1, 256, 257, 2000])
def test_a_seed_is_fixed_from_the_header_of_a_real_block(
    chain: Web3, settlement: Contract, blocks_later: int
) -> None:
    committer = chain.eth.accounts[0]
    sequence = settlement.functions.commitCountOf(committer).call()
    commit = settlement.functions.commit(Web3.keccak(b"root"), Web3.keccak(b"nonces"), bytes(32))
    committed = chain.eth.wait_for_transaction_receipt(commit.transact())["blockNumber"]
    seed_block = committed + SEED_DELAY
    # The transaction itself makes one more block.
    mine(chain, seed_block + blocks_later - 1 - committed)
    header, mix_hash = read_header(chain, seed_block)
    commitment = (Web3.keccak(b"root"), Web3.keccak(b"nonces"), bytes(32), committed)
    fix = settlement.functions.fixSeed(committer, sequence, commitment, header, b"nonces")
    # The gas is given, because estimating runs the call in the block before its own.
    receipt = chain.eth.wait_for_transaction_receipt(fix.transact({"gas": 200_000}))
    assert receipt["blockNumber"] == seed_block + blocks_later
    event = settlement.events.SeedFixed().process_receipt(receipt)[0]["args"]
    assert (event["blockNumber"], event["mixHash"]) == (seed_block, mix_hash)
    kept = compute_commitment_hash(
        root=commitment[0],
        nonce_hash=commitment[1],
        data_hash=commitment[2],
        block=committed,
        seed=event["seed"],
    )
    assert settlement.functions.commitmentOf(committer, sequence).call() == kept


def deploy(chain: Web3, name: str, *arguments: Any) -> Contract:
    """Deploy a committed artifact."""
    artifact = json.loads((ARTIFACTS / f"{name}.json").read_text())
    factory = chain.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
    receipt = chain.eth.wait_for_transaction_receipt(factory.constructor(*arguments).transact())
    address = receipt["contractAddress"]
    assert address is not None
    return chain.eth.contract(abi=artifact["abi"])(address)


def mine(chain: Web3, blocks: int) -> None:
    """Mine empty blocks."""
    if blocks:
        chain.provider.make_request(RPCEndpoint("anvil_mine"), [hex(blocks)])


def read_header(chain: Web3, number: int) -> tuple[bytes, bytes]:
    """Return the RLP of a block's header, checked against its hash, and its mixHash."""
    method = RPCEndpoint("eth_getBlockByNumber")
    block = chain.provider.make_request(method, [hex(number), False])["result"]
    header = encode_header(block)
    assert bytes(Web3.keccak(header)).hex() == block["hash"].removeprefix("0x")
    return header, bytes.fromhex(block["mixHash"][2:])
