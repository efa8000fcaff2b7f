"""What a requester says against a batch: to each fault its objection, to an honest one none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.disputes import find_last_challenge, find_last_proof
from gpumarket.protocol.duties import (
    ChallengeLeaf,
    ChallengeWithheld,
    Objection,
    ProveBadLeaf,
    ProveDouble,
    Spot,
)
from gpumarket.protocol.ids import Address
from gpumarket.protocol.objections import (
    Papers,
    examine,
    find_bill_hash,
    fits,
    list_concerned,
    list_unsigned,
    object_withheld,
)
from gpumarket.protocol.openings import EMPTY_LEAF
from gpumarket.protocol.settlement import Lane, compute_fee_evidence
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.watching import KnownBatch, Memory
from gpumarket.testing.factories import DOMAIN, NOW, change, make_address, make_hash, sign
from tests.watch_scene import (
    COORDINATOR,
    POSTED_AT,
    RULES,
    Paid,
    make_paid,
    make_papers,
    make_registry,
    make_viewer,
    post,
)

BY_PROOF = find_last_proof(POSTED_AT, epoch=RULES.epoch)
BY_CHALLENGE = find_last_challenge(POSTED_AT, open_seconds=RULES.open)


def look(
    papers: Papers,
    known: KnownBatch | None = None,
    *,
    memory: Memory | None = None,
    viewer: str = "alice",
    **registry: Any,
) -> list[Objection]:
    return examine(
        known or post(papers),
        papers,
        memory=memory or Memory(),
        viewer=make_viewer(viewer),
        rules=RULES,
        registry=make_registry(**registry),
    )


def make_honest(nonce: str = "order") -> Paid:
    paid = make_paid(nonce)
    receipt = paid.work(0)
    paid.work(1, "provider-2")
    rejected = paid.make_receipt(2, "provider-2")
    paid.check(receipt)
    paid.check(rejected, 5, verdict=Verdict.MISMATCH, verifier="verifier-2")
    paid.fee()
    return paid


def test_an_honest_batch_yields_nothing() -> None:
    assert look(make_papers(make_honest(), make_honest("another"))) == []


# ---- what the order alone shows ------------------------------------------------------------


def alter(**changes: Any) -> Callable[[Paid], None]:
    def plant(paid: Paid) -> None:
        paid.work(0, **changes)

    return plant


def charge_for_bob(paid: Paid) -> None:
    paid.work(0, requester=make_address("alice"))


def take_a_fee_too_high(paid: Paid) -> None:
    paid.fee(51)


def give_the_fee_away(paid: Paid) -> None:
    paid.fee(payee=make_address("friend"))


def take_a_fee_for_nothing(paid: Paid) -> None:
    paid.fee(evidence_hash=compute_fee_evidence(make_hash("other")))


def check_too_dear(paid: Paid) -> None:
    paid.check(paid.make_receipt(0, "provider-1"), price=101)


@pytest.mark.parametrize(
    ("plant", "order", "posted_at", "word"),
    [
        (charge_for_bob, {"requester": make_address("bob")}, POSTED_AT, "another account"),
        (alter(), {"coordinator": make_address("other")}, POSTED_AT, "another coordinator"),
        (alter(), {"provider": make_address("provider-9")}, POSTED_AT, "another provider"),
        (alter(line=9), {}, POSTED_AT, "no such payment line"),
        (alter(price=1_001), {}, POSTED_AT, "more than the order allows"),
        (check_too_dear, {}, POSTED_AT, "more than the order allows"),
        (take_a_fee_too_high, {}, POSTED_AT, "more than the order allows"),
        (alter(), {"settle_by": POSTED_AT - 1}, POSTED_AT, "after the order's time"),
        (give_the_fee_away, {}, POSTED_AT, "fee for somebody else"),
        (take_a_fee_for_nothing, {}, POSTED_AT, "fee for somebody else"),
    ],
)
def test_what_the_order_alone_shows_is_proven(
    plant: Callable[[Paid], None], order: dict[str, Any], posted_at: int, word: str
) -> None:
    paid = make_paid(signer="bob" if "requester" in order else "", **order)
    plant(paid)
    papers = make_papers(make_honest("honest"), paid)
    [found] = look(papers, post(papers, posted_at=posted_at))
    assert isinstance(found, ProveBadLeaf)
    assert word in found.why
    assert found.deadline == BY_PROOF
    assert find_leaf(papers, found.spot).order_hash == paid.order_hash


def find_leaf(papers: Papers, spot: Spot) -> Any:
    return papers.document.lanes[spot.lane].leaves[spot.index]


def test_a_price_at_the_cap_and_a_posting_in_the_last_second_are_right() -> None:
    paid = make_paid(settle_by=POSTED_AT)
    paid.work(0, price=1_000, receipt_price=1_000)
    paid.fee(50)
    assert look(make_papers(paid)) == []


# ---- what was paid before ------------------------------------------------------------------


def test_one_line_twice_in_one_batch_is_a_double_of_the_later_lane() -> None:
    paid = make_paid()
    paid.work(0, "provider-1")
    paid.work(0, "provider-2")
    papers = make_papers(paid)
    [found] = look(papers)
    assert isinstance(found, ProveDouble)
    assert (found.earlier.lane, found.spot.lane) == (0, 1)


def test_one_receipt_on_two_lines_is_a_double() -> None:
    paid = make_paid()
    receipt = paid.work(0)
    paid.work(1, evidence_hash=receipt.body.compute_struct_hash())
    [found] = look(make_papers(paid))
    assert isinstance(found, ProveDouble)
    assert (found.earlier.index, found.spot.index) == (0, 1)


@pytest.mark.parametrize("is_later_read_first", [False, True])
def test_a_line_in_two_batches_is_a_double_of_the_later_however_they_are_read(
    is_later_read_first: bool,
) -> None:
    memory, paid = Memory(), make_paid()
    paid.work(0)
    papers = make_papers(paid)
    batches = [post(papers), post(papers, sequence=1, block=11)]
    found = []
    for known in reversed(batches) if is_later_read_first else batches:
        found += look(papers, known, memory=memory)
    [double] = found
    assert isinstance(double, ProveDouble)
    assert (double.earlier.sequence, double.spot.sequence) == (0, 1)
    assert double.deadline == BY_PROOF


def test_all_that_pays_a_line_again_is_a_double_of_the_first() -> None:
    memory, paid = Memory(), make_paid()
    paid.work(0)
    papers = make_papers(paid)
    found = [look(papers, post(papers, sequence=number), memory=memory) for number in range(3)]
    assert found[0] == []
    for number in (1, 2):
        [double] = found[number]
        assert isinstance(double, ProveDouble)
        assert (double.earlier.sequence, double.spot.sequence) == (0, number)


def test_nothing_is_said_against_what_went_back_already() -> None:
    paid = make_paid()
    paid.work(0, price=1_001)
    spot = Spot(coordinator=COORDINATOR, sequence=0, lane=0, index=0)
    for key in (spot.key, spot.lane_key):
        assert look(make_papers(paid), memory=Memory(void={key: 12})) == []


def test_a_payment_that_went_back_may_be_made_again() -> None:
    memory, paid = Memory(), make_paid()
    paid.work(0)
    papers = make_papers(paid)
    look(papers, memory=memory)
    memory.void[Spot(coordinator=COORDINATOR, sequence=0, lane=0, index=0).lane_key] = 12
    assert look(papers, post(papers, sequence=1, block=13), memory=memory) == []


def test_what_another_coordinator_posts_in_an_orders_name_is_no_double() -> None:
    memory, paid = Memory(), make_paid()
    paid.work(0)
    papers = make_papers(paid)
    thief = make_address("thief")
    [stolen] = look(papers, post(papers, coordinator=thief), memory=memory)
    assert isinstance(stolen, ProveBadLeaf)
    assert look(papers, memory=memory) == []


def test_a_batch_that_is_looked_at_again_is_no_double_of_itself() -> None:
    memory, papers = Memory(), make_papers(make_honest())
    assert look(papers, memory=memory) == []
    assert look(papers, memory=memory) == []


# ---- what must be shown --------------------------------------------------------------------


def break_order(paid: Paid) -> None:
    paid.work(0)
    paid.order = Signed(body=paid.order.body, signer=paid.order.signer, signature=bytes(65))


def let_a_thief_sign_the_order(paid: Paid) -> None:
    paid.work(0)
    paid.order = sign(paid.order.body, "thief")


def break_receipt(paid: Paid) -> None:
    receipt = paid.work(0)
    name = receipt.body.compute_struct_hash()
    paid.receipts[name] = sign(receipt.body, "thief")


def lose_receipt(paid: Paid) -> None:
    paid.receipts.pop(paid.work(0).body.compute_struct_hash())


def pay_another_than_the_receipt(paid: Paid) -> None:
    paid.work(0, payee=make_address("friend"))


def pay_another_price(paid: Paid) -> None:
    paid.work(0, price=701)


def pay_another_unit(paid: Paid) -> None:
    receipt = paid.make_receipt(1, "provider-1")
    paid.work(0, evidence_hash=receipt.body.compute_struct_hash())


def break_attestation(paid: Paid) -> None:
    checked = paid.check(paid.make_receipt(0, "provider-1"))
    paid.attestations[checked.body.compute_struct_hash()] = sign(checked.body, "thief")


def lose_attestation(paid: Paid) -> None:
    checked = paid.check(paid.make_receipt(0, "provider-1"))
    paid.attestations.pop(checked.body.compute_struct_hash())


def lose_the_receipt_of_a_check(paid: Paid) -> None:
    receipt = paid.make_receipt(0, "provider-1")
    paid.check(receipt)
    paid.receipts.pop(receipt.body.compute_struct_hash())


def decide_nothing(paid: Paid) -> None:
    paid.check(paid.make_receipt(0, "provider-1"), verdict=Verdict.INCONCLUSIVE)


def let_nobody_check(paid: Paid) -> None:
    paid.check(paid.make_receipt(0, "provider-1"), verifier="nobody")


def let_the_provider_check(paid: Paid) -> None:
    paid.check(paid.make_receipt(0, "verifier-1"), verifier="verifier-1")


@pytest.mark.parametrize(
    "plant",
    [
        break_order,
        let_a_thief_sign_the_order,
        break_receipt,
        lose_receipt,
        pay_another_than_the_receipt,
        pay_another_price,
        pay_another_unit,
        break_attestation,
        lose_attestation,
        lose_the_receipt_of_a_check,
        decide_nothing,
        let_nobody_check,
        let_the_provider_check,
    ],
    ids=lambda plant: plant.__name__,
)
def test_evidence_that_will_not_do_is_demanded(plant: Callable[[Paid], None]) -> None:
    paid = make_paid()
    plant(paid)
    papers = make_papers(make_honest("honest"), paid)
    [found] = look(papers)
    assert isinstance(found, ChallengeLeaf)
    assert found.deadline == BY_CHALLENGE
    assert find_leaf(papers, found.spot).order_hash == paid.order_hash


def test_an_order_signed_by_transaction_needs_no_signature() -> None:
    paid = make_paid()
    break_order(paid)
    papers = make_papers(paid)
    assert list_unsigned(papers, DOMAIN) == [(make_address("alice"), paid.order_hash)]
    assert look(papers, presigned={paid.order_hash}) == []
    assert list_unsigned(make_papers(make_honest()), DOMAIN) == []


def test_a_second_receipt_with_a_bad_signature_is_no_fault() -> None:
    paid = make_honest()
    papers = make_papers(paid)
    [(name, bill)] = papers.bills.items()
    bad = sign(bill.receipts[0].body, "thief")
    assert look(Papers(papers.document, {name: change(bill, receipts=(bad, *bill.receipts))})) == []


# ---- what nobody shows ---------------------------------------------------------------------


def test_a_withheld_batch_is_demanded_once_a_lane_at_an_index_nobody_could_know() -> None:
    paid, other = make_honest(), make_paid("other", signer="bob", requester=make_address("bob"))
    paid.work(2)
    paid.work(3)
    other.work(0)
    papers = make_papers(paid, other)
    known = post(papers)
    found = object_withheld(known, viewer=make_viewer(), rules=RULES, draws=[7] * 9)
    lanes = [lane for lane in papers.document.lanes if lane.requester == make_address("alice")]
    assert [each.price for each in found] == [lane.amount for lane in lanes]
    assert all(isinstance(each, ChallengeWithheld) for each in found)
    assert all(
        each.spot.index == 7 % len(lane.leaves) for each, lane in zip(found, lanes, strict=True)
    )
    assert {each.deadline for each in found} == {BY_CHALLENGE}


def test_a_bill_that_nobody_shows_is_one_demand_for_its_whole_lane_at_the_dearest_leaf() -> None:
    paid = make_paid()
    paid.work(0)
    paid.work(1, price=900, receipt_price=900)
    papers = make_papers(make_honest("honest"), paid)
    bills = {name: bill for name, bill in papers.bills.items() if name != paid.order_hash}
    [found] = look(Papers(papers.document, bills))
    assert isinstance(found, ChallengeWithheld)
    assert found.price == 1_600
    assert find_leaf(papers, found.spot).price == 900


def test_a_leaf_of_no_order_is_demanded_and_padding_is_not() -> None:
    papers = make_papers(make_honest())
    for leaf, kinds in ((EMPTY_LEAF, []), (change(EMPTY_LEAF, price=5), [ChallengeWithheld])):
        lanes = [change(lane, leaves=(*lane.leaves, leaf)) for lane in papers.document.lanes[:1]]
        document = change(papers.document, lanes=tuple(lanes) + papers.document.lanes[1:])
        planted = Papers(document, papers.bills)
        assert [type(each) for each in look(planted)] == kinds


@pytest.mark.parametrize("field", ["leaf", "amount", "order", "count", "none"])
def test_a_document_that_does_not_add_up_does_not_fit(field: str) -> None:
    papers = make_papers(make_honest())
    known, lanes = post(papers), papers.document.lanes
    first: Lane = lanes[0]
    altered = {
        "leaf": (change(first, leaves=(change(first.leaves[0], line=3), *first.leaves[1:])),),
        "amount": (change(first, leaves=(change(first.leaves[0], price=1), *first.leaves[1:])),),
        "count": (change(first, leaves=(*first.leaves, EMPTY_LEAF)),),
    }
    changed = altered.get(field, ()) + lanes[1:] if field in altered else lanes[::-1]
    changed = () if field == "none" else changed
    assert fits(known.posted, papers.document)
    assert not fits(known.posted, change(papers.document, lanes=changed))


def test_a_bill_is_found_by_its_order_only_where_there_is_one_for_each() -> None:
    papers = make_papers(make_honest(), make_honest("another"))
    for name in papers.bills:
        assert find_bill_hash(papers.document, name) in papers.document.bills
    assert find_bill_hash(papers.document, make_hash("unknown")) is None
    short = change(papers.document, bills=papers.document.bills[:1])
    assert find_bill_hash(short, next(iter(papers.bills))) is None


# ---- whose business it is ------------------------------------------------------------------


@pytest.mark.parametrize("me", ["provider-1", "coordinator"])
def test_nobody_objects_to_what_pays_himself_or_to_his_own_batch(me: str) -> None:
    paid = make_paid()
    paid.work(0, price=1_001)
    known = post(make_papers(paid))
    assert list_concerned(known.posted, make_viewer(me)) == []
    assert list_concerned(known.posted, make_viewer("alice")) == [0]
    assert look(make_papers(paid), viewer=me) == []


def test_another_requesters_lanes_are_his_business() -> None:
    bob: Address = make_address("bob")
    paid = make_paid(signer="bob", requester=bob)
    paid.work(0, price=1_001)
    assert look(make_papers(paid)) == []
    assert NOW < POSTED_AT
