"""A job settled block by block on a real chain, for tests and benchmarks of proofs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.proof import EpochProof, ProofOfExecution, compute_epoch_root
from gpumarket.protocol.signing import Domain, keccak256
from gpumarket.testing.anvil import QUICK_CONFIG
from gpumarket.testing.factories import make_address, make_key
from gpumarket.testing.proofs import ESCROW, ProofMaker, make_nonces

SEED_DELAY = QUICK_CONFIG.seed_delay_blocks


def _get_secret(name: str) -> bytes:
    secret: bytes = make_key(name)._key.secret
    return secret


async def settle_job(
    rpc_url: str,
    maker: ProofMaker | None = None,
    *,
    late: tuple[str, ...] = (),
    stakes: Mapping[str, tuple[int, str]] | None = None,
    change: Callable[[Mapping[str, Chain]], Awaitable[None]] | None = None,
) -> ProofOfExecution:
    """
    Run a whole job on chain, block by block, and return its proof, without anchors.

    Verifiers who are `late` stake only after the work is committed. `stakes` are of providers: how
    much, and whose address is their payout. `change` is called after the last commitment.
    """
    _, contract = await deploy_devnet(rpc_url, QUICK_CONFIG)
    domain = Domain(chain_id=31337, contract=contract)
    maker = replace(maker or ProofMaker(), domain=domain)
    chains = {}
    stakes = stakes or {}
    for name in ("requester", "coordinator", *maker.verifiers, *stakes):
        await fund_devnet(rpc_url, make_address(name), 10**18)
        chains[name] = Chain(rpc_url=rpc_url, contract=contract, secret=_get_secret(name))
        await chains[name].mint_test_token(make_address(name), 10**9)
    coordinator = chains["coordinator"]
    await chains["requester"].deposit(ESCROW + 1_000)
    await coordinator.bond(100_000_000)
    for name in set(maker.verifiers) - set(late):
        await chains[name].stake_verifier(10_000_000, make_address("cold"), "peer")
    for name, (amount, payout) in stakes.items():
        await chains[name].stake_provider(amount, make_address(payout), "peer")
    epochs = [await _commit_epoch(coordinator, maker, index) for index in range(len(maker.plan))]
    if late:  # anvil gives blocks of one second one time, which Ethereum never does
        await coordinator.ask("evm_increaseTime", 60)
    for name in late:
        await chains[name].stake_verifier(10_000_000, make_address("cold"), "peer")
    if change is not None:
        await change(chains)
    batch = maker.make_batch(epochs)
    await coordinator.post_batch(compute_content_hash(batch), batch.lanes)
    return maker.make_proof(epochs, batch, sequence=0)


async def _commit_epoch(coordinator: Chain, maker: ProofMaker, index: int) -> EpochProof:
    document, nonces = maker.make_document(index), make_nonces(index)
    root, data_hash = compute_epoch_root(document), compute_content_hash(document)
    committed = await coordinator.commit(root, keccak256(nonces), data_hash)
    for _ in range(SEED_DELAY + 1):  # one block each
        await coordinator.mint_test_token(make_address("coordinator"), 1)
    header = await coordinator.read_header(committed.block + SEED_DELAY)
    await coordinator.fix_seed(make_address("coordinator"), index, header=header, nonces=nonces)
    return maker.make_epoch(index, header)
