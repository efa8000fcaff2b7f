"""Transactions of one key against a real anvil that is made to misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from eth_account import Account
from web3 import Web3
from web3.types import RPCEndpoint

from coordinator.core import effects, events
from coordinator.deeds import Deed, do_once
from coordinator.perform import perform
from gpumarket.adapters.chain import Chain, TxOutcome
from gpumarket.adapters.chain_errors import ContractRefused
from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.adapters.logs import Log
from gpumarket.adapters.transaction_rules import Patience
from gpumarket.protocol.errors import BrokenPrecondition, ChainError, DeadlinePassed, LostRace
from gpumarket.protocol.ids import Address
from gpumarket.protocol.settlement import PaymentLeaf, make_lanes
from gpumarket.protocol.signing import PrivateKey, keccak256
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil
from tests.patience import PATIENCE

GWEI = 10**9
ROOT, NONCES, DATA = b"r" * 32, b"n" * 32, b"d" * 32
QUICK = Patience(poll_seconds=0.02, bump_seconds=0.3, foreign_seconds=0.5, give_up_seconds=PATIENCE)
NEVER = 10_000
"""Blocks that no test mines."""


@dataclass
class StoppedClock:
    """A machine's clock that goes on only when a test says so."""

    time: int = 0

    def now(self) -> Timestamp:
        return Timestamp(self.time)


@dataclass(frozen=True)
class Network:
    """
    An anvil that mines when told to, with a funded key of its own for each test.

    A block is a second after the one before and the machine's clock stands still, so that a
    deadline passes when a test says so and never because this machine is slow.
    """

    url: str
    contract: Address
    secret: bytes
    clock: StoppedClock = field(default_factory=StoppedClock)

    @property
    def web3(self) -> Web3:
        return Web3(Web3.HTTPProvider(self.url))

    @property
    def account(self) -> Address:
        return PrivateKey(self.secret).address

    def connect(self, **patience: Any) -> Chain:
        settings = {name: getattr(QUICK, name) for name in QUICK.__slots__} | patience
        return Chain(
            rpc_url=self.url,
            contract=self.contract,
            secret=self.secret,
            patience=Patience(**settings),
        )

    def ask(self, method: str, *params: object) -> Any:
        answer = self.web3.provider.make_request(RPCEndpoint(method), list(params))
        assert "error" not in answer, answer
        return answer["result"]

    def mine(self, blocks: int = 1, *, base_fee: int | None = None) -> None:
        for _ in range(blocks):
            if base_fee is not None:
                self.ask("anvil_setNextBlockBaseFeePerGas", hex(base_fee))
            self.ask("evm_mine")

    def list_pool(self) -> list[dict[str, Any]]:
        content = self.ask("txpool_content")["pending"]
        pool = {key.lower(): value for key, value in content.items()}
        return list(pool.get("0x" + self.account.hex(), {}).values())

    def list_mined(self) -> list[bytes]:
        """Hashes of what this key has in blocks, in order."""
        eth = self.web3.eth
        me = Web3.to_checksum_address(self.account)
        blocks: list[Any] = [eth.get_block(n, True) for n in range(eth.block_number + 1)]
        return [
            bytes(tx["hash"])
            for block in blocks
            for tx in block["transactions"]
            if tx["from"] == me
        ]

    def send_raw(self, *, cap: int, tip: int, data: str = "0x") -> bytes:
        """Send this key's first transaction behind the chain adapter's back."""
        transaction = {
            "chainId": 31337, "nonce": 0, "to": Web3.to_checksum_address(self.contract),
            "value": 0, "gas": 400_000, "data": data,
            "maxFeePerGas": cap, "maxPriorityFeePerGas": tip, "type": 2,
        }  # fmt: skip
        signed = Account.sign_transaction(transaction, self.secret)
        return bytes(self.web3.eth.send_raw_transaction(signed.raw_transaction))

    async def wait_pool(self, hashes_before: tuple[str, ...] = ()) -> str:
        """Return the hash in the pool once there is one that is not among these."""
        with trio.fail_after(PATIENCE):
            while True:
                fresh = [tx["hash"] for tx in self.list_pool() if tx["hash"] not in hashes_before]
                if fresh:
                    return str(fresh[0])
                await trio.sleep(0.02)


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(tmp_path_factory.mktemp("transactions"), block_seconds=None) as url:
        yield url


@pytest.fixture
async def network(
    rpc_url: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Network]:
    secret = keccak256(request.node.name.encode())
    _, contract = await deploy_devnet(rpc_url, QUICK_CONFIG)
    found = Network(rpc_url, contract, secret)
    monkeypatch.setattr("gpumarket.adapters.transactions.SystemClock", lambda: found.clock)
    found.ask("anvil_setBlockTimestampInterval", 1)
    await fund_devnet(rpc_url, found.account, 10**18)
    found.mine(1, base_fee=GWEI)
    found.ask("evm_setAutomine", False)
    yield found
    found.ask("anvil_dropAllTransactions")
    found.ask("evm_setAutomine", True)


@dataclass
class Pending:
    """A send that is under way in a task of its own."""

    outcome: TxOutcome | None = None
    error: ChainError | None = None
    is_over: bool = False

    def get(self) -> TxOutcome:
        assert self.error is None, self.error
        assert self.outcome is not None
        return self.outcome


@asynccontextmanager
async def sending(act: Callable[[], Awaitable[TxOutcome]]) -> AsyncIterator[Pending]:
    """Run a send beside the block and wait for its end with a bound."""
    pending = Pending()

    async def run() -> None:
        try:
            pending.outcome = await act()
        except ChainError as error:
            pending.error = error
        pending.is_over = True

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield pending


async def mine_until_over(network: Network, pending: Pending, *, base_fee: int) -> None:
    """Mine; `sending` bounds how long."""
    while not pending.is_over:
        network.mine(1, base_fee=base_fee)
        await trio.sleep(0.05)


def commit(chain: Chain) -> Callable[[], Awaitable[TxOutcome]]:
    return lambda: chain.commit(ROOT, keccak256(NONCES), DATA)


async def count_commits(network: Network) -> int:
    facts = await network.connect().read_facts(0)
    return sum(fact.name == "Committed" for fact in facts)


# ---- fees ----------------------------------------------------------------------------------


async def test_a_stuck_transaction_is_bumped_and_mined_once(network: Network) -> None:
    async with sending(commit(network.connect())) as pending:
        first = await network.wait_pool()
        # The first version offers 3 gwei.
        await mine_until_over(network, pending, base_fee=6 * GWEI)
    outcome = pending.get()
    assert "0x" + outcome.tx_hash.hex() != first
    assert network.list_mined() == [outcome.tx_hash]
    assert await count_commits(network) == 1


async def test_an_older_version_counts_when_that_is_what_is_mined(network: Network) -> None:
    async with sending(commit(network.connect(bump_seconds=2, bump_blocks=0))) as pending:
        first = await network.wait_pool()
        raw = network.ask("eth_getRawTransactionByHash", first)
        await network.wait_pool((first,))
        network.ask("anvil_dropAllTransactions")
        network.ask("eth_sendRawTransaction", raw)
        network.mine()
    assert "0x" + pending.get().tx_hash.hex() == first


async def test_a_fee_never_goes_over_the_cap_and_the_error_says_what_may_come(
    network: Network,
) -> None:
    async with sending(commit(network.connect(max_fee_factor=2))) as pending:
        await network.wait_pool()
        await mine_until_over(network, pending, base_fee=50 * GWEI)
    assert pending.error is not None
    assert pending.error.code == "GM-3003"
    assert pending.error.money == "it may still be mined, in one version only"
    assert network.list_mined() == []


async def test_an_account_without_gas_is_told_so(network: Network) -> None:
    await fund_devnet(network.url, network.account, 1_000)
    with pytest.raises(ChainError) as refusal:
        await commit(network.connect())()
    assert (refusal.value.code, refusal.value.money) == ("GM-3012", "nothing was sent")
    assert not isinstance(refusal.value, BrokenPrecondition)  # money may come
    assert network.list_pool() == []


async def test_nothing_is_signed_for_another_network_than_the_one_that_was_checked(
    network: Network,
) -> None:
    chain = network.connect()
    await chain.check_network(31337)
    network.ask("anvil_setChainId", 31338)
    try:
        with pytest.raises(ChainError) as refusal:
            await commit(chain)()
    finally:
        network.ask("anvil_setChainId", 31337)
    assert (refusal.value.code, refusal.value.money) == ("GM-3020", "nothing was signed")
    assert network.list_pool() == []


async def test_nonces_follow_each_other_even_when_a_reorg_takes_some_back(
    network: Network,
) -> None:
    chain = network.connect(confirmations=3, bump_seconds=5, bump_blocks=NEVER)
    async with sending(commit(chain)) as one:
        first = await network.wait_pool()
        async with sending(commit(chain)) as two:
            await trio.sleep(0.2)
            assert [tx["hash"] for tx in network.list_pool()] == [first]
            network.mine()  # and the next goes out before this one is confirmed
            second = await network.wait_pool()
            network.mine()
            await trio.sleep(0.2)
            network.ask("anvil_reorg", 2, [])
            async with sending(commit(chain)) as three:
                third = await network.wait_pool((first, second))
                for pending in (one, two, three):
                    await mine_until_over(network, pending, base_fee=GWEI)
    outcomes = [each.get().tx_hash for each in (one, two, three)]
    assert network.list_mined() == outcomes
    assert ["0x" + each.hex() for each in outcomes] == [first, second, third]


# ---- strangers with the same key -----------------------------------------------------------


async def test_a_nonce_that_another_program_used_is_a_lost_race(network: Network) -> None:
    async with sending(commit(network.connect())) as pending:
        await network.wait_pool()
        other = network.send_raw(cap=90 * GWEI, tip=80 * GWEI)
        network.mine()
    assert isinstance(pending.error, LostRace)
    assert pending.error.code == "GM-3005"
    assert network.list_mined() == [other]


async def test_a_stranger_that_is_stuck_is_replaced(network: Network) -> None:
    # Dearer than our first offer, so that the node refuses to replace it at once.
    network.send_raw(cap=8 * GWEI, tip=7 * GWEI)
    async with sending(commit(network.connect())) as pending:
        (stranger,) = network.list_pool()
        await network.wait_pool((stranger["hash"],))
        network.mine()
    assert network.list_mined() == [pending.get().tx_hash]


async def test_a_stranger_that_is_mined_in_time_is_left_alone(network: Network) -> None:
    stranger = network.send_raw(cap=8 * GWEI, tip=GWEI)
    async with sending(commit(network.connect(foreign_seconds=PATIENCE))) as pending:
        await trio.sleep(0.2)
        network.mine()
        await network.wait_pool()
        network.mine()
    assert network.list_mined() == [stranger, pending.get().tx_hash]


async def test_a_cleared_pool_has_nothing_that_can_still_come(network: Network) -> None:
    network.send_raw(cap=3 * GWEI, tip=GWEI)
    (stranger,) = network.list_pool()

    async def clear() -> TxOutcome:
        await network.connect().clear_pool()
        return TxOutcome(b"", 0, 0)

    async with sending(clear):
        await network.wait_pool((stranger["hash"],))
        network.mine()
    mined = network.list_mined()
    assert len(mined) == 1 and "0x" + mined[0].hex() != stranger["hash"]


# ---- deadlines -----------------------------------------------------------------------------

LATER = 600
"""Seconds until a deadline, on the network's clocks."""


def find_time(network: Network) -> int:
    """The newest block's time, or ours where that is ahead."""
    return max(network.web3.eth.get_block("latest")["timestamp"], network.clock.now())


async def have_batch(network: Network) -> Callable[[Chain, int], Awaitable[TxOutcome]]:
    """Let the key post a batch for itself, of a requester that is the key as well."""
    network.ask("evm_setAutomine", True)
    chain = network.connect()
    await chain.mint_test_token(network.account, 10_000_000)
    await chain.bond(QUICK_CONFIG.min_bond)
    await chain.deposit(1_000)
    network.mine(1, base_fee=GWEI)
    network.ask("evm_setAutomine", False)
    leaf = PaymentLeaf(order_hash=ROOT, line=0, evidence_hash=DATA, price=5)
    lanes = make_lanes([(network.account, network.account, leaf)])

    def post(chain: Chain, deadline: int) -> Awaitable[TxOutcome]:
        return chain.post_batch(DATA, lanes, deadline=Timestamp(deadline))

    return post


async def count_batches(network: Network) -> int:
    return sum(fact.name == "BatchPosted" for fact in await network.connect().read_facts(0))


def is_empty(transaction: dict[str, Any]) -> bool:
    return (transaction["input"], transaction["value"]) == ("0x", "0x0")


async def wait_empty(network: Network) -> dict[str, Any]:
    """Return what is in the pool once it is something that moves nothing."""
    with trio.fail_after(PATIENCE):
        while True:
            (transaction,) = network.list_pool()
            if is_empty(transaction):
                return transaction
            await trio.sleep(0.02)


async def test_a_batch_that_is_not_mined_in_time_is_taken_back(network: Network) -> None:
    post = await have_batch(network)
    sent = len(network.list_mined())
    deadline = find_time(network) + LATER
    async with sending(lambda: post(network.connect(), deadline)) as pending:
        await network.wait_pool()
        network.clock.time = deadline - 1
        await trio.sleep(0.2)
        (batch,) = network.list_pool()
        assert not is_empty(batch)
        network.clock.time = deadline
        empty = await wait_empty(network)
        assert empty["nonce"] == batch["nonce"] and empty["to"] == empty["from"]
        for fee in ("maxFeePerGas", "maxPriorityFeePerGas"):
            assert int(empty[fee], 16) * 8 >= int(batch[fee], 16) * 9
        network.mine()
    assert isinstance(pending.error, DeadlinePassed)
    assert pending.error.code == "GM-3006" and "21000" in pending.error.money
    assert await count_batches(network) == 0
    assert len(network.list_mined()) == sent + 1


async def test_what_takes_a_batch_back_outbids_rising_fees(network: Network) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + LATER
    async with sending(lambda: post(network.connect(max_fee_factor=2), deadline)) as pending:
        await network.wait_pool()
        network.clock.time = deadline
        await wait_empty(network)
        # More than a batch may cost here, and not more than taking it back may.
        await mine_until_over(network, pending, base_fee=15 * GWEI)
    assert isinstance(pending.error, DeadlinePassed)
    assert await count_batches(network) == 0


async def test_near_its_deadline_a_batch_is_bumped_by_every_block(network: Network) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + 4
    chain = network.connect(bump_seconds=PATIENCE, max_fee_factor=100)
    async with sending(lambda: post(chain, deadline)) as pending:
        first = await network.wait_pool()
        network.mine(1, base_fee=4 * GWEI)  # passes it over
        await network.wait_pool((first,))
        network.mine(1, base_fee=4 * GWEI)
    assert pending.get().block
    assert await count_batches(network) == 1


async def test_a_batch_that_may_not_cost_more_is_still_taken_back(network: Network) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + LATER
    chain = network.connect(max_fee_factor=1)
    async with sending(lambda: post(chain, deadline)) as pending:
        await network.wait_pool()
        for _ in range(6):
            network.mine(1, base_fee=9 * GWEI)
            await trio.sleep(0.1)
        assert not pending.is_over
        network.clock.time = deadline
        await mine_until_over(network, pending, base_fee=4 * GWEI)
    assert isinstance(pending.error, DeadlinePassed)
    assert await count_batches(network) == 0


async def test_nothing_is_sent_after_its_deadline(network: Network) -> None:
    post = await have_batch(network)
    async with sending(lambda: post(network.connect(), find_time(network))) as pending:
        await trio.lowlevel.checkpoint()
    assert isinstance(pending.error, DeadlinePassed)
    assert pending.error.money == "nothing was sent"
    assert network.list_pool() == []


async def test_a_batch_of_before_a_restart_is_taken_back_at_once(network: Network) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + LATER
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: post(network.connect(), deadline))
        await network.wait_pool()
        nursery.cancel_scope.cancel()
    (batch,) = network.list_pool()
    network.clock.time = deadline
    world: Any = SimpleNamespace(chain=network.connect(foreign_seconds=600))
    wanted = {"coordinator": network.account, "dataHash": DATA}
    deed = Deed("BatchPosted", wanted, 0, deadline=Timestamp(deadline))

    async def act() -> TxOutcome:
        await do_once(deed, lambda: post(world.chain, deadline), world)
        raise AssertionError("it was refused")

    async with sending(act) as pending:
        await network.wait_pool((batch["hash"],))
        assert is_empty(network.list_pool()[0])
        network.mine()
    assert isinstance(pending.error, DeadlinePassed)
    assert await count_batches(network) == 0


async def test_a_batch_that_a_reorg_drops_after_its_deadline_does_not_come_again(
    network: Network,
) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + LATER
    chain = network.connect(confirmations=3)
    async with sending(lambda: post(chain, deadline)) as pending:
        await network.wait_pool()
        network.mine(2)
        await trio.sleep(0.2)
        network.clock.time = deadline
        await trio.sleep(0.2)
        assert not pending.is_over
        network.ask("anvil_reorg", 2, [])
        await mine_until_over(network, pending, base_fee=GWEI)
    assert isinstance(pending.error, DeadlinePassed)
    assert await count_batches(network) == 0


async def test_a_batch_that_is_mined_in_time_stays(network: Network) -> None:
    post = await have_batch(network)
    deadline = find_time(network) + LATER
    chain = network.connect(confirmations=2)
    async with sending(lambda: post(chain, deadline)) as pending:
        await network.wait_pool()
        network.mine()
        network.clock.time = deadline + 1
        await trio.sleep(0.2)
        network.mine(2)
    assert pending.get().block
    assert await count_batches(network) == 1


async def test_an_escrow_is_read_where_its_batches_count(network: Network) -> None:
    post = await have_batch(network)
    chain = network.connect(confirmations=3)
    network.mine(3)
    deadline = find_time(network) + LATER
    async with sending(lambda: post(chain, deadline)) as pending:
        await network.wait_pool()
        network.mine()
        for _ in range(3):
            # It is on chain, and nobody was told yet: the money is still claimed by the batch.
            assert (await chain.read_confirmed_escrow(network.account))[:2] == (1_000, 0)
            assert not pending.is_over
            network.mine()
    free, _, block = await chain.read_confirmed_escrow(network.account)
    assert (free, block) == (995, pending.get().block)
    network.ask("evm_setAutomine", True)
    await network.connect().request_withdraw(90)
    network.mine(3)
    assert (await chain.read_confirmed_escrow(network.account))[:2] == (905, 90)


# ---- reorgs --------------------------------------------------------------------------------


async def test_a_transaction_that_a_reorg_drops_is_mined_again(network: Network) -> None:
    chain = network.connect(confirmations=3, bump_seconds=5, bump_blocks=NEVER)
    async with sending(commit(chain)) as pending:
        sent = await network.wait_pool()
        network.mine(2)
        await trio.sleep(0.2)
        network.ask("anvil_reorg", 2, [])
        assert network.list_mined() == []
        assert await network.wait_pool() == sent  # the same bytes
        network.mine(3)
        await trio.sleep(0.2)
        assert not pending.is_over  # two blocks on top are not three
        network.mine()
    assert "0x" + pending.get().tx_hash.hex() == sent
    assert await count_commits(network) == 1


# ---- reverts -------------------------------------------------------------------------------


async def make_rival(network: Network) -> Network:
    """Return the same network with another funded key."""
    rival = Network(network.url, network.contract, keccak256(network.secret))
    await fund_devnet(network.url, rival.account, 10**18)
    return rival


async def commit_and_wait_for_seed(network: Network) -> bytes:
    """Commit and return the header that fixes the seed, in a block of the past."""
    async with sending(commit(network.connect())) as pending:
        await network.wait_pool()
        network.mine()
    delay = QUICK_CONFIG.seed_delay_blocks
    network.mine(delay + 1)
    return await network.connect().read_header(pending.get().block + delay)


async def test_a_mined_revert_carries_the_contract_s_own_error(network: Network) -> None:
    header = await commit_and_wait_for_seed(network)
    rival = await make_rival(network)

    def fix(by: Network) -> Callable[[], Awaitable[TxOutcome]]:
        return lambda: by.connect().fix_seed(network.account, 0, header=header, nonces=NONCES)

    async with sending(fix(network)) as one, sending(fix(rival)) as two:
        await network.wait_pool()
        await rival.wait_pool()
        network.mine()
    (error,) = [each.error for each in (one, two) if each.error is not None]
    assert isinstance(error, ContractRefused)
    # With its seed fixed a commitment is another one.
    assert error.refusal.name == "UnknownCommitment"
    assert error.refusal.args == {"committer": network.account, "seq": 0}
    assert "gas" in error.money


# ---- restart in the middle of a post -------------------------------------------------------


def make_deed(network: Network) -> Deed:
    wanted = {"committer": network.account, "root": ROOT, "dataHash": DATA}
    return Deed("Committed", wanted, 0)


def doing_once(network: Network, chain: Chain) -> Callable[[], Awaitable[TxOutcome]]:
    world: Any = SimpleNamespace(chain=chain)

    async def act() -> TxOutcome:
        fact = await do_once(make_deed(network), commit(chain), world)
        return TxOutcome(fact.tx_hash, fact.block, 0)

    return act


async def crash_in_the_middle(network: Network) -> str:
    """Let a process die when its commitment is in the pool."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(doing_once(network, network.connect()))
        sent = await network.wait_pool()
        nursery.cancel_scope.cancel()
    return sent


async def test_what_the_pool_kept_over_a_restart_is_not_posted_again(network: Network) -> None:
    sent = await crash_in_the_middle(network)
    async with sending(doing_once(network, network.connect(foreign_seconds=PATIENCE))) as pending:
        await trio.sleep(0.3)
        assert [tx["hash"] for tx in network.list_pool()] == [sent]
        network.mine()
    assert "0x" + pending.get().tx_hash.hex() == sent
    assert await count_commits(network) == 1


async def test_what_is_stuck_since_before_a_restart_is_adopted(network: Network) -> None:
    sent = await crash_in_the_middle(network)
    async with sending(doing_once(network, network.connect())) as pending:
        await trio.sleep(1.5)  # past its patience with strangers; at the same price, same bytes
        assert [tx["hash"] for tx in network.list_pool()] == [sent]
        network.mine()
    assert "0x" + pending.get().tx_hash.hex() == sent
    assert await count_commits(network) == 1


@pytest.mark.parametrize("gwei", [2, 8])
async def test_what_is_stuck_since_before_a_restart_is_replaced(
    network: Network, gwei: int
) -> None:
    data = network.connect()._contract.encode_abi("commit", [ROOT, keccak256(NONCES), DATA])
    network.send_raw(cap=gwei * GWEI, tip=GWEI * gwei // 4, data=data)
    (old,) = network.list_pool()
    async with sending(doing_once(network, network.connect())) as pending:
        await network.wait_pool((old["hash"],))
        network.mine()
    assert network.list_mined() == [pending.get().tx_hash]
    assert await count_commits(network) == 1


async def test_what_is_mined_between_looking_and_sending_is_not_posted_again(
    network: Network,
) -> None:
    sent = await crash_in_the_middle(network)
    chain = network.connect()
    world: Any = SimpleNamespace(chain=chain)

    async def act() -> TxOutcome:
        network.mine()  # the old one, at the worst moment
        return await chain.commit(ROOT, keccak256(NONCES), DATA)

    with trio.fail_after(PATIENCE):
        fact = await do_once(make_deed(network), act, world)
    assert "0x" + fact.tx_hash.hex() == sent
    assert network.list_pool() == []
    assert await count_commits(network) == 1


async def test_an_event_is_believed_only_under_its_confirmations(network: Network) -> None:
    async with sending(commit(network.connect())) as before:
        await network.wait_pool()
        network.mine()
    # A process that starts now finds it; then a reorg takes it away.
    async with sending(doing_once(network, network.connect(confirmations=2))) as pending:
        await trio.sleep(0.4)
        assert not pending.is_over
        network.ask("anvil_reorg", 1, [])
        await network.wait_pool()
        network.mine(3)
    assert before.get().tx_hash not in network.list_mined()
    assert network.list_mined() == [pending.get().tx_hash]
    assert await count_commits(network) == 1


async def test_a_final_refusal_leaves_nothing_that_may_still_come(network: Network) -> None:
    sent = await crash_in_the_middle(network)
    world: Any = SimpleNamespace(chain=network.connect())

    async def act() -> TxOutcome:
        raise BrokenPrecondition("too late")

    async def try_once() -> TxOutcome:
        await do_once(make_deed(network), act, world)
        raise AssertionError("it was refused")

    async with sending(try_once) as pending:
        await network.wait_pool((sent,))
        network.mine()
    assert isinstance(pending.error, BrokenPrecondition)
    assert len(network.list_mined()) == 1
    assert await count_commits(network) == 0


async def test_a_seed_is_fixed_though_a_reorg_has_moved_its_commitment(network: Network) -> None:
    await commit_and_wait_for_seed(network)
    (fact,) = [f for f in await network.connect().read_facts(0) if f.name == "Committed"]
    network.ask("evm_setAutomine", True)
    heard: list[events.Event] = []

    async def post(event: events.Event) -> None:
        heard.append(event)

    world: Any = SimpleNamespace(
        chain=network.connect(),
        identity=SimpleNamespace(address=network.account),
        seed_delay_blocks=QUICK_CONFIG.seed_delay_blocks,
        clock=SystemClock(),
        log=Log("coordinator"),
        post=post,
    )
    # What the core was told of before: the same commitment, a block earlier.
    effect = effects.FixSeed(epoch=1, sequence=0, block=fact.block - 1, nonces=NONCES)
    with trio.fail_after(PATIENCE):
        await perform(effect, world)
    (event,) = heard
    assert isinstance(event, events.SeedFixed)
    assert event.block == fact.block + QUICK_CONFIG.seed_delay_blocks


async def test_a_deed_that_somebody_else_did_meanwhile_is_done(network: Network) -> None:
    header = await commit_and_wait_for_seed(network)
    chain, rival = network.connect(), (await make_rival(network)).connect()
    network.ask("evm_setAutomine", True)

    async def fix() -> None:
        for by in (rival, chain):
            await by.fix_seed(network.account, 0, header=header, nonces=NONCES)

    deed = Deed("SeedFixed", {"committer": network.account, "seq": 0}, 0)
    world: Any = SimpleNamespace(chain=chain)
    with trio.fail_after(PATIENCE):
        fact = await do_once(deed, fix, world)
    assert fact.tx_hash not in network.list_mined()
