"""What proven states say about a job: the same facts that an online audit reads from events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gpumarket.protocol.anchoring import (
    OPERATOR_WORDS,
    Compiled,
    LinkFault,
    ProvenState,
    Slots,
    list_accused,
    list_own_lanes,
    list_own_work_lines,
    list_parties,
    list_verifiers,
    list_words,
    read_parties_untrusted,
    read_states_untrusted,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.chain_proof import BatchClaim, ChainProof
from gpumarket.protocol.errors import GpuMarketError, RemoteProtocolError
from gpumarket.protocol.evidence import (
    Anchoring,
    BatchFact,
    ChainEvidence,
    CommitFact,
    LeafName,
    Party,
    SeedFact,
    StakeChange,
    require,
)
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32, format_hex
from gpumarket.protocol.ledger import ROLE_PROVIDER, ROLE_VERIFIER
from gpumarket.protocol.proof import (
    EpochProof,
    ProofOfExecution,
    SettlementProof,
    compute_epoch_root,
)
from gpumarket.protocol.sampling import compute_commitment_hash
from gpumarket.protocol.settlement import PackedBatch, pack_lanes
from gpumarket.protocol.signing import encode_address, encode_uint, keccak256

_U64_MAX: Final = 2**64 - 1


def derive_evidence(
    proof: ProofOfExecution, compiled: Compiled, *, trusted: Hash32
) -> ChainEvidence:
    """
    Return the facts that the proof's anchors show under one trusted block hash.

    Where they show none, the evidence says why, and the checks that need it are incomplete.
    """
    if proof.chain is None:
        missing = "the proof has no anchors: it can be checked with --rpc only"
        return _make_empty(proof, Anchoring(missing=missing))
    try:
        states, hashes = read_states_untrusted(proof, proof.chain, compiled, trusted=trusted)
    except LinkFault as error:
        fault = Anchoring(link_fault=error.message, state_fault="no header is linked")
        return _make_empty(proof, fault)
    except GpuMarketError as error:
        return _make_empty(proof, Anchoring(state_fault=error.message))
    try:
        return _derive(proof, proof.chain, compiled, states=states, hashes=hashes)
    except GpuMarketError as error:
        return _make_empty(proof, Anchoring(state_fault=error.message))


def _make_empty(proof: ProofOfExecution, anchoring: Anchoring) -> ChainEvidence:
    return ChainEvidence(
        chain_id=proof.domain.chain_id,
        contract=proof.domain.contract,
        seed_delay_blocks=0,
        commits={},
        seeds={},
        batches={},
        block_hashes={},
        anchoring=anchoring,
    )


def _derive(
    proof: ProofOfExecution,
    chain: ChainProof,
    compiled: Compiled,
    *,
    states: Mapping[int, ProvenState],
    hashes: Mapping[int, Hash32],
) -> ChainEvidence:
    slots = Slots(compiled)
    newest = states[max(states)]
    commits: dict[tuple[Address, int], CommitFact] = {}
    seeds: dict[tuple[Address, int], SeedFact] = {}
    for number, epoch in enumerate(proof.epochs):
        name = (epoch.committer, epoch.sequence)
        commits[name], seeds[name] = _derive_commit(chain, number, epoch, newest, slots)
    batches = {
        (each.batch.coordinator, each.sequence): _derive_batch(each, claim, states, slots)
        for each, claim in zip(proof.settlements, chain.batches, strict=True)
    }
    stakes, unclear = _derive_stakes(proof, chain, newest, slots)
    parties: dict[int, dict[Address, Party]] = {}
    for number, epoch in enumerate(proof.epochs):
        words = read_parties_untrusted(proof, chain, compiled, number=number)
        if words is not None:
            block = commits[epoch.committer, epoch.sequence].block
            parties.setdefault(block, {}).update(_derive_parties(proof, epoch, words, slots))
    voided, disputed = _derive_lanes(proof, newest, slots)
    acquitted, undecided = _derive_trials(proof, newest, slots)
    return ChainEvidence(
        chain_id=proof.domain.chain_id,
        contract=proof.domain.contract,
        seed_delay_blocks=chain.contract.seed_delay,
        commits=commits,
        seeds=seeds,
        batches=batches,
        block_hashes=hashes,
        verifier_stakes=stakes,
        voided=voided,
        settled_directly=_derive_directs(proof, newest, slots),
        acquitted=acquitted,
        undecided=undecided,
        unclear_stakes=unclear,
        disputed=disputed,
        parties=parties,
        anchoring=_describe(chain, states, hashes, sum(map(len, parties.values()))),
    )


def _describe(
    chain: ChainProof,
    states: Mapping[int, ProvenState],
    hashes: Mapping[int, Hash32],
    parties: int,
) -> Anchoring:
    newest = max(states)
    known = len(states) + 2 * len(chain.commits)
    count = sum(len(s.settlement) + len(s.disputes) + len(s.jury) for s in states.values())
    return Anchoring(
        links=f"{known} headers hang on block {newest} with the trusted hash "
        f"{format_hex(hashes[newest])[:10]}…",
        state=f"{count} words of state in {len(states)} blocks are proven, and what {parties} "
        "parties had at stake and are paid where at commitment; the contract's code and "
        "parameters are those of its code hash",
        newest=newest,
    )


# ---- commitments ---------------------------------------------------------------------------


def _derive_commit(
    chain: ChainProof, number: int, epoch: EpochProof, newest: ProvenState, slots: Slots
) -> tuple[CommitFact, SeedFact]:
    claim = chain.commits[number]
    block = decode_header_untrusted(claim.header).number
    seed_header = decode_header_untrusted(epoch.header)
    is_waived = not epoch.nonces
    require(
        is_waived == (claim.nonce_hash is not None),
        "the promised nonces are to be claimed only where they were never shown",
    )
    commit = CommitFact(
        root=compute_epoch_root(epoch.document),
        nonce_hash=claim.nonce_hash or keccak256(epoch.nonces),
        data_hash=claim.data_hash,
        block=block,
    )
    expected = compute_commitment_hash(
        root=commit.root,
        nonce_hash=commit.nonce_hash,
        data_hash=commit.data_hash,
        block=block,
        seed=epoch.seed,
    )
    (word,) = newest.read_settlement(slots.find_commitment(epoch.committer, epoch.sequence))
    if encode_uint(word) != expected:
        raise RemoteProtocolError(
            f"the contract holds another commitment {epoch.sequence}, or another seed for it"
        )
    seed_block = block + chain.contract.seed_delay
    return commit, SeedFact(seed_block=seed_block, mix_hash=seed_header.mix_hash, seed=epoch.seed)


# ---- batches -------------------------------------------------------------------------------


def _derive_batch(
    settlement: SettlementProof,
    claim: BatchClaim,
    states: Mapping[int, ProvenState],
    slots: Slots,
) -> BatchFact:
    batch, state, before = settlement.batch, states[claim.block], states[claim.block - 1]
    packed = pack_lanes(batch.lanes)
    posted_at = state.header.timestamp
    slot = slots.find_batch(batch.coordinator, settlement.sequence)
    (word,), (earlier,) = state.read_settlement(slot), before.read_settlement(slot)
    name = f"batch {settlement.sequence}"
    require(earlier == 0, f"{name} was posted before block {claim.block}")
    expected = compute_batch_hash(posted_at, claim.data_hash, packed)
    require(encode_uint(word) == expected, f"the contract holds another {name}")
    return BatchFact(
        data_hash=claim.data_hash,
        block=claim.block,
        posted_at=posted_at,
        requesters=packed.requesters,
        payees=packed.payees,
        lanes=packed.lanes,
        root=packed.root,
        escrow_before=_read_escrows(packed, before, slots),
        credit_before={
            payee: _sum_credit(before.read_settlement(slots.find_credit(payee))[0])
            for payee in packed.payees
        },
        escrow_after=_read_escrows(packed, state, slots),
    )


def _read_escrows(packed: PackedBatch, state: ProvenState, slots: Slots) -> dict[Address, int]:
    variable = slots.compiled.settlement.storage["_requesters"]
    return {
        each: variable.read("balance", state.read_settlement(slots.find_escrow(each)))
        for each in packed.requesters
    }


def _sum_credit(word: int) -> int:
    # Available, of the epoch before and of this one: Accounts.sol.
    return sum((word >> shift) & _U64_MAX for shift in (192, 128, 64))


def compute_batch_hash(posted_at: int, data_hash: Hash32, packed: PackedBatch) -> Hash32:
    """Return what the contract keeps of a batch: the hash of its ABI encoding."""
    head = 6 * 32
    lists = [_encode_addresses(packed.requesters), _encode_addresses(packed.payees)]
    tail = -len(packed.lanes) % 32
    lists.append(encode_uint(len(packed.lanes)) + packed.lanes + bytes(tail))
    offsets = [head, head + len(lists[0]), head + len(lists[0]) + len(lists[1])]
    return keccak256(
        encode_uint(posted_at)
        + data_hash
        + packed.root
        + b"".join(encode_uint(offset) for offset in offsets)
        + b"".join(lists)
    )


def _encode_addresses(addresses: tuple[Address, ...]) -> bytes:
    return encode_uint(len(addresses)) + b"".join(encode_address(each) for each in addresses)


# ---- stakes and disputes -------------------------------------------------------------------


def _derive_parties(
    proof: ProofOfExecution, epoch: EpochProof, words: Mapping[Hash32, int], slots: Slots
) -> dict[Address, Party]:
    variable = slots.compiled.settlement.storage["_operators"]
    found = {}
    for who in list_parties([proof.order.body.requester], epoch.document):
        record = tuple(words[each] for each in list_words(slots.find_operator(who), OPERATOR_WORDS))
        role, stake = variable.read("role", record), variable.read("stake", record)
        payout = variable.read("payout", record)
        found[who] = Party(
            provider_stake=stake if role == ROLE_PROVIDER else 0,
            verifier_stake=stake if role == ROLE_VERIFIER else 0,
            payout=payout.to_bytes(20, "big") if payout else who,
        )
    return found


def _derive_stakes(
    proof: ProofOfExecution, chain: ChainProof, newest: ProvenState, slots: Slots
) -> tuple[dict[Address, tuple[StakeChange, ...]], frozenset[Address]]:
    """
    Say who was a staked verifier at which commitment, by one later state.

    `stakedAt` is the last time that a stake rose to the minimum: whoever has it now has had it
    since then. Of who has less, or came back later, this state says nothing.
    """
    commits = [decode_header_untrusted(claim.header) for claim in chain.commits]
    variable = slots.compiled.settlement.storage["_operators"]
    stakes: dict[Address, tuple[StakeChange, ...]] = {}
    unclear: set[Address] = set()
    for verifier in list_verifiers(proof, [claim.has_parties for claim in chain.commits]):
        words = newest.read_settlement(slots.find_operator(verifier), OPERATOR_WORDS)
        if variable.read("role", words) != ROLE_VERIFIER:
            continue
        since, stake = variable.read("stakedAt", words), variable.read("stake", words)
        checked = [
            commit
            for epoch, commit in zip(proof.epochs, commits, strict=True)
            if any(check.seal.signer == verifier for check in epoch.checks)
        ]
        if stake < chain.contract.min_stake or any(each.timestamp < since for each in checked):
            unclear.add(verifier)
        else:
            stakes[verifier] = (StakeChange(min(each.number for each in checked), stake),)
    return stakes, frozenset(unclear)


def _derive_lanes(
    proof: ProofOfExecution, newest: ProvenState, slots: Slots
) -> tuple[frozenset[LeafName], frozenset[LeafName]]:
    variable = slots.compiled.disputes.storage["_lanes"]
    voided, disputed = set(), set()
    for settlement in proof.settlements:
        coordinator = settlement.batch.coordinator
        for lane in list_own_lanes(proof, settlement.batch):
            word = (newest.disputes[slots.find_lane(coordinator, settlement.sequence, lane)],)
            name = LeafName(coordinator, settlement.sequence, lane, None)
            if variable.read("isVoid", word):
                voided.add(name)
            elif variable.read("aside", word) or variable.read("open", word):
                disputed.add(name)
    return frozenset(voided), frozenset(disputed)


def _derive_trials(
    proof: ProofOfExecution, newest: ProvenState, slots: Slots
) -> tuple[frozenset[Hash32], frozenset[Hash32]]:
    variable = slots.compiled.jury.storage["_trials"]
    acquitted, undecided = set(), set()
    for receipt_hash in list_accused(proof):
        word = (newest.jury[slots.find_trial(receipt_hash)],)
        verdict = variable.read("verdict", word)
        if verdict == Verdict.MATCH:
            acquitted.add(receipt_hash)
        elif not verdict and variable.read("id", word):
            undecided.add(receipt_hash)
    return frozenset(acquitted), frozenset(undecided)


def _derive_directs(
    proof: ProofOfExecution, newest: ProvenState, slots: Slots
) -> frozenset[tuple[Hash32, int]]:
    if newest.header.timestamp <= proof.order.body.settle_by:
        return frozenset()
    own = proof.order.body.compute_struct_hash()
    return frozenset(
        (own, line)
        for line in list_own_work_lines(proof)
        if newest.disputes[slots.find_direct(own, line)]
    )
