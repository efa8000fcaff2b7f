"""Batches as a coordinator posts them, honest or with a fault, for tests of those who watch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.bills import make_bill
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import ZERO_ADDRESS, Address, Hash32
from gpumarket.protocol.ledger import ROLE_VERIFIER
from gpumarket.protocol.objections import Papers, Registry
from gpumarket.protocol.openings import PostedBatch
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import (
    Batch,
    Bill,
    Lane,
    PaymentLeaf,
    compute_fee_evidence,
    make_lanes,
    pack_lanes,
)
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.watching import KnownBatch, Viewer, WatchRules
from gpumarket.testing.factories import DOMAIN, NOW, make_address, make_hash, make_order, sign

COORDINATOR = make_address("coordinator")
DISPUTES = make_address("the disputes contract")
RULES = WatchRules(disputes=DISPUTES, epoch=1_000, open=300, response=300, seed_delay_blocks=4)
POSTED_AT = NOW + 100

Payment = tuple[Address, Address, PaymentLeaf]


@dataclass
class Paid:
    """One order's part of a batch: its payments and the evidence for them."""

    order: Signed[Order]
    domain: Domain = DOMAIN
    payments: list[Payment] = field(default_factory=list)
    receipts: dict[Hash32, Signed[Receipt]] = field(default_factory=dict)
    attestations: dict[Hash32, Signed[Attestation]] = field(default_factory=dict)

    @property
    def order_hash(self) -> Hash32:
        return self.order.body.compute_struct_hash()

    def work(self, unit: int = 0, provider: str = "provider-1", **changes: Any) -> Signed[Receipt]:
        """Pay a unit; the changes are of its leaf and lane, the receipt stays right."""
        receipt = self.make_receipt(unit, provider, price=changes.pop("receipt_price", 700))
        leaf = {"line": unit, "evidence_hash": receipt.body.compute_struct_hash(), "price": 700}
        self._pay(leaf, provider, changes)
        return receipt

    def make_receipt(self, unit: int, provider: str, *, price: int = 700) -> Signed[Receipt]:
        """Sign a receipt and have it in the bill if something pays or checks it."""
        receipt = sign(
            Receipt(
                order_hash=self.order_hash,
                unit=unit,
                provider=make_address(provider),
                result_hash=make_hash(f"result of {unit} by {provider}"),
                price=price,
                finished_at=NOW + 50,
            ),
            provider,
            domain=self.domain,
        )
        self.receipts[receipt.body.compute_struct_hash()] = receipt
        return receipt

    def check(
        self,
        receipt: Signed[Receipt],
        line: int | None = None,
        *,
        verifier: str = "verifier-1",
        verdict: Verdict = Verdict.MATCH,
        **changes: Any,
    ) -> Signed[Attestation]:
        """Pay a re-execution of a receipt."""
        attestation = sign(
            Attestation(
                receipt_hash=receipt.body.compute_struct_hash(),
                verdict=int(verdict),
                evidence_hash=make_hash(f"evidence of {verifier}"),
                issued_at=NOW + 60,
            ),
            verifier,
            domain=self.domain,
        )
        name = attestation.body.compute_struct_hash()
        self.attestations[name] = attestation
        line = self.order.body.units if line is None else line
        self._pay({"line": line, "evidence_hash": name, "price": 90}, verifier, changes)
        return attestation

    def fee(self, price: int = 40, **changes: Any) -> None:
        """Pay the coordinator."""
        evidence = compute_fee_evidence(self.order_hash)
        leaf = {"line": self.order.body.fee_line, "evidence_hash": evidence, "price": price}
        self._pay(leaf, "coordinator", changes)

    def _pay(self, leaf: dict[str, Any], payee: str, changes: dict[str, Any]) -> None:
        requester = changes.pop("requester", self.order.body.requester)
        to = changes.pop("payee", make_address(payee))
        values = {"order_hash": self.order_hash} | leaf | changes
        self.payments.append((requester, to, PaymentLeaf(**values)))

    def make_bill(self) -> Bill:
        leaves = [leaf for _, _, leaf in self.payments]
        return make_bill(self.order, leaves, receipts=self.receipts, attestations=self.attestations)


def make_paid(
    nonce: str = "order", *, signer: str = "", domain: Domain = DOMAIN, **changes: Any
) -> Paid:
    """Start an order: 4 units, 4 checks, a fee, signed by its requester if nobody else is named."""
    values: dict[str, Any] = {
        "requester": make_address("alice"),
        "provider": ZERO_ADDRESS,
        "nonce": make_hash(nonce),
        "max_unit_price": 1_000,
        "max_check_price": 100,
        "max_fee": 50,
    }
    order = make_order(**(values | changes))
    return Paid(sign(order, signer or "alice", domain=domain), domain=domain)


def group_lanes(payments: Iterable[Payment]) -> tuple[Lane, ...]:
    """Make lanes of payments, as `make_lanes` does but for its check that no line pays twice."""
    seen: set[tuple[Hash32, int]] = set()
    once: list[Payment] = []
    again: list[Payment] = []
    for payment in payments:
        line = (payment[2].order_hash, payment[2].line)
        (again if line in seen else once).append(payment)
        seen.add(line)
    lanes = {(lane.requester, lane.payee): list(lane.leaves) for lane in make_lanes(once)}
    for requester, payee, leaf in again:
        lanes.setdefault((requester, payee), []).append(leaf)
    return tuple(
        Lane(requester=requester, payee=payee, leaves=tuple(leaves))
        for (requester, payee), leaves in sorted(lanes.items())
    )


def make_papers(*orders: Paid, coordinator: Address = COORDINATOR) -> Papers:
    """Make the document of a batch that pays these orders, with all bills."""
    bills = {paid.order_hash: paid.make_bill() for paid in orders}
    payments = [payment for paid in orders for payment in paid.payments]
    named = sorted({leaf.order_hash for _, _, leaf in payments})
    return Papers(
        Batch(
            coordinator=coordinator,
            lanes=group_lanes(payments),
            bills=tuple(compute_content_hash(bills[name]) for name in named if name in bills),
        ),
        {name: bills[name] for name in named if name in bills},
    )


def post(
    papers: Papers,
    *,
    sequence: int = 0,
    posted_at: int = POSTED_AT,
    block: int = 10,
    coordinator: Address = COORDINATOR,
) -> KnownBatch:
    """Return the batch as the chain shows it."""
    packed = pack_lanes(papers.document.lanes)
    posted = PostedBatch(
        coordinator=coordinator,
        sequence=sequence,
        posted_at=posted_at,
        data_hash=compute_content_hash(papers.document),
        root=packed.root,
        requesters=packed.requesters,
        payees=packed.payees,
        lanes=packed.lanes,
    )
    return KnownBatch(posted=posted, block=block)


def make_viewer(name: str = "alice", **changes: Any) -> Viewer:
    """A requester that watches its own escrow and its coordinator."""
    me = make_address(name)
    values: dict[str, Any] = {
        "me": me,
        "payers": frozenset({make_address("alice")}),
        "coordinators": frozenset({COORDINATOR}),
    }
    return Viewer(**(values | changes))


def make_registry(**changes: Any) -> Registry:
    """The verifiers of these tests are registered."""
    roles = {make_address(f"verifier-{i}"): ROLE_VERIFIER for i in (1, 2)}
    values: dict[str, Any] = {"domain": DOMAIN, "roles": roles}
    return Registry(**(values | changes))
