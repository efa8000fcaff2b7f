"""
Attack 18: a proof file that was forged.

Each forgery is refused, and with a reason that names it: audits dropped or in another order, fewer
checks with fresh signatures, another chain, headers that hang on nothing, verifiers whose stake
came too late; and whatever else changes a bit, a value or an element of the file.
The full run is `scripts/bench proof`: 100,000 changes.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from gpumarket.protocol.audit_claims import make_claim
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import GpuMarketError
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.job import VerifyPolicy, compute_verify_hash
from gpumarket.protocol.proof import OpenedWork, ProofOfExecution
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof
from gpumarket.testing.factories import make_address, sign
from gpumarket.testing.mutations import Mutator
from scripts.benchmarks.proof import Case, find_refusal, make_case

UNITS = 24
MUTATIONS = 400
POLICY = VerifyPolicy(
    rate_ppm=250_000, forged_share_ppm=250_000, confidence_ppm=500_000, units_min=0
)


@pytest.fixture(scope="module")
def case() -> Case:
    return make_case(UNITS, policy=POLICY, verifiers=3)


@pytest.fixture(scope="module")
def proof(case: Case) -> ProofOfExecution:
    return decode_proof_untrusted(case.data)


def refuse(case: Case, forged: ProofOfExecution) -> dict[str, str]:
    """Return why a forged proof is refused, by check; fail where it passes."""
    try:
        report = case.audit(encode_proof(forged))
    except GpuMarketError as error:
        return {"file": error.why or error.message}
    assert report.verdict is not AuditVerdict.PASS
    return {
        check.name: check.text for check in report.checks if check.verdict is not AuditVerdict.PASS
    }


def test_the_honest_file_passes(case: Case) -> None:
    assert case.audit(case.data).verdict is AuditVerdict.PASS


def test_a_dropped_audit_is_missed(case: Case, proof: ProofOfExecution) -> None:
    (epoch,) = proof.epochs
    kept = replace(
        epoch, checks=epoch.checks[1:], openings=(*epoch.openings, epoch.checks[0].opening)
    )
    reasons = refuse(case, replace(proof, epochs=(kept,)))
    assert "paid without a check" in reasons["samples"]


def test_a_sampled_result_that_is_not_shown_is_missed(case: Case, proof: ProofOfExecution) -> None:
    (epoch,) = proof.epochs
    (work,) = epoch.document.work
    assert isinstance(work, OpenedWork)
    name = work.receipts[0].body.compute_struct_hash()
    hidden = replace(work, receipts=work.receipts[1:], places=work.places[1:])
    kept = replace(
        epoch,
        document=replace(epoch.document, work=(hidden,)),
        checks=tuple(c for c in epoch.checks if c.opening.body.receipt_hash != name),
    )
    reasons = refuse(case, replace(proof, epochs=(kept,)))
    assert "commitments" in reasons
    assert "not shown" in reasons["samples"]


def test_audits_in_another_order_are_no_other_file(case: Case, proof: ProofOfExecution) -> None:
    (epoch,) = proof.epochs
    turned = replace(proof, epochs=(replace(epoch, checks=epoch.checks[::-1]),))
    assert encode_proof(turned) == case.data
    (work,) = epoch.document.work
    turned_work = replace(work, receipts=work.receipts[::-1])
    document = replace(epoch.document, work=(turned_work,))
    reasons = refuse(case, replace(proof, epochs=(replace(epoch, document=document),)))
    assert "does not cover its receipts" in reasons["commitments"]


def test_a_lower_sample_is_refused_although_its_owner_signs_it_afresh(
    case: Case, proof: ProofOfExecution
) -> None:
    # The requester helps, and signs the order again with a policy that asks for less.
    lower = replace(proof.job.verify, rate_ppm=10_000, forged_share_ppm=900_000)
    job = replace(proof.job, verify=lower)
    order = replace(
        proof.order.body, job_hash=job.compute_hash(), verify_hash=compute_verify_hash(lower)
    )
    signed = sign(order, "requester", domain=proof.domain)
    (epoch,) = proof.epochs
    assert epoch.checks
    forged = replace(proof, job=job, order=signed)
    forged = replace(forged, claim=make_claim(forged))
    reasons = refuse(case, forged)
    assert reasons


def test_a_pool_with_lower_terms_is_not_what_was_committed(
    case: Case, proof: ProofOfExecution
) -> None:
    (epoch,) = proof.epochs
    (work,) = epoch.document.work
    (pool,) = work.pools
    pools = (replace(pool, policy=replace(pool.policy, rate_ppm=10_000)),)
    document = replace(epoch.document, work=(replace(work, pools=pools),))
    reasons = refuse(case, replace(proof, epochs=(replace(epoch, document=document),)))
    assert "another commitment" in reasons["state"]


def test_more_audited_history_than_was_committed_is_refused(
    case: Case, proof: ProofOfExecution
) -> None:
    (epoch,) = proof.epochs
    (work,) = epoch.document.work
    document = replace(epoch.document, work=(replace(work, audited=5_000, stake=10**12),))
    reasons = refuse(case, replace(proof, epochs=(replace(epoch, document=document),)))
    assert "another commitment" in reasons["state"]


def test_a_foreign_chain_is_refused(case: Case, proof: ProofOfExecution) -> None:
    moved = replace(proof, domain=replace(proof.domain, chain_id=1))
    reasons = refuse(case, moved)
    assert "chain 1" in reasons["state"]
    assert "not by" in reasons["order"]


def change_anchor(proof: ProofOfExecution, place: int, header: bytes) -> ProofOfExecution:
    assert proof.chain is not None
    anchors = list(proof.chain.anchors)
    anchors[place] = replace(anchors[place], header=header)
    return replace(proof, chain=replace(proof.chain, anchors=tuple(anchors)))


@pytest.mark.parametrize("place", [0, 1])
def test_a_header_that_hangs_on_nothing_is_refused(
    case: Case, proof: ProofOfExecution, place: int
) -> None:
    assert proof.chain is not None
    header = proof.chain.anchors[place].header
    changed = header[:-40] + bytes([header[-40] ^ 1]) + header[-39:]
    assert "links" in refuse(case, change_anchor(proof, place, changed))


def test_a_seed_header_that_hangs_on_nothing_is_refused(
    case: Case, proof: ProofOfExecution
) -> None:
    assert proof.chain is not None
    (epoch,) = proof.epochs
    other = replace(epoch, header=proof.chain.anchors[1].header)
    assert refuse(case, replace(proof, epochs=(other,)))
    (commit,) = proof.chain.commits
    moved = replace(commit, header=proof.chain.anchors[1].header)
    chain = replace(proof.chain, commits=(moved,))
    assert refuse(case, replace(proof, chain=chain))


def test_a_newer_trusted_block_is_not_this_proof(case: Case) -> None:
    report = Case(case.data, b"n" * 32, case.compiled).audit(case.data)
    (links,) = (check for check in report.checks if check.name == "links")
    assert links.verdict is AuditVerdict.FAIL


def test_a_verifier_without_stake_is_refused_by_name(case: Case, proof: ProofOfExecution) -> None:
    # Somebody who never staked signs in the place of a verifier that did.
    (epoch,) = proof.epochs
    check = epoch.checks[0]
    stranger = "stranger"
    own = replace(check.evidence.own, verifier=make_address(stranger))
    seal = replace(check.seal.body, verifier=make_address(stranger), sealed=own.compute_hash())
    opening = replace(
        check.opening.body,
        seal_hashes=tuple(
            sorted(
                {*check.opening.body.seal_hashes} - {check.seal.body.compute_content_hash()}
                | {seal.compute_content_hash()}
            )
        ),
    )
    evidence = replace(check.evidence, own=own, opening_hash=opening.compute_content_hash())
    attestation = replace(check.attestation.body, evidence_hash=compute_content_hash(evidence))
    forged_check = replace(
        check,
        seal=sign(seal, stranger, domain=proof.domain),
        opening=sign(opening, "provider-1", domain=proof.domain),
        attestation=sign(attestation, stranger, domain=proof.domain),
        evidence=evidence,
    )
    others = tuple(
        each
        for each in epoch.checks
        if each.opening.body.receipt_hash != check.opening.body.receipt_hash
    )
    reasons = refuse(case, replace(proof, epochs=(replace(epoch, checks=(forged_check, *others)),)))
    assert "state" in reasons


def test_a_verifier_that_staked_after_the_commitment_fails() -> None:
    case = make_case(UNITS, policy=POLICY, verifiers=2, late=("verifier-1", "verifier-2"))
    (found,) = (c for c in case.audit(case.data).checks if c.name == "verifiers")
    assert found.verdict is AuditVerdict.FAIL
    assert "no staked verifier at commitment" in found.text


def lower_claim(proof: ProofOfExecution, name: str) -> ProofOfExecution:
    assert proof.claim is not None
    changed = {name: max(0, getattr(proof.claim, name) - 1)}
    return replace(proof, claim=replace(proof.claim, **changed))


@pytest.mark.parametrize("name", ["units", "checked", "forged_share_ppm"])
def test_a_claim_that_does_not_follow_is_refused(
    case: Case, proof: ProofOfExecution, name: str
) -> None:
    reasons = refuse(case, lower_claim(proof, name))
    assert f"claims {name}" in reasons["claim"]


def test_no_random_change_passes(case: Case) -> None:
    mutator = Mutator(case.data, seed=18)
    passed = [what for what, data in _change(mutator) if find_refusal(case, data) is None]
    assert passed == []


def _change(mutator: Mutator) -> list[tuple[str, bytes]]:
    return [mutator.mutate() for _ in range(MUTATIONS)]
