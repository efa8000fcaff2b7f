"""A whole market played against the coordinator's pure core: actors, chain and content in memory.

`Market.post` decides one event, checks every invariant and performs nothing: effects wait in
`todo`, and what the actors answer waits in `inbox`, so that a test may lose, repeat, delay or
reorder any of it. `Market.run` is the fair schedule: everything in order until nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from coordinator.core import effects, events
from coordinator.core.decide import CoordinatorState, make_state
from coordinator.core.invariants import check_state
from coordinator.core.settings import Settings
from coordinator.core.state import Job
from gpumarket.protocol import messages
from gpumarket.protocol.approvals import Approval
from gpumarket.protocol.attestation import Attestation, Evidence, Opening, OwnResult, Seal, Verdict
from gpumarket.protocol.canaries import CanaryNote
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.job import JobSpec
from gpumarket.protocol.lease import LeaseOffer, Reason
from gpumarket.protocol.merkle import compute_root
from gpumarket.protocol.proof import compute_epoch_root
from gpumarket.protocol.receipt import ProviderRoot, Receipt, UnitResult, compute_input_hash
from gpumarket.protocol.sampling import compute_seed
from gpumarket.protocol.settlement import Bill
from gpumarket.protocol.signing import Signed, keccak256
from gpumarket.protocol.training import SegmentAudit, TrainingClaim
from gpumarket.protocol.units import Amount, Timestamp, compute_price
from gpumarket.testing.factories import (
    ANYWHERE,
    DOMAIN,
    NOW,
    make_address,
    make_cid,
    make_hash,
    make_signed_card,
    make_signed_offer,
    make_signed_order,
    make_spec,
    sign,
)
from tests.played_court import PlayedCourt

M = TypeVar("M")

DEPOSIT = 10**9
STEPS_MAX = 20_000
DURATION_MS = 1_000


def make_settings(**changes: Any) -> Settings:
    """Return the settings of the test coordinator."""
    values: dict[str, Any] = {
        "domain": DOMAIN,
        "coordinator": make_address("coordinator"),
        "settle_interval_seconds": 0,
    }
    return Settings(**(values | changes))


@dataclass
class PlayedProvider:
    """A provider: runs what it is leased; what it cheats at is a flag."""

    name: str
    session: int = 0
    offer: dict[str, Any] = field(default_factory=dict)
    forges: frozenset[int] = frozenset()
    canaries: frozenset[int] = frozenset()
    """Tasks of `operator` that it forges on purpose, with a note, the first time it gets them."""
    operator: str = "operator"
    fails: Reason | None = None
    is_silent: bool = False
    declines: bool = False
    signs_roots: bool = True
    opens: bool = True
    has_outputs: bool = True
    stake: int = 0
    payout: str = ""
    """Whose address its claims go to; empty is its own."""
    keeps_approvals: bool = True
    approvals: list[Approval] = field(default_factory=list)
    leases: dict[Hash32, LeaseOffer] = field(default_factory=dict)
    claims: dict[Hash32, TrainingClaim] = field(default_factory=dict)
    """By lease of a training task: what its result says of its chain."""
    results: dict[Hash32, UnitResult] = field(default_factory=dict)
    receipts: dict[Hash32, Receipt] = field(default_factory=dict)
    notes: dict[Hash32, Signed[CanaryNote]] = field(default_factory=dict)

    @property
    def address(self) -> Address:
        return make_address(self.name)

    def run(self, lease: LeaseOffer, now: Timestamp) -> messages.UnitFinished:
        """Do a leased unit; a forged one has another output."""
        self.leases[lease.lease_id] = lease
        is_ours = lease.order.body.requester == make_address(self.operator)
        is_canary = is_ours and lease.unit in self.canaries and lease.attempt == 0
        forged = " forged" if is_canary or lease.unit in self.forges else ""
        result = UnitResult(
            order_hash=lease.order.body.compute_struct_hash(),
            unit=lease.unit,
            provider=self.address,
            input_hash=compute_input_hash(lease.order.body.job_hash, lease.unit),
            output=make_cid(f"output {lease.unit}{forged}"),
            output_bytes=1_000,
            repro_class=make_hash("class"),
            duration_ms=DURATION_MS,
            salt=make_hash(f"salt {self.name} {lease.unit} {lease.attempt}"),
            training=self.claims.get(lease.lease_id),
        )
        price = compute_price(
            duration_ms=DURATION_MS,
            devices=1,
            price_per_device_hour=lease.price_per_device_hour,
        )
        receipt = Receipt(
            order_hash=result.order_hash,
            unit=lease.unit,
            provider=self.address,
            result_hash=result.compute_hash(),
            price=min(price, lease.price_max),
            finished_at=now,
        )
        self.results[lease.lease_id] = result
        self.receipts[lease.lease_id] = receipt
        self.notes.pop(lease.lease_id, None)
        if is_canary:
            note = CanaryNote(
                receipt_hash=receipt.compute_struct_hash(),
                honest=make_cid(f"output {lease.unit}"),
                salt=make_hash(f"canary {lease.unit}"),
            )
            self.notes[lease.lease_id] = sign(note, self.name)
        return self.report(lease.lease_id)

    def report(self, lease_id: Hash32) -> messages.UnitFinished:
        """Say that a unit is finished, now or again."""
        return messages.UnitFinished(
            lease_id=lease_id,
            receipt=sign(self.receipts[lease_id], self.name),
            duration_ms=DURATION_MS,
            canary=self.notes.get(lease_id),
        )

    def sign_root(self, epoch: int, lease_ids: Iterable[Hash32]) -> messages.RootSigned:
        receipts = [self.receipts[lease_id] for lease_id in lease_ids]
        root = ProviderRoot(
            coordinator=make_address("coordinator"),
            epoch=epoch,
            provider=self.address,
            root=compute_root([receipt.result_hash for receipt in receipts]),
            count=len(receipts),
            price=sum(receipt.price for receipt in receipts),
            duration_ms=DURATION_MS * len(receipts),
        )
        return messages.RootSigned(root=sign(root, self.name))

    def open(self, request: messages.OpeningsRequested) -> messages.ResultsOpened:
        seals: dict[Hash32, list[Hash32]] = {}
        for seal in request.seals:
            seals.setdefault(seal.body.receipt_hash, []).append(compute_content_hash(seal.body))
        openings = []
        for lease_id in request.lease_ids:
            if lease_id not in self.receipts:
                continue
            receipt_hash = self.receipts[lease_id].compute_struct_hash()
            opening = Opening(
                result=self.results[lease_id],
                receipt_hash=receipt_hash,
                seal_hashes=tuple(sorted(seals.get(receipt_hash, ()))),
            )
            openings.append(sign(opening, self.name))
        return messages.ResultsOpened(epoch=request.epoch, openings=tuple(openings))


@dataclass
class PlayedVerifier:
    """A verifier: does the unit again, honestly unless told to be silent."""

    name: str
    session: int = 0
    card: dict[str, Any] = field(default_factory=dict)
    is_silent: bool = False
    is_mute_when_shown: bool = False
    approves_all: bool = False
    """Whether it states a match whatever it got."""
    lies: frozenset[int] = frozenset()
    """Units of which it makes up an output, so that it can state a mismatch."""
    stake: int = 10
    payout: str = ""
    """Whose address its claims go to; empty is its own."""
    own: dict[Hash32, OwnResult] = field(default_factory=dict)
    drawn: dict[Hash32, tuple[int, ...]] = field(default_factory=dict)
    """By receipt of a training task: the segments that it was asked to do again."""

    @property
    def address(self) -> Address:
        return make_address(self.name)

    def seal(self, request: messages.CheckRequested) -> messages.CheckSealed:
        own = OwnResult(
            order_hash=request.order_hash,
            unit=request.unit,
            verifier=self.address,
            output=make_cid(f"{'lie' if request.unit in self.lies else 'output'} {request.unit}"),
            exit_code=0,
            repro_class=self.card.get("repro_class", make_hash("class")),
            duration_ms=DURATION_MS,
            nonce=make_hash(f"nonce {self.name}"),
        )
        self.own[request.receipt_hash] = own
        if request.segments:
            self.drawn[request.receipt_hash] = tuple(each.index for each in request.segments)
        seal = Seal(
            order_hash=request.order_hash,
            unit=request.unit,
            verifier=self.address,
            receipt_hash=request.receipt_hash,
            sealed=own.compute_hash(),
        )
        return messages.CheckSealed(seal=sign(seal, self.name))

    def judge(self, shown: messages.ResultShown, now: Timestamp) -> messages.CheckDone:
        opening = shown.opening.body
        own = self.own[opening.receipt_hash]
        is_same = own.output == opening.result.output or self.approves_all
        is_foreign = own.repro_class != opening.result.repro_class
        different = Verdict.INCONCLUSIVE if is_foreign else Verdict.MISMATCH
        drawn = self.drawn.get(opening.receipt_hash)
        evidence = Evidence(
            own=own,
            opening_hash=compute_content_hash(opening),
            segments=None if drawn is None else SegmentAudit(states=shown.states, drawn=drawn),
            comparison="bytes: equal" if is_same else "bytes: result.bin differs",
        )
        attestation = Attestation(
            receipt_hash=opening.receipt_hash,
            verdict=int(Verdict.MATCH if is_same else different),
            evidence_hash=compute_content_hash(evidence),
            issued_at=now,
        )
        return messages.CheckDone(attestation=sign(attestation, self.name), evidence=evidence)


@dataclass
class PlayedChain:
    """The chain: numbers commitments and batches, fixes seeds, remembers every paid line."""

    block: int = 100
    roots: list[Hash32] = field(default_factory=list)
    batches: list[effects.PostBatch] = field(default_factory=list)
    deposits: dict[Address, int] = field(default_factory=dict)
    """What was ever in a requester's escrow, less what it took out; `DEPOSIT` where not said."""
    withdrawing: dict[Address, int] = field(default_factory=dict)
    """What of it was asked back and is still there."""
    bad_orders: set[Hash32] = field(default_factory=set)
    """A batch with one of these is refused for good."""
    own_fault: str = ""
    """A code with which every batch is refused, whatever is in it."""
    names_accounts: bool = True
    """Whether it says whose escrow is too small."""
    entropy: str = "entropy"
    is_down: bool = False

    def commit(self, effect: effects.CommitEpoch, now: Timestamp) -> events.EpochCommitted:
        assert compute_epoch_root(effect.document) == effect.root
        if effect.root not in self.roots:
            self.roots.append(effect.root)
        self.block += 1
        return events.EpochCommitted(
            at=now,
            epoch=effect.epoch,
            sequence=self.roots.index(effect.root),
            block=self.block,
            block_hash=make_hash(f"block {self.block}"),
            tx=make_hash(f"tx {self.block}"),
        )

    def fix_seed(self, effect: effects.FixSeed, now: Timestamp) -> events.SeedFixed:
        self.block = max(self.block, effect.block + 2)
        mix_hash = keccak256(f"{self.entropy} {effect.sequence}".encode())
        seed = compute_seed(
            chain_id=DOMAIN.chain_id,
            contract=DOMAIN.contract,
            committer=make_address("coordinator"),
            sequence=effect.sequence,
            root=self.roots[effect.sequence],
            mix_hash=mix_hash,
            nonces=effect.nonces,
        )
        return events.SeedFixed(
            at=now,
            epoch=effect.epoch,
            seed=seed,
            mix_hash=mix_hash,
            block=effect.block + 2,
            header_rlp=b"header",
            tx=make_hash(f"seed tx {effect.sequence}"),
        )

    def post(
        self, effect: effects.PostBatch, now: Timestamp
    ) -> events.BatchPosted | events.ChainRefused:
        assert effect.batch.bills == tuple(compute_content_hash(bill) for bill in effect.bills)
        if effect.batch not in [posted.batch for posted in self.batches]:
            refusal = self.find_refusal(effect, now)
            if refusal is not None:
                return refusal
            self.batches.append(effect)
        self.block += 1
        return events.BatchPosted(
            at=now,
            number=effect.number,
            sequence=[posted.batch for posted in self.batches].index(effect.batch),
            block=self.block,
            tx=make_hash(f"batch tx {self.block}"),
        )

    def find_refusal(self, effect: effects.PostBatch, now: Timestamp) -> events.ChainRefused | None:
        """Say why a batch cannot be posted, or None."""
        if now >= effect.post_by:
            return refuse_batch(effect, now, code="GM-1202")
        if self.own_fault:
            return refuse_batch(effect, now, code=self.own_fault)
        if {compute_order_hash(bill) for bill in effect.bills} & self.bad_orders:
            return refuse_batch(effect, now)
        for requester, needed in sum_requesters(effect).items():
            if needed > self.compute_left(requester):
                account = requester if self.names_accounts else b""
                return refuse_batch(effect, now, code="GM-3011", account=account)
        return None

    def compute_left(self, requester: Address) -> int:
        """What a requester has in escrow, with what it asked back."""
        paid = sum(sum_requesters(posted).get(requester, 0) for posted in self.batches)
        return self.deposits.get(requester, DEPOSIT) - paid

    def read_escrow(self, requester: Address, now: Timestamp) -> events.EscrowSeen:
        withdrawing = min(self.withdrawing.get(requester, 0), self.compute_left(requester))
        return events.EscrowSeen(
            at=now,
            requester=requester,
            balance=Amount(self.compute_left(requester) - withdrawing),
            withdrawing=Amount(withdrawing),
            block=self.block,
        )

    def sum_paid(self) -> dict[Address, int]:
        paid: dict[Address, int] = {}
        lines = set()
        for posted in self.batches:
            for lane in posted.batch.lanes:
                paid[lane.payee] = paid.get(lane.payee, 0) + lane.amount
                for leaf in lane.leaves:
                    assert (leaf.order_hash, leaf.line) not in lines, "a line was paid twice"
                    lines.add((leaf.order_hash, leaf.line))
        return paid


class Market:
    """One coordinator and everybody around it."""

    def __init__(self, **settings: Any) -> None:
        self.state = make_state(make_settings(**settings))
        self.now = NOW
        self.chain = PlayedChain()
        self.court = PlayedCourt(self.list_jurors)
        self.providers: dict[Address, PlayedProvider] = {}
        self.verifiers: dict[Address, PlayedVerifier] = {}
        self.todo: list[effects.Effect] = []
        self.inbox: list[events.Event] = []
        self.closed: list[effects.CloseSession] = []
        self.sessions = 0
        self.posted: list[events.Event] = []
        self.post(events.ProcessStarted(at=self.now, sources=()))

    # ---- the runtime -------------------------------------------------------------------

    def post(self, event: events.Event) -> list[effects.Effect]:
        """Decide one event; return its effects, which also wait in `todo`."""
        self.posted.append(event)
        new = self.state.decide(event)
        check_state(self.state)
        self.todo += new
        return new

    def restart(self) -> None:
        """Die and come back: state from its bytes, effects and messages under way lost."""
        data = msgspec.msgpack.encode(self.state)
        self.state = msgspec.msgpack.decode(data, type=CoordinatorState)
        assert msgspec.msgpack.encode(self.state) == data
        self.todo.clear()
        self.inbox.clear()
        for provider in self.providers.values():
            provider.session = 0
        for verifier in self.verifiers.values():
            verifier.session = 0
        self.post(events.ProcessStarted(at=self.now, sources=(ANYWHERE,)))

    def wait(self, seconds: int = 1) -> None:
        """Let time pass."""
        self.now = Timestamp(self.now + seconds)
        self.post(events.TimePassed(at=self.now))

    def run(self, *, seconds_max: int = 0) -> None:
        """Play fairly until nobody has anything to do, waiting at most so long for timers."""
        end = self.now + seconds_max
        for _ in range(STEPS_MAX):
            if self.todo:
                self.perform(self.todo.pop(0))
            elif self.inbox:
                self.deliver(self.inbox.pop(0))
            else:
                deadline = self.state.find_next_deadline()
                if deadline is None or deadline > end:
                    return
                self.refresh()
                self.wait(max(0, deadline - self.now))
        raise AssertionError("the market does not come to rest")

    def refresh(self) -> None:
        """Everybody who is connected says hello again: offers live two minutes."""
        for provider in self.providers.values():
            if provider.session:
                self.say_hello(provider)
        for verifier in self.verifiers.values():
            if verifier.session:
                self.say_verifier_hello(verifier)

    # ---- actors ------------------------------------------------------------------------

    def join(self, name: str, **flags: Any) -> PlayedProvider:
        """Connect a provider, new or returning."""
        provider = self.providers.get(make_address(name)) or PlayedProvider(name)
        for flag, value in flags.items():
            setattr(provider, flag, value)
        self.providers[provider.address] = provider
        self.sessions += 1
        provider.session = self.sessions
        self.say_hello(provider)
        return provider

    def say_hello(self, provider: PlayedProvider) -> None:
        changes = {
            "sequence": self.now,
            "issued_at": self.now,
            "expires_at": self.now + 100_000,
        } | provider.offer
        self.post(
            events.ProviderJoined(
                at=self.now,
                sender=provider.address,
                session=provider.session,
                offer=make_signed_offer(provider.name, **changes),
                running=tuple(provider.leases),
                stake=Amount(provider.stake),
                payout=make_address(provider.payout or provider.name),
            )
        )

    def leave(self, name: str) -> None:
        """Cut a provider's session."""
        provider = self.providers[make_address(name)]
        if provider.session:
            session, provider.session = provider.session, 0
            self.post(events.ProviderLeft(at=self.now, provider=provider.address, session=session))

    def join_verifier(self, name: str = "verifier-1", **flags: Any) -> PlayedVerifier:
        """Connect a verifier, new or returning."""
        verifier = self.verifiers.get(make_address(name)) or PlayedVerifier(name)
        for flag, value in flags.items():
            setattr(verifier, flag, value)
        self.verifiers[verifier.address] = verifier
        self.sessions += 1
        verifier.session = self.sessions
        self.say_verifier_hello(verifier)
        return verifier

    def say_verifier_hello(self, verifier: PlayedVerifier) -> None:
        changes = {
            "sequence": self.now,
            "issued_at": self.now,
            "expires_at": self.now + 100_000,
        } | verifier.card
        self.post(
            events.VerifierJoined(
                at=self.now,
                sender=verifier.address,
                session=verifier.session,
                card=make_signed_card(verifier.name, **changes),
                stake=Amount(verifier.stake),
                payout=make_address(verifier.payout or verifier.name),
            )
        )

    def list_jurors(self) -> list[Address]:
        """Return whom the contract could draw: all that ever came, connected or not."""
        return sorted(self.verifiers)

    def leave_verifier(self, name: str = "verifier-1") -> None:
        """Cut a verifier's session."""
        verifier = self.verifiers[make_address(name)]
        if verifier.session:
            session, verifier.session = verifier.session, 0
            self.post(events.VerifierLeft(at=self.now, verifier=verifier.address, session=session))

    def submit(self, spec: JobSpec | None = None, **changes: Any) -> Job:
        """Submit a job and return its record, which must have been taken."""
        event = self.make_submission(spec, **changes)
        self.post(event)
        return self.state.jobs[event.order.body.compute_struct_hash()]

    def make_submission(
        self,
        spec: JobSpec | None = None,
        *,
        escrow: int = DEPOSIT,
        key: str = "",
        wait: int = 0,
        **changes: Any,
    ) -> events.JobSubmitted:
        spec = spec or make_spec()
        return events.JobSubmitted(
            at=self.now,
            order=make_signed_order(spec, **changes),
            spec=spec,
            idempotency_key=key,
            wait_for_capacity_seconds=wait,
            escrow_balance=Amount(escrow),
            escrow_block=self.chain.block,
        )

    # ---- effects -----------------------------------------------------------------------

    def perform(self, effect: effects.Effect) -> None:
        """Do what an effect says; what is answered waits in `inbox`."""
        match effect:
            case effects.ProposeLease():
                self._propose(effect.lease)
            case effects.SendMessage():
                self._send(effect.recipient, effect.message)
            case effects.CloseSession():
                self.closed.append(effect)
            case effects.DrawNonce():
                drawn = events.NonceDrawn(
                    at=self.now,
                    epoch=effect.epoch,
                    nonce=make_hash(f"nonce of epoch {effect.epoch} at {self.now}"),
                    canary_salt=make_hash(f"canary salt of epoch {effect.epoch}"),
                )
                self.inbox.append(drawn)
            case effects.CommitEpoch() | effects.FixSeed() | effects.PostBatch():
                self.inbox.append(self._ask_chain(effect))
            case effects.OpenCase():
                self.inbox.append(self.court.open(effect, self.now))
            case effects.MoveCase():
                self.inbox.append(self.court.move(effect, self.now))
            case effects.FetchOutput():
                self.inbox.append(self._fetch(effect))
            case effects.ReadEscrow():
                if not self.chain.is_down:
                    self.inbox.append(self.chain.read_escrow(effect.requester, self.now))
            case effects.PublishDocument():
                pass

    def _ask_chain(
        self, effect: effects.CommitEpoch | effects.FixSeed | effects.PostBatch
    ) -> events.Event:
        if self.chain.is_down:
            return refuse_chain(effect, self.now)
        if isinstance(effect, effects.CommitEpoch):
            return self.chain.commit(effect, self.now)
        if isinstance(effect, effects.FixSeed):
            return self.chain.fix_seed(effect, self.now)
        return self.chain.post(effect, self.now)

    def _fetch(self, effect: effects.FetchOutput) -> events.Event:
        if self.providers[effect.provider].has_outputs:
            return events.OutputFetched(
                at=self.now, lease_id=effect.lease_id, cid=effect.cid, size_bytes=1_000
            )
        return events.OutputMissing(
            at=self.now, lease_id=effect.lease_id, cid=effect.cid, code="GM-6012", text="gone"
        )

    def _propose(self, lease: LeaseOffer) -> None:
        provider = self.providers[lease.provider]
        if not provider.session or provider.is_silent or lease.lease_id in provider.leases:
            return
        if provider.declines:
            self._say(
                provider.address,
                messages.Declined(about=lease.lease_id, code="GM-5303", need="1", have="0"),
            )
            return
        self._say(provider.address, messages.LeaseAccepted(lease_id=lease.lease_id))
        if provider.fails:
            self._say(
                provider.address,
                messages.UnitFailed(
                    lease_id=lease.lease_id, reason=provider.fails, exit_code=2, log_tail="oops"
                ),
            )
            return
        # The clock of the run has moved by the time this is delivered.
        self._say(provider.address, provider.run(lease, self.now))

    def _say(self, sender: Address, message: Any) -> None:
        self.inbox.append(events.MessageReceived(at=self.now, sender=sender, message=message))

    def _send(self, recipient: Address, message: messages.Message) -> None:
        provider = self.providers.get(recipient)
        if provider is not None and provider.session and not provider.is_silent:
            self._tell_provider(provider, message)
        verifier = self.verifiers.get(recipient)
        if verifier is not None and verifier.session and not verifier.is_silent:
            self._tell_verifier(verifier, message)

    def _tell_provider(self, provider: PlayedProvider, message: messages.Message) -> None:
        match message:
            case messages.Welcome():
                # What was finished while nobody listened is said again.
                for lease_id in provider.receipts:
                    if lease_id in provider.leases:
                        self._say(provider.address, provider.report(lease_id))
            case messages.RootRequested() if provider.signs_roots:
                known = [i for i in message.lease_ids if i in provider.receipts]
                if len(known) == len(message.lease_ids):
                    self._say(provider.address, provider.sign_root(message.epoch, known))
            case messages.OpeningsRequested() if provider.opens:
                self._say(provider.address, provider.open(message))
            case messages.LeaseCancelled():
                provider.leases.pop(message.lease_id, None)
            case messages.EpochClosed():
                for lease_id in (*message.accepted, *message.rejected):
                    provider.leases.pop(lease_id, None)
            case messages.ReceiptsApproved() if provider.keeps_approvals:
                provider.approvals += message.approvals.approvals
                words = [word for each in message.approvals.approvals for word in each.list_words()]
                self._say(provider.address, messages.ApprovalsKept(words=tuple(words)))
            case _:
                pass

    def _tell_verifier(self, verifier: PlayedVerifier, message: messages.Message) -> None:
        match message:
            case messages.CheckRequested():
                self._say(verifier.address, verifier.seal(message))
            case messages.ResultShown() if not verifier.is_mute_when_shown:
                self._say(verifier.address, verifier.judge(message, self.now))
            case _:
                pass

    def deliver(self, event: events.Event) -> None:
        """Post what an actor said, at the present time."""
        self.post(msgspec.structs.replace(event, at=self.now))


def refuse_chain(
    effect: effects.CommitEpoch | effects.FixSeed | effects.PostBatch,
    now: Timestamp,
    *,
    is_final: bool = False,
) -> events.ChainRefused:
    """Return the news that a chain call did not come through."""
    code, text = "GM-3001", "the chain cannot be reached"
    match effect:
        case effects.CommitEpoch():
            return events.ChainRefused(
                at=now, call="commit", epoch=effect.epoch, is_final=is_final, code=code, text=text
            )
        case effects.FixSeed():
            return events.ChainRefused(
                at=now, call="seed", epoch=effect.epoch, is_final=is_final, code=code, text=text
            )
        case effects.PostBatch():
            return events.ChainRefused(
                at=now,
                call="batch",
                number=effect.number,
                is_final=is_final,
                code=code,
                text=text,
            )


def refuse_batch(
    effect: effects.PostBatch, now: Timestamp, *, code: str = "GM-3055", account: bytes = b""
) -> events.ChainRefused:
    """Return the news that the contract will never take a batch as it is."""
    return events.ChainRefused(
        at=now,
        call="batch",
        number=effect.number,
        is_final=True,
        code=code,
        text=f"the contract refuses: {code}",
        account=account,
    )


def compute_order_hash(bill: Bill) -> Hash32:
    """Return the order that a bill is of."""
    return bill.order.body.compute_struct_hash()


def sum_requesters(effect: effects.PostBatch) -> dict[Address, int]:
    """Return what each requester pays in a batch."""
    totals: dict[Address, int] = {}
    for lane in effect.batch.lanes:
        totals[lane.requester] = totals.get(lane.requester, 0) + lane.amount
    return totals


def play_until(market: Market, condition: Callable[[Market], object]) -> None:
    """Play fairly until something is so, but no further."""
    for _ in range(STEPS_MAX):
        if condition(market):
            return
        if market.todo:
            market.perform(market.todo.pop(0))
        else:
            market.deliver(market.inbox.pop(0))


def list_sent(todo: Iterable[effects.Effect], kind: type[M]) -> list[M]:
    """Return the messages of one kind among some effects."""
    sent = (effect.message for effect in todo if isinstance(effect, effects.SendMessage))
    return [message for message in sent if isinstance(message, kind)]
