"""Putting the contracts on a dev chain, with its own funded account."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import rlp
import trio
from web3 import Web3
from web3.types import RPCEndpoint

from gpumarket.adapters.chain import MINED_SECONDS, REQUEST_SECONDS, load_artifact
from gpumarket.protocol.errors import ChainError
from gpumarket.protocol.ids import Address
from gpumarket.protocol.signing import keccak256


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractConfig:
    """
    The contract's `Config` without its token, in the same order: seconds, blocks, base units.

    The contract refuses what would let money go before it can be disputed.
    """

    epoch: int
    """At least open + 2 * response."""
    open: int
    response: int
    exit_delay: int
    """At least an epoch."""
    seed_delay_blocks: int
    nonce_timeout_blocks: int
    min_bond: int
    """At least four times the bond's slash."""
    min_stake: int
    """At least the stake's slash."""
    challenge_bond: int
    jury_bond: int
    bond_slash: int
    stake_slash: int


async def deploy_devnet(rpc_url: str, config: ContractConfig) -> tuple[Address, Address]:
    """
    Deploy the play token, the judges and their settlement contract from the dev chain's account.

    Returns (token, contract).
    """

    def deploy() -> tuple[Address, Address]:
        web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": REQUEST_SECONDS}))
        sender = web3.eth.accounts[0]

        def create(name: str, *args: object) -> str:
            artifact = load_artifact(name)
            factory = web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])
            tx_hash = factory.constructor(*args).transact({"from": sender})
            receipt = web3.eth.wait_for_transaction_receipt(tx_hash, timeout=MINED_SECONDS)
            return str(receipt["contractAddress"])

        token = create("TestToken")
        # Each judge knows its settlement from the start, and that checks both: it comes third.
        nonce = web3.eth.get_transaction_count(sender) + 2
        settlement = compute_created_address(bytes.fromhex(sender[2:]), nonce)
        expected = Web3.to_checksum_address(settlement)
        judges = [create(name, expected) for name in ("Disputes", "Jury")]
        created = create("Settlement", (token, *astuple(config)), *judges)
        if created != expected:
            raise ChainError("somebody else used the dev chain's account while it deployed")
        return bytes.fromhex(token[2:]), settlement

    return await trio.to_thread.run_sync(deploy)


def compute_created_address(creator: Address, nonce: int) -> Address:
    """Return the address of the contract that an account's transaction of this nonce creates."""
    return keccak256(rlp.encode([creator, nonce]))[12:]


async def fund_devnet(rpc_url: str, account: Address, wei: int) -> None:
    """Give an account gas on the dev chain, where balances can be set."""

    def fund() -> None:
        web3 = Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": REQUEST_SECONDS}))
        method = RPCEndpoint("anvil_setBalance")
        web3.provider.make_request(method, [Web3.to_checksum_address(account), hex(wei)])

    await trio.to_thread.run_sync(fund)
