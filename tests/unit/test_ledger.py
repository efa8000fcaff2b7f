"""The ledger through disputes: every movement has its event, and nothing else moves."""

from __future__ import annotations

import pytest

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.evidence import LeafName
from gpumarket.protocol.ledger import JUDGEMENTS, ROLE_VERIFIER, Ledger, Pocket, fold_events
from gpumarket.testing.factories import make_address, make_hash
from gpumarket.testing.proofs import FactWriter, ProofMaker, make_settled_job

ALICE, VERIFIER = make_address("alice"), make_address("verifier")


def begin() -> FactWriter:
    """Return events after which each pocket of somebody holds 100."""
    writer = FactWriter()
    writer.write(1, "Deposited", requester=ALICE, amount=100)
    writer.write(1, "Bonded", coordinator=ALICE, amount=100)
    writer.write(
        1, "Staked", operator=VERIFIER, role=ROLE_VERIFIER, payout=ALICE, peerIdHash=b"", amount=100
    )
    return writer


def take(writer: FactWriter, pocket: int, amount: int, account: bytes = ALICE) -> None:
    fields = {"from": pocket, "account": account, "amount": amount, "since": 0}
    writer.write(3, "Taken", **fields)


def give(writer: FactWriter, pocket: int, amount: int, account: bytes = ALICE) -> None:
    writer.write(3, "Given", to=pocket, account=account, amount=amount, since=0)


def sum_up(ledger: Ledger) -> int:
    books = (ledger.escrow, ledger.credit, ledger.bond, ledger.stake)
    return sum(sum(book.values()) for book in books) + ledger.held + ledger.burnt


def test_money_in_dispute_goes_from_pocket_to_pocket_and_none_is_lost() -> None:
    writer = begin()
    take(writer, Pocket.ESCROW, 10)
    take(writer, Pocket.BOND, 20)
    take(writer, Pocket.STAKE, 30, VERIFIER)
    held = fold_events(writer.facts)
    assert (held.held, held.burnt, sum_up(held)) == (60, 0, 300)
    give(writer, Pocket.ESCROW, 3)
    give(writer, Pocket.CREDIT, 5)
    give(writer, Pocket.STAKE, 7, VERIFIER)
    give(writer, Pocket.BURNT, 45)
    take(writer, Pocket.CREDIT, 2)
    ledger = fold_events(writer.facts)
    assert (ledger.held, ledger.burnt, sum_up(ledger)) == (2, 45, 300)
    assert ledger.escrow[ALICE] == 93
    assert ledger.bond[ALICE] == 80
    assert ledger.credit[ALICE] == 3
    assert ledger.stake[VERIFIER] == 77
    changes = [change.stake for change in ledger.verifier_stakes[VERIFIER]]
    assert changes == [100, 70, 77]


@pytest.mark.parametrize("pocket", [Pocket.ESCROW, Pocket.CREDIT, Pocket.STAKE, Pocket.BURNT])
def test_more_than_was_taken_cannot_be_given(pocket: Pocket) -> None:
    writer = begin()
    take(writer, Pocket.ESCROW, 10)
    give(writer, pocket, 11)
    with pytest.raises(InvalidInput, match="more was given than was held"):
        fold_events(writer.facts)


@pytest.mark.parametrize("pocket", [Pocket.ESCROW, Pocket.CREDIT, Pocket.BOND, Pocket.STAKE])
def test_more_than_there_is_cannot_be_taken(pocket: Pocket) -> None:
    writer = begin()
    take(writer, pocket, 101)
    with pytest.raises(InvalidInput, match="falls below zero"):
        fold_events(writer.facts)


def test_what_was_burnt_stays_burnt() -> None:
    writer = begin()
    take(writer, Pocket.ESCROW, 10)
    give(writer, Pocket.BURNT, 10)
    take(writer, Pocket.BURNT, 1)
    with pytest.raises(InvalidInput, match="burnt came back"):
        fold_events(writer.facts)


def test_a_pocket_that_the_contract_does_not_have_is_malformed() -> None:
    writer = begin()
    take(writer, 5, 1)
    with pytest.raises(InvalidInput, match="malformed"):
        fold_events(writer.facts)


def test_judgements_are_kept_and_move_nothing() -> None:
    writer = begin()
    leaf = {"coordinator": ALICE, "seq": 4, "lane": 2}
    writer.write(2, "LeafVoided", **leaf, index=7, price=50, cause=0)
    writer.write(2, "LaneVoided", **leaf, amount=50)
    writer.write(2, "DirectSettled", seq=0, orderHash=make_hash("order"), unit=3, price=5)
    others = [name for name in JUDGEMENTS if name not in ("LeafVoided", "LaneVoided")]
    for name in others:
        case = {"id": 1, "case_": {"receiptHash": make_hash("receipt")}, "verdict": 1}
        writer.write(3, name, orderHash=b"", unit=0, **case)
    ledger = fold_events(writer.facts)
    assert (ledger.escrow, ledger.held) == ({ALICE: 100}, 0)
    assert len(ledger.judgements) == 3 + len(others)
    assert ledger.voided == {LeafName(ALICE, 4, 2, 7), LeafName(ALICE, 4, 2, None)}
    assert (make_hash("order"), 3) in ledger.settled_directly
    assert ledger.acquitted == {make_hash("receipt")}


def test_a_conviction_acquits_nobody_and_a_verdict_without_its_case_is_malformed() -> None:
    writer = begin()
    writer.write(2, "CaseOpened", id=1, case_={"receiptHash": make_hash("receipt")})
    writer.write(3, "Decided", id=1, verdict=2)
    assert fold_events(writer.facts).acquitted == set()
    writer.write(4, "Decided", id=2, verdict=1)
    with pytest.raises(InvalidInput, match="malformed"):
        fold_events(writer.facts)


def test_an_event_of_nobody_is_refused() -> None:
    _, facts = make_settled_job(ProofMaker())
    writer = FactWriter()
    writer.facts = list(facts)
    writer.write(99, "Refunded", amount=1)
    with pytest.raises(InvalidInput, match="not an event"):
        fold_events(writer.facts)
