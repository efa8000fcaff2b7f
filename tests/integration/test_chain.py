"""The chain adapter against a real anvil and the real contract."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, InvalidInput
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import ZERO_HASH, Address
from gpumarket.protocol.sampling import compute_commitment_hash, compute_seed
from gpumarket.protocol.settlement import PaymentLeaf, make_lanes
from gpumarket.protocol.signing import PrivateKey, keccak256
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil

SEED_DELAY = 2
ALICE, BOB = b"a" * 32, b"b" * 32


@dataclass(frozen=True)
class Network:
    rpc_url: str
    contract: Address

    def connect(self, secret: bytes | None = None) -> Chain:
        return Chain(rpc_url=self.rpc_url, contract=self.contract, secret=secret)


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(tmp_path_factory.mktemp("chain"), block_seconds=None) as url:
        yield url


@pytest.fixture
async def network(rpc_url: str) -> Network:
    _, contract = await deploy_devnet(rpc_url, QUICK_CONFIG)
    for secret in (ALICE, BOB):
        await fund_devnet(rpc_url, PrivateKey(secret).address, 10**18)
    return Network(rpc_url, contract)


async def test_a_deposit_becomes_credit_through_a_batch(network: Network) -> None:
    alice, bob = PrivateKey(ALICE).address, PrivateKey(BOB).address
    chain, coordinator = network.connect(ALICE), network.connect(BOB)
    await chain.mint_test_token(alice, 5_000_000)
    await chain.mint_test_token(bob, 5_000_000)
    await chain.deposit(3_000_000)
    await coordinator.bond(2_000_000)
    leaf = PaymentLeaf(order_hash=b"o" * 32, line=0, evidence_hash=b"e" * 32, price=1_000_000)
    lanes = make_lanes([(alice, b"p" * 20, leaf)])
    outcome = await coordinator.post_batch(b"d" * 32, lanes)
    assert await chain.read_escrow(alice) == 2_000_000
    assert sum(await chain.read_credit(b"p" * 20)) == 1_000_000
    assert await chain.read_bond(bob) == 2_000_000
    facts = {fact.name: fact for fact in await chain.read_facts(0)}
    assert facts["Deposited"].args == {"requester": alice, "amount": 3_000_000}
    assert facts["BatchPosted"].args["requesters"] == (alice,)
    assert facts["BatchPosted"].tx_hash == outcome.tx_hash


async def test_the_seed_is_what_its_block_and_nonces_give(network: Network) -> None:
    chain, nonces, root = network.connect(ALICE), b"n" * 32, b"r" * 32
    me = PrivateKey(ALICE).address
    outcome = await chain.commit(root, keccak256(nonces), b"d" * 32)
    number = outcome.block + SEED_DELAY
    for _ in range(SEED_DELAY + 1):  # one block each
        await chain.mint_test_token(me, 1)
    header = await chain.read_header(number)
    hash_with = partial(
        compute_commitment_hash,
        root=root,
        nonce_hash=keccak256(nonces),
        data_hash=b"d" * 32,
        block=outcome.block,
    )
    assert await chain.read_commitment_hash(me, 0) == hash_with()
    await chain.fix_seed(me, 0, header=header, nonces=nonces, from_block=outcome.block)
    seed = compute_seed(
        chain_id=31337,
        contract=network.contract,
        committer=me,
        sequence=0,
        root=root,
        mix_hash=decode_header_untrusted(header).mix_hash,
        nonces=nonces,
    )
    assert await chain.read_commitment_hash(me, 0) == hash_with(seed=seed)


async def test_a_refusal_carries_the_contracts_own_error(network: Network) -> None:
    leaf = PaymentLeaf(order_hash=b"o" * 32, line=0, evidence_hash=b"e" * 32, price=1)
    lanes = make_lanes([(b"a" * 20, b"p" * 20, leaf)])
    with pytest.raises(BrokenPrecondition, match=r"a bond of 0\.000000 USDC is too small"):
        await network.connect(ALICE).post_batch(b"d" * 32, lanes)


async def test_a_batch_that_comes_too_late_is_refused_whole(network: Network) -> None:
    coordinator = network.connect(ALICE)
    bond = (await coordinator.read_rules()).min_bond
    await coordinator.mint_test_token(PrivateKey(ALICE).address, bond)
    await coordinator.bond(bond)
    _, now = await coordinator.head()
    leaf = PaymentLeaf(order_hash=b"o" * 32, line=0, evidence_hash=b"e" * 32, price=0)
    lanes = make_lanes([(b"a" * 20, b"p" * 20, leaf)])
    with pytest.raises(BrokenPrecondition, match="too late") as refused:
        await coordinator.post_batch(b"d" * 32, lanes, not_after=now - 1)
    assert refused.value.code == "GM-3032"
    await coordinator.post_batch(b"d" * 32, lanes, not_after=now + 3_600)


async def test_a_wrong_chain_id_is_refused_before_anything_is_signed(network: Network) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await network.connect(ALICE).check_network(8453)
    assert (refusal.value.code, refusal.value.money) == ("GM-3020", "nothing was signed")
    await network.connect(ALICE).check_network(31337)


async def test_a_silent_chain_is_an_error_that_names_it() -> None:
    chain = Chain(rpc_url="http://127.0.0.1:9", contract=b"c" * 20)
    with pytest.raises(ChainError, match=r"127\.0\.0\.1:9"):
        await chain.head()


async def test_an_absent_commitment_is_zero_and_gets_no_seed(network: Network) -> None:
    chain = network.connect(ALICE)
    assert await chain.read_commitment_hash(b"x" * 20, 7) == ZERO_HASH
    with pytest.raises(BrokenPrecondition, match="has no commitment 7"):
        await chain.fix_seed(b"x" * 20, 7, header=b"", nonces=b"")


def test_the_packaged_anvil_is_found(tmp_path: Path) -> None:
    with run_anvil(tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")
