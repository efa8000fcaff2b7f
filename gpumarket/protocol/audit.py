"""
The audit: recompute a proof of execution from the chain's facts and say line by line what held.

Three verdicts, never two: PASS, FAIL (a contradiction was found), INCOMPLETE (evidence is
missing, so nothing was proven). What was not checked is part of every report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from gpumarket.protocol.audit_canaries import check_canaries
from gpumarket.protocol.audit_checks import check_openings, check_verifiers
from gpumarket.protocol.audit_claims import (
    check_claim,
    check_disputes,
    check_form,
    check_links,
    check_state,
)
from gpumarket.protocol.audit_commits import check_commitments, check_seeds
from gpumarket.protocol.audit_money import (
    check_balance,
    check_forgeries_unpaid,
    check_payments,
    check_settlement,
)
from gpumarket.protocol.audit_samples import check_assignments, check_samples
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.evidence import (
    AuditVerdict,
    ChainEvidence,
    Check,
    Finding,
    MissingEvidence,
    Report,
    require,
)
from gpumarket.protocol.ids import format_hex, format_short
from gpumarket.protocol.job import compute_verify_hash
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.signing import verify

NOT_CHECKED: Final = (
    "the outputs themselves and the comparisons of the verifiers (run the program again)",
    "that each provider has the devices it claims, and who it is",
    "the running times that providers claim, beyond the price caps that the order signs",
    "other batches of this coordinator, whose documents could name this order again",
)

_Inspection = Callable[[ProofOfExecution, ChainEvidence], Finding]


def check_proof(proof: ProofOfExecution, evidence: ChainEvidence) -> Report:
    """Run every check; none stops the others."""
    return Report(tuple(iterate_checks(proof, evidence)), NOT_CHECKED)


def iterate_checks(proof: ProofOfExecution, evidence: ChainEvidence) -> Iterator[Check]:
    """Run one check after the other, for whoever wants no more than the first that fails."""
    for name, check in CHECKS.items():
        yield _run(name, check, proof, evidence)


def _run(name: str, check: _Inspection, proof: ProofOfExecution, evidence: ChainEvidence) -> Check:
    try:
        finding = check(proof, evidence)
    except MissingEvidence as error:
        return Check(name, AuditVerdict.INCOMPLETE, str(error))
    except GpuMarketError as error:
        return Check(name, AuditVerdict.FAIL, error.message)
    return Check(name, AuditVerdict.PASS, finding.text, finding.remark)


def check_order(proof: ProofOfExecution, evidence: ChainEvidence) -> Finding:
    """Check that the requester signed the order for this chain and contract."""
    domain = proof.domain
    is_here = (domain.chain_id, domain.contract) == (evidence.chain_id, evidence.contract)
    require(is_here, f"the proof is about chain {domain.chain_id}, not {evidence.chain_id}")
    verify(proof.order, domain)
    require(proof.order.signer == proof.order.body.requester, "the order is not its requester's")
    contract = format_short(domain.contract)
    signer = format_short(proof.order.signer)
    return Finding(
        f"order signed by {signer} (EIP-712, chain {domain.chain_id}, contract {contract})"
    )


def check_job(proof: ProofOfExecution, _evidence: ChainEvidence) -> Finding:
    """Check that the job is, to the letter, the one that the order signs."""
    order, job = proof.order.body, proof.job
    require(order.job_hash == job.compute_hash(), "the job is not the one the order signs")
    policy_hash = compute_verify_hash(job.verify)
    require(order.verify_hash == policy_hash, "the verification policy is not the signed one")
    require(order.units == job.units, "the order and the job count different tasks")
    short = format_hex(order.job_hash)[:10]
    return Finding(f"job bytes hash to {short}…, as signed; image digest and input CIDs are inside")


CHECKS: Final[dict[str, _Inspection]] = {
    "order": check_order,
    "job": check_job,
    "commitments": check_commitments,
    "seeds": check_seeds,
    "samples": check_samples,
    "assignments": check_assignments,
    "verifiers": check_verifiers,
    "openings": check_openings,
    "forgeries": check_forgeries_unpaid,
    "canaries": check_canaries,
    "payments": check_payments,
    "settlement": check_settlement,
    "balance": check_balance,
    "disputes": check_disputes,
    "claim": check_claim,
    "form": check_form,
    "links": check_links,
    "state": check_state,
}
"""In the order they are printed."""
