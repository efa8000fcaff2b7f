"""What a verifier does about it: every effect, safe to perform twice."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, OwnResult, Seal
from gpumarket.protocol.ids import Address, Hash32, Multiaddr, ShortText
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.receipt import UnitResult
from gpumarket.protocol.training import SegmentAudit


class _Effect(msgspec.Struct, frozen=True, tag=True):
    """Something to do."""


class ReplayUnit(_Effect, frozen=True, kw_only=True):
    """Fetch the inputs, run the unit, keep the output; answered by UnitReplayed or ReplayFailed."""

    request: CheckRequested


class SendSeal(_Effect, frozen=True, kw_only=True):
    """Sign the seal and send it to the coordinator that asked."""

    coordinator: Address
    seal: Seal


class CompareOutputs(_Effect, frozen=True, kw_only=True):
    """Fetch the provider's output and compare; answered by OutputsCompared."""

    request: CheckRequested
    own: OwnResult
    theirs: UnitResult
    sources: tuple[Multiaddr, ...]
    segments: SegmentAudit | None = None
    """For a training task: its chain and what was done again of it."""


class SendAttestation(_Effect, frozen=True, kw_only=True):
    """Sign the attestation and send it with its evidence."""

    coordinator: Address
    attestation: Attestation
    evidence: Evidence


class SendDeclined(_Effect, frozen=True, kw_only=True):
    """Tell the coordinator that a check will not be done here, and why."""

    coordinator: Address
    receipt_hash: Hash32
    code: ShortText
    need: ShortText
    have: ShortText


Effect = ReplayUnit | SendSeal | CompareOutputs | SendAttestation | SendDeclined
