"""Lies that are signed and committed: the chain agrees, and still each has its line."""

from collections.abc import Callable
from typing import Any

import pytest

from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.evidence import AuditVerdict, ChainEvidence, Report
from gpumarket.protocol.pools import make_pools
from gpumarket.protocol.proof import EpochDocument, EpochProof, ProofOfExecution, ProviderWork
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.testing import factories
from gpumarket.testing.factories import change, make_address, make_hash, sign
from gpumarket.testing.proofs import (
    ProofMaker,
    make_chain_evidence,
    make_epochs,
    make_settled_job,
)

HONEST = make_address("provider-1")
FAIL = AuditVerdict.FAIL


def expect(report: Report, name: str, text: str) -> None:
    (check,) = [check for check in report.checks if check.name == name]
    assert check.verdict is FAIL, report
    assert text in check.text


def audit_document(lie: Callable[[EpochDocument], EpochDocument]) -> Report:
    """Audit a job whose second epoch's document holds a lie, committed as it is."""
    epochs = make_epochs(ProofMaker())
    lied = (epochs[0], change(epochs[1], document=lie(epochs[1].document)))
    proof, facts = make_settled_job(epochs=lied, batch=ProofMaker().make_batch(epochs))
    return check_proof(proof, make_chain_evidence(facts))


def change_root(signer: str = "provider-1", **changes: Any) -> Callable[..., EpochDocument]:
    def lie(document: EpochDocument) -> EpochDocument:
        (work,) = document.work
        root: ProviderRoot = change(work.root.body, **changes)
        return change(document, work=(change(work, root=sign(root, signer)),))

    return lie


def change_receipts(remake: Callable[[list[Receipt]], list[Receipt]], signer: str = "provider-1"):
    """Change what a provider commits to, with a root that covers it."""

    def lie(document: EpochDocument) -> EpochDocument:
        (work,) = document.work
        receipts = remake([receipt.body for receipt in work.receipts])
        root = factories.make_provider_root(tuple(receipts), "provider-1", epoch=document.epoch)
        remade = ProviderWork(
            root=sign(root, "provider-1"),
            receipts=tuple(sign(receipt, signer) for receipt in receipts),
            pools=make_pools((get_honest()[0].job.verify, each.price) for each in receipts),
        )
        return change(document, work=(remade,))

    return lie


def add_card(name: str, signer: str) -> Callable[[EpochDocument], EpochDocument]:
    def lie(document: EpochDocument) -> EpochDocument:
        cards = [*document.verifiers, sign(factories.make_card(name), signer)]
        return change(document, verifiers=tuple(sorted(cards, key=lambda c: c.body.verifier)))

    return lie


def double_work(document: EpochDocument) -> EpochDocument:
    return change(document, work=(*document.work, *document.work))


def double_card(document: EpochDocument) -> EpochDocument:
    return change(document, verifiers=document.verifiers * 2)


DOCUMENTS = {
    "a provider twice": (double_work, "out of its place"),
    "a verifier twice": (double_card, "a verifier stands out of its place"),
    "a card of somebody else": (add_card("verifier-2", "mallory"), "card is signed by somebody"),
    "a root of somebody else": (change_root("mallory"), "root is signed by somebody else"),
    "a root for somebody else": (change_root(coordinator=HONEST), "root is for somebody else"),
    "a root over other receipts": (change_root(root=make_hash("x")), "does not cover"),
    "a root of another count": (change_root(count=4), "counts other receipts"),
    "a root of another price": (change_root(price=1), "sums other prices"),
    "a root of another epoch": (change_root(epoch=9), "of another epoch"),
    "receipts by somebody else": (
        change_receipts(lambda bodies: bodies, signer="mallory"),
        "a receipt is not its provider's",
    ),
    "a task twice": (
        change_receipts(lambda bodies: [*bodies, change(bodies[0], price=5)]),
        "two results of one task",
    ),
}


@pytest.mark.parametrize(("lie", "text"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_committed_document_fails_that_holds(lie, text):
    expect(audit_document(lie), "commitments", text)


def get_honest() -> tuple[ProofOfExecution, ChainEvidence]:
    proof, facts = make_settled_job()
    return proof, make_chain_evidence(facts)


def change_facts(table: str, **changes: Any) -> Report:
    """Audit the honest proof against a chain on which one field of every fact differs."""
    proof, evidence = get_honest()
    facts = {}
    for name, fact in getattr(evidence, table).items():
        values = {field: getattr(fact, field) for field in type(fact).__slots__}
        facts[name] = type(fact)(**(values | changes))
    values = {field: getattr(evidence, field) for field in ChainEvidence.__slots__}
    return check_proof(proof, ChainEvidence(**(values | {table: facts})))


def test_another_root_or_randomness_on_chain_fails():
    expect(change_facts("commits", root=make_hash("x")), "commitments", "has another root")
    expect(change_facts("seeds", mix_hash=make_hash("x")), "seeds", "another block's randomness")


# ---- the order and the job -----------------------------------------------------------------


class LyingMaker(ProofMaker):
    """A requester that signs an order which does not fit its own job."""

    changes: dict[str, Any] = {}  # noqa: RUF012  # replaced by a subclass, never changed

    @property
    def order(self):
        return sign(change(super().order.body, **self.changes), "requester")


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"verify_hash": make_hash("x")}, "policy is not"), ({"units": 7}, "different tasks")],
    ids=["policy", "tasks"],
)
def test_an_order_that_does_not_fit_its_job_fails(changes, text):
    maker = type("Maker", (LyingMaker,), {"changes": changes})()
    proof, facts = make_settled_job(maker)
    expect(check_proof(proof, make_chain_evidence(facts)), "job", text)


# ---- checks, openings, rejections ----------------------------------------------------------


def audit_epoch(**changes: Any) -> Report:
    """Audit an honest job of whose first epoch the proof tells something else."""
    proof, evidence = get_honest()
    told = change(proof.epochs[0], **changes)
    return check_proof(change(proof, epochs=(told, proof.epochs[1])), evidence)


def get_first_epoch() -> EpochProof:
    return get_honest()[0].epochs[0]


def test_what_is_told_twice_fails():
    epoch = get_first_epoch()
    report = audit_epoch(checks=(*epoch.checks, epoch.checks[0]))
    expect(report, "samples", "a result was checked twice")
    expect(report, "openings", "an opening names its seals wrongly")
    twice = (*epoch.rejected_receipts, epoch.rejected_receipts[0])
    expect(audit_epoch(rejected_receipts=twice), "forgeries", "rejected twice")


def test_rejecting_or_opening_what_was_not_committed_fails():
    epoch = get_first_epoch()
    more = (*epoch.rejected_receipts, make_hash("never committed"))
    expect(audit_epoch(rejected_receipts=more), "forgeries", "that was not committed")
    opening = sign(factories.make_opening(), "provider-1")
    expect(audit_epoch(openings=(*epoch.openings, opening)), "openings", "that was not committed")


def test_evidence_about_another_opening_fails():
    epoch = get_first_epoch()
    check = epoch.checks[0]
    evidence = change(check.evidence, opening_hash=make_hash("another"))
    body = change(check.attestation.body, evidence_hash=compute_content_hash(evidence))
    lied = change(check, evidence=evidence, attestation=sign(body, "verifier-1"))
    report = audit_epoch(checks=(lied, *epoch.checks[1:]))
    expect(report, "verifiers", "the evidence is about another opening")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"input_hash": make_hash("x")}, "answers another question"),
        ({"order_hash": make_hash("x")}, "moved to another place"),
    ],
    ids=["question", "place"],
)
def test_a_committed_result_that_is_about_something_else_fails(changes, text):
    report = audit_hidden(make_epochs(ProofMaker()), changes)
    expect(report, "openings", text)


def audit_hidden(epochs: tuple[EpochProof, ...], changes: dict[str, Any]) -> Report:
    """Commit a receipt whose hidden result says something else, and open that result."""
    epoch = epochs[1]
    (work,) = epoch.document.work
    opening = epoch.openings[0]
    result = change(opening.body.result, **changes)
    old = opening.body.receipt_hash
    bodies = [
        change(each.body, result_hash=result.compute_hash())
        if each.body.compute_struct_hash() == old
        else each.body
        for each in work.receipts
    ]
    document = change_receipts(lambda _: bodies)(epoch.document)
    receipt = next(body for body in bodies if body.result_hash == result.compute_hash())
    lied = change(opening.body, result=result, receipt_hash=receipt.compute_struct_hash())
    told = change(
        epoch, document=document, openings=(sign(lied, "provider-1"), *epoch.openings[1:])
    )
    proof, facts = make_settled_job(epochs=(epochs[0], told))
    return check_proof(proof, make_chain_evidence(facts))


def test_an_order_that_somebody_else_pays_for_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    stranger = make_address("stranger")
    payments = [(stranger, payee, leaf) for _, payee, leaf in maker.list_payments(epochs)]
    proof, _ = make_settled_job(epochs=epochs, batch=maker.make_batch(epochs, payments))
    report = check_proof(proof, get_honest()[1])
    expect(report, "payments", "somebody else pays for this order")
