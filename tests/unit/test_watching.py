"""What a node remembers of the chain, and what follows: answers, ends, exits, settlements."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from gpumarket.protocol.duties import ProveDouble, Spot
from gpumarket.protocol.ids import ZERO_HASH, Address, Hash32
from gpumarket.protocol.lease import Assignment
from gpumarket.protocol.objections import examine
from gpumarket.protocol.openings import PostedBatch
from gpumarket.protocol.watching import (
    BATCHES_MAX,
    ENDED_SECONDS,
    Memory,
    OwnClaim,
    Viewer,
    forget_old,
    forget_since,
    list_answers,
    list_double_directs,
    list_exits,
    list_settlements,
    list_timeouts,
    note_event,
)
from gpumarket.testing.factories import NOW, change, make_address, make_hash, sign
from tests.watch_scene import (
    COORDINATOR,
    DISPUTES,
    POSTED_AT,
    RULES,
    Paid,
    make_paid,
    make_papers,
    make_registry,
    make_viewer,
    post,
)

ALICE = make_address("alice")
PROVIDER = make_address("provider-1")
DEADLINE = POSTED_AT + 400
ASKED_AT = DEADLINE - RULES.response


@dataclass
class Fact:
    name: str
    args: dict[str, Any]
    block: int = 10
    log_index: int = 0
    tx_hash: Hash32 = ZERO_HASH


@dataclass
class Node:
    """A memory, for whom it is, and shorthands."""

    viewer: Viewer
    memory: Memory = field(default_factory=Memory)

    def see(self, name: str, *, block: int = 10, **args: Any) -> None:
        fact = Fact(name, args, block=block)
        note_event(self.memory, fact, viewer=self.viewer, rules=RULES)
        # Everything must survive being written down.
        packed = msgspec.msgpack.encode(self.memory)
        assert msgspec.msgpack.decode(packed, type=Memory) == self.memory

    def see_batch(self, posted: PostedBatch, *, block: int = 10) -> None:
        self.see(
            "BatchPosted",
            block=block,
            coordinator=posted.coordinator,
            seq=posted.sequence,
            postedAt=posted.posted_at,
            dataHash=posted.data_hash,
            root=posted.root,
            requesters=list(posted.requesters),
            payees=list(posted.payees),
            lanes=posted.lanes,
        )

    def see_challenge(self, *, number: int = 1, block: int = 11, **changes: Any) -> None:
        place = {
            "coordinator": COORDINATOR,
            "seq": 0,
            "postedAt": POSTED_AT,
            "lane": 0,
            "index": 0,
            "requester": ALICE,
            "payee": PROVIDER,
            "laneAmount": 700,
        }
        place |= {key: changes.pop(key) for key in list(changes) if key in place}
        values = {
            "place": place,
            "leafHash": make_hash("leaf"),
            "price": 700,
            "challenger": make_address("griefer"),
            "deadline": DEADLINE,
        } | changes
        self.see("Challenged", block=block, id=number, challenge=values)

    def read(self) -> None:
        for known in self.memory.batches.values():
            known.status = "read"


def make_node(name: str, *, paid: Paid | None = None, **changes: Any) -> Node:
    """A node that has seen one batch, which pays provider-1 one unit of alice's."""
    node = Node(make_viewer(name, **changes))
    if paid is None:
        paid = make_paid()
        paid.work(0)
    node.see_batch(post(make_papers(paid)).posted)
    return node


def make_spot(**changes: Any) -> Spot:
    values: dict[str, Any] = {"coordinator": COORDINATOR, "sequence": 0, "lane": 0, "index": 0}
    return Spot(**(values | changes))


# ---- what is remembered --------------------------------------------------------------------


def test_a_batch_is_remembered_by_those_it_concerns() -> None:
    for name, payers, is_known in (
        ("alice", {ALICE}, True),
        ("coordinator", set(), True),
        ("provider-1", set(), True),
        ("provider-2", {ALICE}, True),
        ("provider-2", set(), False),
        ("bob", {make_address("bob")}, False),
    ):
        node = make_node(name, payers=frozenset(payers))
        assert bool(node.memory.batches) is is_known, name


def test_what_was_seen_in_a_block_that_is_gone_is_forgotten_and_the_rest_stays() -> None:
    node = make_node("alice")
    node.see_challenge(number=1, block=11)
    before = msgspec.msgpack.encode(node.memory)
    node.see("ChallengeEnded", id=1, block=20)
    node.see_challenge(number=2, block=20)
    node.see("LeafVoided", coordinator=COORDINATOR, seq=0, lane=0, index=0, block=20)
    node.see("LaneVoided", coordinator=COORDINATOR, seq=0, lane=1, block=21)
    node.see("Slashed", account=COORDINATOR, block=20)
    node.see_batch(post(make_papers(make_rival()), sequence=1).posted, block=20)
    node.see(**make_direct(), block=20)
    assert not node.memory.list_open()[1:]
    forget_since(node.memory, 20)
    assert node.memory.next_block == 20
    node.memory.next_block = 0
    assert msgspec.msgpack.encode(node.memory) == before
    assert [each.challenge_id for each in node.memory.list_open()] == [1]


def make_rival() -> Paid:
    paid = make_paid("rival")
    paid.work(0)
    return paid


def forget(node: Node, now: int) -> list[int]:
    gone = forget_old(node.memory, me=node.viewer.me, rules=RULES, now=now)
    return [posted.sequence for posted in gone]


def test_an_own_batch_is_forgotten_once_nobody_can_dispute_it() -> None:
    node, other = make_node("coordinator"), make_node("alice")
    over = POSTED_AT + 2 * RULES.epoch + RULES.response
    node.see_challenge(deadline=over)
    assert forget(node, over + 1) == []
    node.see("ChallengeEnded", id=1)
    assert forget(node, over) == []
    assert forget(node, over + 1) == [0]
    assert forget(other, over + 1) == []


def test_no_more_is_kept_than_is_of_use() -> None:
    node = make_node("alice")
    node.see_challenge()
    node.see("ChallengeEnded", id=1)
    posted = next(iter(node.memory.batches.values()))
    for number in range(BATCHES_MAX):
        node.memory.batches[number.to_bytes(28, "big")] = posted
    node.memory.claims[b"old"] = make_claim(expiry=NOW + 5, settle_by=NOW)
    forget(node, DEADLINE + ENDED_SECONDS)
    assert node.memory.challenges
    forget(node, DEADLINE + ENDED_SECONDS + 1)
    assert not (node.memory.challenges or node.memory.ended or node.memory.claims)
    assert len(node.memory.batches) == BATCHES_MAX


# ---- answers -------------------------------------------------------------------------------


def answers(node: Node, now: int) -> list[int]:
    found = list_answers(node.memory, viewer=node.viewer, rules=RULES, now=now)
    return [each.challenge_id for each in found]


def test_a_coordinator_answers_at_once_and_until_the_last_second() -> None:
    node = make_node("coordinator")
    node.see_challenge()
    assert answers(node, ASKED_AT) == []  # its papers are not at hand yet
    node.read()
    assert answers(node, ASKED_AT) == [1]
    assert answers(node, DEADLINE) == [1]
    assert answers(node, DEADLINE + 1) == []


def test_a_payee_gives_its_coordinator_a_third_of_the_time() -> None:
    node = make_node("provider-1")
    node.see_challenge()
    node.read()
    assert answers(node, ASKED_AT + 99) == []
    assert answers(node, ASKED_AT + 100) == [1]


def test_nobody_answers_for_others_or_what_is_over() -> None:
    for name in ("alice", "provider-2"):
        node = make_node(name)
        node.see_challenge()
        node.read()
        assert answers(node, DEADLINE - 1) == [], name
    overs: tuple[dict[str, Any], ...] = (
        {"name": "ChallengeEnded", "id": 1},
        {"name": "LeafVoided", "coordinator": COORDINATOR, "seq": 0, "lane": 0, "index": 0},
        {"name": "LaneVoided", "coordinator": COORDINATOR, "seq": 0, "lane": 0},
    )
    for over in overs:
        node = make_node("coordinator")
        node.see_challenge(leafHash=ZERO_HASH if over["name"] == "LaneVoided" else make_hash("x"))
        node.read()
        node.see(**over)
        assert answers(node, ASKED_AT) == []


def test_a_challenge_of_a_lane_is_answered_though_its_leaf_went_back() -> None:
    node = make_node("coordinator")
    node.read()
    node.see_challenge(leafHash=ZERO_HASH)
    node.see("LeafVoided", coordinator=COORDINATOR, seq=0, lane=0, index=0)
    assert answers(node, ASKED_AT) == [1]
    viewer = make_viewer("griefer")
    assert list_timeouts(node.memory, viewer=viewer, now=DEADLINE) == []
    node.see("LaneVoided", coordinator=COORDINATOR, seq=0, lane=0)
    assert answers(node, ASKED_AT) == []
    assert len(list_timeouts(node.memory, viewer=viewer, now=DEADLINE)) == 1


def test_what_ends_first_is_answered_first() -> None:
    node = make_node("coordinator")
    node.read()
    node.see_challenge(number=1, deadline=DEADLINE)
    node.see_challenge(number=2, deadline=DEADLINE - 5)
    assert answers(node, ASKED_AT) == [2, 1]


# ---- ends ----------------------------------------------------------------------------------


def test_a_challenge_is_ended_by_who_raised_it_or_is_paid_back_once_its_time_is_over() -> None:
    for name, is_its in (("griefer", True), ("alice", True), ("coordinator", False)):
        node = make_node(name)
        node.see_challenge()
        assert list_timeouts(node.memory, viewer=node.viewer, now=DEADLINE) == []
        found = list_timeouts(node.memory, viewer=node.viewer, now=DEADLINE + 1)
        assert bool(found) is is_its, name


def test_a_challenge_of_what_went_back_ends_at_once() -> None:
    node = make_node("alice")
    node.see_challenge()
    node.see("LaneVoided", coordinator=COORDINATOR, seq=0, lane=0)
    assert list_timeouts(node.memory, viewer=node.viewer, now=ASKED_AT) == []
    node.see("LeafVoided", coordinator=COORDINATOR, seq=0, lane=0, index=0)
    [found] = list_timeouts(node.memory, viewer=node.viewer, now=ASKED_AT)
    assert (found.challenge_id, found.spot) == (1, make_spot())
    node.see("ChallengeEnded", id=1)
    assert list_timeouts(node.memory, viewer=node.viewer, now=DEADLINE + 1) == []


# ---- exits ---------------------------------------------------------------------------------


def test_who_was_slashed_is_left_by_those_who_have_orders_with_it() -> None:
    node = make_node("alice")
    node.see("Slashed", account=make_address("another"))
    assert list_exits(node.memory, viewer=node.viewer) == []
    node.see("Slashed", account=COORDINATOR)
    [found] = list_exits(node.memory, viewer=node.viewer)
    assert found.coordinator == COORDINATOR
    assert list_exits(node.memory, viewer=make_viewer(coordinators=frozenset())) == []


# ---- direct settlements --------------------------------------------------------------------


def make_direct(order_hash: Hash32 | None = None, *, line: int = 0, **changes: Any) -> Any:
    return {
        "name": "DirectSettled",
        "seq": 3,
        "requester": ALICE,
        "provider": PROVIDER,
        "postedAt": POSTED_AT + 900,
        "orderHash": order_hash or make_paid().order_hash,
        "unit": line,
        "receiptHash": make_hash("other receipt"),
        "price": 700,
    } | changes


def look_at(node: Node, paid: Paid) -> None:
    [known] = node.memory.batches.values()
    examine(
        known,
        make_papers(paid),
        memory=node.memory,
        viewer=node.viewer,
        rules=RULES,
        registry=make_registry(),
    )
    node.read()


def test_a_direct_settlement_of_a_line_that_was_paid_is_a_double() -> None:
    paid = make_paid()
    receipt = paid.work(0)
    for direct, is_double in (
        (make_direct(), True),
        (make_direct(line=1, receiptHash=receipt.body.compute_struct_hash()), True),
        (make_direct(line=1), False),
        (make_direct(make_hash("another order")), False),
    ):
        node = make_node("alice", paid=paid)
        look_at(node, paid)
        node.see(**direct)
        found = list_double_directs(node.memory, rules=RULES)
        assert bool(found) is is_double
        if found:
            [double] = found
            assert isinstance(double, ProveDouble)
            assert double.earlier == make_spot()
            assert double.spot == make_spot(coordinator=DISPUTES, sequence=3)


def test_a_double_that_went_back_is_not_proven_again() -> None:
    paid = make_paid()
    paid.work(0)
    node = make_node("alice", paid=paid)
    look_at(node, paid)
    node.see(**make_direct())
    assert list_double_directs(node.memory, rules=RULES)
    node.see("LeafVoided", coordinator=DISPUTES, seq=3, lane=0, index=0)
    assert list_double_directs(node.memory, rules=RULES) == []


# ---- what was left out ---------------------------------------------------------------------


def make_claim(unit: int = 0, **order: Any) -> OwnClaim:
    times = {"settle_by": POSTED_AT + 500, "expiry": POSTED_AT + 900}
    paid = make_paid(**(times | order))
    receipt = paid.make_receipt(unit, "provider-1")
    assignment = Assignment(
        order_hash=paid.order_hash,
        unit=unit,
        provider=PROVIDER,
        max_price=1_000,
        reserved_until=POSTED_AT,
    )
    return OwnClaim(order=paid.order, receipt=receipt, assignment=sign(assignment, "coordinator"))


def settle(node: Node, claim: OwnClaim, now: int, *, approved: bool = True) -> list[int]:
    node.memory.claims = {claim.line_key: claim}
    names = [claim.receipt.body.compute_struct_hash()] if approved else []
    found = list_settlements(node.memory, viewer=node.viewer, approved=names, now=now)
    return [each.unit for each in found]


def test_a_receipt_left_out_is_settled_after_settle_by_and_until_the_order_ends() -> None:
    node = Node(make_viewer("provider-1"))
    claim = make_claim()
    order = claim.order.body
    assert settle(node, claim, order.settle_by) == []
    assert settle(node, claim, order.settle_by + 1) == [0]
    assert settle(node, claim, order.expiry) == [0]
    assert settle(node, claim, order.expiry + 1) == []
    assert settle(node, claim, order.expiry, approved=False) == []


def test_what_a_batch_or_a_direct_settlement_has_paid_is_not_settled_again() -> None:
    claim = make_claim()
    paid = make_paid(settle_by=claim.order.body.settle_by, expiry=claim.order.body.expiry)
    paid.work(0)
    node = make_node("provider-1", paid=paid)
    look_at(node, paid)
    now = claim.order.body.expiry
    assert settle(node, claim, now) == []
    assert settle(node, make_claim(unit=1), now) == [1]
    node.see("LaneVoided", coordinator=COORDINATOR, seq=0, lane=0)
    assert settle(node, claim, now) == [0]
    node.see(**make_direct(paid.order_hash))
    assert settle(node, claim, now) == []


def test_nothing_is_settled_while_a_lane_that_may_pay_us_is_closed() -> None:
    claim = make_claim()
    now = claim.order.body.expiry
    node = make_node("provider-1")
    assert settle(node, claim, now) == []
    [known] = node.memory.batches.values()
    known.status = "withheld"
    assert settle(node, claim, now) == []
    node.see("LaneVoided", coordinator=COORDINATOR, seq=0, lane=0)
    assert settle(node, claim, now) == [0]
    other: Address = make_address("another coordinator")
    node = Node(make_viewer("provider-1"))
    node.see_batch(change(known.posted, coordinator=other))
    assert settle(node, claim, now) == [0]
