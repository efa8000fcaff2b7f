"""
A coordinator, and devices in logical time: how long they take follows from what they are.

The coordinator's core decides and every answer is really computed and really judged, on a small
shape; the bounds are those of the claimed device, and the time that passes is that of the true one
for the full shape. So no test here depends on how fast this machine is.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec
import pytest

from coordinator.core import effects, events, hardware_checks
from coordinator.core.decide import CoordinatorState, make_state
from coordinator.core.order_book import make_candidate
from coordinator.core.settings import Settings
from gpumarket.hardware.answering import Solver, check_answer
from gpumarket.hardware.product import NUMPY
from gpumarket.protocol import hardware, messages
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.hardware import ENTRY_BYTES, HardwareShape, HardwareTask, Plan
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.lease import Reason
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.signing import Domain, keccak256
from gpumarket.protocol.units import Amount, Timestamp
from gpumarket.testing.factories import DOMAIN, NOW, make_address, make_offer, sign

SMALL = HardwareShape(
    size=64,
    rounds=2,
    opened_rows=4,
    table_entries=1_000,
    stages=6,
    walkers=64,
    steps=8,
    checked_walks=4,
)
INTERVAL = 10_000
LINE_SECONDS = 0.2
"""For one message."""
SPILL = 20
"""How much slower memory across the bus is than the device's own."""
STEPS_MAX = 10_000
H100 = Device(
    vendor="nvidia",
    model="H100 80GB HBM3",
    vram_bytes=80 * 10**9,
    simulated=False,
    compute_capability=(9, 0),
)
CPU = Device(vendor="cpu", model="a processor", vram_bytes=0, simulated=False)
SIMULATED = msgspec.structs.replace(H100, simulated=True)

MakeSolver = Callable[[HardwareTask], Solver]


@dataclass
class Card:
    """A thing that computes; what it does for one task the next one waits for."""

    gflops: float
    fill_mega: float
    """Entries brought through one stage, in 10^6 a second."""
    memory_bytes: int
    recompute_mega: float
    """Mixings in 10^6 a second, for entries that are not kept."""
    is_patient: bool = False
    """Whether its owner fills the next table only when the one before is done with."""
    busy_until: float = 0.0
    tables: dict[Hash32, int] = field(default_factory=dict)
    """Bytes that are in use, by challenge."""

    def use(self, now: float, seconds: float) -> float:
        """Work so long as soon as it can; return when that is over."""
        self.busy_until = max(now, self.busy_until) + seconds
        return self.busy_until


def make_h100() -> Card:
    """About what a data sheet says, with half of it lost on the way."""
    return Card(gflops=200_000, fill_mega=20_000, memory_bytes=80 * 10**9, recompute_mega=1_000_000)


def make_server() -> Card:
    """A processor of a large server: two TFLOPS and much memory, none of it fast."""
    return Card(gflops=2_000, fill_mega=1_000, memory_bytes=10**12, recompute_mega=20_000)


@dataclass
class Listing:
    """One offered device and what stands behind it."""

    name: str
    device: Device
    card: Card
    make_solver: MakeSolver
    delay: dict[str, float] = field(default_factory=dict)
    """Seconds that an answer of this type is held back."""
    host: str = "10.0.0.1"
    payout: str = ""
    """Whose address its claims go to; empty is its own."""
    session: int = 0
    solvers: dict[Hash32, Solver] = field(default_factory=dict)
    sent: list[messages.Message] = field(default_factory=list)
    heard: list[messages.Message] = field(default_factory=list)
    replays: list[messages.Message] | None = None
    """Says these instead, under the new challenge's name."""

    @property
    def address(self) -> Address:
        return make_address(self.name)


class Lab:
    """Runs a coordinator's core against listings until nothing happens any more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, interval: int = INTERVAL) -> None:
        monkeypatch.setattr(hardware_checks, "plan_challenge", plan_small)
        settings = Settings(
            domain=Domain(chain_id=DEVNET_CHAIN_ID, contract=DOMAIN.contract),
            coordinator=make_address("coordinator"),
            hardware_interval_seconds=interval,
        )
        self.state: CoordinatorState = make_state(settings)
        self.now = float(NOW)
        self.listings: dict[Address, Listing] = {}
        self.secrets = count()
        self.sessions = count(1)
        self.judged: list[events.HardwareJudged] = []
        self.order = count()
        self.queue: list[tuple[float, int, Callable[[], None]]] = []

    # ---- actors ----------------------------------------------------------------------------

    def join(
        self,
        name: str,
        device: Device = H100,
        card: Card | None = None,
        make_solver: MakeSolver = lambda task: Solver(NUMPY, task),
        **changes: Any,
    ) -> Listing:
        """Offer a device, with an honest card and solver unless told otherwise."""
        listing = Listing(name, device, card or make_h100(), make_solver, **changes)
        self.listings[listing.address] = listing
        self.say_hello(listing)
        return listing

    def say_hello(self, listing: Listing) -> None:
        """Join, or join again."""
        listing.session = next(self.sessions)
        offer = make_offer(
            listing.name,
            devices=(listing.device,),
            addresses=(f"/ip4/{listing.host}/tcp/4001/p2p/12D3KooW{listing.name}",),
            sequence=int(self.now * 1_000) + listing.session,
            issued_at=int(self.now),
            expires_at=int(self.now) + 10**6,
        )
        self.post(
            events.ProviderJoined(
                at=self.at,
                sender=listing.address,
                session=listing.session,
                offer=sign(offer, listing.name),
                running=(),
                stake=Amount(0),
                payout=make_address(listing.payout or listing.name),
            )
        )

    def leave(self, listing: Listing) -> None:
        """End a session."""
        self.post(
            events.ProviderLeft(at=self.at, provider=listing.address, session=listing.session)
        )
        listing.session = 0

    # ---- what came of it -------------------------------------------------------------------

    def find_reason(self, listing: Listing) -> Reason | None:
        """Why its device gets no task; None where it does."""
        provider = self.state.providers[listing.address]
        return hardware_checks.describe_hardware(self.state, provider)

    def is_matched(self, listing: Listing) -> bool:
        """Whether matching would give it work."""
        candidate = make_candidate(self.state, self.state.providers[listing.address])
        return not candidate.is_being_checked and not candidate.failed

    # ---- time ------------------------------------------------------------------------------

    @property
    def at(self) -> Timestamp:
        """The coordinator's clock, in whole seconds."""
        return Timestamp(int(self.now))

    def later(self, when: float, deed: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), deed))

    def run(self, seconds: float = 300.0) -> None:
        """Let this much time pass."""
        end = self.now + seconds
        for _ in range(STEPS_MAX):
            due = self.state.find_next_deadline()
            message_at = self.queue[0][0] if self.queue else end + 1
            timer_at = end + 1 if due is None else max(self.now, float(due))
            if min(message_at, timer_at) > end:
                self.now = end
                return
            if message_at <= timer_at:
                self.now, _, deed = heapq.heappop(self.queue)
                deed()
            else:
                self.now = timer_at
                self.post(events.TimePassed(at=self.at))
        raise AssertionError("the laboratory does not come to rest")

    # ---- the coordinator -------------------------------------------------------------------

    def post(self, event: events.Event) -> None:
        for effect in self.state.decide(event):
            self.perform(effect)

    def perform(self, effect: effects.Effect) -> None:
        match effect:
            case effects.SendMessage(recipient=recipient, message=message):
                listing = self.listings[recipient]
                listing.heard.append(message)
                self.later(self.now + LINE_SECONDS, lambda: self.deliver(listing, message))
            case effects.DrawHardwareSecret(round=number):
                secret = keccak256(f"secret {next(self.secrets)}".encode())
                drawn = events.HardwareSecretDrawn(at=self.at, round=number, secret=secret)
                self.later(self.now, lambda: self.post(drawn))
            case effects.JudgeHardware():
                judged = self.judge(effect)
                self.judged.append(judged)
                self.later(self.now, lambda: self.post(judged))

    def judge(self, effect: effects.JudgeHardware) -> events.HardwareJudged:
        problem = ""
        try:
            check_answer(
                effect.task,
                root=effect.root,
                second=effect.second,
                check_seed=effect.check_seed,
                rows=effect.rows,
                walks=effect.walks,
            )
        except RemoteProtocolError as error:
            problem = error.message
        return events.HardwareJudged(at=self.at, challenge=effect.task.challenge, problem=problem)

    # ---- devices ---------------------------------------------------------------------------

    def deliver(self, listing: Listing, message: messages.Message) -> None:
        if not listing.session:
            return
        match message:
            case messages.HardwareChallenged(task=task):
                self.compute(listing, task)
            case messages.HardwareDrawn():
                self.open(listing, message)
            case _:
                pass

    def compute(self, listing: Listing, task: HardwareTask) -> None:
        for old in listing.solvers:
            listing.card.tables.pop(old, None)  # nobody waits for it any more
        solver = listing.solvers[task.challenge] = listing.make_solver(task)
        shape, card = hardware.plan_challenge(listing.device).shape, listing.card
        answered = card.use(self.now, shape.flops / (card.gflops * 1e9))
        root = solver.multiply()
        said = messages.HardwareAnswered(challenge=task.challenge, root=root)
        self.say(listing, answered, said)
        # Not at once: a clever owner multiplies for all of its offers before it fills for any.
        self.later(answered, lambda: self.fill(listing, solver))

    def fill(self, listing: Listing, solver: Solver) -> None:
        task, card = solver.task, listing.card
        if card.is_patient and card.tables:
            self.later(self.now + LINE_SECONDS, lambda: self.fill(listing, solver))
            return
        shape = hardware.plan_challenge(listing.device).shape
        kept = getattr(solver, "kept", SMALL.table_entries) / SMALL.table_entries
        card.tables[task.challenge] = int(shape.table_entries * ENTRY_BYTES * kept)
        is_spilled = sum(card.tables.values()) > card.memory_bytes
        fill_seconds = shape.entry_stages / (card.fill_mega * 1e6) * (SPILL if is_spilled else 1)
        ready = card.use(self.now, fill_seconds)
        solver.fill()
        self.say(listing, ready, messages.HardwareReady(challenge=task.challenge))

    def open(self, listing: Listing, drawn: messages.HardwareDrawn) -> None:
        solver = listing.solvers[drawn.challenge]
        card, shape = listing.card, hardware.plan_challenge(listing.device).shape
        rows, walks = solver.open(drawn.seed)
        # Of the small shape as many lookups miss, in proportion, as of the full one.
        missed = getattr(solver, "recomputed", 0) / (SMALL.walkers * SMALL.steps)
        is_guess = type(solver).__name__ == "GuessingTable"
        lookups = 0.0 if is_guess else missed * shape.walkers * shape.steps
        seconds = lookups * 2 ** (shape.stages + 1) / (card.recompute_mega * 1e6)
        opened = messages.HardwareOpened(challenge=drawn.challenge, rows=rows, walks=walks)
        self.say(listing, card.use(self.now, seconds), opened)
        card.tables.pop(drawn.challenge, None)

    def say(
        self,
        listing: Listing,
        when: float,
        message: messages.HardwareAnswered | messages.HardwareReady | messages.HardwareOpened,
    ) -> None:
        if listing.replays is not None:
            old = next(each for each in listing.replays if type(each) is type(message))
            message = msgspec.structs.replace(old, challenge=message.challenge)
        listing.sent.append(message)
        held = listing.delay.get(type(message).__name__, 0.0)

        def arrive() -> None:
            if listing.session:
                sender = listing.address
                self.post(events.MessageReceived(at=self.at, sender=sender, message=message))

        self.later(when + held + LINE_SECONDS, arrive)


def plan_small(device: Device) -> Plan:
    """The bounds of the claimed device, over a shape that this machine does in milliseconds."""
    return msgspec.structs.replace(hardware.plan_challenge(device), shape=SMALL)
