"""Audit, first part: work was committed on chain before the seed of its sample could be known."""

from __future__ import annotations

from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import ChainEvidence, Finding, MissingEvidence, require
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Hash32, format_hex
from gpumarket.protocol.proof import (
    EpochDocument,
    EpochProof,
    OpenedWork,
    ProofOfExecution,
    ProviderWork,
    compute_epoch_root,
    compute_work_root,
    count_leaves,
)
from gpumarket.protocol.proof_reading import find_commit, find_seed, index_receipts
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.signing import keccak256, verify


def check_commitments(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that every result was committed on chain, signed, before its seed's block."""
    names = [(epoch.committer, epoch.sequence) for epoch in proof.epochs]
    require(len(set(names)) == len(names), "an epoch stands in the proof twice")
    count, hidden, blocks = 0, 0, []
    remarks: list[str] = []
    for epoch in proof.epochs:
        document = epoch.document
        is_ours = epoch.committer == document.coordinator == proof.order.body.coordinator
        require(is_ours, "work was committed by another coordinator than the order names")
        fact = find_commit(epoch, evidence)
        require(fact.root == compute_epoch_root(document), "a commitment has another root")
        if any(isinstance(work, OpenedWork) for work in document.work):
            hidden += sum(count_leaves(work) - len(work.receipts) for work in document.work)
        else:
            is_named = fact.data_hash == compute_content_hash(document)
            require(is_named, "a commitment names another document")
        _check_document(proof, document)
        remarks += _list_twins(epoch, evidence)
        seed = find_seed(epoch, evidence)
        require(
            fact.block < seed.seed_block,
            f"commitment {epoch.sequence} is in block {fact.block}, not before its seed's block "
            f"{seed.seed_block}: the sample could have been known",
        )
        blocks.append(f"{fact.block} < {seed.seed_block}")
        count += len(index_receipts(proof, epoch))
    shown = f" ({', '.join(blocks)})" if blocks else ""
    if hidden:
        remarks.append(f"{hidden} more are bound by their provider's root and not shown")
    return Finding(
        f"{count} results were committed before their seed's block{shown}", "; ".join(remarks)
    )


def _list_twins(epoch: EpochProof, evidence: ChainEvidence) -> list[str]:
    # Each commitment has a seed of its own: who has two for one work can tell of the kinder one.
    root = find_commit(epoch, evidence).root
    return [
        f"commitment {sequence} is of the same root as {epoch.sequence}: it had a choice of seeds"
        for (committer, sequence), other in sorted(evidence.commits.items())
        if committer == epoch.committer and sequence != epoch.sequence and other.root == root
    ]


def _check_document(proof: ProofOfExecution, document: EpochDocument) -> None:
    providers = [work.root.body.provider for work in document.work]
    require(providers == sorted(set(providers)), "a provider's work stands out of its place")
    for work in document.work:
        _check_work(proof, document, work)
    verifiers = [card.body.verifier for card in document.verifiers]
    require(verifiers == sorted(set(verifiers)), "a verifier stands out of its place")
    for card in document.verifiers:
        verify(card, proof.domain)
        require(card.signer == card.body.verifier, "a verifier's card is signed by somebody else")


def _check_work(proof: ProofOfExecution, document: EpochDocument, work: ProviderWork) -> None:
    root = verify(work.root, proof.domain).body
    require(work.root.signer == root.provider, "a provider root is signed by somebody else")
    require(root.coordinator == document.coordinator, "a provider root is for somebody else")
    require(root.root == compute_work_root(work), "a provider root does not cover its receipts")
    require(root.count == count_leaves(work), "a provider root counts other receipts")
    total = sum(receipt.body.price for receipt in work.receipts)
    is_summed = total <= root.price if isinstance(work, OpenedWork) else total == root.price
    require(is_summed, "a provider root sums other prices")
    require(root.epoch == document.epoch, "a provider root is of another epoch")
    tasks: set[tuple[Hash32, int]] = set()
    for receipt in work.receipts:
        verify(receipt, proof.domain)
        is_its_own = receipt.signer == receipt.body.provider == root.provider
        require(is_its_own, "a receipt is not its provider's")
        tasks.add((receipt.body.order_hash, receipt.body.unit))
    require(len(tasks) == len(work.receipts), "a provider committed two results of one task")


def check_seeds(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that each seed is what its block's header and the promised nonces give."""
    shown, waived = [], 0
    for epoch in proof.epochs:
        shown.append(_check_seed(epoch, evidence))
        waived += not epoch.nonces
    return Finding(
        f"seed recomputed from the block header and nonces: {', '.join(shown) or 'none'}",
        f"{waived} seeds were fixed without the coordinator's nonces" if waived else "",
    )


def _check_seed(epoch: EpochProof, evidence: ChainEvidence) -> str:
    commit, fact = find_commit(epoch, evidence), find_seed(epoch, evidence)
    header = decode_header_untrusted(epoch.header)
    known = evidence.block_hashes.get(fact.seed_block)
    if known is None:
        raise MissingEvidence(f"the hash of block {fact.seed_block} is not known here")
    require(header.block_hash == known, "the header is not that of the seed's block")
    expected = commit.block + evidence.seed_delay_blocks
    require(fact.seed_block == expected == header.number, "the seed is from another block")
    require(fact.mix_hash == header.mix_hash, "the seed rests on another block's randomness")
    is_promised = not epoch.nonces or keccak256(epoch.nonces) == commit.nonce_hash
    require(is_promised, "the nonces are not those promised at commitment")
    seed = compute_seed(
        chain_id=evidence.chain_id,
        contract=evidence.contract,
        committer=epoch.committer,
        sequence=epoch.sequence,
        root=commit.root,
        mix_hash=header.mix_hash,
        nonces=epoch.nonces,
    )
    require(seed == fact.seed == epoch.seed, "the seed is not what its block gives")
    return f"{format_hex(seed)[:10]}… from block {header.number}"
