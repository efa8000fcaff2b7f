"""
Duties: what a node must do about disputes, each with its last moment and a sentence why.

`watching.py` and `objections.py` say which there are; `adapters/watchtower.py` carries them out.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from gpumarket.protocol.ids import Address, Hash32

FOREVER: Final = 2**63 - 1
"""The last moment of what has none."""
Step = Literal["seat", "redraw", "escalate", "close"]
"""What anyone may do in a case."""


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """Where a leaf stands: whose batch, which, which lane, which leaf."""

    coordinator: Address
    """The Disputes contract for a direct settlement."""
    sequence: int
    lane: int
    index: int

    @property
    def key(self) -> bytes:
        """Its name in the memory."""
        return self.lane_key + self.index.to_bytes(4, "big")

    @property
    def lane_key(self) -> bytes:
        """The name of its lane."""
        return self.batch_key + self.lane.to_bytes(2, "big")

    @property
    def batch_key(self) -> bytes:
        """The name of its batch."""
        return make_batch_key(self.coordinator, self.sequence)


class _Duty(msgspec.Struct, frozen=True, kw_only=True, tag_field="duty", tag=True):
    """Something to do on chain, or not to do."""

    deadline: int
    """The last second at which it helps."""
    why: str


class ProveBadLeaf(_Duty, frozen=True, kw_only=True):
    """Show by its order alone that a leaf is wrong."""

    spot: Spot
    price: int


class ProveDouble(_Duty, frozen=True, kw_only=True):
    """Show that `spot` pays what `earlier` has paid."""

    spot: Spot
    earlier: Spot
    price: int


class ChallengeLeaf(_Duty, frozen=True, kw_only=True):
    """Demand the evidence of a leaf whose evidence will not do."""

    spot: Spot
    price: int


class ChallengeWithheld(_Duty, frozen=True, kw_only=True):
    """Demand a leaf that nobody shows."""

    spot: Spot
    price: int
    """What the whole lane moved."""


class Answer(_Duty, frozen=True, kw_only=True):
    """Show the evidence that an open challenge demands."""

    challenge_id: int
    spot: Spot


class TimeOut(_Duty, frozen=True, kw_only=True):
    """End a challenge that was not answered."""

    challenge_id: int
    spot: Spot


class Exit(_Duty, frozen=True, kw_only=True):
    """Ask the escrow back, or work no more: this coordinator was caught."""

    coordinator: Address


class SettleDirect(_Duty, frozen=True, kw_only=True):
    """Settle a receipt that no batch has paid."""

    key: bytes
    """Of the payment line, as the memory names it."""
    order_hash: Hash32
    unit: int


class PushCase(_Duty, frozen=True, kw_only=True):
    """Take a case against our work a step further, which nobody else has done."""

    case: int
    step: Step
    seed_block: int
    """Whose header draws the jury of the present level."""
    opened: int
    """The block in which the case was opened."""
    is_decided: bool
    """Whether the present level has a verdict."""


Objection = ProveBadLeaf | ProveDouble | ChallengeLeaf | ChallengeWithheld
Duty = Objection | Answer | TimeOut | Exit | SettleDirect | PushCase


def make_batch_key(coordinator: Address, sequence: int) -> bytes:
    """Name a batch."""
    return coordinator + sequence.to_bytes(8, "big")
