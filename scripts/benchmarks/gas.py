"""
Gas of settlement by real receipts: our batches beside one token transfer for each job.

Ours: real orders' leaves in real sum trees, packed and posted by the code that the coordinator
runs, on an anvil of its own. Each shape is posted twice; the second counts, because a payee's
first credit also pays for its storage slot, once. Theirs, in the same run: the token's own
`transfer` to an account that holds some already, without escrow, evidence or sums.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
from web3 import Web3

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import ContractConfig, deploy_devnet, fund_devnet
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.settlement import Lane, PaymentLeaf, make_lanes
from gpumarket.protocol.signing import PrivateKey, keccak256
from gpumarket.testing.anvil import run_anvil
from scripts.benchmarks import Figures

PRICE: Final = 1_234_567
ETHER: Final = 10**18
EPOCH_JOBS: Final = 1_000
CONFIG: Final = ContractConfig(
    epoch=259_200,
    open=86_400,
    response=86_400,
    exit_delay=604_800,
    seed_delay_blocks=2,
    nonce_timeout_blocks=100,
    min_bond=1_000_000_000,
    min_stake=100_000_000,
    challenge_bond=5_000_000,
    jury_bond=20_000_000,
    bond_slash=200_000_000,
    stake_slash=80_000_000,
)
PEERS: Final = (
    ("iExec PoCo Boost, one task of a deal of 10", 163_064),
    ("iExec PoCo Boost, one task", 501_176),
    ("iExec PoCo classic, one task", 1_296_008),
    ("Golem packed payment, one of 1,000, no escrow", 9_329),
    ("Golem packed payment, one of 100 to new accounts", 26_783),
)
"""Gas measured on anvil 1.7.1, prague, with the projects' own contracts at the commits named in
docs/measurements/gas.md; none of them publishes a figure for its deployment."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A batch: who pays, who is paid, and how many jobs, spread evenly over all pairs."""

    jobs: int
    requesters: int
    payees: int
    gas_max: int
    """What a job may cost."""


SHAPES: Final = (
    Shape(jobs=1, requesters=1, payees=1, gas_max=75_000),
    Shape(jobs=10, requesters=2, payees=5, gas_max=12_600),
    Shape(jobs=100, requesters=5, payees=20, gas_max=4_200),
    Shape(jobs=1_000, requesters=5, payees=20, gas_max=420),
    Shape(jobs=10_000, requesters=5, payees=20, gas_max=45),
)
EPOCH_GAS_MAX: Final = 700


@dataclass(slots=True)
class Market:
    """A deployed market whose first five requesters have paid in."""

    token: Address
    chain: Chain
    requesters: list[Address]
    payees: list[Address]

    async def post(self, shape: Shape) -> int:
        """Post a batch of this shape; return the gas of its transaction."""
        lanes = make_shape_lanes(shape, self.requesters, self.payees)
        outcome = await self.chain.post_batch(keccak256(b"document"), lanes)
        return outcome.gas_used

    async def commit_and_seed(self) -> int:
        """Commit to a root and fix its seed; return the gas of both transactions."""
        nonces = b"n" * 32
        committed = await self.chain.commit(
            keccak256(b"root"), keccak256(nonces), keccak256(b"data")
        )
        number = committed.block + CONFIG.seed_delay_blocks
        while (await self.chain.head())[0] <= number:
            await self.chain.approve(1)  # anvil makes a block for each transaction
        fact = await self.chain.find_fact(
            "Committed", from_block=committed.block, wanted={"blockNumber": committed.block}
        )
        if fact is None:
            raise RuntimeError("the commitment is not on chain")
        header = await self.chain.read_header(number)
        fixed = await self.chain.fix_seed(
            fact.args["committer"], fact.args["seq"], header=header, nonces=nonces
        )
        return committed.gas_used + fixed.gas_used


def run(_rounds: int) -> Figures:
    """Measure every shape, and the whole epoch of the fourth; print and return gas for a job."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name, run_anvil(Path(name)) as url:
        return trio.run(measure, url)


async def measure(url: str) -> Figures:
    """Deploy, fund, post; gas is what the receipts say."""
    market = await open_market(url)
    transfer = measure_transfer(url, market.token, market.payees[0])
    print(f"{'token transfer':<28}{transfer:>10,} gas for one payment, in this run")
    batch: dict[str, float | int] = {}
    whole = 0
    for shape in SHAPES:
        await market.post(shape)
        gas = await market.post(shape)
        batch[str(shape.jobs)] = round(gas / shape.jobs, 1)
        print(
            f"{f'{shape.jobs:,} jobs, {shape.requesters} x {shape.payees}':<28}"
            f"{gas / shape.jobs:>10,.1f} gas a job; must be at most {shape.gas_max:,}; "
            f"{gas / shape.jobs / transfer:.4f} of a transfer"
        )
        if shape.jobs == EPOCH_JOBS:
            await market.commit_and_seed()
            whole = gas + await market.commit_and_seed()
    epoch = round(whole / EPOCH_JOBS, 1)
    print(
        f"{f'{EPOCH_JOBS:,} jobs, whole epoch':<28}{epoch:>10,.1f} gas a job with commitment "
        f"and seed; must be at most {EPOCH_GAS_MAX}"
    )
    for name, gas in PEERS:
        print(f"{gas:>38,} {name}")
    return {"batch": batch, "epoch": {str(EPOCH_JOBS): epoch}, "transfer": transfer}


async def open_market(url: str) -> Market:
    """Deploy the contracts; bond the coordinator; fill five escrows."""
    token, contract = await deploy_devnet(url, CONFIG)
    coordinator = await open_account(url, contract, "coordinator")
    await coordinator.bond(CONFIG.min_bond)
    requesters = []
    for index in range(max(shape.requesters for shape in SHAPES)):
        requester = await open_account(url, contract, f"requester {index}")
        await requester.deposit(10**11)
        requesters.append(derive_key(f"requester {index}").address)
    count = max(shape.payees for shape in SHAPES)
    payees = [derive_key(f"payee {index}").address for index in range(count)]
    return Market(token, coordinator, requesters, payees)


async def open_account(url: str, contract: Address, name: str) -> Chain:
    """Make a funded account of this name."""
    address = derive_key(name).address
    await fund_devnet(url, address, 100 * ETHER)
    chain = Chain(rpc_url=url, contract=contract, secret=derive_secret(name))
    await chain.mint_test_token(address, 10**12)
    return chain


def measure_transfer(url: str, token: Address, payee: Address) -> int:
    """Return the gas of one token transfer to an account that holds some."""
    web3 = Web3(Web3.HTTPProvider(url))
    sender = web3.eth.accounts[0]
    contract = web3.eth.contract(
        address=Web3.to_checksum_address(token), abi=load_artifact("TestToken")["abi"]
    )
    gas = 0
    for function in (
        contract.functions.mint(sender, 10 * PRICE),
        contract.functions.transfer(Web3.to_checksum_address(payee), PRICE),
        contract.functions.transfer(Web3.to_checksum_address(payee), PRICE),
    ):
        receipt = web3.eth.wait_for_transaction_receipt(function.transact({"from": sender}))
        gas = int(receipt["gasUsed"])
    return gas


def derive_secret(name: str) -> Hash32:
    """Return a key that is the same in every run."""
    return keccak256(name.encode())


def derive_key(name: str) -> PrivateKey:
    """Return the account of this name."""
    return PrivateKey(derive_secret(name))


def make_shape_lanes(
    shape: Shape, requesters: list[Address], payees: list[Address]
) -> tuple[Lane, ...]:
    """Spread the jobs evenly over all pairs of a requester and a payee."""
    pairs = [
        (requester, payee)
        for requester in requesters[: shape.requesters]
        for payee in payees[: shape.payees]
    ]
    return make_lanes(
        (
            *pairs[job % len(pairs)],
            PaymentLeaf(
                order_hash=keccak256(job.to_bytes(4, "big")),
                line=0,
                evidence_hash=keccak256(b"receipt" + job.to_bytes(4, "big")),
                price=PRICE,
            ),
        )
        for job in range(shape.jobs)
    )
