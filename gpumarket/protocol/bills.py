"""
Bills: which evidence belongs into one, and the evidence of one leaf found in it.

Coordinator and auditor make a bill by the same rule, so that its hash can be checked; whoever
answers or raises a challenge takes the evidence out of it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.disputes import LeafEvidence
from gpumarket.protocol.ids import ZERO_ADDRESS, ZERO_HASH, Address, Hash32
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.settlement import Bill, PaymentLeaf
from gpumarket.protocol.signing import Domain, Signable, Signed, recover_signer

NO_RECEIPT: Final = Receipt(
    order_hash=ZERO_HASH,
    unit=0,
    provider=ZERO_ADDRESS,
    result_hash=ZERO_HASH,
    price=0,
    finished_at=0,
)
NO_ATTESTATION: Final = Attestation(
    receipt_hash=ZERO_HASH, verdict=0, evidence_hash=ZERO_HASH, issued_at=0
)
"""What stands in evidence that needs none: the contract does not look at it."""

S = TypeVar("S", bound=Signable)


def make_bill(
    order: Signed[Order],
    leaves: Iterable[PaymentLeaf],
    *,
    receipts: Mapping[Hash32, Signed[Receipt]],
    attestations: Mapping[Hash32, Signed[Attestation]],
) -> Bill:
    """
    Make the bill of one order's leaves out of all that is known, by struct hash.

    A check that found a receipt wrong is paid too, so the receipts of checks are in it, paid or
    not: without them nobody could show that the check was of this order.
    """
    names = [leaf.evidence_hash for leaf in sorted(leaves, key=lambda leaf: leaf.line)]
    checked = [attestations[name] for name in names if name in attestations]
    done = [
        attestations[name].body.receipt_hash if name in attestations else name for name in names
    ]
    return Bill(
        order=order,
        receipts=tuple(receipts[name] for name in dict.fromkeys(done) if name in receipts),
        attestations=tuple(checked),
    )


def find_leaf_evidence(
    bill: Bill, leaf: PaymentLeaf, *, payee: Address, domain: Domain
) -> LeafEvidence:
    """
    Return what a bill has to say for a leaf of its order.

    What is missing stands there empty and will not do: `check_evidence` says whether it does.
    """
    order = bill.order
    receipt_hash, attestation = leaf.evidence_hash, None
    if leaf.line >= order.body.units:
        by_payee = [(each, payee) for each in bill.attestations]
        attestation = _find(by_payee, leaf.evidence_hash, domain)
        receipt_hash = ZERO_HASH if attestation is None else attestation.body.receipt_hash
    by_provider = [(each, each.body.provider) for each in bill.receipts]
    receipt = _find(by_provider, receipt_hash, domain)
    return LeafEvidence(
        order=order.body,
        order_signature=order.signature,
        receipt=NO_RECEIPT if receipt is None else receipt.body,
        receipt_signature=b"" if receipt is None else receipt.signature,
        attestation=NO_ATTESTATION if attestation is None else attestation.body,
        attestation_signature=b"" if attestation is None else attestation.signature,
    )


def _find(
    candidates: Sequence[tuple[Signed[S], Address]], name: Hash32, domain: Domain
) -> Signed[S] | None:
    """Return the one of this name that its signer has signed, else any of this name."""
    found = [pair for pair in candidates if pair[0].body.compute_struct_hash() == name]
    digest = domain.compute_digest(name)
    # A second one with a bad signature is no fault: whoever answers would take the good one.
    for signed, signer in found:
        if recover_signer(digest, signed.signature) == signer:
            return signed
    return found[0][0] if found else None
