"""
Python and the contracts say the same of every order, leaf, opening and evidence.

Hypothesis draws payments that are mostly right, each with some lie in it; they are posted on a real
node, and every hash, place and verdict of the contracts is compared with what Python computes. All
counters at the end must be above zero: a verdict that never came was not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.adapters.chain_errors import ContractRefusal
from gpumarket.adapters.deployment import deploy_devnet
from gpumarket.adapters.disputes_abi import (
    decode_place,
    encode_batch,
    encode_evidence,
    encode_leaf,
    encode_opening,
    encode_order,
    encode_place,
)
from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.disputes import (
    LeafEvidence,
    LeafFault,
    Standing,
    check_evidence,
    find_leaf_fault,
)
from gpumarket.protocol.ids import ZERO_ADDRESS, ZERO_HASH, Address
from gpumarket.protocol.ledger import ROLE_VERIFIER
from gpumarket.protocol.openings import (
    EMPTY_LEAF,
    LeafOpening,
    Place,
    PostedBatch,
    Reason,
    WouldRefuse,
    compute_width,
    make_opening,
    open_leaf,
)
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Lane, PaymentLeaf, compute_fee_evidence
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.factories import change, make_address, make_hash, make_secret
from tests.integration.court import CONFIG, DAY, Court, open_court

EXAMPLES: Final = 20
VARIANTS: Final = 3
"""Of each lie of each kind of payment."""
GROUP_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
U32_MAX: Final = 2**32 - 1
UNIT_CAP, CHECK_CAP, FEE_CAP = 1_000, 400, 90
ROLES: Final = {"provider": 1, "verifier": ROLE_VERIFIER}
NAMES: Final = ("alice", "bob", "coordinator", "mallory", "provider", "verifier", "watcher")
PARTIES: Final = {make_address(name): name for name in NAMES}

seen: Counter[object] = Counter()
"""How often each verdict was compared."""


@dataclass(frozen=True)
class Payment:
    """A leaf, its parties, and what is shown for it."""

    requester: Address
    payee: Address
    leaf: PaymentLeaf
    evidence: LeafEvidence


@pytest.fixture(scope="module")
def court(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Court]:
    with run_anvil(tmp_path_factory.mktemp("agrees"), block_seconds=None) as url:
        court = open_court(url, *trio.run(deploy_devnet, url, CONFIG))
        for name in ("alice", "bob", "watcher"):
            court.pay_in(name, 10**12, "deposit")
        court.pay_in("coordinator", CONFIG.min_bond, "bond")
        court.stake("provider", "Provider")
        court.stake("verifier", "Verifier")
        yield court


# ---- drawing -------------------------------------------------------------------------------


LIES: Final = (
    "requester", "coordinator", "named provider", "other provider", "no units", "many units",
    "many checks", "free", "unbounded", "late", "at the last second", "early", "line", "price",
    "receipt order", "receipt unit", "receipt provider", "receipt price", "attestation receipt",
    "verdict", "payee", "order", "evidence", "order signature", "receipt signature",
    "attestation signature",
)  # fmt: skip
"""What can be wrong with a payment, or at its bound."""
KINDS: Final = ("work", "check", "fee")


class Draw:
    """Values of one payment: right, but for the few lies that were drawn for it."""

    def __init__(self, random: Random, kind: str = "", lies: frozenset[str] = frozenset()) -> None:
        self.kind = kind
        self._random = random
        self._lies = lies

    def begin(self) -> Draw:
        """Draw the kind of a payment and its lies: none, one or two."""
        lies = self._random.choices(LIES, k=self.one(0, 1, 1, 2))
        return Draw(self._random, self.one(*KINDS), frozenset(lies))

    def tell(self, lie: str, right: Any, *wrong: Any) -> Any:
        """Return what is right, or one of the others where this lie was drawn."""
        return self.one(*wrong) if lie in self._lies else right

    def one(self, *values: Any) -> Any:
        return self._random.choice(values)

    def number(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


def draw_order(draw: Draw, time: int, requester: Address) -> Order:
    mallory, provider = make_address("mallory"), make_address("provider")
    settle_by = draw.tell("late", time + 3_600, time - 1)
    settle_by = draw.tell("at the last second", settle_by, time)
    units = draw.tell("no units", draw.number(1, 3), 0)
    named = draw.tell("named provider", ZERO_ADDRESS, provider)
    return Order(
        requester=draw.tell("requester", requester, ZERO_ADDRESS, mallory),
        coordinator=draw.tell("coordinator", make_address("coordinator"), mallory),
        provider=draw.tell("other provider", named, make_address("bob")),
        job_hash=make_hash("job"),
        verify_hash=make_hash("verify"),
        units=draw.tell("many units", units, U32_MAX),
        checks=draw.tell("many checks", draw.number(1, 2), U32_MAX),
        max_unit_price=draw.tell("unbounded", draw.tell("free", UNIT_CAP, 0), 2**64 - 1),
        max_check_price=CHECK_CAP,
        max_fee=FEE_CAP,
        settle_by=draw.tell("early", settle_by, time + 1),
        expiry=time + 7_200,
        nonce=draw.number(0, 2**64).to_bytes(32, "big"),
    )


def draw_payment(draw: Draw, court: Court, time: int) -> Payment:
    requester = make_address(draw.one("alice", "bob"))
    order = draw_order(draw, time, requester)
    order_hash = order.compute_struct_hash()
    line = {
        "work": draw.one(0, max(order.units - 1, 0)),
        "check": draw.one(order.units, max(order.fee_line - 1, order.units)),
        "fee": order.fee_line,
    }[draw.kind]
    line = min(draw.tell("line", line, line + 1, order.fee_line + 1, U32_MAX), U32_MAX)
    cap = order.find_line_cap(line) or 0
    price = draw.tell("price", draw.one(0, min(1, cap), cap), cap + 1) % 10**6
    unit = line if draw.kind == "work" else draw.one(0, max(order.units - 1, 0))
    verifier = make_address("verifier")
    receipt = Receipt(
        order_hash=draw.tell("receipt order", order_hash, ZERO_HASH),
        unit=min(draw.tell("receipt unit", unit, unit ^ 1, order.units), U32_MAX),
        provider=draw.tell("receipt provider", make_address("provider"), verifier, ZERO_ADDRESS),
        result_hash=make_hash("result"),
        price=draw.tell("receipt price", price, price + 1, 2**64 - 1),
        finished_at=time,
    )
    attestation = Attestation(
        receipt_hash=draw.tell("attestation receipt", receipt.compute_struct_hash(), ZERO_HASH),
        verdict=draw.tell("verdict", draw.one(1, 2), 0, Verdict.INCONCLUSIVE, 255),
        evidence_hash=make_hash("evidence"),
        issued_at=time,
    )
    name, payee = {
        "work": (receipt.compute_struct_hash(), make_address("provider")),
        "check": (attestation.compute_struct_hash(), verifier),
        "fee": (compute_fee_evidence(order_hash), make_address("coordinator")),
    }[draw.kind]
    others = (make_address(other) for other in ("provider", "verifier", "bob"))
    payee = draw.tell("payee", payee, *others)
    leaf = PaymentLeaf(
        order_hash=draw.tell("order", order_hash, make_hash("other order")),
        line=line,
        evidence_hash=draw.tell("evidence", name, make_hash("other evidence")),
        price=price,
    )
    evidence = LeafEvidence(
        order=order,
        order_signature=sign(draw, court, order, order.requester, lie="order signature"),
        receipt=receipt,
        receipt_signature=sign(draw, court, receipt, receipt.provider, lie="receipt signature"),
        attestation=attestation,
        attestation_signature=sign(draw, court, attestation, payee, lie="attestation signature"),
    )
    return Payment(requester, payee, leaf, evidence)


def sign(draw: Draw, court: Court, value: Any, signer: Address, *, lie: str) -> bytes:
    """Sign, by who should and as it should be unless this is a lie."""
    right = compute_signature(PARTIES.get(signer, "mallory"), value, court)
    r, s, v = right[:32], int.from_bytes(right[32:64], "big"), right[64]
    high = (GROUP_ORDER - s).to_bytes(32, "big")
    return draw.tell(  # type: ignore[no-any-return]  # one of these
        lie,
        right,
        compute_signature("mallory", value, court),
        b"",
        right[:64],
        right + b"\0",
        r + high + bytes([55 - v]),
        right[:64] + bytes([v - 27]),
        right[:64] + bytes([55 - v]),
        right[:64] + b"\x1d",
        bytes(32) + right[32:],
        r + bytes(32) + bytes([v]),
        b"\xff" * 64 + bytes([v]),
        bytes(65),
    )


def compute_signature(name: str, value: Any, court: Court) -> bytes:
    return PrivateKey(make_secret(name)).sign(value, court.domain).signature


def group(payments: list[Payment]) -> tuple[Lane, ...]:
    """Put payments into lanes as they come: nobody has to sort a batch as we do."""
    lanes: dict[tuple[Address, Address], list[PaymentLeaf]] = {}
    for payment in payments:
        lanes.setdefault((payment.requester, payment.payee), []).append(payment.leaf)
    return tuple(
        Lane(requester=requester, payee=payee, leaves=tuple(leaves))
        for (requester, payee), leaves in lanes.items()
    )


# ---- comparing -----------------------------------------------------------------------------


def expect_same(answer: object, refusal: WouldRefuse | None) -> None:
    """Check that the contract's refusal is Python's, with every value; or that both agree."""
    if refusal is None:
        assert not isinstance(answer, ContractRefusal), answer
        return
    assert isinstance(answer, ContractRefusal), refusal.message
    values = {
        name: value.encode().ljust(32, b"\0") if isinstance(value, str) else value
        for name, value in refusal.values.items()
    }
    assert (answer.name, answer.args) == (refusal.reason.value, values)


def judge(court: Court, place: Place, payment: Payment, leaf: PaymentLeaf) -> WouldRefuse | None:
    order = payment.evidence.order
    name = (court.web3.to_checksum_address(order.requester), order.compute_struct_hash())
    is_presigned = court.disputes.functions.isPresigned(*name).call()
    standing = Standing(
        domain=court.domain,
        roles={make_address(name): role for name, role in ROLES.items()},
        is_presigned=is_presigned,
    )
    try:
        check_evidence(place, leaf, payment.evidence, standing=standing)
    except WouldRefuse as refusal:
        return refusal
    return None


def compare_opening(court: Court, batch: PostedBatch, opening: LeafOpening) -> Place | None:
    """Compare what both say of an opening; return the place where it is right."""
    name = (court.web3.to_checksum_address(batch.coordinator), batch.sequence)
    stored = court.settlement.functions.batchOf(*name).call()
    answer = court.open(batch, opening)
    try:
        place = open_leaf(batch, opening, stored=stored)
    except WouldRefuse as refusal:
        expect_same(answer, refusal)
        seen[refusal.reason] += 1
        return None
    expect_same(answer, None)
    assert encode_place(place) == tuple(answer)
    seen["padding" if opening.leaf == EMPTY_LEAF else "open"] += 1
    return place


def compare_proof(court: Court, batch: PostedBatch, opening: LeafOpening, order: Order) -> None:
    """Compare whether both find a fault by the order alone."""
    function = court.disputes.functions.proveBadLeaf(
        encode_batch(batch), encode_opening(opening), encode_order(order)
    )
    answer = court.ask(function, make_address("watcher"))
    place = open_leaf(batch, opening, stored=batch.compute_hash())
    if opening.leaf.order_hash != order.compute_struct_hash():
        assert isinstance(answer, ContractRefusal) and answer.name == "WrongHash"
        return
    fault = find_leaf_fault(place, opening.leaf, order)
    is_refused = isinstance(answer, ContractRefusal)
    assert is_refused == (fault is LeafFault.NONE), (fault, answer)
    assert not is_refused or answer.name == "NoFault"
    seen[fault] += 1


def compare_evidence(
    court: Court, batch: PostedBatch, opening: LeafOpening, shown: list[Payment]
) -> None:
    """Challenge a leaf, and compare what both say of each evidence for it."""
    functions = court.disputes.functions
    function = functions.challengeLeaf(encode_batch(batch), encode_opening(opening))
    event = court.do(function, make_address("watcher")).get("Challenged")
    fields = event["challenge"]
    place = decode_place(fields["place"])
    challenge = (
        encode_place(place),
        fields["leafHash"],
        fields["price"],
        court.web3.to_checksum_address(fields["challenger"]),
        fields["deadline"],
    )
    for payment in shown:
        function = functions.respond(
            event["id"], challenge, encode_leaf(opening.leaf), encode_evidence(payment.evidence)
        )
        refusal = judge(court, place, payment, opening.leaf)
        expect_same(court.ask(function, make_address("watcher")), refusal)
        is_fault = refusal is not None and refusal.reason is Reason.FAULTY_LEAF
        seen[("evidence", refusal.reason if refusal else None)] += 1
        if is_fault and refusal is not None:
            seen[("fault", LeafFault(int(str(refusal.values["fault"]))))] += 1


def list_lies(draw: Draw, opening: LeafOpening, width: int) -> list[LeafOpening]:
    """Return openings that are wrong, or right by chance."""
    leaf, path = opening.leaf, opening.path
    lies = [
        change(opening, index=draw.one(0, opening.index ^ 1, width - 1, width, U32_MAX)),
        change(opening, lane=draw.one(0, opening.lane ^ 1, 255, 2**16 - 1)),
        change(opening, leaf=change(leaf, price=draw.one(leaf.price ^ 1, 2**64 - 1))),
        change(opening, leaf=draw.one(EMPTY_LEAF, change(leaf, line=leaf.line ^ 1))),
        change(opening, path=draw.one(path[1:], path[:-1], (*path, (ZERO_HASH, 0)))),
    ]
    if path:
        at = draw.number(0, len(path) - 1)
        name, amount = path[at]
        # The second sum runs over 64 bits, and back to what it should be.
        node = draw.one((make_hash("x"), amount), (name, amount ^ 1), (name, 2**64 - 1))
        lies.append(change(opening, path=(*path[:at], node, *path[at + 1 :])))
    return lies


# ---- the tests -----------------------------------------------------------------------------


def test_each_lie_alone_is_judged_alike(court: Court) -> None:
    random = Random(VARIANTS)
    time = court.now + DAY
    payments = [
        draw_payment(Draw(random, kind, frozenset([lie])), court, time)
        for kind in KINDS
        for lie in LIES
        for _ in range(VARIANTS)
    ]
    # Signed by transaction instead: what stands for its signature is not looked at.
    number = LIES.index("order signature") * VARIANTS
    order = payments[number].evidence.order
    court.do(court.disputes.functions.presign(encode_order(order)), order.requester)
    random.shuffle(payments)
    lanes = group(payments)
    court.set_next_time(time)
    batch = court.post(make_address("coordinator"), lanes)
    for number, lane in enumerate(lanes):
        for index in range(compute_width(len(lane.leaves))):
            opening = make_opening(lanes, number, index)
            assert compare_opening(court, batch, opening) is not None
            if opening.leaf == EMPTY_LEAF:
                for lie in ({"line": 1}, {"price": 1}, {"order_hash": b"x" * 32}):
                    lied = change(opening, leaf=change(EMPTY_LEAF, **lie))
                    assert compare_opening(court, batch, lied) is None
            else:
                own = find_payment(payments, opening.leaf)
                compare_proof(court, batch, opening, own.evidence.order)
                compare_evidence(court, batch, opening, [own])


@settings(max_examples=EXAMPLES)
@given(st.randoms(use_true_random=True))
def test_contracts_and_python_agree(court: Court, random: Random) -> None:
    draw = Draw(random)
    time = court.now + draw.number(1, 5)
    payments = [draw_payment(draw.begin(), court, time) for _ in range(draw.number(1, 6))]
    lanes = group(payments)
    court.set_next_time(time)
    batch = court.post(make_address("coordinator"), lanes)
    assert batch.posted_at == time
    name = (court.web3.to_checksum_address(batch.coordinator), batch.sequence)
    assert court.settlement.functions.batchOf(*name).call() == batch.compute_hash()
    for number, lane in enumerate(lanes):
        index = draw.number(0, len(lane.leaves) - 1)
        opening = make_opening(lanes, number, index)
        assert compare_opening(court, batch, opening) is not None
        for lie in list_lies(draw, opening, compute_width(len(lane.leaves))):
            compare_opening(court, batch, lie)
        shown = [find_payment(payments, opening.leaf), draw.one(*payments)]
        for payment in shown:
            compare_proof(court, batch, opening, payment.evidence.order)
        compare_evidence(court, batch, opening, shown)
    lied = change(batch, **draw.one({"posted_at": time + 1}, {"sequence": 10**6}, {"lanes": b""}))
    compare_opening(court, lied, make_opening(lanes, 0, 0))


def find_payment(payments: list[Payment], leaf: PaymentLeaf) -> Payment:
    return next(each for each in payments if each.leaf == leaf)


def test_every_verdict_was_compared() -> None:
    """Runs after the tests above; what is missing here was never tried."""
    openings = {"open", "padding", Reason.UNKNOWN_BATCH, Reason.BAD_INDEX}
    openings |= {Reason.BAD_PATH_LENGTH, Reason.BAD_OPENING}
    evidences = {None, *Reason} - {each for each in openings if isinstance(each, Reason)}
    wanted: set[object] = openings | set(LeafFault) | {("evidence", each) for each in evidences}
    wanted |= {("fault", fault) for fault in LeafFault if fault is not LeafFault.NONE}
    assert {each for each in wanted if not seen[each]} == set()
