"""
Approvals: who vouches for a receipt besides its provider, so that it can be settled directly.

`settleDirect` takes a requester's acceptance, or the MATCH of a verifier. Both travel as
`Approvals` of one order: in a file from hand to hand, or in the message `ReceiptsApproved`.
"""

from __future__ import annotations

from typing import ClassVar, Final, TypeVar

import msgspec

from gpumarket.protocol.attestation import Attestation, Verdict
from gpumarket.protocol.codec import from_dag_json_untrusted
from gpumarket.protocol.disputes import Acceptance
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.order import Order
from gpumarket.protocol.receipt import Receipt
from gpumarket.protocol.signing import Domain, Signable, Signed, verify

APPROVALS_BYTES_MAX: Final = 32 * 2**20
"""The longest file: some 20,000 receipts."""
APPROVAL_BYTES_MAX: Final = 8_192

S = TypeVar("S", bound=Signable)


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receipt with the word of one or two others for it; claims only, `check_approval` checks."""

    receipt: Signed[Receipt]
    acceptance: Signed[Acceptance] | None = None
    """Its requester's."""
    attestation: Signed[Attestation] | None = None
    """A verifier's MATCH."""

    @property
    def receipt_hash(self) -> Hash32:
        """What the receipt is called on chain."""
        return self.receipt.body.compute_struct_hash()

    def list_words(self) -> tuple[Hash32, ...]:
        """Return the struct hashes of what is signed besides the receipt: its words."""
        words = (self.acceptance, self.attestation)
        return tuple(word.body.compute_struct_hash() for word in words if word is not None)

    def merge(self, other: Approval) -> Approval:
        """Return both words for the same receipt; of two of a kind ours stays."""
        return Approval(
            receipt=self.receipt,
            acceptance=self.acceptance or other.acceptance,
            attestation=self.attestation or other.attestation,
        )


class Approvals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Approvals of one order's receipts, perhaps of several providers."""

    KIND: ClassVar[str] = "gpumarket.approvals.v1"

    order: Order
    """Its signature is not needed: who signed the receipt has seen it."""
    approvals: tuple[Approval, ...]


def check_approval(approval: Approval, *, order: Order, domain: Domain) -> None:
    """
    Raise `RemoteProtocolError` unless the provider, and all whose word it is, have signed.

    Whether a verifier is registered only the chain can say.
    """
    receipt, provider = approval.receipt.body, approval.receipt.body.provider
    if receipt.order_hash != order.compute_struct_hash():
        raise RemoteProtocolError("an approved receipt is of another order")
    _check_signed(approval.receipt, provider, domain)
    if not approval.list_words():
        raise RemoteProtocolError("a receipt is approved by nobody")
    if approval.acceptance is not None:
        check_acceptance(
            approval.acceptance,
            order=order,
            receipt_hash=approval.receipt_hash,
            domain=domain,
        )
    if approval.attestation is not None:
        _check_match(approval.attestation, receipt, domain)


def check_acceptance(
    acceptance: Signed[Acceptance], *, order: Order, receipt_hash: Hash32, domain: Domain
) -> None:
    """Raise `RemoteProtocolError` unless an order's requester accepts this receipt."""
    if acceptance.body.receipt_hash != receipt_hash:
        raise RemoteProtocolError("an acceptance is of another receipt")
    _check_signed(acceptance, order.requester, domain)


def _check_match(attestation: Signed[Attestation], receipt: Receipt, domain: Domain) -> None:
    if attestation.body.receipt_hash != receipt.compute_struct_hash():
        raise RemoteProtocolError("an attestation is of another receipt")
    if attestation.body.verdict != Verdict.MATCH:
        raise RemoteProtocolError("an attestation that approves a receipt is no MATCH")
    if attestation.signer == receipt.provider:
        raise RemoteProtocolError("a provider attests its own receipt")
    verify(attestation, domain)


def _check_signed(signed: Signed[S], signer: Address, domain: Domain) -> None:
    if verify(signed, domain).signer != signer:
        name = type(signed.body).__name__
        raise RemoteProtocolError(f"the {name} is signed by another than 0x{signer.hex()}")


# ---- files ---------------------------------------------------------------------------------


def decode_approvals_untrusted(data: bytes) -> Approvals:
    """Read the file that `gpumarket job accept --out` writes; raise `RemoteProtocolError`."""
    return from_dag_json_untrusted(data, Approvals, bytes_max=APPROVALS_BYTES_MAX)


def decode_approval_untrusted(data: bytes) -> Approval:
    """Read what a provider keeps of one receipt; raise `RemoteProtocolError`."""
    return from_dag_json_untrusted(data, Approval, bytes_max=APPROVAL_BYTES_MAX)
