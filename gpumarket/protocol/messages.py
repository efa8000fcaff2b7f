"""
The wire: every message between a coordinator and a provider or verifier, in one signed envelope.

A provider or verifier dials out and keeps one framed session to each coordinator. Every frame
is an `Envelope`: the message's bytes, a sequence number and a deadline, signed with the
sender's Ethereum key, so a message is worth the same wherever it is shown.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from gpumarket.protocol.approvals import Approvals
from gpumarket.protocol.attestation import Attestation, Evidence, Opening, Seal
from gpumarket.protocol.canaries import CanaryNote
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.hardware import HardwareTask, OpenedRow
from gpumarket.protocol.ids import Address, Cid, Hash32, Multiaddr, ShortText
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.lease import Assignment, LeaseOffer, Reason
from gpumarket.protocol.offer import Offer, VerifierCard
from gpumarket.protocol.receipt import ProviderRoot, Receipt
from gpumarket.protocol.signing import Document, Domain, PrivateKey, Signed, verify
from gpumarket.protocol.training import SEGMENTS_MAX, SegmentStart, SegmentState
from gpumarket.protocol.units import U32, U64, Timestamp

SESSION_PROTOCOL = "/gpumarket/session/1"
FRAME_BYTES_MAX = 1 << 20
MESSAGE_LIFETIME_SECONDS = 60
CLOCK_SKEW_SECONDS = 30
"""How far two honest clocks may be apart."""


class _Message(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="type",
    tag=str.lower,
):
    """One message; its class name in lower case is its type on the wire."""


# ---- joining -------------------------------------------------------------------------------


class ProviderHello(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: first message of a session, and again whenever the offer changes."""

    offer: Signed[Offer]
    running: tuple[Hash32, ...] = ()
    """Leases the provider still works on or has receipts for, after a restart of either side."""


class VerifierHello(_Message, frozen=True, kw_only=True):
    """Verifier to coordinator: first message of a session."""

    card: Signed[VerifierCard]


class Welcome(_Message, frozen=True, kw_only=True):
    """Coordinator to both: the session stands."""

    coordinator: Address
    content_peers: tuple[Multiaddr, ...]
    """Where inputs can be fetched."""


class Declined(_Message, frozen=True, kw_only=True):
    """Either side: what was asked will not be done, and the smallest reason why."""

    about: Hash32
    """The lease, or the content hash of the refused document."""
    code: ShortText
    need: ShortText
    have: ShortText


# ---- running -------------------------------------------------------------------------------


class LeaseProposed(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: run this unit."""

    lease: Signed[LeaseOffer]
    assignment: Signed[Assignment]
    """The same, for the chain: `make_assignment` of the lease, signed by the coordinator too."""


class LeaseAccepted(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the unit is accepted and will start."""

    lease_id: Hash32


class LeaseProgress(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: where an accepted unit stands."""

    lease_id: Hash32
    phase: ShortText
    """One of: fetch, image, run, upload."""
    done: U32
    total: U32
    line: ShortText = ""
    """The last line the program printed, cut."""


class CheckpointTaken(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: a training task has one more checkpoint; its state, signed."""

    lease_id: Hash32
    state: Signed[SegmentState]


class UnitFinished(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the unit is done; the receipt hides the result for now."""

    lease_id: Hash32
    receipt: Signed[Receipt]
    duration_ms: U64
    canary: Signed[CanaryNote] | None = None
    """From the operator's own provider, where the result is forged to test verifiers."""


class UnitFailed(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the unit ended without a receipt."""

    lease_id: Hash32
    reason: Reason
    exit_code: U32 = 0
    log_tail: str = ""


class LeaseCancelled(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: stop this unit, it is not needed."""

    lease_id: Hash32
    reason: Reason


# ---- committing and checking ---------------------------------------------------------------


class RootRequested(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: sign the root over these receipts, in this order."""

    epoch: U64
    lease_ids: tuple[Hash32, ...]


class RootSigned(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the signed root."""

    root: Signed[ProviderRoot]


class CheckRequested(_Message, frozen=True, kw_only=True):
    """Coordinator to verifier: do this unit again; the first result is not shown."""

    order_hash: Hash32
    unit: U32
    receipt_hash: Hash32
    job: JobSpec
    deadline: U64
    sources: tuple[Multiaddr, ...]
    segments: Annotated[tuple[SegmentStart, ...], Meta(max_length=SEGMENTS_MAX)] = ()
    """For a training task: the segments to do again, instead of the whole."""
    case: U64 = 0
    """The chain's number of the case in which the verifier is a juror; zero for a check."""


class CheckSealed(_Message, frozen=True, kw_only=True):
    """Verifier to coordinator: the unit is done again; the seal holds the result."""

    seal: Signed[Seal]


class OpeningsRequested(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: the seals are in; open these results."""

    epoch: U64
    lease_ids: tuple[Hash32, ...]
    seals: tuple[Signed[Seal], ...]
    """Seals of the sampled units among them."""


class ResultsOpened(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the opened results, each signed."""

    epoch: U64
    openings: tuple[Signed[Opening], ...]


class ResultShown(_Message, frozen=True, kw_only=True):
    """Coordinator to verifier: the provider's opened result for a sealed unit."""

    opening: Signed[Opening]
    sources: tuple[Multiaddr, ...]
    states: Annotated[tuple[SegmentState, ...], Meta(max_length=SEGMENTS_MAX + 1)] = ()
    """For a training task: the chain that its result ends."""


class CheckDone(_Message, frozen=True, kw_only=True):
    """Verifier to coordinator: the verdict, and what it rests on."""

    attestation: Signed[Attestation]
    evidence: Evidence


class EpochClosed(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: what became of each receipt of the epoch."""

    epoch: U64
    accepted: tuple[Hash32, ...]
    rejected: tuple[Hash32, ...]
    reason: Reason | None = None
    batch: Cid | None = None


class ReceiptsApproved(_Message, frozen=True, kw_only=True):
    """
    Coordinator to provider: words of others for its receipts, with which it can settle alone.

    Said again in each new session until `ApprovalsKept` answers.
    """

    approvals: Approvals


class ApprovalsKept(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: these words are on disk, or of no use to it."""

    words: tuple[Hash32, ...]
    """Struct hashes of acceptances and attestations."""


# ---- hardware ------------------------------------------------------------------------------


class HardwareChallenged(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: show what one of your devices can do, from now on."""

    task: HardwareTask
    answer_by: U64
    ready_by: U64


class HardwareAnswered(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the products are computed; this is the root over their rows."""

    challenge: Hash32
    root: Hash32


class HardwareReady(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the table is full and stays where it is."""

    challenge: Hash32


class HardwareDrawn(_Message, frozen=True, kw_only=True):
    """Coordinator to provider: the second seed, for rows and walks; nobody knew it before."""

    challenge: Hash32
    seed: Hash32
    open_by: U64


class HardwareOpened(_Message, frozen=True, kw_only=True):
    """Provider to coordinator: the rows that were drawn, and where the walks ended."""

    challenge: Hash32
    rows: tuple[OpenedRow, ...]
    walks: bytes


Message = (
    ProviderHello
    | VerifierHello
    | Welcome
    | Declined
    | LeaseProposed
    | LeaseAccepted
    | LeaseProgress
    | CheckpointTaken
    | UnitFinished
    | UnitFailed
    | LeaseCancelled
    | RootRequested
    | RootSigned
    | CheckRequested
    | CheckSealed
    | OpeningsRequested
    | ResultsOpened
    | ResultShown
    | CheckDone
    | EpochClosed
    | ReceiptsApproved
    | ApprovalsKept
    | HardwareChallenged
    | HardwareAnswered
    | HardwareReady
    | HardwareDrawn
    | HardwareOpened
)

_MESSAGE: Any = Message
"""The union as msgspec takes it; mypy has no type for one."""


class Envelope(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed on the wire: one message for one recipient, once, for a while."""

    KIND: ClassVar[str] = "gpumarket.message.v1"

    recipient: Address
    sequence: U64
    """Strictly rising in one session; a repeat is refused."""
    deadline: U64
    """Unix seconds after which the message counts for nothing."""
    message: bytes


def seal_message(
    message: Message,
    *,
    key: PrivateKey,
    domain: Domain,
    recipient: Address,
    sequence: int,
    now: Timestamp,
) -> bytes:
    """Encode and sign one message as a frame."""
    envelope = Envelope(
        recipient=recipient,
        sequence=sequence,
        deadline=now + MESSAGE_LIFETIME_SECONDS,
        message=encode_document(message),
    )
    return encode_document(key.sign(envelope, domain).as_signed())


def decode_message_untrusted(
    frame: bytes, *, domain: Domain, recipient: Address, sequence_after: int, now: Timestamp
) -> tuple[Message, Address, int]:
    """
    Open one frame from a peer: the message, who signed it, and its sequence number.

    Raises `RemoteProtocolError` for anything malformed, unsigned, misdirected, repeated or late.
    """
    signed = decode_document_untrusted(frame, Signed[Envelope], bytes_max=FRAME_BYTES_MAX)
    envelope = verify(signed, domain).body
    if envelope.recipient not in (recipient, bytes(20)):
        raise RemoteProtocolError("the message is for somebody else", code="GM-8202")
    if envelope.sequence <= sequence_after:
        raise RemoteProtocolError("the message is a repeat", code="GM-8203")
    if envelope.deadline < now or envelope.deadline > now + MESSAGE_LIFETIME_SECONDS + (
        CLOCK_SKEW_SECONDS
    ):
        raise RemoteProtocolError("the message's deadline is not in its window", code="GM-8204")
    message: Message = decode_document_untrusted(
        envelope.message, _MESSAGE, bytes_max=FRAME_BYTES_MAX
    )
    return message, signed.signer, envelope.sequence
