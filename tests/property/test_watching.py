"""Honest batches never get an objection; a planted fault gets exactly the right one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.duties import (
    ChallengeLeaf,
    ChallengeWithheld,
    Objection,
    ProveBadLeaf,
    ProveDouble,
)
from gpumarket.protocol.objections import Papers, examine, fits
from gpumarket.protocol.watching import Memory
from gpumarket.testing.factories import make_address, sign
from tests.watch_scene import RULES, Paid, make_paid, make_papers, make_registry, make_viewer, post

PROVIDERS = ("provider-1", "provider-2", "provider-3")
VERIFIERS = ("verifier-1", "verifier-2")
UNITS = 4  # of every order here


@dataclass
class History:
    """Some batches in the order of their numbers."""

    batches: list[list[Paid]]

    def look(self, spoil: Any = None) -> list[Objection]:
        """Examine all batches as alice; `spoil` may change one's papers."""
        memory, found = Memory(), list[Objection]()
        for sequence, orders in enumerate(self.batches):
            papers = make_papers(*orders)
            known = post(papers, sequence=sequence, block=10 + sequence)
            assert fits(known.posted, papers.document)
            if spoil is not None:
                papers = spoil(papers)
            found += examine(
                known,
                papers,
                memory=memory,
                viewer=make_viewer(),
                rules=RULES,
                registry=make_registry(),
            )
        return found


@st.composite
def histories(draw: st.DrawFn) -> History:
    """One to three honest batches over up to four orders of two requesters."""
    batches: list[list[Paid]] = [[] for _ in range(draw(st.integers(1, 3)))]
    for number in range(draw(st.integers(1, 4))):
        who = draw(st.sampled_from(["alice", "alice", "bob"]))
        name = f"order {number}"
        whole = make_paid(name, signer=who, requester=make_address(who))
        # A large order is paid in parts: each line in one batch.
        for unit in range(draw(st.integers(1, UNITS))):
            part = _find_part(draw(st.sampled_from(batches)), whole)
            price = draw(st.integers(0, 1_000))
            receipt = part.work(
                unit, draw(st.sampled_from(PROVIDERS)), price=price, receipt_price=price
            )
            if draw(st.booleans()):
                part.check(
                    receipt,
                    UNITS + unit,
                    verifier=draw(st.sampled_from(VERIFIERS)),
                    verdict=draw(st.sampled_from([Verdict.MATCH, Verdict.MISMATCH])),
                    price=draw(st.integers(0, 100)),
                )
        if draw(st.booleans()):
            _find_part(draw(st.sampled_from(batches)), whole).fee(draw(st.integers(1, 50)))
    return History([orders for orders in batches if orders])


def _find_part(orders: list[Paid], whole: Paid) -> Paid:
    for paid in orders:
        if paid.order_hash == whole.order_hash:
            return paid
    orders.append(Paid(whole.order))
    return orders[-1]


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_an_honest_history_gets_no_objection(history: History) -> None:
    assert history.look() == []


FAULTS = ("dear", "late line", "double", "unsigned order", "forged receipt", "no bill")


@settings(max_examples=120, deadline=None)
@given(history=histories(), fault=st.sampled_from(FAULTS), data=st.data())
def test_a_planted_fault_gets_its_objection_and_nothing_else(
    history: History, fault: str, data: st.DataObject
) -> None:
    orders = data.draw(st.sampled_from(history.batches))
    paid = make_paid("the bad one", requester=make_address("alice"))
    orders.append(paid)
    provider = data.draw(st.sampled_from(PROVIDERS))
    spoil, kind = plant(fault, paid, provider)
    if fault == "double":
        history.batches.append([again := Paid(paid.order)])
        again.work(0, provider)
    [found] = history.look(spoil)
    assert isinstance(found, kind)


def plant(fault: str, paid: Paid, provider: str) -> tuple[Any, type[Objection]]:
    """Put one fault into an order's payments; return what happens to papers, and the objection."""
    if fault == "dear":
        paid.work(0, provider, price=1_001)
        return None, ProveBadLeaf
    if fault == "late line":
        paid.work(0, provider, line=9)
        return None, ProveBadLeaf
    receipt = paid.work(0, provider)
    if fault == "double":
        return None, ProveDouble
    if fault == "unsigned order":
        paid.order = sign(paid.order.body, "thief")
    elif fault == "forged receipt":
        paid.receipts[receipt.body.compute_struct_hash()] = sign(receipt.body, "thief")
    else:

        def lose(papers: Papers) -> Papers:
            bills = {name: bill for name, bill in papers.bills.items() if name != paid.order_hash}
            return Papers(papers.document, bills)

        return lose, ChallengeWithheld
    return None, ChallengeLeaf
