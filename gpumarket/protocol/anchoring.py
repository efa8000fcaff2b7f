"""
From one trusted block hash to the facts an audit believes, by headers and state proofs alone.

Which slots of which account are read in which block follows from the job and the numbers of the
anchored blocks, so prover and auditor list the same ones: `plan_reads`.
Source: EIP-2935 for the history contract and the blocks it knows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.chain_proof import Anchor, ChainProof
from gpumarket.protocol.contract_code import (
    CompiledContract,
    ContractClaim,
    compute_judge_code_hash,
    compute_settlement_code_hash,
)
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.header import HISTORY_WINDOW, Header, decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32, format_hex
from gpumarket.protocol.proof import EpochDocument, ProofOfExecution
from gpumarket.protocol.settlement import Batch
from gpumarket.protocol.signing import encode_address, encode_uint, keccak256
from gpumarket.protocol.state_proof import Account, read_accounts_untrusted, read_slots_untrusted

HISTORY: Final[Address] = bytes.fromhex("0000f90827f1c53a10cb7a02335b175320002935")
"""The history contract of EIP-2935."""


class LinkFault(RemoteProtocolError):
    """A header does not hang on the trusted block hash."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """The contracts whose state is read, as the compiler left them."""

    settlement: CompiledContract
    disputes: CompiledContract
    jury: CompiledContract


@dataclass(frozen=True, slots=True)
class Reads:
    """What must be proven of one block's state, in this order."""

    block: int
    settlement: tuple[Hash32, ...]
    disputes: tuple[Hash32, ...]
    jury: tuple[Hash32, ...]
    history: tuple[int, ...]
    """Numbers of the blocks whose hashes are read."""

    @property
    def history_slots(self) -> tuple[Hash32, ...]:
        """Where the history contract keeps these hashes."""
        return tuple(encode_uint(number % HISTORY_WINDOW) for number in self.history)

    def list_accounts(
        self, contract: Address, claim: ContractClaim
    ) -> dict[Address, tuple[Hash32, ...]]:
        """Return the accounts that are read, in their order, and the slots of each."""
        wanted = (
            (contract, self.settlement),
            (claim.disputes, self.disputes),
            (claim.jury, self.jury),
            (HISTORY, self.history_slots),
        )
        return {address: slots for address, slots in wanted if slots}


@dataclass(frozen=True, slots=True)
class ProvenState:
    """The words of one block's state that were proven, by their slots."""

    header: Header
    settlement: Mapping[Hash32, int]
    disputes: Mapping[Hash32, int]
    jury: Mapping[Hash32, int]

    def read_settlement(self, slot: Hash32, words: int = 1) -> tuple[int, ...]:
        """Return a struct's words."""
        return tuple(self.settlement[each] for each in list_words(slot, words))


def list_words(slot: Hash32, words: int) -> list[Hash32]:
    """Return the slots of a struct of so many words."""
    first = int.from_bytes(slot, "big")
    return [encode_uint((first + each) % 2**256) for each in range(words)]


# ---- which slots ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slots:
    """Finds what the contracts keep about a job."""

    compiled: Compiled

    def find_commitment(self, committer: Address, sequence: int) -> Hash32:
        """Return the slot of a commitment's hash."""
        variable = self.compiled.settlement.storage["_commitments"]
        return variable.find_slot(encode_address(committer), encode_uint(sequence))

    def find_batch(self, coordinator: Address, sequence: int) -> Hash32:
        """Return the slot of a batch's hash."""
        variable = self.compiled.settlement.storage["_batches"]
        return variable.find_slot(encode_address(coordinator), encode_uint(sequence))

    def find_operator(self, operator: Address) -> Hash32:
        """Return the first slot of a provider's or verifier's record."""
        return self.compiled.settlement.storage["_operators"].find_slot(encode_address(operator))

    def find_escrow(self, requester: Address) -> Hash32:
        """Return the slot of a requester's escrow."""
        return self.compiled.settlement.storage["_requesters"].find_slot(encode_address(requester))

    def find_credit(self, payee: Address) -> Hash32:
        """Return the slot of a payee's credit."""
        return self.compiled.settlement.storage["_payees"].find_slot(encode_address(payee))

    def find_lane(self, coordinator: Address, sequence: int, lane: int) -> Hash32:
        """Return the slot of what was taken out of a lane."""
        key = keccak256(encode_address(coordinator) + encode_uint(sequence) + encode_uint(lane))
        return self.compiled.disputes.storage["_lanes"].find_slot(key)

    def find_direct(self, order_hash: Hash32, line: int) -> Hash32:
        """Return the slot that says whether a line was settled without its coordinator."""
        variable = self.compiled.disputes.storage["_settled"]
        return variable.find_slot(order_hash, encode_uint(line))

    def find_trial(self, receipt_hash: Hash32) -> Hash32:
        """Return the slot of what a jury decided about a receipt that no batch had paid."""
        return self.compiled.jury.storage["_trials"].find_slot(receipt_hash)


OPERATOR_WORDS: Final = 2
"""Words of an operator's record that are read: payout, role and time; then the stake."""


def list_parties(requesters: Iterable[Address], document: EpochDocument) -> list[Address]:
    """Return whose stakes and payout addresses as of a commitment matter to an audit."""
    who = {work.root.body.provider for work in document.work}
    who |= {card.body.verifier for card in document.verifiers}
    return sorted(who | set(requesters))


def list_party_slots(compiled: Compiled, parties: Iterable[Address]) -> list[Hash32]:
    """Return the slots of what the contract holds of them."""
    slots = Slots(compiled)
    return [
        slot for each in parties for slot in list_words(slots.find_operator(each), OPERATOR_WORDS)
    ]


def list_verifiers(proof: ProofOfExecution, proven: Sequence[bool]) -> list[Address]:
    """
    Return who made checks and must be looked up in the newest state.

    `proven` says of each epoch whether its parties are proven as of its commitment; who came only
    after that is not among these.
    """
    found: set[Address] = set()
    for epoch, is_proven in zip(proof.epochs, proven, strict=True):
        cards = {card.body.verifier for card in epoch.document.verifiers} if is_proven else set()
        found |= {check.seal.signer for check in epoch.checks} - cards
    return sorted(found)


def list_accused(proof: ProofOfExecution) -> list[Hash32]:
    """Return the receipts that a verifier called false: who is paid for one had a jury."""
    return sorted(
        {
            check.attestation.body.receipt_hash
            for epoch in proof.epochs
            for check in epoch.checks
            if check.attestation.body.verdict == Verdict.MISMATCH
        }
    )


def list_own_lanes(proof: ProofOfExecution, batch: Batch) -> list[int]:
    """Return the lanes of a batch with a leaf of this order that is shown."""
    own = proof.order.body.compute_struct_hash()
    return [
        number
        for number, lane in enumerate(batch.lanes)
        if any(leaf.order_hash == own for leaf in lane.leaves)
    ]


def list_own_work_lines(proof: ProofOfExecution) -> list[int]:
    """Return the lines of this order's work that are shown to be paid."""
    own = proof.order.body
    own_hash = own.compute_struct_hash()
    return [
        leaf.line
        for settlement in proof.settlements
        for lane in settlement.batch.lanes
        for leaf in lane.leaves
        if leaf.order_hash == own_hash and leaf.line < own.units
    ]


def list_anchor_blocks(newest: int, batches: Sequence[int]) -> list[int]:
    """Return the blocks whose state is read: the newest, each batch's, and the one before each."""
    return sorted({newest, *batches, *(block - 1 for block in batches)}, reverse=True)


def plan_reads(
    proof: ProofOfExecution,
    compiled: Compiled,
    *,
    anchors: Sequence[tuple[int, int]],
    batches: Sequence[int],
    headers: Sequence[int],
    proven: Sequence[bool],
) -> list[Reads]:
    """
    Return what must be proven in each anchored block.

    `anchors` are (number, time) of blocks, newest first; `batches` the blocks of the proof's
    settlements; `headers` those of commitments and seeds; `proven` as `list_verifiers` has it.
    Raises `LinkFault` where a block is beyond what any anchored state knows.
    """
    numbers = [number for number, _ in anchors]
    slots = Slots(compiled)
    history = _plan_history(numbers, headers)
    plans = []
    for place, (number, time) in enumerate(anchors):
        settlement = list(_list_settlement_slots(proof, slots, number, batches))
        if not place:
            settlement = [*_list_newest_slots(proof, slots, proven), *settlement]
        disputes = _list_dispute_slots(proof, slots, time) if not place else []
        trials = [slots.find_trial(each) for each in list_accused(proof)] if not place else []
        plans.append(
            Reads(
                block=number,
                settlement=tuple(dict.fromkeys(settlement)),
                disputes=tuple(dict.fromkeys(disputes)),
                jury=tuple(trials),
                history=tuple(history.get(number, ())),
            )
        )
    return plans


def _plan_history(anchors: Sequence[int], headers: Sequence[int]) -> dict[int, list[int]]:
    plan: dict[int, list[int]] = {}
    known = {number - 1 for number in anchors}  # by the parent hash in the header
    for number in sorted({*anchors[1:], *headers} - known - set(anchors[:1]), reverse=True):
        for anchor in anchors:
            if number < anchor <= number + HISTORY_WINDOW:
                plan.setdefault(anchor, []).append(number)
                break
        else:
            raise LinkFault(f"block {number} is linked to no newer block of the proof")
    return plan


def _list_newest_slots(
    proof: ProofOfExecution, slots: Slots, proven: Sequence[bool]
) -> Iterator[Hash32]:
    for epoch in proof.epochs:
        yield slots.find_commitment(epoch.committer, epoch.sequence)
    yield from list_party_slots(slots.compiled, list_verifiers(proof, proven))


def _list_settlement_slots(
    proof: ProofOfExecution, slots: Slots, number: int, batches: Sequence[int]
) -> Iterator[Hash32]:
    for settlement, block in zip(proof.settlements, batches, strict=True):
        batch = settlement.batch
        if number in (block, block - 1):
            yield slots.find_batch(batch.coordinator, settlement.sequence)
            for requester in sorted({lane.requester for lane in batch.lanes}):
                yield slots.find_escrow(requester)
        if number == block - 1:
            for payee in sorted({lane.payee for lane in batch.lanes}):
                yield slots.find_credit(payee)


def _list_dispute_slots(proof: ProofOfExecution, slots: Slots, time: int) -> list[Hash32]:
    found = [
        slots.find_lane(settlement.batch.coordinator, settlement.sequence, lane)
        for settlement in proof.settlements
        for lane in list_own_lanes(proof, settlement.batch)
    ]
    # Before that nothing can be settled without the coordinator.
    if time > proof.order.body.settle_by:
        own = proof.order.body.compute_struct_hash()
        found += [slots.find_direct(own, line) for line in list_own_work_lines(proof)]
    return found


def read_parties_untrusted(
    proof: ProofOfExecution, chain: ChainProof, compiled: Compiled, *, number: int
) -> dict[Hash32, int] | None:
    """
    Return the words about the parties of the epoch at `number` as of its commitment's block.

    None where they are not in the file. The block's header must have been linked. Raises
    `RemoteProtocolError` where the state is not proven.
    """
    claim, epoch, contract = chain.commits[number], proof.epochs[number], proof.domain.contract
    if not claim.has_parties:
        if claim.settlement:
            raise RemoteProtocolError("trie nodes of an account that is not read")
        return None
    header = decode_header_untrusted(claim.header)
    (account,) = read_accounts_untrusted(header.state_root, [contract], claim.accounts)
    _check_code(proof, chain, compiled, {contract: account})
    parties = list_parties([proof.order.body.requester], epoch.document)
    slots = list_party_slots(compiled, parties)
    words = read_slots_untrusted(account.storage_root, slots, claim.settlement)
    return dict(zip(slots, words, strict=True))


# ---- links and state -----------------------------------------------------------------------


def read_states_untrusted(
    proof: ProofOfExecution, chain: ChainProof, compiled: Compiled, *, trusted: Hash32
) -> tuple[dict[int, ProvenState], dict[int, Hash32]]:
    """
    Return the proven state of each anchored block, and the hashes of all blocks that were linked.

    Raises `LinkFault` where a header does not hang on the trusted block, and
    `RemoteProtocolError` where a state is not proven.
    """
    headers = [decode_header_untrusted(anchor.header) for anchor in chain.anchors]
    if headers[0].block_hash != trusted:
        raise LinkFault(
            f"the newest header, of block {headers[0].number}, is not that of the trusted block"
        )
    batches = [claim.block for claim in chain.batches]
    _check_shape(proof, chain, [header.number for header in headers], batches)
    singles = _list_headers(proof, chain)
    plans = plan_reads(
        proof,
        compiled,
        anchors=[(header.number, header.timestamp) for header in headers],
        batches=batches,
        headers=[header.number for header in singles],
        proven=[claim.has_parties for claim in chain.commits],
    )
    hashes = {headers[0].number: trusted}
    states: dict[int, ProvenState] = {}
    for anchor, header, plan in zip(chain.anchors, headers, plans, strict=True):
        _check_link(header, hashes)
        states[header.number] = _read_state(proof, chain, compiled, anchor, header, plan, hashes)
        hashes[header.number - 1] = header.parent_hash
    for header in singles:
        _check_link(header, hashes)
    return states, hashes


def _check_shape(
    proof: ProofOfExecution, chain: ChainProof, numbers: list[int], batches: list[int]
) -> None:
    if len(chain.commits) != len(proof.epochs) or len(batches) != len(proof.settlements):
        raise LinkFault("the chain's part counts other epochs or settlements than the proof")
    newest = numbers[0]
    if numbers != list_anchor_blocks(newest, batches) or newest < max(batches, default=0):
        raise LinkFault("the anchored blocks are not those of the batches and the one before each")


def _list_headers(proof: ProofOfExecution, chain: ChainProof) -> list[Header]:
    found = []
    for epoch, claim in zip(proof.epochs, chain.commits, strict=True):
        found.append(decode_header_untrusted(claim.header))
        found.append(decode_header_untrusted(epoch.header))
    return found


def _check_link(header: Header, hashes: Mapping[int, Hash32]) -> None:
    if hashes.get(header.number) != header.block_hash:
        raise LinkFault(f"the header of block {header.number} does not hang on the trusted block")


def _read_state(
    proof: ProofOfExecution,
    chain: ChainProof,
    compiled: Compiled,
    anchor: Anchor,
    header: Header,
    plan: Reads,
    hashes: dict[int, Hash32],
) -> ProvenState:
    contract, claim = proof.domain.contract, chain.contract
    wanted = plan.list_accounts(contract, claim)
    found = read_accounts_untrusted(header.state_root, [*wanted], anchor.accounts)
    accounts = dict(zip(wanted, found, strict=True))
    _check_code(proof, chain, compiled, accounts)
    words: dict[Address, dict[Hash32, int]] = {}
    for address, nodes in (
        (contract, anchor.settlement),
        (claim.disputes, anchor.disputes),
        (claim.jury, anchor.jury),
        (HISTORY, anchor.history),
    ):
        slots = wanted.get(address, ())
        if not slots and nodes:
            raise RemoteProtocolError("trie nodes of an account that is not read")
        root = accounts[address].storage_root if slots else b""
        values = read_slots_untrusted(root, slots, nodes) if slots else ()
        words[address] = dict(zip(slots, values, strict=True))
    for number, slot in zip(plan.history, plan.history_slots, strict=True):
        hashes[number] = encode_uint(words[HISTORY][slot])
    return ProvenState(
        header=header,
        settlement=words[contract],
        disputes=words[claim.disputes],
        jury=words[claim.jury],
    )


def _check_code(
    proof: ProofOfExecution,
    chain: ChainProof,
    compiled: Compiled,
    accounts: Mapping[Address, Account],
) -> None:
    domain, claim = proof.domain, chain.contract
    found = accounts.get(domain.contract)
    if found is not None:
        expected = compute_settlement_code_hash(compiled.settlement, claim, domain)
        if found.code_hash != expected:
            raise RemoteProtocolError(
                f"the code at {format_hex(domain.contract)} is not the settlement contract of "
                f"chain {domain.chain_id} with these parameters"
            )
    for address, judge, name in (
        (claim.disputes, compiled.disputes, "disputes"),
        (claim.jury, compiled.jury, "jury"),
    ):
        found = accounts.get(address)
        if found is not None and found.code_hash != compute_judge_code_hash(judge, domain):
            raise RemoteProtocolError(f"the code of the {name} contract is another")
