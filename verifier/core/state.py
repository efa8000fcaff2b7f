"""
What a verifier knows: its checks, each on the way from asked to attested.

A check never moves back, and its own result is fixed before the provider's is seen.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from gpumarket.protocol.attestation import Attestation, Evidence, Opening, OwnResult, Seal
from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32, Multiaddr
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.protocol.training import SegmentAudit

CHECKS_MAX = 10_000
"""Checks remembered; the oldest finished ones are forgotten first."""


class CheckState(Enum):
    """Where a check stands."""

    WAITING = "waiting"
    REPLAYING = "replaying"
    SEALED = "sealed"
    COMPARING = "comparing"
    ATTESTED = "attested"
    DROPPED = "dropped"
    """Not done here: it failed, came too late, or was superseded."""


NEXT: Final[dict[CheckState, frozenset[CheckState]]] = {
    CheckState.WAITING: frozenset({CheckState.REPLAYING, CheckState.DROPPED}),
    CheckState.REPLAYING: frozenset({CheckState.SEALED, CheckState.DROPPED}),
    CheckState.SEALED: frozenset({CheckState.COMPARING, CheckState.DROPPED}),
    CheckState.COMPARING: frozenset({CheckState.ATTESTED}),
    CheckState.ATTESTED: frozenset(),
    CheckState.DROPPED: frozenset(),
}
FINISHED: Final = frozenset({CheckState.ATTESTED, CheckState.DROPPED})


class Check(msgspec.Struct, kw_only=True):
    """One re-execution that a coordinator asked for."""

    coordinator: Address
    request: CheckRequested
    state: CheckState = CheckState.WAITING
    own: OwnResult | None = None
    seal: Seal | None = None
    opening: Signed[Opening] | None = None
    sources: tuple[Multiaddr, ...] = ()
    segments: SegmentAudit | None = None
    attestation: Attestation | None = None
    evidence: Evidence | None = None

    def move(self, after: CheckState) -> None:
        """Change state; raise `LocalProtocolError` where `NEXT` does not allow it."""
        if after not in NEXT[self.state]:
            raise LocalProtocolError(f"a check cannot go from {self.state} to {after}")
        self.state = after


class VerifierState(msgspec.Struct, kw_only=True):
    """Everything a verifier must not forget."""

    verifier: Address
    domain: Domain
    repro_class: Hash32
    slots: int
    checks: dict[Hash32, Check] = {}
    """By receipt hash, in the order they were asked."""

    def count(self, *states: CheckState) -> int:
        """Count checks in any of these states."""
        return sum(check.state in states for check in self.checks.values())


def check_state(state: VerifierState) -> None:
    """Raise `LocalProtocolError` unless the state keeps its promises."""
    if state.count(CheckState.REPLAYING) > state.slots:
        raise LocalProtocolError("more units are replayed than there are slots")
    for receipt_hash, check in state.checks.items():
        if check.request.receipt_hash != receipt_hash:
            raise LocalProtocolError("a check is filed under another receipt")
        if check.opening is not None and check.seal is None:
            raise LocalProtocolError("a result was seen before the own one was sealed")
        if check.seal is not None and (
            check.own is None or check.seal.sealed != check.own.compute_hash()
        ):
            raise LocalProtocolError("a seal does not hold the own result")
        if check.state is CheckState.ATTESTED and check.attestation is None:
            raise LocalProtocolError("an attested check has no attestation")
