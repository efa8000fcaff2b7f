"""Cases about receipts alone: the adapter against the real contracts on a node of our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gpumarket.adapters.chain_errors import ContractRefused
from gpumarket.adapters.disputes_abi import encode_account
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import BrokenPrecondition
from gpumarket.protocol.juries import TrialRecord
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.factories import change, make_address, make_secret
from tests.integration.court import Court, check_books
from tests.integration.jury_scene import (
    CONFIG,
    NAMES,
    VERIFIERS,
    WATCHER,
    Trial,
    make_trial,
    open_jury_court,
)


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with open_jury_court(tmp_path_factory.mktemp("juries")) as court:
        yield court


@pytest.fixture
def trial(court: Court, request: pytest.FixtureRequest) -> Trial:
    """A receipt of a test's own."""
    return make_trial(court, request.node.name)


def count_sent(court: Court) -> int:
    return int(court.web3.eth.get_transaction_count(WATCHER))  # type: ignore[arg-type]  # bytes too


def read_stake(court: Court) -> int:
    provider = encode_account(make_address("provider"))
    return int(court.settlement.functions.operatorOf(provider).call()[3])


async def test_a_forged_receipt_that_nobody_paid_costs_its_signer_the_stake(trial: Trial) -> None:
    chain, court = trial.chain, trial.court
    before, escrow = read_stake(court), await chain.read_escrow(make_address("alice"))
    assert await chain.count_eligible() == VERIFIERS
    case = await trial.open()
    record = await trial.read(case)
    assert (record.place.requester, record.place.payee) == (
        make_address("alice"),
        make_address("provider"),
    )
    assert (record.is_posted, record.price, record.stake_held) == (False, 0, CONFIG.stake_slash)
    assert [(each.account, each.accuses) for each in record.parties] == [(WATCHER, True)]
    assert not record.is_seated
    assert await chain.read_trial(trial.receipt_hash) == TrialRecord(
        case=case, verdict=0, is_over=False
    )
    jury = await trial.judge(case, Verdict.MISMATCH)
    assert (await trial.find("Decided", id=case)).args["voters"] == jury
    assert (await trial.read(case)).is_seated
    decided = TrialRecord(case=case, verdict=2, is_over=False)
    assert await chain.read_trial(trial.receipt_hash) == decided
    trial.wait()
    await chain.close(case, jury)
    assert (await trial.find("CaseClosed", id=case)).args["verdict"] == Verdict.MISMATCH
    assert await chain.read_case(case) is None
    assert await chain.read_trial(trial.receipt_hash) == replace(decided, is_over=True)
    assert read_stake(court) == before - CONFIG.stake_slash
    harmed = await chain.read_escrow(make_address("alice")) - escrow
    assert harmed == CONFIG.stake_slash // 4


async def test_an_acquittal_stands_for_good_and_pays_the_accused(trial: Trial) -> None:
    case = await trial.open()
    credit = sum(await trial.chain.read_credit(make_address("provider")))
    jury = await trial.judge(case, Verdict.MATCH)
    trial.wait()
    await trial.chain.close(case, jury)
    paid = sum(await trial.chain.read_credit(make_address("provider"))) - credit
    assert paid >= CONFIG.jury_bond // 2
    with pytest.raises(ContractRefused) as caught:
        await trial.open()
    assert caught.value.refusal.name == "AlreadyJudged"


async def test_what_no_jury_decides_can_be_tried_again(trial: Trial) -> None:
    case = await trial.open()
    for level in range(3):
        await trial.seat(case)
        trial.wait()
        if level < 2:
            await trial.chain.escalate(case)
            assert (await trial.find("Escalated", id=case)).args["level"] == level + 1
    await trial.chain.close(case, ())
    assert await trial.chain.read_trial(trial.receipt_hash) is None
    again = await trial.open()
    assert again > case
    jury = await trial.judge(again, Verdict.MATCH)
    trial.wait()
    await trial.chain.close(again, jury)


async def test_an_appeal_takes_the_verdict_back(trial: Trial) -> None:
    case = await trial.open()
    await trial.judge(case, Verdict.MATCH)
    await trial.chain.appeal(case)
    appealed = await trial.find("Appealed", id=case)
    assert appealed.args["bond"] == 2 * CONFIG.jury_bond
    assert await trial.chain.read_trial(trial.receipt_hash) == TrialRecord(
        case=case, verdict=0, is_over=False
    )
    jury = await trial.judge(case, Verdict.MATCH)
    trial.wait()
    await trial.chain.close(case, jury)


async def test_a_draw_is_not_made_again_while_its_block_can_be_read(trial: Trial) -> None:
    case = await trial.open()
    trial.court.mine(CONFIG.seed_delay_blocks + 1)
    with pytest.raises(ContractRefused) as caught:
        await trial.chain.redraw(case)
    assert caught.value.refusal.name == "TooEarly"
    jury = await trial.judge(case, Verdict.MATCH)
    trial.wait()
    await trial.chain.close(case, jury)


async def test_nothing_is_sent_where_the_contract_would_refuse(trial: Trial) -> None:
    chain, receipt = trial.chain, trial.receipt
    nonce = count_sent(trial.court)
    trial.court.skip_to(trial.court.now + CONFIG.epoch)
    eligible = await chain.count_eligible()
    assert eligible == len(NAMES), "the last has been listed for an epoch now"
    foreign = change(trial.order, max_fee=trial.order.max_fee + 1)
    fee = change(receipt.body, unit=trial.order.units)
    key = PrivateKey(make_secret("provider"))
    cases = [
        ("WrongEligible", trial.order, receipt, eligible - 1),
        ("WrongHash", foreign, receipt, eligible),
        ("BadIndex", trial.order, key.sign(fee, trial.court.domain).as_signed(), eligible),
        ("WrongSigner", trial.order, change(receipt, signature=bytes(65)), eligible),
    ]
    for name, order, signed, count in cases:
        with pytest.raises(ContractRefused) as caught:
            await chain.accuse_receipt(order, signed, eligible=count)
        assert caught.value.refusal.name == name
    for call in (chain.redraw(10**6), chain.appeal(10**6), chain.close(10**6, ())):
        with pytest.raises(ContractRefused) as caught:
            await call
        assert caught.value.refusal.name == "UnknownCase"
    with pytest.raises(BrokenPrecondition):
        await chain.accuse_receipt(trial.order, receipt, eligible=2**40)
    assert count_sent(trial.court) == nonce


def test_the_books_balance_after_all_of_it(court: Court) -> None:
    """Runs last: no leaf was held, nothing is left held."""
    ledger = check_books(court)
    opened = [each.args for each in ledger.judgements if each.name == "CaseOpened"]
    assert len(opened) >= 5 and not any(args["case_"]["isPosted"] for args in opened)
    assert ledger.held == 0 and ledger.burnt > 0
