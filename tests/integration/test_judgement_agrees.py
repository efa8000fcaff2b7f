"""Python and the contracts agree on juries, quorums, windows and slashes, and on what is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pytest
import trio

from gpumarket.adapters.chain_errors import ContractRefusal, convert_value
from gpumarket.adapters.deployment import deploy_devnet
from gpumarket.adapters.disputes_abi import (
    encode_account,
    encode_attestation,
    encode_batch,
    encode_opening,
    encode_order,
    encode_receipt,
)
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.disputes import (
    compute_maturity,
    find_last_challenge,
    find_last_proof,
    split_slash,
)
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Address
from gpumarket.protocol.juries import (
    JURY_SIZES,
    JuryRules,
    VerifierRecord,
    compute_jury_seed,
    compute_quorum,
    count_eligible,
    draw_jury,
)
from gpumarket.protocol.openings import LeafOpening, Place, PostedBatch, locate, make_opening
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane, PaymentLeaf
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.factories import (
    make_address,
    make_hash,
    make_order,
    make_secret,
)
from tests.integration.court import CONFIG as SHORT
from tests.integration.court import DAY, Court, Done, check_books, open_court

CONFIG: Final = replace(SHORT, epoch=12 * DAY, exit_delay=24 * DAY)
"""Long enough for a case to go through all juries before anything matures."""
OPERATORS: Final = 36
LEAVERS: Final = (5, 6, *range(28, OPERATORS))
LATE_LEAVERS: Final = tuple(range(16, 28))
CASES: Final = 3
DRAWN_AGAIN_MAX: Final = 5
PRICE: Final = 700
WATCHER, COORDINATOR = make_address("watcher"), make_address("coordinator")
OPERATOR_NAMES: Final = {make_address(f"verifier {i}"): f"verifier {i}" for i in range(OPERATORS)}


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with run_anvil(tmp_path_factory.mktemp("judgement"), block_seconds=None) as url:
        court = open_court(url, *trio.run(deploy_devnet, url, CONFIG))
        for name in ("alice", "watcher"):
            court.pay_in(name, 10**12, "deposit")
        court.pay_in("coordinator", 4 * CONFIG.min_bond, "bond")
        court.stake("provider", "Provider", payout="provider's purse", amount=10 * CONFIG.min_stake)
        for number in range(OPERATORS):
            # One is paid where the requester is, one where the provider is: neither may judge.
            payout = {3: "alice", 4: "provider's purse"}.get(number, f"purse {number}")
            court.stake(f"verifier {number}", "Verifier", payout=payout)
        # So many leave that the largest jury cannot be filled.
        for number in LEAVERS:
            leave(court, f"verifier {number}")
        court.skip_to(court.now + CONFIG.epoch + DAY)
        # One comes back too late, one is new.
        court.stake("verifier 6", "Verifier", payout="purse 6")
        court.stake("late verifier", "Verifier")
        yield court


def leave(court: Court, name: str) -> None:
    account = make_address(name)
    function = court.settlement.functions.requestUnstake(encode_account(account), CONFIG.min_stake)
    court.do(function, account)


class Work:
    """One unit of work that was paid, and all that says so."""

    def __init__(self, court: Court, number: int) -> None:
        self.court = court
        self.order: Order = make_order(
            requester=make_address("alice"),
            units=1,
            checks=0,
            max_unit_price=PRICE,
            settle_by=court.now + 9 * DAY,
            expiry=court.now + 10 * DAY,
            nonce=make_hash(f"nonce {number}"),
        )
        self.receipt = Receipt(
            order_hash=self.order.compute_struct_hash(),
            unit=0,
            provider=make_address("provider"),
            result_hash=make_hash("result"),
            price=PRICE,
            finished_at=court.now,
        )
        self.signature = sign("provider", self.receipt, court)

    def post(self, *, price: int = PRICE) -> tuple[PostedBatch, LeafOpening]:
        leaf = PaymentLeaf(
            order_hash=self.receipt.order_hash,
            line=0,
            evidence_hash=self.receipt.compute_struct_hash(),
            price=price,
        )
        lane = Lane(requester=self.order.requester, payee=self.receipt.provider, leaves=(leaf,))
        return self.court.post(COORDINATOR, [lane]), make_opening([lane], 0, 0)

    def accuse(self, batch: PostedBatch, opening: LeafOpening, eligible: int) -> Any:
        return self.court.jury.functions.accuse(
            encode_batch(batch),
            encode_opening(opening),
            encode_receipt(self.receipt),
            self.signature,
            eligible,
        )


def sign(name: str, value: Any, court: Court) -> bytes:
    return PrivateKey(make_secret(name)).sign(value, court.domain).signature


def read_verifiers(court: Court) -> list[VerifierRecord]:
    """Read the whole list as the contract has it now."""
    calls = court.settlement.functions
    found = []
    for index in range(calls.verifierCount().call()):
        operator, listed_at = calls.verifierAt(index).call()
        payout, _, staked_at, stake, unstaking, *_ = calls.operatorOf(operator).call()
        found.append(
            VerifierRecord(
                operator=convert_value(operator),
                listed_at=listed_at,
                staked_at=staked_at,
                stake=stake - unstaking,
                payout=convert_value(payout),
            )
        )
    return found


def compare_jury(court: Court, case: int, level: int, batch: PostedBatch) -> tuple[Address, ...]:
    """Seat the jury of a level and compare it with the one that Python draws."""
    fields = court.jury.functions.caseOf(case).call()
    draw_block, eligible = fields[8], fields[4]
    court.mine(CONFIG.seed_delay_blocks + 1)
    header = court.read_header(draw_block + CONFIG.seed_delay_blocks)
    done = court.do(court.jury.functions.seatJury(case, header), WATCHER)
    seated = done.get("JurySeated")
    seed = compute_jury_seed(
        chain_id=court.domain.chain_id,
        jury=bytes.fromhex(court.jury.address[2:]),
        case=case,
        level=level,
        mix_hash=decode_header_untrusted(header).mix_hash,
    )
    place = make_place(batch)
    payout = court.settlement.functions.payoutOf(encode_account(place.payee)).call()
    jury = draw_jury(
        read_verifiers(court),
        eligible=eligible,
        seed=seed,
        level=level,
        place=place,
        rules=JuryRules(
            epoch=CONFIG.epoch,
            min_stake=CONFIG.min_stake,
            payouts={place.payee: convert_value(payout)},
        ),
    )
    assert (seated["seed"], tuple(seated["jury"])) == (seed, jury)
    assert (seated["level"], seated["deadline"]) == (level, done.time + CONFIG.response)
    answer = court.ask(court.jury.functions.decide(case, seated["jury"], []), WATCHER)
    assert isinstance(answer, ContractRefusal)
    quorum = compute_quorum(level, len(jury))
    assert (answer.name, answer.args) == ("NoQuorum", {"needed": quorum, "actual": 0})
    return jury


def make_place(batch: PostedBatch) -> Place:
    return locate(batch, 0, 0, stored=batch.compute_hash())


def open_case(court: Court, work: Work) -> tuple[int, PostedBatch]:
    """Accuse paid work; compare how many verifiers may judge it."""
    batch, opening = work.post()
    listed = [each.listed_at for each in read_verifiers(court)]
    eligible = count_eligible(listed, posted_at=batch.posted_at, epoch=CONFIG.epoch)
    assert 0 < eligible <= len(listed)
    for other in (eligible - 1, eligible + 1, 0, len(listed) + 1):
        answer = court.ask(work.accuse(batch, opening, other), WATCHER)
        assert isinstance(answer, ContractRefusal)
        values = {"listed": len(listed), "actual": other}
        assert (answer.name, answer.args) == ("WrongEligible", values)
    case = court.do(work.accuse(batch, opening, eligible), WATCHER).get("CaseOpened")["id"]
    return case, batch


# ---- the tests -----------------------------------------------------------------------------


def test_every_jury_is_the_one_that_python_draws(court: Court) -> None:
    short = 0
    for number in range(CASES):
        case, batch = open_case(court, Work(court, number))
        for level in range(len(JURY_SIZES)):
            jury = compare_jury(court, case, level, batch)
            short += len(jury) < JURY_SIZES[level]
            barred = {f"verifier {each}" for each in (3, 4, *LEAVERS)} | {"late verifier"}
            assert not {make_address(name) for name in barred} & set(jury)
            court.skip_to(court.now + CONFIG.response + 1)
            if level < len(JURY_SIZES) - 1:
                court.do(court.jury.functions.escalate(case), WATCHER)
        closed = court.do(court.jury.functions.close(case, []), WATCHER)
        assert closed.get("CaseClosed")["verdict"] == 0
    assert 0 < short < CASES * len(JURY_SIZES)


def test_a_conviction_is_shared_as_python_says(court: Court) -> None:
    work = Work(court, CASES)
    case, batch = open_case(court, work)
    jury = compare_jury(court, case, 0, batch)
    attestation = Attestation(
        receipt_hash=work.receipt.compute_struct_hash(),
        verdict=int(Verdict.MISMATCH),
        evidence_hash=make_hash("evidence"),
        issued_at=court.now,
    )
    votes = [
        (seat, encode_attestation(attestation), sign(OPERATOR_NAMES[juror], attestation, court))
        for seat, juror in enumerate(jury)
    ]
    names = [encode_account(juror) for juror in jury]
    refused = court.ask(court.jury.functions.decide(case, names, votes[1:]), WATCHER)
    assert isinstance(refused, ContractRefusal) and refused.name == "NoQuorum"
    court.do(court.jury.functions.decide(case, names, votes), WATCHER)
    court.skip_to(court.now + CONFIG.response + 1)
    done = court.do(court.jury.functions.close(case, names), WATCHER)
    expect_split(done, taken=CONFIG.stake_slash, jurors=len(jury))


def test_a_bad_leaf_is_proven_to_the_last_second_and_shared_as_python_says(court: Court) -> None:
    work = Work(court, CASES + 1)
    batch, opening = work.post(price=PRICE + 1)
    prove = court.disputes.functions.proveBadLeaf(
        encode_batch(batch), encode_opening(opening), encode_order(work.order)
    )
    last = find_last_proof(batch.posted_at, epoch=CONFIG.epoch)
    later = try_at(court, last + 1, prove)
    assert isinstance(later, ContractRefusal) and later.name == "CreditMatured"
    done = try_at(court, last, prove)
    assert isinstance(done, Done)
    expect_split(done, taken=CONFIG.bond_slash, jurors=0)


def test_a_leaf_is_challenged_to_the_last_second(court: Court) -> None:
    batch, opening = Work(court, CASES + 2).post()
    challenge = court.disputes.functions.challengeLeaf(encode_batch(batch), encode_opening(opening))
    last = find_last_challenge(batch.posted_at, open_seconds=CONFIG.open)
    later = try_at(court, last + 1, challenge)
    assert isinstance(later, ContractRefusal)
    assert (later.name, later.args["latest"]) == ("TooLate", last)
    assert isinstance(try_at(court, last, challenge), Done)


def test_credit_can_be_claimed_from_the_second_it_matures(court: Court) -> None:
    batch, _ = Work(court, CASES + 3).post()
    payee = encode_account(make_address("provider"))
    maturity = compute_maturity(batch.posted_at, epoch=CONFIG.epoch)
    waiting = []
    for time in (maturity - 1, maturity):
        snapshot = court.rpc("evm_snapshot")
        court.skip_to(time)
        _, previous, current, _ = court.settlement.functions.payeeOf(payee).call()
        waiting.append(previous + current)
        court.rpc("evm_revert", snapshot)
    assert waiting[0] >= PRICE and waiting[1] == 0


def test_a_jury_that_cannot_be_filled_needs_its_share_of_votes(court: Court) -> None:
    """Compares quorums of sizes that nobody planned: 14 of 15, rounded up."""
    for number in LATE_LEAVERS:
        leave(court, f"verifier {number}")
    sizes: list[int] = []
    for attempt in range(DRAWN_AGAIN_MAX):
        sizes = draw_all_levels(court, Work(court, CASES + 4 + attempt))
        if sizes == [5, 14, 14]:
            break
    # In one case of some fifty the draws end before they have found all fourteen.
    assert sizes == [5, 14, 14]


def draw_all_levels(court: Court, work: Work) -> list[int]:
    """Draw a case's three juries, none of which votes; return how many sit in each."""
    case, batch = open_case(court, work)
    sizes = []
    for level in range(len(JURY_SIZES)):
        sizes.append(len(compare_jury(court, case, level, batch)))
        court.skip_to(court.now + CONFIG.response + 1)
        if level < len(JURY_SIZES) - 1:
            court.do(court.jury.functions.escalate(case), WATCHER)
    return sizes


def test_all_balances_are_rebuilt_from_the_events_alone(court: Court) -> None:
    """Runs last: after juries, a conviction, a proof and a challenge."""
    ledger = check_books(court)
    assert {"CaseOpened", "LeafVoided", "Challenged"} <= {each.name for each in ledger.judgements}
    assert ledger.held > 0 and ledger.burnt > 0


def try_at(court: Court, time: int, function: Any) -> Done | ContractRefusal:
    """Send a transaction in a block of this time, and go back where it was refused."""
    snapshot = court.rpc("evm_snapshot")
    court.set_next_time(time)
    done = court.send(function, WATCHER)
    if isinstance(done, ContractRefusal):
        court.rpc("evm_revert", snapshot)
    return done


def expect_split(done: Done, *, taken: int, jurors: int) -> None:
    """Compare a slash with Python's, and what was burnt with what is nobody's."""
    slashed = done.get("Slashed")
    split = split_slash(taken, challenge_bond=CONFIG.challenge_bond, has_harmed=True, jurors=jurors)
    assert slashed["amount"] == taken
    assert slashed["toReporter"] == split.to_reporter
    assert slashed["toHarmed"] == split.to_harmed
    assert slashed["toJurors"] == split.to_jurors
    # What a lost bond burns comes after.
    burnt = [args["amount"] for name, args in done.events if name == "Given" and args["to"] == 4]
    assert burnt[0] == split.burnt
