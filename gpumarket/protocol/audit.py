"""
The audit: recompute a proof of execution from the chain's facts and say line by line what held.

Three verdicts, never two: PASS, FAIL (a contradiction was found), INCOMPLETE (evidence is
missing, so nothing was proven). What was not checked is part of every report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import GpuMarketError, RemoteProtocolError
from gpumarket.protocol.evidence import (
    AuditVerdict,
    ChainEvidence,
    Check,
    CommitFact,
    Report,
    SeedFact,
)
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address, Hash32, format_hex, format_short
from gpumarket.protocol.job import compute_verify_hash
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.proof import (
    EpochProof,
    ProofOfExecution,
    ProviderWork,
    SettlementProof,
    compute_epoch_root,
)
from gpumarket.protocol.receipt import Receipt, compute_input_hash
from gpumarket.protocol.sampling import compute_sample_size, compute_seed, draw_sample
from gpumarket.protocol.settlement import Lane, PaymentLeaf, compute_fee_evidence, pack_lanes
from gpumarket.protocol.signing import keccak256, verify
from gpumarket.protocol.units import format_amount

NOT_CHECKED: Final = (
    "the outputs themselves (run the program again to compare them)",
    "that each provider has the devices it claims, and who it is",
    "that the verifier of each unit was drawn from all verifiers that were connected",
    "the running times that providers claim, beyond the price cap that the order signs",
)


class _Missing(Exception):
    """Evidence is not there, so the check proves nothing."""


def check_proof(proof: ProofOfExecution, evidence: ChainEvidence) -> Report:
    """Run every check; none stops the others."""
    checks = tuple(_run(check, proof, evidence) for check in CHECKS)
    return Report(checks, NOT_CHECKED)


def _run(
    check: Callable[[ProofOfExecution, ChainEvidence], str],
    proof: ProofOfExecution,
    evidence: ChainEvidence,
) -> Check:
    try:
        return Check(AuditVerdict.PASS, check(proof, evidence))
    except _Missing as error:
        return Check(AuditVerdict.INCOMPLETE, str(error))
    except GpuMarketError as error:
        return Check(AuditVerdict.FAIL, error.message)


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise RemoteProtocolError(text)


# ---- the checks, in the order they are printed -------------------------------------------------


def _check_order(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    domain = proof.domain
    is_here = (domain.chain_id, domain.contract) == (evidence.chain_id, evidence.contract)
    _require(is_here, f"the proof is about chain {domain.chain_id}, not {evidence.chain_id}")
    verify(proof.order, domain)
    _require(proof.order.signer == proof.order.body.requester, "the order is not its requester's")
    contract = format_short(domain.contract)
    signer = format_short(proof.order.signer)
    return f"order signed by {signer} (EIP-712, chain {domain.chain_id}, contract {contract})"


def _check_job(proof: ProofOfExecution, _evidence: ChainEvidence) -> str:
    order, job = proof.order.body, proof.job
    _require(order.job_hash == job.compute_hash(), "the job is not the one the order signs")
    policy_hash = compute_verify_hash(job.verify)
    _require(order.verify_hash == policy_hash, "the verification policy is not the signed one")
    _require(order.units == job.units, "the order and the job count different tasks")
    short = format_hex(order.job_hash)[:10]
    return f"job bytes hash to {short}…, as signed; image digest and input CIDs are inside"


def _check_commitments(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    count, blocks = 0, []
    for epoch in proof.epochs:
        fact = _find_commit(epoch, evidence)
        _require(fact.root == compute_epoch_root(epoch.document), "a commitment has another root")
        document_hash = compute_content_hash(epoch.document)
        _require(fact.data_hash == document_hash, "a commitment names another document")
        for work in epoch.document.work:
            _check_work(proof, epoch, work)
        seed = _find_seed(epoch, evidence)
        _require(
            fact.block < seed.seed_block,
            f"commitment {epoch.sequence} is in block {fact.block}, not before its seed's block "
            f"{seed.seed_block}: the sample could have been known",
        )
        blocks.append(f"{fact.block} < {seed.seed_block}")
        count += len(_list_receipts(proof, epoch))
    return f"{count} results were committed before their seed's block ({', '.join(blocks)})"


def _check_work(proof: ProofOfExecution, epoch: EpochProof, work: ProviderWork) -> None:
    root = verify(work.root, proof.domain).body
    _require(work.root.signer == root.provider, "a provider root is signed by somebody else")
    hashes = [receipt.body.result_hash for receipt in work.receipts]
    _require(root.root == compute_root(hashes), "a provider root does not cover its receipts")
    _require(root.count == len(hashes), "a provider root counts other receipts")
    total = sum(receipt.body.price for receipt in work.receipts)
    _require(root.price == total, "a provider root sums other prices")
    _require(root.epoch == epoch.document.epoch, "a provider root is of another epoch")
    for receipt in work.receipts:
        verify(receipt, proof.domain)
        _require(
            receipt.signer == receipt.body.provider == root.provider,
            "a receipt is not its provider's",
        )


def _check_seeds(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    shown = []
    for epoch in proof.epochs:
        commit, fact = _find_commit(epoch, evidence), _find_seed(epoch, evidence)
        header = decode_header_untrusted(epoch.header)
        known = evidence.block_hashes.get(fact.seed_block)
        if known is None:
            raise _Missing(f"the hash of block {fact.seed_block} is not known here")
        _require(header.block_hash == known, "the header is not that of the seed's block")
        expected = commit.block + evidence.seed_delay_blocks
        _require(fact.seed_block == expected == header.number, "the seed is from another block")
        is_promised = not epoch.nonces or keccak256(epoch.nonces) == commit.nonce_hash
        _require(is_promised, "the nonces are not those promised at commitment")
        seed = compute_seed(
            chain_id=evidence.chain_id,
            contract=evidence.contract,
            committer=epoch.committer,
            sequence=epoch.sequence,
            root=commit.root,
            mix_hash=header.mix_hash,
            nonces=epoch.nonces,
        )
        _require(seed == fact.seed == epoch.seed, "the seed is not what its block gives")
        shown.append(f"{format_hex(seed)[:10]}… from block {header.number}")
    return f"seed recomputed from the block header and nonces: {', '.join(shown) or 'none'}"


def _check_samples(proof: ProofOfExecution, _evidence: ChainEvidence) -> str:
    sampled, total = 0, 0
    for epoch in proof.epochs:
        expected: set[Hash32] = set()
        for work in epoch.document.work:
            hashes = [receipt.compute_struct_hash() for receipt in _own(proof, work)]
            size = compute_sample_size(proof.job.verify, len(hashes))
            provider = work.root.body.provider
            drawn = draw_sample(epoch.seed, provider, count=len(hashes), size=size)
            expected |= {hashes[index] for index in drawn}
            total += len(hashes)
        rejected = set(epoch.rejected_receipts)
        checked = {check.attestation.body.receipt_hash for check in epoch.checks}
        # A provider that never opened has no checks, and none of its receipts is paid.
        missing = expected - checked - rejected
        _require(not missing, f"{len(missing)} sampled results were paid without a check")
        _require(checked <= expected, "a result was checked that the seed did not draw")
        sampled += len(expected)
    return f"sample recomputed from the seed: {sampled} of {total} results, all as used"


def _check_verifiers(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    verdicts: Counter[int] = Counter()
    for epoch in proof.epochs:
        commit = _find_commit(epoch, evidence)
        for check in epoch.checks:
            seal = verify(check.seal, proof.domain)
            opening = verify(check.opening, proof.domain).body
            attested = verify(check.attestation, proof.domain)
            verifier, provider = seal.signer, check.opening.signer
            _require(
                attested.signer == verifier == seal.body.verifier, "two verifiers in one check"
            )
            _require(provider == opening.result.provider, "an opening is not its provider's")
            _require(verifier != provider, "a provider checked itself")
            since = evidence.verifiers_since.get(verifier)
            is_known = since is not None and since <= commit.block
            _require(is_known, f"{format_short(verifier)} was no staked verifier at commitment")
            _require(
                opening.seal_hash == compute_content_hash(seal.body),
                "a result was opened before the verifier had sealed its own",
            )
            own = check.evidence.own
            _require(seal.body.sealed == own.compute_hash(), "a seal does not hold its result")
            is_bound = attested.body.evidence_hash == compute_content_hash(check.evidence)
            _require(is_bound, "an attestation rests on other evidence")
            _check_verdict(check.attestation.body.verdict, own.output, opening.result.output)
            verdicts[attested.body.verdict] += 1
    match, mismatch = verdicts[Verdict.MATCH], verdicts[Verdict.MISMATCH]
    return (
        f"{verdicts.total()} blind checks, each sealed before its result was opened: "
        f"{match} match, {mismatch} mismatch, {verdicts[Verdict.INCONCLUSIVE]} inconclusive"
    )


def _check_verdict(verdict: int, own_output: str, their_output: str) -> None:
    is_equal = parse_cid(own_output) == parse_cid(their_output)
    _require(
        not (is_equal and verdict == Verdict.MISMATCH),
        "a mismatch was stated on two equal outputs",
    )


def _check_forgeries_unpaid(proof: ProofOfExecution, _evidence: ChainEvidence) -> str:
    paid = {leaf.evidence_hash for leaf in _own_leaves(proof)}
    rejected: set[Hash32] = set()
    guilty: set[Address] = set()
    for epoch in proof.epochs:
        rejected |= set(epoch.rejected_receipts)
        for check in epoch.checks:
            attestation = check.attestation.body
            if attestation.verdict != Verdict.MATCH:
                _require(attestation.receipt_hash not in paid, "a result that failed was paid")
            if attestation.verdict == Verdict.MISMATCH:
                guilty.add(check.opening.signer)
        for receipt in _list_receipts(proof, epoch):
            if receipt.provider in guilty:
                is_unpaid = receipt.compute_struct_hash() not in paid
                _require(is_unpaid, "a provider found forging was paid for the same epoch")
    _require(not rejected & paid, "a rejected receipt was paid")
    names = ", ".join(format_short(provider) for provider in sorted(guilty)) or "nobody"
    return f"forgery shown against {names}; {len(rejected)} rejected results, none of them paid"


def _check_openings(proof: ProofOfExecution, _evidence: ChainEvidence) -> str:
    opened: set[Hash32] = set()
    for epoch in proof.epochs:
        receipts = {r.compute_struct_hash(): r for r in _list_receipts(proof, epoch)}
        signed = list(epoch.openings) + [check.opening for check in epoch.checks]
        for opening in signed:
            body = verify(opening, proof.domain).body
            receipt = receipts.get(body.receipt_hash)
            _require(receipt is not None, "a result was opened that was not committed")
            if receipt is None:
                continue
            result = body.result
            is_same = result.compute_hash() == receipt.result_hash
            _require(is_same, "an opened result is not the committed one")
            asked = compute_input_hash(proof.order.body.job_hash, receipt.unit)
            _require(result.input_hash == asked, "a result answers another question")
            position = (result.order_hash, result.unit, result.provider)
            committed = (receipt.order_hash, receipt.unit, receipt.provider)
            _require(position == committed, "a result was moved to another place")
            opened.add(body.receipt_hash)
    work_lines = [leaf for leaf in _own_leaves(proof) if leaf.line < proof.order.body.units]
    closed = [leaf for leaf in work_lines if leaf.evidence_hash not in opened]
    _require(not closed, f"{len(closed)} paid results were never opened")
    return f"{len(opened)} opened results hash to what was committed, each for its own task"


def _check_payments(proof: ProofOfExecution, _evidence: ChainEvidence) -> str:
    order, order_hash = proof.order.body, proof.order.body.compute_struct_hash()
    receipts = {
        receipt.compute_struct_hash(): receipt
        for epoch in proof.epochs
        for receipt in _list_receipts(proof, epoch)
    }
    checks = {
        check.attestation.body.compute_struct_hash(): check
        for epoch in proof.epochs
        for check in epoch.checks
    }
    lines: set[int] = set()
    for lane, leaf in _own_lane_leaves(proof):
        cap = order.find_line_cap(leaf.line)
        _require(cap is not None and leaf.price <= cap, f"line {leaf.line} pays over its cap")
        _require(leaf.line not in lines, f"line {leaf.line} pays twice")
        _require(lane.requester == order.requester, "somebody else pays for this order")
        lines.add(leaf.line)
        if leaf.line < order.units:
            receipt = receipts.get(leaf.evidence_hash)
            is_right = receipt is not None and receipt.unit == leaf.line
            _require(
                is_right and receipt is not None and receipt.price == leaf.price,
                f"line {leaf.line} has no receipt for it",
            )
            is_payee = receipt is not None and receipt.provider == lane.payee
            _require(is_payee, f"line {leaf.line} pays somebody else than its provider")
        elif leaf.line < order.fee_line:
            check = checks.get(leaf.evidence_hash)
            is_payee = check is not None and check.attestation.signer == lane.payee
            _require(is_payee, f"line {leaf.line} pays for a check that was not made")
        else:
            _require(leaf.evidence_hash == compute_fee_evidence(order_hash), "a fee is not ours")
            _require(lane.payee == order.coordinator, "a fee goes to somebody else")
    total = sum(leaf.price for leaf in _own_leaves(proof))
    _require(total <= order.compute_exposure(), "more was paid than the order allows")
    limit = format_amount(order.compute_exposure())
    return f"{len(lines)} payment lines, each once, with evidence, in its cap; limit {limit}"


def _check_settlement(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    settlement = _settlement(proof)
    fact = evidence.batches.get((settlement.coordinator, settlement.sequence))
    if fact is None:
        raise _Missing(f"batch {settlement.sequence} is not among the chain's events read here")
    _require(fact.data_hash == settlement.data_hash, "the batch names another document")
    posted = (list(fact.requesters), list(fact.payees), fact.lanes)
    _require(posted == pack_lanes(settlement.lanes), "the batch on chain has other lanes")
    for requester in fact.requesters:
        paid = sum(lane.amount for lane in settlement.lanes if lane.requester == requester)
        held = fact.escrow_before.get(requester, 0)
        _require(paid <= held, f"{format_short(requester)} paid more than its escrow held")
    return f"{len(settlement.lanes)} lanes with these sums and roots are in block {fact.block}"


def _check_balance(proof: ProofOfExecution, evidence: ChainEvidence) -> str:
    settlement, order = _settlement(proof), proof.order.body
    fact = evidence.batches.get((settlement.coordinator, settlement.sequence))
    if fact is None:
        raise _Missing("without the batch's event no balance can be added up")
    sums = {"work": 0, "checks": 0, "fee": 0}
    for leaf in _own_leaves(proof):
        is_work, is_fee = leaf.line < order.units, leaf.line == order.fee_line
        sums["work" if is_work else "fee" if is_fee else "checks"] += leaf.price
    before = fact.escrow_before.get(order.requester, 0)
    total = sum(lane.amount for lane in settlement.lanes if lane.requester == order.requester)
    after = before - total
    _require(after >= 0, "the escrow was overdrawn")
    parts = " + ".join(format_amount(sums[name]) for name in ("work", "checks", "fee"))
    other = total - sum(sums.values())
    tail = f" + {format_amount(other)} for other jobs" if other else ""
    return (
        f"escrow {format_amount(before)} = {parts}{tail} + {format_amount(after)} left "
        "(work + checks + fee)"
    )


CHECKS: Final = (
    _check_order,
    _check_job,
    _check_commitments,
    _check_seeds,
    _check_samples,
    _check_verifiers,
    _check_openings,
    _check_forgeries_unpaid,
    _check_payments,
    _check_settlement,
    _check_balance,
)


# ---- reading the proof -------------------------------------------------------------------------


def _find_commit(epoch: EpochProof, evidence: ChainEvidence) -> CommitFact:
    fact = evidence.commits.get((epoch.committer, epoch.sequence))
    if fact is None:
        raise _Missing(f"commitment {epoch.sequence} is not among the chain's events read here")
    return fact


def _find_seed(epoch: EpochProof, evidence: ChainEvidence) -> SeedFact:
    fact = evidence.seeds.get((epoch.committer, epoch.sequence))
    if fact is None:
        raise _Missing(f"the seed of commitment {epoch.sequence} is not among the events read here")
    return fact


def _settlement(proof: ProofOfExecution) -> SettlementProof:
    if proof.settlement is None:
        raise _Missing("the job is not settled yet")
    return proof.settlement


def _own(proof: ProofOfExecution, work: ProviderWork) -> list[Receipt]:
    order_hash = proof.order.body.compute_struct_hash()
    return [r.body for r in work.receipts if r.body.order_hash == order_hash]


def _list_receipts(proof: ProofOfExecution, epoch: EpochProof) -> list[Receipt]:
    return [receipt for work in epoch.document.work for receipt in _own(proof, work)]


def _own_lane_leaves(proof: ProofOfExecution) -> Iterator[tuple[Lane, PaymentLeaf]]:
    order_hash = proof.order.body.compute_struct_hash()
    for lane in _settlement(proof).lanes:
        for leaf in lane.leaves:
            if leaf.order_hash == order_hash:
                yield lane, leaf


def _own_leaves(proof: ProofOfExecution) -> list[PaymentLeaf]:
    return [leaf for _, leaf in _own_lane_leaves(proof)]
