"""Watchtowers against a real chain and real peers: what each fault and each grief comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from web3 import Web3
from web3.types import RPCEndpoint

from gpumarket.adapters.batch_papers import NodeArchive
from gpumarket.adapters.chain import Rules
from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.deployment import deploy_devnet, fund_devnet
from gpumarket.adapters.jury_chain import JuryChain
from gpumarket.adapters.logs import Log
from gpumarket.adapters.p2p import open_network
from gpumarket.adapters.watchtower import LOOKS_BETWEEN_TRIES, Notice, Owner, Watchtower
from gpumarket.protocol.approvals import Approval
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.bills import NO_ATTESTATION
from gpumarket.protocol.cases import PATIENCE_BLOCKS, PATIENCE_SHARE
from gpumarket.protocol.cids import Codec, ContentId, format_cid
from gpumarket.protocol.codec import compute_content_hash, encode_document
from gpumarket.protocol.disputes import Acceptance, LeafEvidence
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.objections import Papers
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.openings import PostedBatch, make_opening
from gpumarket.protocol.signing import Domain
from gpumarket.protocol.units import Amount
from gpumarket.protocol.watching import OwnClaim, Viewer
from gpumarket.testing.anvil import QUICK_CONFIG, run_anvil
from gpumarket.testing.factories import (
    NOW,
    make_address,
    make_attestation,
    make_hash,
    make_secret,
    sign,
)
from tests.patience import PATIENCE
from tests.watch_scene import Paid, make_paid, make_papers

DAY = 86_400
CONFIG = replace(QUICK_CONFIG, epoch=3 * DAY, open=DAY, response=DAY, exit_delay=9 * DAY)
"""Days, skipped by the node's clock: no test is a race."""
WITHHELD_SECONDS = 0.5
"""For what is not shown, after which it counts as withheld."""
MONEY = Amount(10_000_000)
ALICE, COORDINATOR = make_address("alice"), make_address("coordinator")
PROVIDER = make_address("provider-1")


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with run_anvil(tmp_path_factory.mktemp("anvil"), block_seconds=None) as url:
        yield url


@dataclass
class Town:
    """A market's contracts, its parties' money, and where the coordinator shows its papers."""

    rpc_url: str
    domain: Domain
    rules: Rules
    shown: EmbeddedNode
    address: str
    folder: Path
    chains: dict[str, JuryChain] = field(default_factory=dict)

    async def fund(self, name: str) -> JuryChain:
        """Give a named party gas, tokens and a connection."""
        await fund_devnet(self.rpc_url, make_address(name), 10**20)
        contract = self.domain.contract
        chain = JuryChain(rpc_url=self.rpc_url, contract=contract, secret=make_secret(name))
        await chain.mint_test_token(make_address(name), MONEY)
        self.chains[name] = chain
        return chain

    async def find_now(self) -> int:
        return (await self.chains["alice"].head())[1]

    async def ask(self, method: str, *params: object) -> Any:
        """Ask the node for something that is no contract's."""
        provider = Web3(Web3.HTTPProvider(self.rpc_url)).provider
        name = RPCEndpoint(method)
        answer = await trio.to_thread.run_sync(provider.make_request, name, list(params))
        return answer["result"]

    async def skip(self, seconds: int) -> None:
        """Let time pass on the chain."""
        await self.ask("evm_increaseTime", seconds)
        await self.ask("evm_mine")

    async def mine(self, blocks: int) -> None:
        """Make empty blocks."""
        await self.ask("anvil_mine", hex(blocks))

    async def start_order(self, nonce: str = "order", **changes: Any) -> Paid:
        now = await self.find_now()
        times = {"settle_by": now + 5 * DAY, "expiry": now + 7 * DAY}
        return make_paid(nonce, domain=self.domain, **(times | changes))

    async def post(self, papers: Papers, *, is_shown: bool = True) -> PostedBatch:
        """Post a batch as the coordinator; show its papers or not."""
        if is_shown:
            for document in (papers.document, *papers.bills.values()):
                await self.shown.add_document(encode_document(document))
        name = compute_content_hash(papers.document)
        chain = self.chains["coordinator"]
        await chain.post_batch(name, papers.document.lanes)
        fact = await chain.find_fact("BatchPosted", from_block=0, wanted={"dataHash": name})
        assert fact is not None
        args = fact.args
        return PostedBatch(
            coordinator=COORDINATOR,
            sequence=args["seq"],
            posted_at=args["postedAt"],
            data_hash=name,
            root=args["root"],
            requesters=tuple(args["requesters"]),
            payees=tuple(args["payees"]),
            lanes=args["lanes"],
        )

    async def list_names(self) -> list[str]:
        """Names of the events of disputes and of what they took, in order."""
        quiet = ("Deposited", "Bonded", "Staked", "BatchPosted", "Taken", "Given")
        facts = await self.chains["alice"].read_facts(0)
        return [fact.name for fact in facts if fact.name not in quiet]

    async def read_bond(self) -> Amount:
        return await self.chains["alice"].read_bond(COORDINATOR)


@asynccontextmanager
async def open_town(rpc_url: str, folder: Path) -> AsyncIterator[Town]:
    _, contract = await deploy_devnet(rpc_url, CONFIG)
    domain = Domain(chain_id=DEVNET_CHAIN_ID, contract=contract)
    async with (
        open_network(key_seed=b"coordinator of watched batches!!", listen_port=0) as network,
        open_node(network, folder / "shown", quota_bytes=10**8) as shown,
    ):
        rules = await JuryChain(rpc_url=rpc_url, contract=contract).read_rules()
        town = Town(rpc_url, domain, rules, shown, network.addresses[0], folder)
        for name in ("alice", "bob", "coordinator", "provider-1", "verifier-1"):
            chain = await town.fund(name)
            payout = make_address(f"payout of {name}")
            if name == "coordinator":
                await chain.bond(4 * CONFIG.min_bond)
            elif name == "provider-1":
                await chain.stake_provider(CONFIG.min_stake, payout, "peer")
            elif name == "verifier-1":
                await chain.stake_verifier(CONFIG.min_stake, payout, "peer")
            else:
                await chain.deposit(MONEY)
        yield town


class ShownArchive:
    """
    Papers fetched from a real peer, for as long as it takes where it shows them.

    What it does not show is asked for as well, but not for long: so a look's outcome does not
    depend on how fast this machine is.
    """

    def __init__(self, town: Town, content: EmbeddedNode) -> None:
        self._shown = town.shown
        self._archive = NodeArchive(content, lambda: [town.address])

    async def get(self, name: Hash32, *, deadline_s: float) -> bytes:
        is_shown = await self._shown.has(format_cid(ContentId(Codec.DAG_CBOR, name)))
        return await self._archive.get(
            name, deadline_s=deadline_s if is_shown else WITHHELD_SECONDS
        )

    async def drop(self, name: Hash32) -> None:
        await self._archive.drop(name)


@dataclass
class Tower:
    """A party's watchtower with its own disk, and what it said and left."""

    town: Town
    name: str
    folder: Path
    archive: ShownArchive
    notices: list[Notice] = field(default_factory=list)
    left: list[Address] = field(default_factory=list)
    claims: list[OwnClaim] = field(default_factory=list)
    approved: dict[Hash32, Approval] = field(default_factory=dict)
    watchtower: Any = None

    def __post_init__(self) -> None:
        self.start()

    def start(self, chain: Any = None) -> None:
        """Start from what is on disk, as after a crash."""
        me = make_address(self.name)
        viewer = Viewer(
            me=me,
            payers=frozenset({ALICE}) if self.name == "alice" else frozenset(),
            coordinators=frozenset({COORDINATOR}),
        )
        self.watchtower = Watchtower(
            chain=chain or self.town.chains[self.name],
            archive=self.archive,
            domain=self.town.domain,
            rules=self.town.rules,
            owner=Owner(
                folder=self.folder,
                log=Log("test"),
                find_viewer=lambda: viewer,
                leave=self.leave,
                list_claims=lambda: self.claims,
                find_approval=lambda name, _order: self.approved.get(name),
                tell=self.notices.append,
            ),
            draw=lambda: 7,
        )
        self.watchtower.fetch_seconds = PATIENCE

    async def leave(self, coordinator: Address) -> str:
        if coordinator in self.left:
            return ""
        self.left.append(coordinator)
        return "left it"

    async def look(self) -> list[str]:
        """Look once; return the duties that were done, by kind."""
        before = len(self.notices)
        await self.watchtower.look()
        new = self.notices[before:]
        assert not [each for each in new if each.kind in ("refused", "failed")], new
        return [each.duty for each in new if each.kind == "done"]


@asynccontextmanager
async def open_tower(town: Town, name: str) -> AsyncIterator[Tower]:
    folder = town.folder / name
    folder.mkdir()
    seed = name.encode().ljust(32, b".")
    async with (
        open_network(key_seed=seed, listen_port=0) as network,
        open_node(network, folder / "content", quota_bytes=10**8) as content,
    ):
        source = town.shown if name == "coordinator" else content
        yield Tower(town, name, folder, ShownArchive(town, source))


def pay_honestly(paid: Paid) -> Papers:
    receipt = paid.work(0)
    paid.check(receipt)
    rejected = paid.make_receipt(1, "provider-2")
    paid.check(rejected, 5, verdict=Verdict.MISMATCH)
    paid.fee()
    return make_papers(paid)


# ---- a requester's -------------------------------------------------------------------------


async def test_an_honest_batch_leaves_everybody_at_rest(rpc_url: str, tmp_path: Path) -> None:
    async with open_town(rpc_url, tmp_path) as town:
        async with open_tower(town, "alice") as alice, open_tower(town, "provider-1") as provider:
            await town.post(pay_honestly(await town.start_order()))
            for _ in range(3):
                assert await alice.look() == []
                assert await provider.look() == []
            assert [each.kind for each in alice.notices] == ["batch"]
            assert "every payment is right" in alice.notices[0].text
        assert await town.list_names() == []


async def test_a_payment_over_the_cap_is_proven_refunded_and_slashed(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order()
        paid.work(0, price=1_001)
        paid.work(1)
        before = await town.read_bond()
        await town.post(make_papers(paid))
        assert await alice.look() == ["ProveBadLeaf"]
        assert await town.list_names() == ["LeafVoided", "Slashed"]
        quarter = CONFIG.bond_slash // 4
        assert await town.chains["alice"].read_escrow(ALICE) == MONEY - 700 + quarter
        assert await town.read_bond() == before - CONFIG.bond_slash
        assert await alice.look() == ["Exit"]
        assert alice.left == [COORDINATOR]
        assert await alice.look() == []


async def test_an_unsigned_order_is_demanded_and_goes_back_when_nobody_answers(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order(signer="bob")
        paid.work(0)
        await town.post(make_papers(paid))
        assert await alice.look() == ["ChallengeLeaf"]
        assert await town.chains["alice"].read_escrow(ALICE) == MONEY - 700 - CONFIG.challenge_bond
        assert await alice.look() == []
        await town.skip(CONFIG.response + 1)
        assert await alice.look() == ["TimeOut"]
        names = await town.list_names()
        assert names == ["Challenged", "ChallengeEnded", "LeafVoided", "Slashed"]
        assert await town.chains["alice"].read_escrow(ALICE) == MONEY + CONFIG.bond_slash // 4


async def test_a_withheld_document_is_demanded_only_after_a_while_and_costs_the_lane(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order()
        paid.work(0)
        paid.work(1)
        await town.post(make_papers(paid), is_shown=False)
        for _ in range(4):
            assert await alice.look() == []
        await town.skip(CONFIG.open // 4)
        assert await alice.look() == ["ChallengeWithheld"]
        await town.skip(CONFIG.response + 1)
        assert await alice.look() == ["TimeOut"]
        names = await town.list_names()
        assert names == ["Challenged", "ChallengeEnded", "LaneVoided", "Slashed"]
        assert await town.chains["alice"].read_escrow(ALICE) == MONEY + CONFIG.bond_slash // 4


async def test_a_bill_that_is_withheld_alone_costs_the_lane_too(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order()
        paid.work(0)
        papers = make_papers(paid)
        await town.shown.add_document(encode_document(papers.document))
        await town.post(papers, is_shown=False)
        await town.skip(CONFIG.open // 4)
        done = [duty for _ in range(4) for duty in await alice.look()]
        assert done == ["ChallengeWithheld"]


async def test_a_line_in_two_batches_is_proven_a_double(rpc_url: str, tmp_path: Path) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order()
        paid.work(0)
        await town.post(make_papers(paid))
        assert await alice.look() == []
        again, receipt = await town.start_order("filler"), paid.payments[0]
        again.work(0)
        both = make_papers(Paid(paid.order, town.domain, [receipt], paid.receipts), again)
        await town.post(both)
        alice.start()  # the first payment must be remembered over a restart
        assert await alice.look() == ["ProveDouble"]
        assert await town.chains["alice"].read_escrow(ALICE) == (
            MONEY - 2 * 700 + CONFIG.bond_slash // 4
        )


# ---- a coordinator's -----------------------------------------------------------------------


class Dying:
    """A chain whose process dies when it answers: just before, or just after it was sent."""

    def __init__(self, chain: JuryChain, *, is_sent: bool) -> None:
        self._chain = chain
        self._is_sent = is_sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def respond(self, *args: Any) -> None:
        if self._is_sent:
            await self._chain.respond(*args)
        raise PowerCut


class PowerCut(Exception):
    """Nothing after this line was done."""


@pytest.mark.parametrize("crash", ["none", "before", "after"])
async def test_an_honest_coordinator_answers_and_earns_the_bond_and_its_payee_waits_no_longer(
    rpc_url: str, tmp_path: Path, crash: str
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "coordinator") as tower:
        papers = pay_honestly(await town.start_order())
        posted = await town.post(papers)
        assert await tower.look() == []
        chain, bob = town.chains["coordinator"], town.chains["bob"]
        before = await chain.read_credit(PROVIDER)
        lane = next(i for i, each in enumerate(papers.document.lanes) if each.payee == PROVIDER)
        await bob.challenge_leaf(posted, make_opening(papers.document.lanes, lane, 0))
        assert (await chain.read_credit(PROVIDER))[1] == before[1] - 700
        if crash != "none":
            tower.start(Dying(chain, is_sent=crash == "after"))
            with pytest.raises(PowerCut):
                await tower.watchtower.look()
            tower.start()
        assert await tower.look() == ([] if crash == "after" else ["Answer"])
        assert await tower.look() == []
        assert await town.list_names() == ["Challenged", "ChallengeEnded"]
        fee = 40
        assert await chain.read_credit(COORDINATOR) == (0, fee + CONFIG.challenge_bond)
        assert await chain.read_credit(PROVIDER) == before
        assert await town.read_bond() == 4 * CONFIG.min_bond


class Behind:
    """A chain of which the newest block does not count yet."""

    def __init__(self, chain: JuryChain) -> None:
        self._chain = chain

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def head(self) -> tuple[int, int]:
        number, made_at = await self._chain.head()
        return number - 1, made_at


async def test_what_is_done_and_not_confirmed_is_not_done_again(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "coordinator") as tower:
        paid = await town.start_order()
        paid.work(0)
        posted = await town.post(make_papers(paid))
        await town.chains["bob"].challenge_withheld(posted, lane=0, index=0)
        await town.skip(1)
        behind: Any = Behind(town.chains["coordinator"])
        tower.start(behind)
        assert await tower.look() == ["Answer"]
        assert await tower.look() == []
        await town.skip(1)
        assert await tower.look() == []
        assert await town.list_names() == ["Challenged", "ChallengeEnded"]


@pytest.mark.parametrize("index", [0, 1, 2, 3])
async def test_a_coordinator_shows_any_leaf_and_padding(
    rpc_url: str, tmp_path: Path, index: int
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "coordinator") as tower:
        paid = await town.start_order()
        for unit in range(3):
            paid.work(unit)
        posted = await town.post(make_papers(paid))
        await town.chains["bob"].challenge_withheld(posted, lane=0, index=index)
        assert await tower.look() == ["Answer"]
        assert (await town.chains["bob"].read_credit(PROVIDER))[1] == 3 * 700


async def test_a_payee_answers_itself_when_its_coordinator_does_not(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as provider:
        paid = await town.start_order()
        paid.work(0)
        papers = make_papers(paid)
        posted = await town.post(papers)
        assert await provider.look() == []
        await town.chains["bob"].challenge_leaf(posted, make_opening(papers.document.lanes, 0, 0))
        assert await provider.look() == []
        await town.skip(CONFIG.response // 3)
        assert await provider.look() == ["Answer"]
        earned = 700 + CONFIG.challenge_bond
        assert await town.chains["bob"].read_credit(PROVIDER) == (0, earned)


async def test_evidence_that_cannot_be_said_to_the_contract_stops_nobody(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as provider:
        paid = await town.start_order()
        receipt = paid.make_receipt(0, "provider-2")
        # A verdict that no byte holds, in a leaf that pays the provider as if it were a verifier.
        paid.check(receipt, verifier="provider-1", verdict=300)  # type: ignore[arg-type]  # hostile
        papers = make_papers(paid)
        posted = await town.post(papers)
        assert await provider.look() == []
        await town.chains["bob"].challenge_leaf(posted, make_opening(papers.document.lanes, 0, 0))
        await town.skip(CONFIG.response // 3)
        for _ in range(2):
            await provider.watchtower.look()
        refused = [each for each in provider.notices if each.kind == "refused"]
        assert [each.duty for each in refused] == ["Answer"]


# ---- a provider that is left out -----------------------------------------------------------


def make_claim(paid: Paid) -> OwnClaim:
    receipt = paid.make_receipt(0, "provider-1")
    assignment = Assignment(
        order_hash=paid.order_hash,
        unit=0,
        provider=PROVIDER,
        max_price=1_000,
        reserved_until=NOW + DAY,
    )
    return OwnClaim(
        order=paid.order,
        receipt=receipt,
        assignment=sign(assignment, "coordinator", domain=paid.domain),
    )


def accept(claim: OwnClaim, domain: Domain) -> Approval:
    name = claim.receipt.body.compute_struct_hash()
    signed = sign(Acceptance(receipt_hash=name), "alice", domain=domain)
    return Approval(receipt=claim.receipt, acceptance=signed)


def attest(claim: OwnClaim, domain: Domain, *, by: str = "verifier-1") -> Approval:
    name = claim.receipt.body.compute_struct_hash()
    signed = sign(make_attestation(receipt_hash=name), by, domain=domain)
    return Approval(receipt=claim.receipt, attestation=signed)


@pytest.mark.parametrize("approve", [accept, attest])
async def test_a_provider_left_out_settles_with_the_requesters_or_a_verifiers_word(
    rpc_url: str, tmp_path: Path, approve: Callable[[OwnClaim, Domain], Approval]
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as provider:
        claim = make_claim(await town.start_order())
        provider.claims = [claim]
        approval = approve(claim, town.domain)
        assert await provider.look() == []
        await town.skip(5 * DAY + 1)
        assert await provider.look() == []  # nobody has seen the work yet
        provider.claims = []  # the lease is forgotten meanwhile
        provider.start()
        provider.approved[approval.receipt_hash] = approval
        assert await provider.look() == ["SettleDirect"]
        assert await provider.look() == []
        assert await town.list_names() == ["DirectSettled"]
        assert (await town.chains["alice"].read_credit(PROVIDER))[1] == 700


async def test_a_word_that_the_contract_does_not_take_is_tried_seldom_until_a_better_one_comes(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as provider:
        claim = make_claim(await town.start_order())
        provider.claims = [claim]
        await town.skip(5 * DAY + 1)
        unknown = attest(claim, town.domain, by="verifier-9")
        provider.approved[unknown.receipt_hash] = unknown
        court = Counting(town.chains["provider-1"])
        provider.start(court)
        for _ in range(LOOKS_BETWEEN_TRIES):
            await provider.watchtower.look()
        assert court.tries == 1
        assert [each.kind for each in provider.notices] == ["refused"]
        provider.approved[unknown.receipt_hash] = unknown.merge(accept(claim, town.domain))
        await provider.watchtower.look()
        assert court.tries == 2
        assert await town.list_names() == ["DirectSettled"]


class Counting:
    """A chain that counts how often something was to be settled directly."""

    def __init__(self, chain: JuryChain) -> None:
        self._chain = chain
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chain, name)

    async def settle_direct(self, *args: Any, **names: Any) -> Any:
        self.tries += 1
        return await self._chain.settle_direct(*args, **names)


async def test_a_direct_settlement_of_what_was_paid_is_proven_a_double(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order()
        claim = make_claim(paid)
        paid.work(0)
        await town.post(make_papers(paid))
        assert await alice.look() == []
        await town.skip(5 * DAY + 1)
        evidence = LeafEvidence(
            order=claim.order.body,
            order_signature=claim.order.signature,
            receipt=claim.receipt.body,
            receipt_signature=claim.receipt.signature,
            attestation=NO_ATTESTATION,
        )
        word = accept(claim, town.domain).acceptance
        assert word is not None
        await town.chains["provider-1"].settle_direct(
            evidence, claim.assignment, acceptance_signature=word.signature
        )
        assert await alice.look() == ["ProveDouble"]
        assert await alice.look() == []
        assert await town.list_names() == ["DirectSettled", "LeafVoided", "Slashed"]


# ---- a provider's cases --------------------------------------------------------------------


async def open_case(town: Town) -> int:
    """Let bob accuse a receipt of provider-1 that is in no batch."""
    paid = await town.start_order()
    receipt = paid.make_receipt(0, "provider-1")
    bob = town.chains["bob"]
    eligible = await bob.count_eligible()
    await bob.accuse_receipt(paid.order.body, receipt, eligible=eligible)
    fact = await bob.find_fact("CaseOpened", from_block=0, wanted={"provider": PROVIDER})
    assert fact is not None
    return int(fact.args["id"])


async def test_a_provider_alone_ends_a_case_that_nobody_judges(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as tower:
        chain = town.chains["provider-1"]
        stake = await chain.read_stake(PROVIDER)
        case = await open_case(town)
        assert await chain.read_stake(PROVIDER) < stake
        assert await tower.look() == []
        for level in range(3):
            await town.mine(CONFIG.seed_delay_blocks + PATIENCE_BLOCKS + 1)
            assert await tower.look() == ["PushCase"]
            assert await tower.look() == []
            # Others have time to take it on.
            await town.skip(CONFIG.response + 1)
            assert await tower.look() == []
            await town.skip(CONFIG.response // PATIENCE_SHARE + 1)
            tower.start()
            assert await tower.look() == ["PushCase"]
            assert await tower.look() == []
            record = await chain.read_case(case)
            assert record is None if level == 2 else record is not None
        assert await chain.read_stake(PROVIDER) == stake
        steps = ["JurySeated", "Escalated"] * 2 + ["JurySeated", "CaseClosed"]
        assert await town.list_names() == ["CaseOpened", *steps]


async def test_a_provider_carries_out_its_acquittal_and_not_its_conviction(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "provider-1") as tower:
        await town.skip(CONFIG.epoch + 1)
        chain, bob = town.chains["provider-1"], town.chains["bob"]
        case = await open_case(town)
        for verdict in (Verdict.MATCH, Verdict.MISMATCH, Verdict.MATCH):
            await town.mine(CONFIG.seed_delay_blocks + PATIENCE_BLOCKS + 1)
            assert await tower.look() == ["PushCase"]
            seated = await bob.find_fact("JurySeated", from_block=0, wanted={"id": case})
            record = await chain.read_case(case)
            assert seated is not None and record is not None
            attestation = Attestation(
                receipt_hash=record.receipt_hash,
                verdict=int(verdict),
                evidence_hash=make_hash("traces"),
                issued_at=await town.find_now(),
            )
            vote = sign(attestation, "verifier-1", domain=town.domain)
            await bob.decide(case, seated.args["jury"], [(0, vote)])
            assert await tower.look() == []
            if record.level == 2:
                break
            if verdict is Verdict.MISMATCH:
                # Its last second has passed; but the next jury comes by an appeal in time.
                snapshot = await town.ask("evm_snapshot")
                await town.skip(2 * CONFIG.response)
                assert await tower.look() == []
                await town.ask("evm_revert", snapshot)
                tower.start()
            await bob.appeal(case)
        await town.skip(CONFIG.response)
        assert await tower.look() == ["PushCase"]
        assert await chain.read_case(case) is None
        fact = await bob.find_fact("CaseClosed", from_block=0, wanted={"id": case})
        assert fact is not None and fact.args["verdict"] == Verdict.MATCH


# ---- the chain's own whims -----------------------------------------------------------------


async def test_a_reorg_makes_it_look_again(rpc_url: str, tmp_path: Path) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        provider = Web3(Web3.HTTPProvider(rpc_url)).provider
        paid = await town.start_order()
        paid.work(0)
        snapshot = provider.make_request(RPCEndpoint("evm_snapshot"), [])["result"]
        await town.post(make_papers(paid))
        assert await alice.look() == []
        provider.make_request(RPCEndpoint("evm_revert"), [snapshot])
        bad = await town.start_order()
        bad.work(0, price=1_001)
        await town.post(make_papers(bad))
        assert await alice.look() == ["ProveBadLeaf"]


async def test_without_a_bond_the_loss_is_said_once_and_made_good_when_there_is_one(
    rpc_url: str, tmp_path: Path
) -> None:
    async with open_town(rpc_url, tmp_path) as town, open_tower(town, "alice") as alice:
        paid = await town.start_order(signer="bob")
        paid.work(0)
        await town.post(make_papers(paid))
        chain = town.chains["alice"]
        await chain.request_withdraw(await chain.read_escrow(ALICE))
        for _ in range(2):
            assert await alice.look() == []
        assert [each.kind for each in alice.notices].count("no-bond") == 1
        await chain.request_withdraw(0)
        assert await alice.look() == ["ChallengeLeaf"]
