"""What a verifier does about it: every effect, safe to perform twice."""

from __future__ import annotations

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, Seal
from gpumarket.protocol.ids import Address, Cid, Hash32, Multiaddr, ShortText
from gpumarket.protocol.job import Comparison
from gpumarket.protocol.messages import CheckRequested


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

    receipt_hash: Hash32
    own_output: Cid
    their_output: Cid
    their_bytes: int
    rule: Comparison
    sources: tuple[Multiaddr, ...]


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
