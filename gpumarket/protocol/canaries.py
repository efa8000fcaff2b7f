"""
Canaries: results forged on purpose, so that a verifier that says MATCH without looking is found.

The coordinator's operator runs a provider that is like any other, orders work of it, and has it
forge what a secret picks. Each forgery is noted before the epoch's seed exists: every epoch's
document holds a salted hash over its notes, also where there are none. So nobody can tell from it
whether there are any, and no fault that was found can be called a canary afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from gpumarket.protocol.attestation import Attestation
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import Address, Cid, Hash32
from gpumarket.protocol.signing import Document, Signed, keccak256
from gpumarket.protocol.units import PPM, U64

_COMMITMENT_TAG = b"gpumarket.canaries.v1"


class CanaryNote(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider's word, given with a receipt, that the result in it is forged on purpose."""

    KIND: ClassVar[str] = "gpumarket.canary.v1"
    IS_SMALL: ClassVar[bool] = True

    receipt_hash: Hash32
    """Struct hash of the receipt: its order, unit, provider and hidden result."""
    honest: Cid
    """The output that the work really has: who doubts a note does it again."""
    salt: Hash32


class CanaryOpening(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What opens an epoch's commitment to its canaries."""

    salt: Hash32
    notes: tuple[Signed[CanaryNote], ...] = ()
    """All of the epoch, by content hash."""

    def compute_hash(self) -> Hash32:
        """Return what the epoch's document holds of it."""
        return compute_canaries_hash(self.salt, self.notes)


class CanaryReveal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a coordinator publishes of an epoch that had canaries, once it is judged."""

    KIND: ClassVar[str] = "gpumarket.canary-reveal.v1"

    coordinator: Address
    epoch: U64
    opening: CanaryOpening
    words: tuple[Signed[Attestation], ...]
    """What each verifier said of them, by the receipt that it is about."""


def compute_canaries_hash(salt: Hash32, notes: Iterable[Signed[CanaryNote]]) -> Hash32:
    """Return the commitment to an epoch's notes, which must be in the order of `sort_notes`."""
    return keccak256(_COMMITMENT_TAG + salt + b"".join(map(compute_content_hash, notes)))


def sort_notes(notes: Iterable[Signed[CanaryNote]]) -> tuple[Signed[CanaryNote], ...]:
    """Return notes in the order in which they are committed to."""
    return tuple(sorted(notes, key=compute_content_hash))


def is_canary_due(*, checks: int, canaries: int, rate_ppm: int) -> bool:
    """Say whether canaries are fewer than their share of all the checks that were judged."""
    return canaries * PPM < rate_ppm * checks
