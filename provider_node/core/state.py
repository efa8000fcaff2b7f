"""
Everything a provider must not forget, as one value that can be written down and read back.

Every phase a lease can be in stands here with every way it can change (`NEXT`); why it ended is
its reason. Only `decide` changes any of it. Money is base units, times unix seconds.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, TypeVar

import msgspec

from gpumarket.protocol.errors import LocalProtocolError
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Assignment, LeaseOffer, Reason
from gpumarket.protocol.receipt import Energy, Receipt, UnitResult
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.training import SegmentState
from gpumarket.protocol.units import Amount, Timestamp
from provider_node.core.hours import FAILED, PAID, UNPAID, HourLedger
from provider_node.core.metering import Tally
from provider_node.core.terms import Terms

T = TypeVar("T")

LEASES_MAX: Final = 1_024
"""Leases remembered at once; more are declined."""
WAITING_MAX: Final = 256
"""Proposals that wait for the chain at once; more are declined."""
FUNDS_SECONDS: Final = 5
"""How long a reading of the chain is good for new leases."""
RETENTION_SECONDS: Final = 3_600
"""How long an ended lease and its output are kept for those who still ask."""


class Phase(Enum):
    """Where a lease stands at the provider."""

    PREPARING = "preparing"
    RUNNING = "running"
    UPLOADING = "uploading"
    SIGNING = "signing"
    FINISHED = "finished"
    """The receipt is signed; until the coordinator answers it is sent again."""
    ROOTED = "rooted"
    """It stands under a root we signed."""
    OPENED = "opened"
    """We showed the result."""
    PAID = "paid"
    """Accepted by the coordinator, who now owes a batch with it."""
    UNPAID = "unpaid"
    """Finished work that will not be paid."""
    FAILED = "failed"
    """No receipt was signed."""


ACTIVE: Final = frozenset({Phase.PREPARING, Phase.RUNNING, Phase.UPLOADING, Phase.SIGNING})
"""These take a slot."""
CLAIMED: Final = frozenset({Phase.FINISHED, Phase.ROOTED, Phase.OPENED})
"""A receipt stands and its fate is open."""
ENDED: Final = frozenset({Phase.PAID, Phase.UNPAID, Phase.FAILED})

NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PREPARING: frozenset({Phase.RUNNING, Phase.FAILED}),
    # After a restart a program that was running begins again.
    Phase.RUNNING: frozenset({Phase.PREPARING, Phase.UPLOADING, Phase.FAILED}),
    Phase.UPLOADING: frozenset({Phase.SIGNING, Phase.FAILED}),
    Phase.SIGNING: frozenset({Phase.FINISHED, Phase.FAILED}),
    Phase.FINISHED: frozenset({Phase.ROOTED, Phase.PAID, Phase.UNPAID}),
    Phase.ROOTED: frozenset({Phase.OPENED, Phase.PAID, Phase.UNPAID}),
    Phase.OPENED: frozenset({Phase.PAID, Phase.UNPAID}),
    Phase.PAID: frozenset(),
    Phase.UNPAID: frozenset(),
    Phase.FAILED: frozenset(),
}


_VERDICTS: Final = {Phase.PAID: PAID, Phase.UNPAID: UNPAID, Phase.FAILED: FAILED}


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit last said of itself; for display."""

    phase: str = ""
    done: int = 0
    total: int = 0
    line: str = ""


class Lease(msgspec.Struct, kw_only=True):
    """One unit of work we accepted, with all that came of it."""

    coordinator: Address
    offer: LeaseOffer
    assignment: Signed[Assignment]
    """The coordinator's word for the chain: what settles the receipt if it is left out."""
    devices: tuple[int, ...]
    """Indexes of the devices it has while it is active."""
    accepted_at: Timestamp
    phase: Phase = Phase.PREPARING
    phase_at: Timestamp
    duration_ms: int = 0
    prepared_at: Timestamp | None = None
    bytes_in: int = 0
    checkpoint_bytes: int = 0
    """Of all checkpoints that were stored here."""
    energy: Energy | None = None
    result: UnitResult | None = None
    """With its salt; shown only in an opening."""
    receipt: Receipt | None = None
    signed: Signed[Receipt] | None = None
    epoch: int | None = None
    segments: list[SegmentState] = []
    """Of a training task: the states of the checkpoints taken here, in order."""
    seal_hashes: tuple[Hash32, ...] = ()
    reason: Reason | None = None
    exit_code: int = 0
    log_tail: str = ""
    progress: Progress = Progress()

    @property
    def lease_id(self) -> Hash32:
        """The lease's name."""
        return self.offer.lease_id

    @property
    def deadline(self) -> Timestamp:
        """When the present phase must be over."""
        if self.phase in ACTIVE:
            return Timestamp(self.offer.deadline)
        if self.phase in CLAIMED:
            return Timestamp(self.offer.order.body.expiry)
        kept = max([RETENTION_SECONDS, *(output.pin_seconds for output in self.offer.job.outputs)])
        return Timestamp(min(self.phase_at + kept, 2**63 - 1))

    @property
    def last_segment(self) -> SegmentState | None:
        """Where a training task's chain ends now: here, or where another provider left it."""
        return self.segments[-1] if self.segments else self.offer.resume

    def get_result(self) -> UnitResult:
        """Return the result, which every phase after uploading has."""
        return _require(self, self.result, "result")

    def get_receipt(self) -> Receipt:
        """Return the receipt, which every phase after uploading has."""
        return _require(self, self.receipt, "receipt")

    def get_signed(self) -> Signed[Receipt]:
        """Return the signed receipt, which every phase after signing has."""
        return _require(self, self.signed, "signed receipt")

    def get_reason(self) -> Reason:
        """Return the reason, which a failed or unpaid lease has."""
        return _require(self, self.reason, "reason")

    def move(self, after: Phase, at: Timestamp) -> None:
        """Change phase; raise `LocalProtocolError` where `NEXT` does not allow it."""
        if after not in NEXT[self.phase]:
            raise LocalProtocolError(
                f"a lease cannot go from {self.phase.value} to {after.value} at a provider"
            )
        self.phase = after
        self.phase_at = at


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A proposed lease as it came."""

    coordinator: Address
    """Whose session it came by."""
    lease: Signed[LeaseOffer]
    assignment: Signed[Assignment]
    disk_free_bytes: int

    @property
    def funds_key(self) -> bytes:
        """Whose money stands behind it: requester and coordinator."""
        order = self.lease.body.order.body
        return order.requester + order.coordinator


class Funds(msgspec.Struct, frozen=True, kw_only=True):
    """What the chain said of a requester and a coordinator; base units."""

    escrow: Amount
    """Less what the requester has asked back."""
    bond: Amount
    """Less what the coordinator is unbonding."""
    seen_at: Timestamp


class ProviderState(msgspec.Struct, kw_only=True):
    """All leases by id, in the order they were accepted, and what was counted."""

    terms: Terms
    leases: dict[Hash32, Lease] = {}
    waiting: dict[Hash32, Proposal] = {}
    """Proposals whose money is being looked at, by lease."""
    funds: dict[bytes, Funds] = {}
    """The newest readings by `Proposal.funds_key`, oldest first."""
    distrusted: tuple[Address, ...] = ()
    """Coordinators that were caught; nothing is taken from them any more."""
    tally: Tally = msgspec.field(default_factory=Tally)
    ledger: HourLedger = msgspec.field(default_factory=HourLedger)
    checking: tuple[int, ...] = ()
    """Devices that answer a hardware challenge."""
    connected: dict[Address, Timestamp] = {}
    """Coordinators whose session stands, since when; for display."""

    def find_lease(self, lease_id: Hash32, coordinator: Address) -> Lease | None:
        """Return a lease if it is this coordinator's."""
        lease = self.leases.get(lease_id)
        return lease if lease is not None and lease.coordinator == coordinator else None

    def find_active(self) -> list[Lease]:
        """Return the leases that take a slot."""
        return [lease for lease in self.leases.values() if lease.phase in ACTIVE]

    def find_funds(self, proposal: Proposal, at: Timestamp) -> Funds | None:
        """Return the reading behind a proposal if it is new enough."""
        known = self.funds.get(proposal.funds_key)
        return known if known is not None and at - known.seen_at <= FUNDS_SECONDS else None

    def find_free_devices(self) -> tuple[int, ...]:
        """Return the indexes of the devices that no active lease has."""
        taken = {index for lease in self.find_active() for index in lease.devices}
        return tuple(index for index in range(len(self.terms.devices)) if index not in taken)

    def find_unfinished_business(self) -> tuple[Hash32, ...]:
        """Return the leases a coordinator should know we still have after a lost session."""
        return tuple(lease.lease_id for lease in self.leases.values() if lease.phase not in ENDED)

    def find_next_deadline(self) -> Timestamp | None:
        """Return when the first lease's present phase is over."""
        return min((lease.deadline for lease in self.leases.values()), default=None)


def end_lease(
    state: ProviderState, lease: Lease, phase: Phase, *, at: Timestamp, reason: Reason | None
) -> None:
    """Move a lease to its end and count what it came to."""
    lease.move(phase, at)
    lease.reason = reason
    state.tally.note_end(phase.value, "none" if reason is None else reason.fault)
    state.ledger.note_judged(lease.lease_id, _VERDICTS[phase])
    if lease.receipt is not None and phase is Phase.PAID:
        state.tally.earned = Amount(state.tally.earned + lease.receipt.price)
        state.ledger.note_earned(lease.receipt.finished_at, lease.receipt.price)
    elif lease.receipt is not None and phase is Phase.UNPAID:
        state.tally.unpaid = Amount(state.tally.unpaid + lease.receipt.price)


def check_state(state: ProviderState) -> None:
    """Raise `LocalProtocolError` where the state is not what it must always be."""
    active = state.find_active()
    taken = [index for lease in active for index in lease.devices]
    claims = [
        (lease.receipt.order_hash, lease.receipt.unit)
        for lease in state.leases.values()
        if lease.receipt is not None and lease.phase in ACTIVE | CLAIMED | {Phase.PAID}
    ]
    facts = {
        "more leases run than there are slots": len(active) > state.terms.slots,
        "a device has two leases": len(taken) != len(set(taken)),
        "too many leases are remembered": len(state.leases) > LEASES_MAX,
        "too many proposals wait": len(state.waiting) > WAITING_MAX,
        "a proposal waits that was taken": bool(state.waiting.keys() & state.leases.keys()),
        "one unit has two receipts that may be paid": len(claims) != len(set(claims)),
    }
    for lease in state.leases.values():
        facts |= _find_contradictions(lease)
    broken = [fact for fact, is_true in facts.items() if is_true]
    if broken:
        raise LocalProtocolError("; ".join(broken))


def _find_contradictions(lease: Lease) -> dict[str, bool]:
    name = f"lease 0x{lease.lease_id.hex()[:8]} in {lease.phase.value}"
    is_claimed = lease.phase in CLAIMED | {Phase.PAID, Phase.UNPAID}
    has_result = lease.result is not None and lease.receipt is not None
    fits = (
        lease.result is not None
        and lease.receipt is not None
        and lease.receipt.result_hash == lease.result.compute_hash()
        and lease.receipt.price <= lease.offer.price_max
    )
    return {
        f"{name}: no signed receipt": is_claimed and lease.signed is None,
        f"{name}: the signed receipt is another": lease.signed is not None
        and lease.signed.body != lease.receipt,
        f"{name}: the receipt does not fit its result": has_result and not fits,
        f"{name}: no epoch": lease.phase in {Phase.ROOTED, Phase.OPENED} and lease.epoch is None,
        f"{name}: no reason": lease.phase in {Phase.FAILED, Phase.UNPAID} and lease.reason is None,
    }


def _require(lease: Lease, value: T | None, name: str) -> T:
    if value is None:
        raise LocalProtocolError(f"a lease in {lease.phase.value} has no {name}")
    return value
