"""
Putting the contracts on a chain, and comparing what is on a chain with what should be there.

The devnet and `scripts/deploy` create the same three contracts in the same order. What counts for
whoever relies on a deployment is `verify_deployment`: the code alone is not enough, because a
constructor of another kind could leave the same code with other storage. So it compares the
transactions that created the contracts, byte for byte, with the committed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import rlp
import trio
from eth_typing import ChecksumAddress, HexStr
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint, TxReceipt

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain import MINED_SECONDS, REQUEST_SECONDS
from gpumarket.adapters.deployment_rules import (
    CONTRACTS,
    DECIMALS_MAX,
    NOTHING_SENT,
    Deployment,
    Finding,
    PlacedContract,
    find_randomness_fault,
    is_plain,
    mask_code,
)
from gpumarket.adapters.transaction_rules import Patience
from gpumarket.adapters.transactions import Sender
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, InvalidInput
from gpumarket.protocol.ids import Address, format_hex
from gpumarket.protocol.signing import Domain, PrivateKey, keccak256

_BLOCKS_LOOKED_AT = 3
HISTORY: Address = bytes.fromhex("0000f90827f1c53a10cb7a02335b175320002935")
"""Where EIP-2935 keeps the hashes of past blocks."""
_GAS_A_BYTE = 216
"""200 to keep a byte of code and 16 to send it (EIP-170, EIP-2028)."""
_GAS_AROUND = 1_000_000
"""For each creation: more than its transaction, its memory and its constructor ever took."""

T = TypeVar("T")


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
    """At least two epochs."""
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment would do and cost; nothing of it has happened."""

    chain_id: int
    deployer: Address
    token: Address
    token_symbol: str
    token_decimals: int
    config: ContractConfig
    gas_max: int
    wei_max: int
    """At the fees that are asked now."""
    has_history: bool
    """Whether the chain keeps block hashes beyond the last 256 (EIP-2935)."""


class _Creator(Protocol):
    """Whoever pays for the contracts."""

    address: Address

    async def count(self) -> int:
        """Return how many transactions this account has sent."""

    async def create(self, name: str, *args: object) -> TxReceipt:
        """Create a contract and return once it is there."""


class _DevAccount:
    """The first account of a dev chain, whose node signs."""

    def __init__(self, web3: Web3) -> None:
        self._web3 = web3
        self.address: Address = bytes.fromhex(web3.eth.accounts[0][2:])

    async def count(self) -> int:
        return await _ask(lambda: int(self._web3.eth.get_transaction_count(_show(self.address))))

    async def create(self, name: str, *args: object) -> TxReceipt:
        def create() -> TxReceipt:
            call = _get_factory(self._web3, name).constructor(*args)
            tx_hash = call.transact({"from": _show(self.address)})
            return self._web3.eth.wait_for_transaction_receipt(tx_hash, timeout=MINED_SECONDS)

        return await _ask(create)


class _KeyAccount:
    """An account whose key is here."""

    def __init__(self, web3: Web3, secret: bytes, patience: Patience) -> None:
        self._web3 = web3
        self.address = PrivateKey(secret).address
        self._sender = Sender(web3, secret, ask=_ask, patience=patience)

    async def count(self) -> int:
        await self._sender.clear()
        return await _ask(lambda: int(self._web3.eth.get_transaction_count(_show(self.address))))

    async def create(self, name: str, *args: object) -> TxReceipt:
        call = _get_factory(self._web3, name).constructor(*args)
        return await self._sender.send(call.build_transaction)


# ---- creating ------------------------------------------------------------------------------


async def plan_deployment(
    rpc_url: str, *, chain_id: int, token: Address, config: ContractConfig, deployer: Address
) -> Plan:
    """
    Look at the chain before anything is paid.

    Raises `InvalidInput` for another chain, a token that the contract would refuse, and a deployer
    without gas.
    """
    web3 = _connect(rpc_url)

    def look() -> Plan:
        actual = web3.eth.chain_id
        if actual != chain_id:
            raise InvalidInput(
                f"wrong network: chain {chain_id} is wanted, the RPC is {actual}",
                code="GM-3020",
                money=NOTHING_SENT,
            )
        _check_randomness(web3)
        symbol, decimals = _read_token(web3, token)
        gas = sum(_estimate_gas(name) for name in CONTRACTS)
        wei = gas * web3.eth.gas_price
        balance = int(web3.eth.get_balance(_show(deployer)))
        if balance < wei:
            raise InvalidInput(
                f"{_show(deployer)} has {_format_ether(balance)} of gas money, at most"
                f" {_format_ether(wei)} is needed",
                code="GM-3012",
                money=NOTHING_SENT,
            )
        has_history = bool(web3.eth.get_code(_show(HISTORY)))
        return Plan(
            chain_id, deployer, token, symbol, decimals, config, gas, wei, has_history=has_history
        )

    return await _ask(look)


async def deploy_contracts(
    rpc_url: str, plan: Plan, secret: bytes, *, patience: Patience | None = None
) -> Deployment:
    """Carry out a plan with the deployer's key and return the deployment as the chain has it."""
    web3 = _connect(rpc_url)
    account = _KeyAccount(web3, secret, patience or Patience())
    receipts = await _create_all(account, plan.token, plan.config)
    placed = {name: await _ask(partial(_place, web3, receipt)) for name, receipt in receipts}
    return Deployment(
        chain_id=plan.chain_id,
        token=_show(plan.token),
        token_symbol=plan.token_symbol,
        token_decimals=plan.token_decimals,
        deployer=_show(plan.deployer),
        parameters=asdict(plan.config),
        contracts=placed,
    )


async def deploy_devnet(rpc_url: str, config: ContractConfig) -> tuple[Address, Address]:
    """
    Deploy the play token and the contracts from the dev chain's account.

    Returns (token, contract).
    """
    account = await _ask(lambda: _DevAccount(_connect(rpc_url)))
    token = _get_created(await account.create("TestToken"))
    receipts = dict(await _create_all(account, token, config))
    return token, _get_created(receipts["Settlement"])


async def fund_devnet(rpc_url: str, account: Address, wei: int) -> None:
    """Give an account gas on the dev chain, where balances can be set."""

    def fund() -> None:
        method = RPCEndpoint("anvil_setBalance")
        _connect(rpc_url).provider.make_request(method, [_show(account), hex(wei)])

    await _ask(fund)


def compute_created_address(creator: Address, nonce: int) -> Address:
    """Return the address of the contract that an account's transaction of this nonce creates."""
    return keccak256(rlp.encode([creator, nonce]))[12:]


async def _create_all(
    account: _Creator, token: Address, config: ContractConfig
) -> list[tuple[str, TxReceipt]]:
    # Each judge knows its settlement from the start, and that checks both: it comes third.
    expected = compute_created_address(account.address, await account.count() + 2)
    receipts: list[tuple[str, TxReceipt]] = []
    for name in CONTRACTS:
        args = _list_arguments(
            name, token, config, settlement=expected, created=[_get_created(r) for _, r in receipts]
        )
        receipt = await account.create(name, *args)
        if receipt["status"] != 1:
            raise BrokenPrecondition(
                f"the creation of {name} failed", money="gas was paid, nothing else was moved"
            )
        receipts.append((name, receipt))
    if _get_created(receipts[-1][1]) != expected:
        raise ChainError(
            "another program used the deployer's account while it deployed: start again",
            money="gas was paid for contracts that nobody can use",
        )
    return receipts


def _list_arguments(
    name: str,
    token: Address,
    config: ContractConfig,
    *,
    settlement: Address,
    created: list[Address],
) -> tuple[Any, ...]:
    if name != "Settlement":
        return (_show(settlement),)
    return ((_show(token), *astuple(config)), *(_show(judge) for judge in created))


def _place(web3: Web3, receipt: TxReceipt) -> PlacedContract:
    address = _get_created(receipt)
    return PlacedContract(
        address=_show(address),
        transaction=format_hex(bytes(receipt["transactionHash"])),
        block=int(receipt["blockNumber"]),
        code_hash=format_hex(keccak256(bytes(web3.eth.get_code(_show(address))))),
    )


def _estimate_gas(name: str) -> int:
    # Asked of no node: the third contract can only be estimated once the first two are there.
    code = load_artifact(name)["bytecode"]
    return len(code) // 2 * _GAS_A_BYTE + _GAS_AROUND


def _check_randomness(web3: Web3) -> None:
    newest = int(web3.eth.get_block("latest")["number"])
    numbers = range(max(0, newest - _BLOCKS_LOOKED_AT + 1), newest + 1)
    fault = find_randomness_fault([bytes(web3.eth.get_block(n)["mixHash"]) for n in numbers])
    if fault:
        raise InvalidInput(
            "the blocks of this chain have no randomness to draw samples and juries from",
            why=fault,
            money=NOTHING_SENT,
        )


def _read_token(web3: Web3, token: Address) -> tuple[str, int]:
    functions = web3.eth.contract(
        address=_show(token), abi=load_artifact("TestToken")["abi"]
    ).functions
    try:
        decimals = int(functions.decimals().call())
        if decimals > DECIMALS_MAX:
            raise InvalidInput(
                f"the token has {decimals} decimals, at most {DECIMALS_MAX} are possible",
                why="amounts have 64 bits",
                money=NOTHING_SENT,
            )
        symbol = str(functions.symbol().call())
        if not is_plain(symbol):
            raise ValueError("its symbol is no short word")
        return symbol, decimals
    except (Web3Exception, ValueError) as error:
        raise InvalidInput(
            f"{_show(token)} does not answer like an ERC-20 token",
            code="GM-3021",
            money=NOTHING_SENT,
        ) from error


# ---- comparing -----------------------------------------------------------------------------


async def verify_deployment(rpc_url: str, deployment: Deployment) -> list[Finding]:
    """
    Compare a deployment file with the chain and with the committed contracts.

    Nothing in the file is believed; the chain is, as this node tells it.
    """
    web3 = _connect(rpc_url)
    return await _ask(lambda: list(_compare(web3, deployment)))


def _compare(web3: Web3, deployment: Deployment) -> Iterator[Finding]:
    actual = web3.eth.chain_id
    yield _find(
        actual == deployment.chain_id, f"chain {deployment.chain_id}", f"the node is {actual}"
    )
    if actual != deployment.chain_id:
        return
    for name in CONTRACTS:
        yield from _compare_contract(web3, name, deployment)
    try:
        yield from _compare_values(web3, deployment)
    except (Web3Exception, ValueError) as error:
        yield Finding(passed=False, text=f"Settlement does not answer: {str(error)[:200]!r}")


def _compare_contract(web3: Web3, name: str, deployment: Deployment) -> Iterator[Finding]:
    placed = deployment.contracts[name]
    artifact = load_artifact(name)
    address = Web3.to_checksum_address(placed.address)
    code = bytes(web3.eth.get_code(address))
    is_same = mask_code(code, artifact["immutables"]) == bytes.fromhex(artifact["runtime"][2:])
    yield _find(is_same, f"{name} at {address} has the committed code", "it is other code")
    hashed = format_hex(keccak256(code))
    yield _find(hashed == placed.code_hash, f"{name} has code hash {placed.code_hash}", hashed)
    fault = _find_creation_fault(web3, name, deployment)
    text = f"{name} was created by {placed.transaction} from the committed code"
    yield _find(not fault, f"{text} with these parameters", fault)


def _find_creation_fault(web3: Web3, name: str, deployment: Deployment) -> str:
    """Say what is wrong with the transaction that created a contract, or nothing."""
    placed = deployment.contracts[name]
    try:
        transaction = web3.eth.get_transaction(HexStr(placed.transaction))
        receipt = web3.eth.get_transaction_receipt(HexStr(placed.transaction))
    except Web3Exception as error:
        return f"the node does not know it: {str(error)[:100]!r}"
    if receipt["status"] != 1 or receipt["contractAddress"] is None:
        return "it created no contract"
    if _get_created(receipt).hex() != placed.address[2:].lower():
        return f"it created {receipt['contractAddress']}"
    if int(receipt["blockNumber"]) != placed.block:
        return f"it is in block {receipt['blockNumber']}, not {placed.block}"
    created = [_parse(deployment.contracts[judge].address) for judge in CONTRACTS[:2]]
    try:
        config = ContractConfig(**deployment.parameters)
        args = _list_arguments(
            name,
            _parse(deployment.token),
            config,
            settlement=_parse(deployment.contracts["Settlement"].address),
            created=created,
        )
        wanted = _get_factory(web3, name).constructor(*args).data_in_transaction
    except (TypeError, ValueError, Web3Exception) as error:
        return f"the file's parameters do not fit: {str(error)[:100]!r}"
    return "" if bytes(transaction["input"]) == bytes(HexBytes(wanted)) else "it had other input"


def _compare_values(web3: Web3, deployment: Deployment) -> Iterator[Finding]:
    address = {name: _parse(placed.address) for name, placed in deployment.contracts.items()}
    contracts = {name: _get_contract(web3, name, address[name]) for name in CONTRACTS}
    settlement = contracts["Settlement"].functions
    for name, wanted in deployment.parameters.items():
        actual = getattr(settlement, name.upper().removesuffix("_BLOCKS"))().call()
        yield _find(actual == wanted, f"{name} is {wanted}", f"it is {actual}")
    pairs = (
        ("Settlement.TOKEN", settlement.TOKEN, _parse(deployment.token)),
        ("Settlement.DISPUTES", settlement.DISPUTES, address["Disputes"]),
        ("Settlement.JURY", settlement.JURY, address["Jury"]),
        ("Disputes.SETTLEMENT", contracts["Disputes"].functions.SETTLEMENT, address["Settlement"]),
        ("Jury.SETTLEMENT", contracts["Jury"].functions.SETTLEMENT, address["Settlement"]),
    )
    for label, call, expected in pairs:
        actual = call().call()
        yield _find(_parse(actual) == expected, f"{label} is {_show(expected)}", f"it is {actual}")
    domain = Domain(chain_id=deployment.chain_id, contract=address["Settlement"])
    is_same = bytes(settlement.DOMAIN_SEPARATOR().call()) == domain.compute_separator()
    yield _find(is_same, "documents are signed for this chain and contract", "it is another domain")
    yield _compare_token(web3, deployment)


def _compare_token(web3: Web3, deployment: Deployment) -> Finding:
    wanted = (deployment.token_symbol, deployment.token_decimals)
    try:
        actual = _read_token(web3, _parse(deployment.token))
    except InvalidInput as error:
        return Finding(passed=False, text=f"token {deployment.token}: {error.message}")
    return _find(
        actual == wanted, f"token {wanted[0]} with {wanted[1]} decimals", f"it is {actual}"
    )


def _find(passed: bool, text: str, otherwise: str) -> Finding:
    return Finding(passed=passed, text=text if passed else f"{text}: {otherwise}")


# ---- inside --------------------------------------------------------------------------------


async def _ask(fn: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(fn)


def _connect(rpc_url: str) -> Web3:
    return Web3(Web3.HTTPProvider(rpc_url, request_kwargs={"timeout": REQUEST_SECONDS}))


def _get_factory(web3: Web3, name: str) -> Any:
    artifact = load_artifact(name)
    return web3.eth.contract(abi=artifact["abi"], bytecode=artifact["bytecode"])


def _get_contract(web3: Web3, name: str, address: Address) -> Any:
    return web3.eth.contract(address=_show(address), abi=load_artifact(name)["abi"])


def _get_created(receipt: TxReceipt) -> Address:
    return _parse(str(receipt["contractAddress"]))


def _show(address: Address) -> ChecksumAddress:
    return Web3.to_checksum_address(address)


def _parse(address: str) -> Address:
    return bytes.fromhex(address[2:])


def _format_ether(wei: int) -> str:
    return f"{wei / 10**18:.6f} ether"
