"""Any order of proposals, answers, restarts and demands leaves a provider's promises intact."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpumarket.protocol import messages
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.signing import Signed
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.factories import (
    DOMAIN,
    NOW,
    make_address,
    make_cid,
    make_device,
    make_hash,
    make_key,
    make_lease_offer,
    make_reason,
    make_resources,
    make_seal,
    make_spec,
    propose,
    sign,
)
from provider_node.core import effects, events
from provider_node.core.decide import Provider
from provider_node.core.hours import SECONDS_PER_HOUR
from provider_node.core.state import ACTIVE, ENDED, NEXT, Funds, Phase, check_state
from tests.provider_terms import make_terms

UNITS = 4
ATTEMPTS = 2
SLOTS = 2
DEVICES = (make_device(),) * 4
COORDINATOR = make_address("coordinator")


def make_leases() -> list[LeaseOffer]:
    spec = make_spec(units=UNITS, resources=make_resources(devices=DeviceNeed(count=1)))
    return [
        make_lease_offer(spec, unit=unit, attempt=attempt, deadline=NOW + 7_000)
        for unit in range(UNITS)
        for attempt in range(ATTEMPTS)
    ]


LEASES = make_leases()
PROPOSED = {lease.lease_id: propose(lease) for lease in LEASES}
RICH = Amount(10**12)
EXPOSURE = LEASES[0].order.body.compute_exposure()
FUNDS_KEY = make_address("requester") + COORDINATOR
NOT_OF_A_LEASE = effects.SignRoot | effects.SignOpenings | effects.ReadFunds
lease_choice = st.sampled_from([lease.lease_id for lease in LEASES])
lease_sets = st.lists(lease_choice, min_size=1, max_size=4).map(tuple)


class Market(RuleBasedStateMachine):
    """A coordinator and a world that do whatever hypothesis likes, and a provider between."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Timestamp(NOW)
        self.terms = make_terms(devices=DEVICES, slots=SLOTS)
        self.state = Provider(terms=self.terms)
        self.outstanding: list[Any] = []
        self.journal: list[bytes] = []
        self.receipts: dict[Hash32, set[Hash32]] = {}
        self.openings: dict[Hash32, set[bytes]] = {}
        self.phases: dict[Hash32, Phase] = {}
        self.salts = 0
        self.prepared_on: Funds | None = None
        self.escrow = RICH
        self.bond = RICH

    @initialize()
    def start(self) -> None:
        self.post(events.ProcessStarted(at=self.now, terms=self.terms))

    def post(self, event: Any) -> None:
        """Do what the runtime does: journal, decide, hand out the effects."""
        if not event.VOLATILE:
            self.journal.append(msgspec.msgpack.encode(event))
        for effect in self.state.decide(event):
            self.note(effect)
            if not isinstance(effect, effects.SendMessage):
                self.outstanding.append(effect)
            if isinstance(effect, effects.PrepareUnit) and not isinstance(
                event, events.ProcessStarted
            ):
                self.prepared_on = self.state.funds[FUNDS_KEY]
        check_state(self.state)

    def note(self, effect: Any) -> None:
        match effect:
            case effects.SendMessage(message=messages.UnitFinished() as finished):
                hashed = finished.receipt.body.compute_struct_hash()
                self.receipts.setdefault(finished.lease_id, set()).add(hashed)
            case effects.SignOpenings(openings=openings):
                for opening in openings:
                    shown = self.openings.setdefault(opening.receipt_hash, set())
                    shown.add(msgspec.msgpack.encode(opening))

    def hear(self, message: Any) -> None:
        self.post(
            events.MessageReceived(
                at=self.now, coordinator=COORDINATOR, message=message, disk_free_bytes=10**12
            )
        )

    @rule(lease_ids=lease_sets)
    def propose(self, lease_ids: tuple[Hash32, ...]) -> None:
        for lease_id in lease_ids:
            self.hear(PROPOSED[lease_id])

    @precondition(lambda self: self.outstanding)
    @rule(data=st.data(), succeeds=st.booleans() | st.just(True), is_repeated=st.booleans())
    def answer(self, data: st.DataObject, succeeds: bool, is_repeated: bool) -> None:
        """One effect is done; it may be done again later, as after a crash."""
        index = data.draw(st.integers(0, len(self.outstanding) - 1))
        effect = self.outstanding[index]
        if not is_repeated:
            del self.outstanding[index]
        event = self.perform(effect, succeeds=succeeds)
        if event is not None:
            self.post(event)

    @rule(is_repeated=st.booleans())
    def answer_everything(self, is_repeated: bool) -> None:
        """Work goes well; as after a crash, everything may be done twice."""
        for _ in range(20 * len(LEASES)):
            if self.outstanding:
                effect = self.outstanding.pop(0)
                answers = [self.perform(effect, succeeds=True) for _ in range(1 + is_repeated)]
                for event in answers:
                    if event is not None:
                        self.post(event)

    def find_in(self, *phases: Phase) -> tuple[Hash32, ...]:
        leases = self.state.leases.values()
        return tuple(lease.lease_id for lease in leases if lease.phase in phases)

    @rule(epoch=st.integers(1, 3))
    def root_what_is_finished(self, epoch: int) -> None:
        self.request(epoch, self.find_in(Phase.FINISHED))

    def request(self, epoch: int, lease_ids: tuple[Hash32, ...]) -> None:
        self.hear(messages.RootRequested(epoch=epoch, lease_ids=lease_ids))

    @rule(verifiers=st.lists(st.sampled_from(["", "verifier-1", "verifier-2"]), max_size=2))
    def open_what_is_rooted(self, verifiers: list[str]) -> None:
        for verifier in verifiers:
            for lease_id in self.find_in(Phase.ROOTED, Phase.OPENED):
                self.demand(self.state.leases[lease_id].epoch or 0, (lease_id,), verifier)

    def demand(self, epoch: int, lease_ids: tuple[Hash32, ...], verifier: str) -> None:
        seals = []
        for lease_id in lease_ids:
            lease = self.state.leases.get(lease_id)
            if verifier and lease is not None and lease.receipt is not None:
                receipt_hash = lease.receipt.compute_struct_hash()
                seal = make_seal(receipt_hash=receipt_hash, verifier=make_address(verifier))
                seals.append(sign(seal, verifier))
        self.hear(messages.OpeningsRequested(epoch=epoch, lease_ids=lease_ids, seals=tuple(seals)))

    def perform(self, effect: Any, *, succeeds: bool) -> Any:
        at = self.now
        match effect:
            case effects.ReadFunds(requester=requester, coordinator=coordinator):
                if not succeeds:
                    return events.FundsUnknown(
                        at=at, requester=requester, coordinator=coordinator, code="GM-3001"
                    )
                return events.FundsSeen(
                    at=at,
                    requester=requester,
                    coordinator=coordinator,
                    escrow=self.escrow,
                    bond=self.bond,
                )
            case effects.SignReceipt(lease_id=lease_id, receipt=receipt):
                signed: Signed[Any] = make_key("provider-1").sign(receipt, DOMAIN).as_signed()
                return events.ReceiptSigned(at=at, lease_id=lease_id, receipt=signed)
            case effects.PrepareUnit(lease=lease) | effects.RunUnit(lease=lease) if not succeeds:
                reason = make_reason()
                return events.AttemptFailed(at=at, lease_id=lease.lease_id, reason=reason)
            case effects.PrepareUnit(lease=lease):
                return events.UnitPrepared(at=at, lease_id=lease.lease_id)
            case effects.RunUnit(lease=lease):
                return events.UnitRan(at=at, lease_id=lease.lease_id, duration_ms=9_000)
            case effects.StoreOutput(lease_id=lease_id):
                self.salts += 1
                salt = make_hash(f"salt {self.salts}")
                return events.OutputStored(
                    at=at, lease_id=lease_id, output=make_cid(), output_bytes=1, salt=salt
                )
        return None

    @rule(lease_ids=lease_sets, epoch=st.integers(1, 3))
    def request_root(self, lease_ids: tuple[Hash32, ...], epoch: int) -> None:
        self.request(epoch, lease_ids)

    @rule(lease_ids=lease_sets, epoch=st.integers(1, 3))
    def request_openings(self, lease_ids: tuple[Hash32, ...], epoch: int) -> None:
        self.demand(epoch, lease_ids, "verifier-1")

    @rule(accepted=lease_sets, rejected=lease_sets)
    def close_epoch(self, accepted: tuple[Hash32, ...], rejected: tuple[Hash32, ...]) -> None:
        self.hear(messages.EpochClosed(epoch=1, accepted=accepted, rejected=rejected))

    @rule(lease_id=lease_choice)
    def cancel(self, lease_id: Hash32) -> None:
        self.hear(messages.LeaseCancelled(lease_id=lease_id, reason=make_reason()))

    @rule(lease_id=lease_choice)
    def report_progress(self, lease_id: Hash32) -> None:
        self.post(
            events.UnitProgressed(at=self.now, lease_id=lease_id, phase="run", done=1, total=2)
        )

    @rule(escrow=st.sampled_from([RICH, RICH, Amount(0)]), bond=st.sampled_from([RICH, Amount(0)]))
    def move_money(self, escrow: Amount, bond: Amount) -> None:
        """The requester or the coordinator takes money out, or puts it back."""
        self.escrow, self.bond = escrow, bond

    @rule()
    def join(self) -> None:
        self.post(events.CoordinatorJoined(at=self.now, coordinator=COORDINATOR))

    @rule(seconds=st.sampled_from([1, 5, 30, 200, 4_000]))
    def pass_time(self, seconds: int) -> None:
        self.now = Timestamp(self.now + seconds)
        due = self.state.find_next_deadline()
        if due is not None and due <= self.now:
            self.post(events.TimePassed(at=self.now))
            later = self.state.find_next_deadline()
            assert later is None or later > self.now

    @rule(slots=st.integers(1, 3), from_snapshot=st.booleans())
    def crash_and_restart(self, slots: int, from_snapshot: bool) -> None:
        """Effects under way are lost; the journal gives back the same state."""
        if from_snapshot:
            body = msgspec.msgpack.encode(self.state)
            again = msgspec.msgpack.decode(body, type=Provider)
        else:
            again = Provider(terms=self.terms)
            decoder = msgspec.msgpack.Decoder(events.EVENT)
            for event in self.journal:
                again.decide(decoder.decode(event))
        for state in (self.state, again):
            state.connected = {}
            for lease in state.leases.values():
                lease.progress = type(lease.progress)()
        assert again == self.state
        self.state = again
        self.outstanding.clear()
        self.post(
            events.ProcessStarted(at=self.now, terms=make_terms(devices=DEVICES, slots=slots))
        )

    @invariant()
    def no_more_run_than_there_are_slots(self) -> None:
        assert len(self.state.find_active()) <= self.state.terms.slots

    @invariant()
    def no_lease_has_two_receipts_or_two_openings(self) -> None:
        assert all(len(hashes) == 1 for hashes in self.receipts.values())
        assert all(len(shown) == 1 for shown in self.openings.values())

    @invariant()
    def nothing_is_taken_without_money_behind_it(self) -> None:
        if self.prepared_on is not None:
            assert self.prepared_on.escrow >= EXPOSURE
            assert self.prepared_on.bond >= self.terms.bond_min

    @invariant()
    def every_proposal_that_waits_has_its_reading(self) -> None:
        is_read = any(isinstance(effect, effects.ReadFunds) for effect in self.outstanding)
        assert is_read or not self.state.waiting

    @invariant()
    def leases_move_only_where_they_may(self) -> None:
        for lease_id, before in self.phases.items():
            lease = self.state.leases.get(lease_id)
            if lease is not None and lease.phase is not before:
                assert can_reach(before, lease.phase)
        self.phases = {lease.lease_id: lease.phase for lease in self.state.leases.values()}

    @invariant()
    def something_is_under_way_for_each_active_lease(self) -> None:
        working = {
            getattr(effect, "lease_id", None) or effect.lease.lease_id
            for effect in self.outstanding
            if not isinstance(effect, NOT_OF_A_LEASE)
        }
        active = {lease.lease_id for lease in self.state.leases.values() if lease.phase in ACTIVE}
        assert active <= working

    @invariant()
    def every_device_second_is_counted_once(self) -> None:
        totals = {sum(seconds.values()) for seconds in self.state.ledger.totals}
        assert len(totals) <= 1
        ledger = self.state.ledger
        for hours in ledger.hours:
            *over, present = sorted(hours)
            assert all(sum(hours[hour].values()) == SECONDS_PER_HOUR for hour in over)
            passed = self.now - present * SECONDS_PER_HOUR
            assert sum(hours[present].values()) <= passed
        assert not ledger.judged
        open_leases = {i for i, lease in self.state.leases.items() if lease.phase not in ENDED}
        assert ledger.spans.keys() <= open_leases


def can_reach(before: Phase, after: Phase) -> bool:
    """A lease may take several steps within one event."""
    seen, frontier = set(), [before]
    while frontier:
        phase = frontier.pop()
        if phase not in seen:
            seen.add(phase)
            frontier += NEXT[phase]
    return after in seen


TestMarket = Market.TestCase
TestMarket.settings = settings(max_examples=100, stateful_step_count=50)
