"""
Attack 3: a second commitment to one work, or an old commitment, receipt or payment in a new job.

The contract numbers commitments and keeps each apart: a second one never changes the first, and an
old root under a new number gets a seed of its own. It knows no jobs, so that a job has two roots
is the audit's to see: it refuses work that is told twice or from another job, and remarks on a
root that was committed again. A receipt pays in its own order only, and a line once. Not seen: a
second commitment to the same work with other salts of which nobody tells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumarket.adapters.chain_errors import ContractRefusal
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_batch,
    encode_evidence,
    encode_leaf,
    encode_opening,
)
from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.bills import NO_ATTESTATION
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.evidence import AuditVerdict, Report
from gpumarket.protocol.openings import PostedBatch, make_opening
from gpumarket.protocol.order import Order
from gpumarket.protocol.proof import EpochProof
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane
from gpumarket.protocol.signing import Signed, keccak256
from gpumarket.testing.factories import change, make_address, make_hash
from gpumarket.testing.proofs import (
    EPOCHS,
    FactWriter,
    ProofMaker,
    Work,
    make_chain_evidence,
    make_epochs,
    make_settled_job,
)
from tests.integration.court import CONFIG, DAY, Court
from tests.watch_scene import COORDINATOR, Paid, make_paid

ALICE, PROVIDER, ANYBODY = map(make_address, ("alice", "provider-1", "anybody"))
NONCES = b"nonces"


# ---- on the contract -----------------------------------------------------------------------


def test_two_roots_are_two_commitments_and_an_old_root_gets_a_new_seed(court: Court) -> None:
    roots = [make_hash("root"), make_hash("another root of the same job"), make_hash("root")]
    calls, blocks = court.settlement.functions, []
    for sequence, root in enumerate(roots):
        done = court.do(calls.commit(root, keccak256(NONCES), make_hash("document")), COORDINATOR)
        assert done.get("Committed")["seq"] == sequence
        blocks.append(done.block)
    court.mine(CONFIG.seed_delay_blocks + 1)
    seeds = set()
    for sequence, (root, block) in enumerate(zip(roots, blocks, strict=True)):
        header = court.read_header(block + CONFIG.seed_delay_blocks)
        for other in {*roots, make_hash("a root nobody committed")} - {root}:
            made = (other, keccak256(NONCES), make_hash("document"), block)
            call = calls.fixSeed(encode_account(COORDINATOR), sequence, made, header, NONCES)
            refused = court.send(call, ANYBODY)
            assert isinstance(refused, ContractRefusal) and refused.name == "UnknownCommitment"
        made = (root, keccak256(NONCES), make_hash("document"), block)
        call = calls.fixSeed(encode_account(COORDINATOR), sequence, made, header, NONCES)
        seeds.add(court.do(call, ANYBODY).get("SeedFixed")["seed"])
    assert len(seeds) == len(roots)


def post(court: Court, *orders: Paid) -> tuple[PostedBatch, list[Lane]]:
    """Post what some orders pay to one provider."""
    leaves = tuple(leaf for paid in orders for _, _, leaf in paid.payments)
    lanes = [Lane(requester=ALICE, payee=PROVIDER, leaves=leaves)]
    return court.post(COORDINATOR, lanes), lanes


def show(order: Signed[Order], receipt: Signed[Receipt]) -> Any:
    """Return the evidence for work, as the contract takes it."""
    evidence = LeafEvidence(
        order=order.body,
        order_signature=order.signature,
        receipt=receipt.body,
        receipt_signature=receipt.signature,
        attestation=NO_ATTESTATION,
    )
    return encode_evidence(evidence)


def test_a_receipt_of_an_old_job_is_no_evidence_in_a_new_one_and_a_line_pays_once(
    court: Court,
) -> None:
    court.pay_in("alice", 10**9, "deposit")
    court.pay_in("coordinator", 4 * CONFIG.min_bond, "bond")
    times: dict[str, Any] = {"settle_by": court.now + 5 * DAY, "expiry": court.now + 7 * DAY}
    old, new = (
        make_paid(name, domain=court.domain, **times) for name in ("old order", "new order")
    )
    receipt = old.work()
    new.work(evidence_hash=receipt.body.compute_struct_hash())
    first = post(court, old)
    replayed, lanes = post(court, new)
    place = encode_batch(replayed), encode_opening(make_opening(lanes, 0, 0))
    asked = court.do(court.disputes.functions.challengeLeaf(*place), ALICE).get("Challenged")
    challenge = (
        tuple(asked["challenge"]["place"].values()),
        *list(asked["challenge"].values())[1:],
    )
    for order in (new.order, old.order):
        answer = court.disputes.functions.respond(
            asked["id"], challenge, encode_leaf(lanes[0].leaves[0]), show(order, receipt)
        )
        refused = court.send(answer, COORDINATOR)
        assert isinstance(refused, ContractRefusal) and refused.name == "WrongHash"
    court.skip_to(asked["challenge"]["deadline"] + 1)
    ended = court.do(court.disputes.functions.timeout(asked["id"], challenge), ANYBODY)
    assert ended.get("LeafVoided")["price"] == 700
    # And the old job's own payment, posted once more.
    again, lanes = post(court, old)
    opening = encode_opening(make_opening(lanes, 0, 0))
    places = (encode_batch(first[0]), opening, encode_batch(again), opening)
    double = court.disputes.functions.proveDouble(*places, show(old.order, receipt))
    voided = court.do(double, ANYBODY).get("LeafVoided")
    assert (voided["seq"], voided["price"]) == (again.sequence, 700), "the later one"


# ---- in the proof --------------------------------------------------------------------------


def find_reasons(report: Report) -> dict[str, str]:
    return {check.name: check.text for check in report.checks if check.verdict is AuditVerdict.FAIL}


def test_work_that_is_committed_again_in_a_later_epoch_fails_where_it_is_told_or_paid() -> None:
    # `provider-1` did 0, 2 and 4 in the first epoch, and says so once more in the second.
    maker = ProofMaker(plan=(EPOCHS[0], (Work("provider-1", (0, 1, 2, 3, 4, 5)),)))
    epochs = make_epochs(maker)
    lines = {leaf.line: (payer, payee, leaf) for payer, payee, leaf in maker.list_payments(epochs)}
    batch = maker.make_batch(epochs, list(lines.values()))
    proof, facts = make_settled_job(maker, epochs=epochs, batch=batch)
    reasons = find_reasons(check_proof(proof, make_chain_evidence(facts)))
    assert reasons["openings"] == "a result was opened twice"


def test_an_old_epoch_in_a_new_jobs_proof_has_none_of_its_results() -> None:
    old, _ = make_settled_job()
    maker = ProofMaker(spec=change(ProofMaker().spec, name="new"))
    proof, facts = make_settled_job(maker)
    replayed = change(proof, epochs=old.epochs)
    reasons = find_reasons(check_proof(replayed, make_chain_evidence(facts)))
    assert reasons["commitments"] == "a commitment has another root"
    # Also where the chain has just that commitment, the new order's payments rest on nothing.
    _, facts = make_settled_job(ProofMaker(), batch=proof.settlements[0].batch)
    reasons = find_reasons(check_proof(replayed, make_chain_evidence(facts)))
    assert "payments" in reasons


def commit_twice(hidden: EpochProof) -> Report:
    """Audit a job whose first epoch was committed before, as `hidden`, of which nobody tells."""
    maker = ProofMaker(first_sequence=1)
    proof, facts = make_settled_job(maker)
    writer = FactWriter()
    writer.write_commit(7, change(hidden, sequence=0))
    merged = sorted([*writer.facts, *facts], key=lambda fact: fact.block)
    events = [replace(fact, log_index=index) for index, fact in enumerate(merged)]
    return check_proof(proof, make_chain_evidence(events))


def test_a_root_that_was_committed_twice_is_remarked_and_refused_when_strict() -> None:
    first = make_epochs(ProofMaker(first_sequence=1))[0]
    report = commit_twice(first)
    (said,) = [check.remark for check in report.checks if check.name == "commitments"]
    assert said == "commitment 0 is of the same root as 1: it had a choice of seeds"
    assert report.verdict is AuditVerdict.PASS
    assert report.tighten().verdict is AuditVerdict.INCOMPLETE


def test_the_same_work_with_another_root_that_nobody_tells_of_is_not_seen_as_yet() -> None:
    """The chain has the hash of its document, which names the same tasks; no audit reads it."""
    first = make_epochs(ProofMaker(first_sequence=1))[0]
    fewer = change(first.document, work=first.document.work[1:])
    report = commit_twice(change(first, document=fewer))
    assert report.tighten().verdict is AuditVerdict.PASS


@pytest.mark.parametrize("index", [0, 1])
def test_an_epoch_that_is_told_twice_fails(index: int) -> None:
    proof, facts = make_settled_job()
    doubled = change(proof, epochs=(*proof.epochs, proof.epochs[index]))
    reasons = find_reasons(check_proof(doubled, make_chain_evidence(facts)))
    assert reasons["commitments"] == "an epoch stands in the proof twice"
