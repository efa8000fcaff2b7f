"""What happens to a verifier: every event its state is made of."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.attestation import Opening, Verdict
from gpumarket.protocol.ids import Address, Cid, Hash32, Multiaddr
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.training import SegmentState


class _Event(msgspec.Struct, frozen=True, tag=True):
    """Something that happened."""


class ProcessStarted(_Event, frozen=True, kw_only=True):
    """The process runs again; everything outstanding must be done again."""

    at: int


class TimePassed(_Event, frozen=True, kw_only=True):
    """A deadline that the state asked for has come."""

    at: int


class CheckAsked(_Event, frozen=True, kw_only=True):
    """A coordinator asked for a re-execution."""

    coordinator: Address
    request: CheckRequested
    at: int


class UnitReplayed(_Event, frozen=True, kw_only=True):
    """The unit was done again here."""

    receipt_hash: Hash32
    output: Cid
    exit_code: int
    duration_ms: int
    nonce: Hash32
    at: int


class ReplayFailed(_Event, frozen=True, kw_only=True):
    """The unit could not be done again here, through no fault of the provider."""

    receipt_hash: Hash32
    code: str
    text: str
    at: int


class ResultRevealed(_Event, frozen=True, kw_only=True):
    """The provider's opened result arrived, after our seal."""

    coordinator: Address
    opening: Signed[Opening]
    sources: tuple[Multiaddr, ...]
    states: tuple[SegmentState, ...] = ()
    at: int


class OutputsCompared(_Event, frozen=True, kw_only=True):
    """Both outputs were compared by the signed rule, whatever machines they came from."""

    receipt_hash: Hash32
    verdict: Verdict
    rule: str
    """The rule that decided, which for some files is `bytes` whatever the job's is."""
    comparison: str
    at: int


Event = (
    ProcessStarted
    | TimePassed
    | CheckAsked
    | UnitReplayed
    | ReplayFailed
    | ResultRevealed
    | OutputsCompared
)
