"""An honest proof passes; whatever anybody lies about in it is a FAIL that names the lie."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.audit import CHECKS, check_proof
from gpumarket.protocol.audit_money import compute_balances
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.comparison import NpyRule
from gpumarket.protocol.evidence import AuditVerdict, ChainEvidence, LeafName, Report, StakeChange
from gpumarket.protocol.job import Placement, VerifyPolicy
from gpumarket.protocol.proof import CheckProof, EpochProof, ProofOfExecution
from gpumarket.protocol.sampling import assign_verifier
from gpumarket.protocol.settlement import Batch, Lane, make_lanes
from gpumarket.protocol.units import Amount
from gpumarket.testing import factories
from gpumarket.testing.factories import change, make_address, make_hash, sign
from gpumarket.testing.proofs import (
    CHECK_PRICE,
    ESCROW,
    FEE,
    FORGER,
    ProofMaker,
    make_chain_evidence,
    make_epochs,
    make_header,
    make_job,
    make_settled_job,
)

PASS, FAIL, INCOMPLETE = AuditVerdict.PASS, AuditVerdict.FAIL, AuditVerdict.INCOMPLETE
HONEST = make_address("provider-1")
GUILTY = make_address(FORGER)


@cache
def get_honest() -> tuple[ProofOfExecution, ChainEvidence]:
    proof, facts = make_settled_job()
    return proof, make_chain_evidence(facts)


def audit(maker: ProofMaker | None = None, **lies: Any) -> Report:
    """Audit a job whose coordinator lied and posted the lie."""
    proof, facts = make_settled_job(maker, **lies)
    return check_proof(proof, make_chain_evidence(facts))


def find_line(report: Report, name: str) -> tuple[AuditVerdict, str]:
    (check,) = [check for check in report.checks if check.name == name]
    return check.verdict, check.text


def expect(report: Report, name: str, text: str, verdict: AuditVerdict = FAIL) -> None:
    found, said = find_line(report, name)
    assert (found, report.verdict) == (verdict, verdict), report
    assert text in said


def change_epoch(proof: ProofOfExecution, index: int, **changes: Any) -> ProofOfExecution:
    epochs = list(proof.epochs)
    epochs[index] = change(epochs[index], **changes)
    return change(proof, epochs=tuple(epochs))


def replace_at(items: Sequence[Any], index: int, item: Any) -> tuple[Any, ...]:
    return (*items[:index], item, *items[index + 1 :])


def remake_check(check: CheckProof, *, verifier: str = "verifier-1", **changes: Any) -> CheckProof:
    """Change parts of a check and sign it all again, as its verifier and provider would."""
    own = change(check.evidence.own, **changes.get("own", {}))
    seal = change(check.seal.body, sealed=own.compute_hash(), **changes.get("seal", {}))
    bound = {"seal_hashes": (compute_content_hash(seal),)} | changes.get("opening", {})
    opening = change(check.opening.body, **bound)
    evidence = change(check.evidence, own=own, opening_hash=compute_content_hash(opening))
    bound = {"evidence_hash": compute_content_hash(evidence)} | changes.get("attestation", {})
    attestation = change(check.attestation.body, **bound)
    provider = "provider-1" if check.opening.signer == HONEST else FORGER
    return CheckProof(
        seal=sign(seal, verifier),
        opening=sign(opening, provider),
        attestation=sign(attestation, verifier),
        evidence=evidence,
    )


def change_first_check(
    remake: Callable[[CheckProof], CheckProof], maker: ProofMaker | None = None
) -> tuple[EpochProof, ...]:
    """Change the first check of the honest provider in the first epoch."""
    epochs = make_epochs(maker or ProofMaker())
    checks = epochs[0].checks
    index = next(i for i, check in enumerate(checks) if check.opening.signer == HONEST)
    changed = replace_at(checks, index, remake(checks[index]))
    return (change(epochs[0], checks=changed), epochs[1])


def pay(maker: ProofMaker, epochs: Sequence[EpochProof], **changes: Any) -> Batch:
    """Make the batch of honest payments, with the fields of one line changed."""
    payments = maker.list_payments(epochs)
    line = changes.pop("at")
    payee = changes.pop("payee", None)
    lied = [
        (requester, payee or paid, change(leaf, **changes))
        if leaf.line == line
        else (requester, paid, leaf)
        for requester, paid, leaf in payments
    ]
    return maker.make_batch(epochs, lied)


# ---- honest --------------------------------------------------------------------------------


def test_an_honest_job_passes_every_check():
    report = check_proof(*get_honest())
    assert [check.verdict for check in report.checks] == [PASS] * len(CHECKS)
    assert report.verdict is report.tighten().verdict is PASS
    assert len(report.not_checked) == 4


def test_the_lines_say_what_was_found():
    report = check_proof(*get_honest())
    assert "9 results were committed" in find_line(report, "commitments")[1]
    assert "6 of 9 results" in find_line(report, "samples")[1]
    assert "4 match, 2 mismatch" in find_line(report, "verifiers")[1]
    assert "3 rejected results, none of them paid" in find_line(report, "forgeries")[1]
    assert (
        "50.000000 = 0.006000 + 0.600000 + 0.005000 + 49.389000"
        in (find_line(report, "balance")[1])
    )


def test_the_balances_name_every_party_and_add_up():
    changes = compute_balances(*get_honest())
    assert {(change.role, change.account, change.after - change.before) for change in changes} == {
        ("requester", make_address("requester"), -6_000 - 6 * CHECK_PRICE - FEE),
        ("provider", HONEST, 6_000),
        ("verifier", make_address("verifier-1"), 6 * CHECK_PRICE),
        ("coordinator", make_address("coordinator"), FEE),
    }
    assert changes[0].before == ESCROW
    assert sum(change.before for change in changes) == sum(change.after for change in changes)


def test_a_verifier_may_leave_after_its_checks():
    proof, evidence = get_honest()
    verifier = make_address("verifier-1")
    stakes = {verifier: (StakeChange(1, 10_000_000), StakeChange(25, 0))}
    assert check_proof(proof, change_evidence(evidence, verifier_stakes=stakes)).verdict is PASS


# ---- the order and the job -----------------------------------------------------------------


def change_evidence(evidence: ChainEvidence, **changes: Any) -> ChainEvidence:
    values = {name: getattr(evidence, name) for name in ChainEvidence.__slots__}
    return ChainEvidence(**(values | changes))


def test_a_proof_of_another_chain_fails():
    proof, evidence = get_honest()
    expect(check_proof(proof, change_evidence(evidence, chain_id=1)), "order", "about chain")


def test_an_order_signed_by_somebody_else_fails():
    proof, evidence = get_honest()
    order = sign(proof.order.body, "mallory")
    expect(check_proof(change(proof, order=order), evidence), "order", "not its requester's")


def test_a_lower_sample_than_the_signed_one_fails():
    proof, evidence = get_honest()
    job = change(proof.job, verify=VerifyPolicy(mode="none"))
    expect(check_proof(change(proof, job=job), evidence), "job", "not the one the order signs")


def test_an_order_of_other_prices_fails():
    proof, evidence = get_honest()
    order = change(proof.order, body=change(proof.order.body, max_fee=FEE - 1))
    expect(check_proof(change(proof, order=order), evidence), "order", "signature")


# ---- commitments and seeds -----------------------------------------------------------------


def test_a_commitment_after_the_seeds_block_fails():
    proof, evidence = get_honest()
    commits = {
        name: type(fact)(fact.root, fact.nonce_hash, fact.data_hash, fact.block + 2)
        for name, fact in evidence.commits.items()
    }
    report = check_proof(proof, change_evidence(evidence, commits=commits))
    expect(report, "commitments", "could have been known")
    assert find_line(report, "seeds")[0] is FAIL


@pytest.mark.parametrize(
    "lie",
    [
        lambda receipts: (receipts[1], receipts[0], receipts[2]),
        lambda receipts: replace_at(
            receipts, 0, sign(change(receipts[0].body, price=2_000), "provider-1")
        ),
        lambda receipts: receipts[:2],
    ],
    ids=["swapped", "dearer", "dropped"],
)
def test_receipts_other_than_those_committed_fail(lie):
    proof, evidence = get_honest()
    work = list(proof.epochs[0].document.work)
    index = next(i for i, each in enumerate(work) if each.root.signer == HONEST)
    work[index] = change(work[index], receipts=lie(work[index].receipts))
    document = change(proof.epochs[0].document, work=tuple(work))
    report = check_proof(change_epoch(proof, 0, document=document), evidence)
    expect(report, "commitments", "a commitment names another document")


def test_an_epoch_told_twice_fails():
    proof, evidence = get_honest()
    doubled = change(proof, epochs=(*proof.epochs, proof.epochs[0]))
    expect(check_proof(doubled, evidence), "commitments", "twice")


def test_work_committed_by_another_coordinator_fails():
    proof, evidence = get_honest()
    stranger = make_address("stranger")
    report = check_proof(change_epoch(proof, 0, committer=stranger), evidence)
    expect(report, "commitments", "another coordinator")


def test_another_header_fails():
    proof, evidence = get_honest()
    report = check_proof(change_epoch(proof, 0, header=make_header(13)), evidence)
    expect(report, "seeds", "the header is not that of the seed's block")


def test_other_nonces_fail():
    proof, evidence = get_honest()
    report = check_proof(change_epoch(proof, 0, nonces=b"others"), evidence)
    expect(report, "seeds", "not those promised")


def test_another_seed_fails():
    proof, evidence = get_honest()
    report = check_proof(change_epoch(proof, 0, seed=make_hash("chosen")), evidence)
    expect(report, "seeds", "not what its block gives")


def test_a_seed_from_a_later_block_than_the_rule_gives_fails():
    proof, evidence = get_honest()
    expect(check_proof(proof, change_evidence(evidence, seed_delay_blocks=1)), "seeds", "another")


# ---- samples and verifiers -----------------------------------------------------------------


def drop_check(proof: ProofOfExecution, provider: bytes) -> ProofOfExecution:
    checks = proof.epochs[0].checks
    index = next(i for i, check in enumerate(checks) if check.opening.signer == provider)
    return change_epoch(proof, 0, checks=checks[:index] + checks[index + 1 :])


def test_a_dropped_check_of_paid_work_fails():
    proof, evidence = get_honest()
    report = check_proof(drop_check(proof, HONEST), evidence)
    expect(report, "samples", "1 sampled results were paid without a check")


def test_a_dropped_check_of_a_forgery_fails():
    proof, evidence = get_honest()
    report = check_proof(drop_check(proof, GUILTY), evidence)
    expect(report, "payments", "pays for a check that was not made")


def test_a_check_that_the_seed_did_not_draw_fails():
    epochs = make_epochs(ProofMaker())
    opening = next(each for each in epochs[0].openings if each.signer == HONEST)
    result, receipt_hash = opening.body.result, opening.body.receipt_hash
    own = factories.make_own_result(result)
    seal = factories.make_seal(own, receipt_hash=receipt_hash)
    drawn = CheckProof(
        seal=sign(seal, "verifier-1"),
        opening=opening,
        attestation=sign(factories.make_attestation(receipt_hash=receipt_hash), "verifier-1"),
        evidence=factories.make_evidence(own, opening.body),
    )
    lied = change(epochs[0], checks=(*epochs[0].checks, drawn))
    expect(audit(epochs=(lied, epochs[1])), "samples", "did not draw")


def test_a_sampled_result_without_a_verdict_is_said_and_refused_when_strict():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    check = next(each for each in epochs[1].checks)
    hidden = change(
        epochs[1],
        checks=tuple(each for each in epochs[1].checks if each is not check),
        openings=(*epochs[1].openings, check.opening),
        rejected_receipts=(check.attestation.body.receipt_hash,),
    )
    report = audit(epochs=(epochs[0], hidden))
    assert report.verdict is PASS
    assert "1 of them ended without a verdict" in report.checks[4].remark
    expect(report.tighten(), "samples", "sample recomputed", INCOMPLETE)


def test_a_check_in_place_of_the_drawn_verifier_is_said_and_refused_when_strict():
    names = ("verifier-1", "verifier-2", "verifier-3")
    report = audit(ProofMaker(verifiers=names))
    proof, _ = make_settled_job(ProofMaker(verifiers=names))
    drawn = [
        assign_verifier(
            epoch.seed,
            check.attestation.body.receipt_hash,
            [make_address(name) for name in names],
        )
        for epoch in proof.epochs
        for check in epoch.checks
    ]
    as_drawn = drawn.count(make_address("verifier-1"))
    assert as_drawn < len(drawn)
    assert report.verdict is PASS
    assert find_line(report, "assignments")[1].startswith(f"{as_drawn} of {len(drawn)} ")
    assert report.tighten().verdict is INCOMPLETE


def test_a_verifier_of_the_providers_class_comes_before_others():
    maker = ProofMaker()
    proof, _ = make_settled_job(maker)
    epoch = proof.epochs[1]
    others = [
        sign(factories.make_card(name, repro_class=make_hash("other class")), name)
        for name in ("verifier-2", "verifier-3")
    ]
    cards = sorted((*epoch.document.verifiers, *others), key=lambda card: card.signer)
    epoch = change(epoch, document=change(epoch.document, verifiers=tuple(cards)))
    report = check_proof(change(proof, epochs=(proof.epochs[0], epoch)), get_honest()[1])
    assert find_line(report, "assignments")[1].startswith("6 of 6")


def test_a_requester_that_checks_its_own_job_fails():
    expect(audit(ProofMaker(verifiers=("requester",))), "assignments", "its own job")


def test_a_provider_that_checks_itself_fails():
    expect(audit(ProofMaker(verifiers=("provider-1",))), "verifiers", "checked itself")


@pytest.mark.parametrize(
    "stakes",
    [(), (StakeChange(11, 10),), (StakeChange(1, 10), StakeChange(9, 0))],
    ids=["never", "too late", "left before"],
)
def test_a_verifier_without_stake_at_commitment_fails(stakes):
    proof, evidence = get_honest()
    evidence = change_evidence(evidence, verifier_stakes={make_address("verifier-1"): stakes})
    expect(check_proof(proof, evidence), "verifiers", "no staked verifier")


LIES = {
    "opened before the seal": ({"opening": {"seal_hashes": ()}}, "before the verifier"),
    "seal of another result": ({"seal": {"receipt_hash": make_hash("x")}}, "different receipts"),
    "seal of another task": ({"seal": {"unit": 5}}, "another task"),
    "own result of another task": ({"own": {"unit": 5}}, "another task"),
    "other evidence": ({"attestation": {"evidence_hash": make_hash("x")}}, "other evidence"),
    "mismatch of equals": ({"attestation": {"verdict": int(Verdict.MISMATCH)}}, "equal outputs"),
    "match of a failed run": ({"own": {"exit_code": 1}}, "own run failed"),
    "no such verdict": ({"attestation": {"verdict": 7}}, "no verdict 7"),
    "result of another verifier": ({"own": {"verifier": make_address("x")}}, "two verifiers"),
}


@pytest.mark.parametrize(("lie", "text"), LIES.values(), ids=LIES)
def test_a_check_that_contradicts_itself_fails(lie, text):
    epochs = change_first_check(lambda check: remake_check(check, **lie))
    expect(audit(epochs=epochs), "verifiers", text)


def test_a_seal_that_holds_another_result_fails():
    def lie(check: CheckProof) -> CheckProof:
        own = change(check.evidence.own, nonce=make_hash("later"))
        evidence = change(check.evidence, own=own)
        attestation = change(check.attestation.body, evidence_hash=compute_content_hash(evidence))
        return change(check, evidence=evidence, attestation=sign(attestation, "verifier-1"))

    expect(audit(epochs=change_first_check(lie)), "verifiers", "a seal does not hold its result")


def test_an_attestation_by_another_verifier_than_the_sealing_one_fails():
    def lie(check: CheckProof) -> CheckProof:
        return change(check, attestation=sign(check.attestation.body, "verifier-2"))

    expect(audit(epochs=change_first_check(lie)), "verifiers", "two verifiers")


def test_a_match_of_different_outputs_fails_by_bytes_and_is_said_under_a_tolerance():
    other = factories.make_cid("close enough")

    def remake(check: CheckProof) -> CheckProof:
        return remake_check(check, own={"output": other})

    expect(audit(epochs=change_first_check(remake)), "verifiers", "different bytes")
    tolerant = change(ProofMaker().spec.verify, comparison=NpyRule())
    maker = ProofMaker(spec=change(ProofMaker().spec, verify=tolerant))
    report = audit(maker, epochs=change_first_check(remake, maker))
    assert report.verdict is PASS
    expect(report.tighten(), "verifiers", "blind checks", INCOMPLETE)


# ---- openings ------------------------------------------------------------------------------


def change_opening(**changes: Any) -> tuple[EpochProof, ...]:
    """Change the result in the first opening of the honest provider that was not sampled."""
    epochs = make_epochs(ProofMaker())
    openings = epochs[0].openings
    index = next(i for i, each in enumerate(openings) if each.signer == HONEST)
    body = openings[index].body
    lied = change(body, result=change(body.result, **changes))
    changed = replace_at(openings, index, sign(lied, "provider-1"))
    return (change(epochs[0], openings=changed), epochs[1])


@pytest.mark.parametrize(
    "lie",
    [
        {"output": factories.make_cid("another")},
        {"salt": make_hash("another")},
        {"unit": 5},
        {"duration_ms": 1},
    ],
    ids=str,
)
def test_an_opening_of_another_result_than_committed_fails(lie):
    expect(audit(epochs=change_opening(**lie)), "openings", "not the committed one")


def test_an_opening_by_somebody_else_fails():
    proof, evidence = get_honest()
    openings = proof.epochs[0].openings
    lied = replace_at(openings, 0, sign(openings[0].body, "mallory"))
    expect(check_proof(change_epoch(proof, 0, openings=lied), evidence), "openings", "else")


def test_paid_work_that_was_never_opened_fails():
    proof, evidence = get_honest()
    openings = tuple(each for each in proof.epochs[0].openings if each.signer != HONEST)
    report = check_proof(change_epoch(proof, 0, openings=openings), evidence)
    expect(report, "openings", "never opened")


def test_a_provider_that_keeps_an_unpaid_result_closed_is_not_paid_for_the_others():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    check = next(each for each in epochs[1].checks)
    hidden = change(
        epochs[1],
        checks=tuple(each for each in epochs[1].checks if each is not check),
        rejected_receipts=(check.attestation.body.receipt_hash,),
    )
    expect(audit(epochs=(epochs[0], hidden)), "openings", "kept a result closed")


# ---- money ---------------------------------------------------------------------------------


def find_forged(epoch: EpochProof, unit: int) -> Any:
    receipts = [receipt for work in epoch.document.work for receipt in work.receipts]
    return next(each for each in receipts if each.signer == GUILTY and each.body.unit == unit)


def test_paying_for_a_forgery_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    name = find_forged(epochs[0], 1).body.compute_struct_hash()
    batch = pay(maker, epochs, at=1, payee=GUILTY, evidence_hash=name)
    expect(audit(epochs=epochs, batch=batch), "forgeries", "a rejected receipt was paid")
    hidden = change(
        epochs[0],
        rejected_receipts=tuple(r for r in epochs[0].rejected_receipts if r != name),
    )
    report = audit(epochs=(hidden, epochs[1]), batch=batch)
    assert find_line(report, "forgeries")[0] is FAIL


def test_paying_another_result_of_a_forger_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    opening = next(each for each in epochs[0].openings if each.signer == GUILTY)
    name, unit = opening.body.receipt_hash, opening.body.result.unit
    hidden = change(
        epochs[0],
        rejected_receipts=tuple(r for r in epochs[0].rejected_receipts if r != name),
    )
    batch = pay(maker, epochs, at=unit, payee=GUILTY, evidence_hash=name)
    report = audit(epochs=(hidden, epochs[1]), batch=batch)
    expect(report, "forgeries", "a provider found forging was paid for the same epoch")


def test_a_result_that_is_neither_paid_nor_rejected_is_incomplete():
    proof, evidence = get_honest()
    report = check_proof(change_epoch(proof, 0, rejected_receipts=()), evidence)
    expect(report, "forgeries", "neither paid nor rejected", INCOMPLETE)


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        ({"at": 0, "payee": make_address("mallory")}, "somebody else than its provider"),
        ({"at": 0, "price": 2_000}, "no receipt for it"),
        ({"at": 0, "price": 1_000_001}, "over its cap"),
        ({"at": 0, "evidence_hash": make_hash("none")}, "no receipt for it"),
        ({"at": 6, "payee": make_address("mallory")}, "check that was not made"),
        ({"at": 6, "price": 200_001}, "over its cap"),
        ({"at": 14, "payee": make_address("mallory")}, "a fee goes to somebody else"),
        ({"at": 14, "evidence_hash": make_hash("none")}, "a fee is not ours"),
        ({"at": 14, "price": 50_001}, "over its cap"),
        ({"at": 14, "line": 15}, "over its cap"),
    ],
    ids=str,
)
def test_a_line_that_pays_wrongly_fails(lie, text):
    maker = ProofMaker()
    epochs = make_epochs(maker)
    expect(audit(epochs=epochs, batch=pay(maker, epochs, **lie)), "payments", text)


def test_a_line_that_pays_twice_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    batch = maker.make_batch(epochs)
    first = next(lane for lane in batch.lanes if lane.payee == HONEST)
    extra = Lane(requester=first.requester, payee=first.payee, leaves=first.leaves[:1])
    batch = change(batch, lanes=(*batch.lanes, extra))
    expect(audit(epochs=epochs, batch=batch), "payments", "line 0 pays twice")


def test_a_check_that_is_paid_on_two_lines_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    payments = maker.list_payments(epochs)
    line = next(each for each in payments if each[2].line == 6)
    payments.append((line[0], line[1], change(line[2], line=13)))
    batch = maker.make_batch(epochs, payments)
    expect(audit(epochs=epochs, batch=batch), "payments", "what another line paid")


def test_paying_for_an_inconclusive_check_fails():
    undecided = {"verdict": int(Verdict.INCONCLUSIVE)}
    epochs = change_first_check(lambda check: remake_check(check, attestation=undecided))
    report = audit(epochs=epochs)
    expect(report, "payments", "decided nothing")
    assert find_line(report, "forgeries")[1] == "a result that failed was paid"


@pytest.mark.parametrize(
    "placement",
    [
        Placement(excluded_providers=(HONEST,)),
        Placement(providers=(make_address("provider-9"),)),
    ],
    ids=["excluded", "not listed"],
)
def test_paying_a_provider_that_the_job_excludes_fails(placement):
    report = audit(ProofMaker(spec=make_job(placement=placement)))
    expect(report, "payments", "the order does not allow")


def test_paying_more_than_the_hourly_cap_allows_fails():
    placement = Placement(price_per_device_hour_max=Amount(399_000))  # 9 s cost 997.5 base units
    report = audit(ProofMaker(spec=make_job(placement=placement)))
    expect(report, "payments", "more than its time may cost")
    placement = Placement(price_per_device_hour_max=Amount(400_000))
    assert audit(ProofMaker(spec=make_job(placement=placement))).verdict is PASS


def test_other_lanes_than_those_on_chain_fail():
    proof, evidence = get_honest()
    lanes = proof.settlements[0].batch.lanes
    first = lanes[0]
    leaf = change(first.leaves[0], price=first.leaves[0].price - 1)
    lane = change(first, leaves=replace_at(first.leaves, 0, leaf))
    report = check_proof(change_paper(proof, lanes=(lane, *lanes[1:])), evidence)
    expect(report, "settlement", "the batch on chain has other lanes")


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        ({"bills": (make_hash("x"),)}, "another document"),
        ({"coordinator": make_address("x")}, "another coordinator"),
    ],
    ids=str,
)
def test_another_batch_than_the_one_on_chain_fails(lie, text):
    proof, evidence = get_honest()
    expect(check_proof(change_paper(proof, **lie), evidence), "settlement", text)


def test_a_batch_that_is_named_twice_fails():
    proof, evidence = get_honest()
    report = check_proof(change(proof, settlements=proof.settlements * 2), evidence)
    expect(report, "settlement", "named twice")
    expect(report, "payments", "pays twice")


def change_paper(proof, **changes):
    """Return a proof that shows another batch document."""
    (settlement,) = proof.settlements
    batch = change(settlement.batch, **changes)
    return change(proof, settlements=(change(settlement, batch=batch),))


def change_batch(**changes: Any) -> ChainEvidence:
    _, evidence = get_honest()
    ((name, fact),) = evidence.batches.items()
    values = {field: getattr(fact, field) for field in type(fact).__slots__}
    return change_evidence(evidence, batches={name: type(fact)(**(values | changes))})


def test_an_overdrawn_escrow_fails():
    proof, _ = get_honest()
    report = check_proof(proof, change_batch(escrow_before={make_address("requester"): 600_000}))
    expect(report, "settlement", "paid more than its escrow held")
    assert find_line(report, "balance") == (FAIL, "the escrow was overdrawn")


def test_settling_after_the_orders_time_to_settle_fails():
    proof, _ = get_honest()
    settle_by = proof.order.body.settle_by
    assert check_proof(proof, change_batch(posted_at=settle_by)).verdict is PASS
    late = change_batch(posted_at=settle_by + 1)
    expect(check_proof(proof, late), "settlement", "after the order's time to settle")


@pytest.mark.parametrize("index", [0, None], ids=["leaf", "lane"])
def test_a_line_that_was_taken_back_fails(index):
    proof, evidence = get_honest()
    name = LeafName(make_address("coordinator"), 0, 0, index)
    leaf = proof.settlements[0].batch.lanes[0].leaves[0]
    report = check_proof(proof, replace(evidence, voided=frozenset([name])))
    expect(report, "settlement", f"line {leaf.line} was taken back")
    other = frozenset([name._replace(sequence=1), name._replace(lane=99)])
    assert check_proof(proof, replace(evidence, voided=other)).verdict is PASS


def test_a_line_that_was_also_settled_without_the_coordinator_fails():
    proof, evidence = get_honest()
    leaf = proof.settlements[0].batch.lanes[0].leaves[0]
    twice = frozenset([(leaf.order_hash, leaf.line)])
    report = check_proof(proof, replace(evidence, settled_directly=twice))
    expect(report, "settlement", f"line {leaf.line} was settled without the coordinator too")
    other = frozenset([(leaf.order_hash, 999), (make_hash("other"), leaf.line)])
    assert check_proof(proof, replace(evidence, settled_directly=other)).verdict is PASS


def test_another_root_than_the_one_on_chain_fails():
    proof, _ = get_honest()
    report = check_proof(proof, change_batch(root=make_hash("root")))
    expect(report, "settlement", "the batch on chain has other lanes")


def test_settling_before_the_sample_is_drawn_fails():
    proof, _ = get_honest()
    expect(check_proof(proof, change_batch(block=22)), "settlement", "before a sample")


def test_a_batch_document_of_other_receipts_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    batch = change(maker.make_batch(epochs), bills=(make_hash("a bill of other receipts"),))
    expect(audit(epochs=epochs, batch=batch), "settlement", "is not made of this order")


def test_a_batch_with_more_bills_than_orders_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    batch = maker.make_batch(epochs)
    batch = change(batch, bills=(*batch.bills, make_hash("one more")))
    expect(audit(epochs=epochs, batch=batch), "settlement", "one bill for each order")


def test_a_batch_without_the_order_fails():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    batch = maker.make_batch(epochs, add_other_order(maker, epochs)[-1:])
    expect(audit(epochs=epochs, batch=batch), "settlement", "pays nothing of this order")


def add_other_order(maker, epochs):
    other = change(maker.list_payments(epochs)[0][2], order_hash=make_hash("other order"))
    return [*maker.list_payments(epochs), (make_address("requester"), HONEST, other)]


def test_a_batch_of_several_orders_is_recomputed_whole():
    maker = ProofMaker()
    epochs = make_epochs(maker)
    batch = maker.make_batch(epochs, add_other_order(maker, epochs))
    report = audit(epochs=epochs, batch=batch)
    assert report.verdict is report.tighten().verdict is PASS
    assert "+ 0.001000 for other jobs" in find_line(report, "balance")[1]


# ---- missing evidence ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fact", "line"),
    [
        ("commits", "commitments"),
        ("seeds", "seeds"),
        ("batches", "settlement"),
        ("block_hashes", "seeds"),
    ],
)
def test_without_facts_nothing_is_proven(fact, line):
    proof, evidence = get_honest()
    report = check_proof(proof, change_evidence(evidence, **{fact: {}}))
    assert find_line(report, line)[0] is INCOMPLETE
    assert report.verdict is INCOMPLETE


def test_a_job_that_is_not_settled_is_incomplete():
    proof, evidence = get_honest()
    report = check_proof(change(proof, settlements=()), evidence)
    expect(report, "balance", "not settled yet", INCOMPLETE)


def test_a_job_without_any_epoch_is_no_proof_of_payment():
    proof, evidence = get_honest()
    report = check_proof(change(proof, epochs=()), evidence)
    expect(report, "payments", "has no receipt")


# ---- hostile numbers -----------------------------------------------------------------------


def test_sums_beyond_the_chains_numbers_are_refused_and_crash_nothing():
    proof, evidence = get_honest()
    lane = proof.settlements[0].batch.lanes[0]
    huge = change(lane, leaves=tuple(change(lane.leaves[0], price=2**63 - 1) for _ in range(4)))
    many = (lane,) * 300
    for lanes in ((huge,), many, (change(lane, leaves=()),), ()):
        assert check_proof(change_paper(proof, lanes=lanes), evidence).verdict is FAIL


def test_make_lanes_refuses_what_the_audit_would():
    maker = ProofMaker()
    payments = maker.list_payments(make_epochs(maker))
    with pytest.raises(Exception, match="pays twice"):
        make_lanes([*payments, payments[0]])
