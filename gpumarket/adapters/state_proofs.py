"""
Makes the chain's part of a proof: headers and state proofs from a node that serves `eth_getProof`.

Most nodes keep the state of some hundred blocks only, so a proof is made soon after its last batch,
or by an archive node; and what is read of a commitment's block is taken before, as `Papers`.
Source: EIP-1186; nodes want slots in 32 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio
from msgspec.structs import replace

from gpumarket.adapters.artifacts import load_compiled
from gpumarket.adapters.chain import Chain, ChainFact
from gpumarket.protocol.anchored_evidence import derive_evidence
from gpumarket.protocol.anchoring import (
    HISTORY,
    LinkFault,
    Reads,
    list_anchor_blocks,
    list_parties,
    list_party_slots,
    plan_reads,
)
from gpumarket.protocol.chain_proof import Anchor, BatchClaim, ChainProof, CommitClaim
from gpumarket.protocol.contract_code import ContractClaim
from gpumarket.protocol.errors import ChainError, GpuMarketError, RemoteProtocolError
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32, format_hex
from gpumarket.protocol.proof import EpochDocument, EpochProof, ProofOfExecution
from gpumarket.protocol.signing import keccak256
from gpumarket.protocol.state_proof import read_accounts_untrusted, select_nodes

SLOTS_MAX: Final = 512
"""Slots in one request; nodes refuse more than some thousand."""
REORG_BLOCKS: Final = 64


@dataclass(frozen=True, slots=True)
class _Places:
    """Where on chain a job's commitments and batches are."""

    commits: tuple[ChainFact, ...]
    batches: tuple[ChainFact, ...]


class Papers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node proved of the parties of an epoch, at the end of its commitment's block."""

    state_root: Hash32
    accounts: tuple[bytes, ...]
    settlement: tuple[bytes, ...]


class StateProver:
    """Proves what the contracts hold about a job, through one RPC endpoint."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._compiled = load_compiled()

    async def anchor(
        self, proof: ProofOfExecution, papers: Sequence[Papers] = ()
    ) -> tuple[ProofOfExecution, Hash32]:
        """
        Return the proof with its chain's part, and the block hash on which all of it hangs.

        What `papers` do not have of the commitments' blocks the node is asked for; where it knows
        it no more, stakes and payout addresses at commitment stay unproven. Raises `ChainError`
        GM-3007 where the node does not prove the state of another block.
        """
        places = await self._find_places(proof)
        batches = [fact.block for fact in places.batches]
        newest = max(batches) if batches else (await self._chain.head())[0]
        numbers = list_anchor_blocks(newest, batches)
        headers = {number: await self._chain.read_header(number) for number in numbers}
        claim = await self._read_claim()
        commits = tuple(
            [
                await self._read_commit(proof, epoch, fact, papers)
                for epoch, fact in zip(proof.epochs, places.commits, strict=True)
            ]
        )
        decoded = [decode_header_untrusted(headers[number]) for number in numbers]
        try:
            plans = plan_reads(
                proof,
                self._compiled,
                anchors=[(header.number, header.timestamp) for header in decoded],
                batches=batches,
                headers=_list_header_blocks(proof.epochs, places.commits),
                proven=[each.has_parties for each in commits],
            )
        except LinkFault as error:
            raise _make_error(error.message) from error
        anchors = [
            await self._read_anchor(plan, headers[plan.block], proof.domain.contract, claim)
            for plan in plans
        ]
        chain = ChainProof(
            contract=claim,
            commits=commits,
            batches=tuple(
                BatchClaim(block=fact.block, data_hash=fact.args["dataHash"])
                for fact in places.batches
            ),
            anchors=tuple(anchors),
        )
        anchored, trusted = replace(proof, chain=chain), decoded[0].block_hash
        await trio.to_thread.run_sync(self._check, anchored, trusted)
        return anchored, trusted

    async def take_papers(
        self,
        document: EpochDocument,
        *,
        requesters: Iterable[Address],
        contract: Address,
        block: int,
    ) -> Papers:
        """
        Prove what the contract held of an epoch's parties at the end of its commitment's block.

        Raises `ChainError` GM-3007 where the node does not prove that block's state.
        """
        header = decode_header_untrusted(await self._chain.read_header(block))
        slots = list_party_slots(self._compiled, list_parties(requesters, document))
        accounts, settlement = await self._prove(contract, slots, block)
        return Papers(
            state_root=header.state_root, accounts=tuple(accounts), settlement=tuple(settlement)
        )

    async def _read_commit(
        self, proof: ProofOfExecution, epoch: EpochProof, fact: ChainFact, papers: Sequence[Papers]
    ) -> CommitClaim:
        raw = await self._chain.read_header(fact.block)
        claim = CommitClaim(
            header=raw,
            data_hash=fact.args["dataHash"],
            nonce_hash=None if epoch.nonces else fact.args["nonceHash"],
        )
        root, contract = decode_header_untrusted(raw).state_root, proof.domain.contract
        requester = proof.order.body.requester
        slots = list_party_slots(self._compiled, list_parties([requester], epoch.document))
        for known in papers:
            if known.state_root == root:
                with suppress(RemoteProtocolError):  # of another epoch in the same block
                    return replace(claim, **_select(root, contract, slots, known))
        try:
            taken = await self.take_papers(
                epoch.document, requesters=[requester], contract=contract, block=fact.block
            )
            return replace(claim, **_select(root, contract, slots, taken))
        except (ChainError, RemoteProtocolError):
            return claim

    def _check(self, proof: ProofOfExecution, trusted: Hash32) -> None:
        anchoring = derive_evidence(proof, self._compiled, trusted=trusted).anchoring
        fault = anchoring and (anchoring.link_fault or anchoring.state_fault)
        if fault:
            raise _make_error(fault)

    async def _find_places(self, proof: ProofOfExecution) -> _Places:
        commits, batches = [], []
        first = 0
        for epoch in proof.epochs:
            first = max(0, decode_header_untrusted(epoch.header).number - REORG_BLOCKS)
            delay = (await self._chain.read_rules()).seed_delay_blocks
            commits.append(
                await self._find(
                    "Committed",
                    {"committer": epoch.committer, "seq": epoch.sequence},
                    max(0, first - delay),
                )
            )
        for settlement in proof.settlements:
            wanted = {"coordinator": settlement.batch.coordinator, "seq": settlement.sequence}
            batches.append(await self._find("BatchPosted", wanted, first))
        return _Places(tuple(commits), tuple(batches))

    async def _find(self, name: str, wanted: dict[str, Any], first: int) -> ChainFact:
        fact = await self._chain.find_fact(name, from_block=first, wanted=wanted)
        if fact is None:
            raise _make_error(f"{name} {wanted['seq']} is not among the contract's events")
        return fact

    async def _read_claim(self) -> ContractClaim:
        rules = await self._chain.read_rules()
        values = {
            name.removesuffix("_blocks"): getattr(rules, name)
            for name in rules.__slots__
            if name != "order_lifetime"
        }
        return ContractClaim(**values)

    async def _read_anchor(
        self, plan: Reads, header: bytes, contract: Address, claim: ContractClaim
    ) -> Anchor:
        state_root = decode_header_untrusted(header).state_root
        wanted = plan.list_accounts(contract, claim)
        addresses = [*wanted]
        found = {each: await self._prove(each, wanted[each], plan.block) for each in addresses}
        try:
            accounts = select_nodes(
                state_root,
                [keccak256(each) for each in addresses],
                [node for each in addresses for node in found[each][0]],
            )
            known = read_accounts_untrusted(state_root, addresses, accounts)
            slots = {
                each: select_nodes(
                    account.storage_root, [keccak256(slot) for slot in wanted[each]], found[each][1]
                )
                for each, account in zip(addresses, known, strict=True)
            }
        except RemoteProtocolError as error:
            raise _make_error(f"block {plan.block}: {error.message}") from error
        return Anchor(
            header=header,
            accounts=accounts,
            settlement=slots.get(contract, ()),
            disputes=slots.get(claim.disputes, ()),
            jury=slots.get(claim.jury, ()),
            history=slots.get(HISTORY, ()),
        )

    async def _prove(
        self, address: Address, slots: Sequence[Hash32], block: int
    ) -> tuple[list[bytes], list[bytes]]:
        accounts: list[bytes] = []
        storage: list[bytes] = []
        for start in range(0, len(slots), SLOTS_MAX):
            names = [format_hex(slot) for slot in slots[start : start + SLOTS_MAX]]
            try:
                answer = await self._chain.ask(
                    "eth_getProof", format_hex(address), names, hex(block)
                )
                accounts += _read_nodes(answer["accountProof"])
                for each in answer["storageProof"]:
                    storage += _read_nodes(each["proof"])
            except (GpuMarketError, LookupError, TypeError, ValueError) as error:
                said = error.why or error.message if isinstance(error, GpuMarketError) else error
                raise _make_error(f"block {block}: {said}") from error
        return accounts, storage


def _select(
    state_root: Hash32, contract: Address, slots: Sequence[Hash32], papers: Papers
) -> dict[str, tuple[bytes, ...]]:
    """Return of all nodes those that one proof needs, as a commitment's claim has them."""
    accounts = select_nodes(state_root, [keccak256(contract)], papers.accounts)
    (account,) = read_accounts_untrusted(state_root, [contract], accounts)
    names = [keccak256(slot) for slot in slots]
    nodes = select_nodes(account.storage_root, names, papers.settlement)
    return {"accounts": accounts, "settlement": nodes}


def _list_header_blocks(epochs: Iterable[EpochProof], commits: Iterable[ChainFact]) -> list[int]:
    numbers = [decode_header_untrusted(epoch.header).number for epoch in epochs]
    return numbers + [fact.block for fact in commits]


def _read_nodes(nodes: Iterable[str]) -> list[bytes]:
    return [bytes.fromhex(node[2:]) for node in nodes]


def _make_error(why: str) -> ChainError:
    return ChainError("the node does not prove this job's state", code="GM-3007", why=why[:300])
