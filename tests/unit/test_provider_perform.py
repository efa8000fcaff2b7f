"""A provider's deeds with a fake world around them, its cheat, and what the machine claims."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from gpumarket.adapters.clock import SystemClock
from gpumarket.adapters.energy import EnergyMeter
from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.gpus import (
    detect,
    make_simulated_devices,
    read_processor,
)
from gpumarket.adapters.logs import Log
from gpumarket.config import SimulatedDevice
from gpumarket.protocol.errors import ChainError, ContentError, GpuMarketError, SandboxError
from gpumarket.protocol.job import Split
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.messages import (
    LeaseAccepted,
    Message,
    ResultsOpened,
    RootSigned,
    UnitFinished,
)
from gpumarket.protocol.receipt import Energy
from gpumarket.protocol.signing import verify
from gpumarket.protocol.units import PPM, Amount
from gpumarket.testing.factories import (
    DOMAIN,
    make_address,
    make_cid,
    make_key,
    make_lease_offer,
    make_opening,
    make_output,
    make_provider_root,
    make_receipt,
    make_result,
    make_spec,
)
from provider_node.canary import Canary
from provider_node.cheat import Forger
from provider_node.core.effects import (
    CleanUp,
    PrepareUnit,
    ReadFunds,
    RunUnit,
    SendMessage,
    SignOpenings,
    SignReceipt,
    SignRoot,
    StopUnit,
    StoreOutput,
)
from provider_node.core.events import (
    AttemptFailed,
    FundsSeen,
    FundsUnknown,
    OutputStored,
    ReceiptSigned,
    UnitPrepared,
    UnitProgressed,
    UnitRan,
)
from provider_node.perform import ProgressMeter, World, find_failure, name_run, perform

COORDINATOR = make_address("coordinator")


def make_run_result(**changes: Any) -> RunResult:
    values: dict[str, Any] = {
        "exit_code": 0,
        "is_timed_out": False,
        "is_output_over_limit": False,
        "is_oom_killed": False,
        "wall_ms": 9_000,
        "output_bytes": 7,
        "skipped_outputs": (),
        "stdout_tail": b"",
        "stderr_tail": b"",
    }
    return RunResult(**(values | changes))


@dataclass
class FakeRunner:
    """Answers as a test told it; `run` writes one file and may take for ever."""

    folder: Path
    result: RunResult = field(default_factory=make_run_result)
    error: GpuMarketError | Exception | None = None
    never_ends: bool = False
    stopped: list[str] = field(default_factory=list)
    cleaned: list[tuple[str, bool]] = field(default_factory=list)
    said: bytes = b""
    writes: str = ""
    on_run: Callable[[], object] = lambda: None

    async def prepare(self, _job: Any, **_: Any) -> int:
        if self.error is not None:
            raise self.error
        return 5

    async def run(self, _job: Any, _unit: int, *, name: str, on_output: Any, **_: Any) -> RunResult:
        if self.error is not None:
            raise self.error
        on_output("stdout", self.said)
        if self.never_ends:
            await trio.sleep_forever()
        await trio.sleep(1)
        self.on_run()
        self.find_output(name).mkdir()
        if self.writes:
            (self.find_output(name) / "result.txt").write_text(self.writes)
        return self.result

    async def store(self, _name: str) -> tuple[str, int]:
        return make_cid("stored"), 7

    def find_output(self, name: str) -> Path:
        return self.folder / name

    async def stop(self, name: str) -> None:
        self.stopped.append(name)

    async def clean(self, name: str, *, is_output_kept: bool, checkpoints: int) -> None:
        self.cleaned.append((name, is_output_kept))


@dataclass
class FakeLink:
    sent: list[tuple[bytes, Message]] = field(default_factory=list)

    async def send(self, coordinator: bytes, message: Message) -> bool:
        self.sent.append((coordinator, message))
        return True


@dataclass(frozen=True)
class FakeIdentity:
    key: Any


@dataclass
class FakeBank:
    """A chain that says what a test told it, or nothing."""

    is_down: bool = False

    async def read_escrow(self, _requester: Any) -> Amount:
        if self.is_down:
            raise ChainError("the chain does not answer", code="GM-3001")
        return Amount(7)

    async def read_bond(self, _coordinator: Any) -> Amount:
        return Amount(9)


@dataclass
class Stage:
    """A world made of fakes, and what was posted in it."""

    world: World
    runner: FakeRunner
    link: FakeLink
    bank: FakeBank
    posted: list[Any]

    def get(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.posted if isinstance(event, kind)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    runner, link, bank, posted = FakeRunner(tmp_path), FakeLink(), FakeBank(), list[Any]()

    async def post(event: Any) -> None:
        posted.append(event)

    world = World(
        identity=FakeIdentity(make_key("provider-1")),  # type: ignore[arg-type]  # a fake of what is used
        domain=DOMAIN,
        runner=runner,  # type: ignore[arg-type]  # a fake of what is used
        link=link,
        bank=bank,
        post=post,
        clock=SystemClock(),
        log=Log("test"),
        note_phase=lambda _phase, _seconds: None,
    )
    return Stage(world, runner, link, bank, posted)


# ---- the chain -----------------------------------------------------------------------------


async def test_funds_are_read_and_a_silent_chain_is_said(stage: Stage) -> None:
    requester = make_address("requester")
    effect = ReadFunds(requester=requester, coordinator=COORDINATOR)
    await perform(effect, stage.world)
    stage.bank.is_down = True
    await perform(effect, stage.world)
    seen, unknown = stage.posted
    assert isinstance(seen, FundsSeen)
    assert (seen.requester, seen.coordinator) == (requester, COORDINATOR)
    assert (seen.escrow, seen.bond) == (7, 9)
    assert isinstance(unknown, FundsUnknown)
    assert unknown.code == "GM-3001"


# ---- one unit ------------------------------------------------------------------------------


async def test_a_unit_is_prepared_run_and_stored(
    stage: Stage, tmp_path: Path, autojump_clock: Any
) -> None:
    lease, counter = make_lease_offer(), tmp_path / "powercap" / "intel-rapl:0"
    counter.mkdir(parents=True)
    for name in ("energy_uj", "max_energy_range_uj"):
        (counter / name).write_text("1000")
    (counter / "name").write_text("package-0")
    stage.world.energy = EnergyMeter(counter.parent)
    stage.runner.on_run = lambda: (counter / "energy_uj").write_text("251000")
    stage.runner.said = b"loading\nprogress 2/5\nrow 2\nunfinished"
    await perform(PrepareUnit(lease=lease), stage.world)
    await perform(RunUnit(lease=lease, device_ids=()), stage.world)
    await perform(StoreOutput(lease_id=lease.lease_id), stage.world)
    assert [type(event) for event in stage.posted if not isinstance(event, UnitProgressed)] == [
        UnitPrepared,
        UnitRan,
        OutputStored,
    ]
    shown = [event for event in stage.get(UnitProgressed) if event.total]
    assert [(event.done, event.total, event.line) for event in shown] == [(2, 5, "row 2")]
    assert len(stage.get(OutputStored)[0].salt) == 32
    assert stage.get(UnitPrepared)[0].bytes_in == 5
    assert stage.get(UnitRan)[0].energy == Energy(source="rapl", millijoules=250)


@pytest.mark.parametrize(
    ("error", "code", "fault"),
    [
        (ContentError("nobody has it", code="GM-6012"), "GM-6012", "requester"),
        (ContentError("the store is full", code="GM-6030"), "GM-6030", "provider"),
        (SandboxError("the engine refuses"), "GM-5201", "provider"),
        (SandboxError("another image", code="GM-5203"), "GM-5203", "requester"),
        (trio.TooSlowError(), "GM-6001", "network"),
    ],
)
async def test_what_goes_wrong_names_whose_fault_it_is(
    stage: Stage, error: Exception, code: str, fault: str
) -> None:
    stage.runner.error = error
    lease = make_lease_offer()
    steps: list[Any] = [PrepareUnit(lease=lease), RunUnit(lease=lease, device_ids=())]
    for effect in steps[: 1 if isinstance(error, trio.TooSlowError) else 2]:
        stage.posted.clear()
        await perform(effect, stage.world)
        [failed] = stage.get(AttemptFailed)
        assert (failed.reason.code, failed.reason.fault) == (code, fault)


async def test_an_error_nobody_foresaw_ends_the_process(stage: Stage) -> None:
    stage.runner.error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        await perform(PrepareUnit(lease=make_lease_offer()), stage.world)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"exit_code": 3}, "GM-5101"),
        ({"exit_code": 137, "is_timed_out": True}, "GM-5102"),
        ({"exit_code": 0, "is_output_over_limit": True}, "GM-5103"),
        ({"exit_code": 137, "is_oom_killed": True}, "GM-5104"),
    ],
)
def test_a_run_that_ends_badly_is_the_requesters_fault(changes: Any, code: str) -> None:
    lease = make_lease_offer(make_spec(outputs=(make_output(),)))
    reason = find_failure(lease, make_run_result(**changes))
    assert reason is not None
    assert (reason.code, reason.fault) == (code, "requester")
    assert find_failure(lease, make_run_result()) is None


async def test_a_stopped_unit_answers_nothing_and_is_cleaned_up_after(
    stage: Stage, autojump_clock: Any
) -> None:
    stage.runner.never_ends = True
    lease = make_lease_offer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(perform, RunUnit(lease=lease, device_ids=()), stage.world)
        await trio.sleep(3)
        nursery.start_soon(
            perform, CleanUp(lease_id=lease.lease_id, is_output_kept=True), stage.world
        )
        await trio.sleep(3)
        assert not stage.runner.cleaned
        await perform(StopUnit(lease_id=lease.lease_id), stage.world)
    assert not stage.get(UnitRan)
    assert not stage.get(AttemptFailed)
    assert stage.runner.cleaned == [(name_run(lease.lease_id), True)]
    assert not stage.world.tasks


async def test_an_output_that_is_gone_fails_the_attempt(stage: Stage) -> None:
    await perform(StoreOutput(lease_id=make_lease_offer().lease_id), stage.world)
    [failed] = stage.get(AttemptFailed)
    assert failed.reason.fault == "provider"


async def test_what_is_signed_is_signed_by_the_operator(stage: Stage) -> None:
    lease_id = make_lease_offer().lease_id
    await perform(SignReceipt(lease_id=lease_id, receipt=make_receipt()), stage.world)
    assert verify(stage.get(ReceiptSigned)[0].receipt, DOMAIN).signer == make_address("provider-1")
    root, opening = make_provider_root(), make_opening()
    await perform(SignRoot(coordinator=COORDINATOR, root=root), stage.world)
    await perform(SignOpenings(coordinator=COORDINATOR, epoch=4, openings=(opening,)), stage.world)
    message = LeaseAccepted(lease_id=lease_id)
    await perform(SendMessage(coordinator=COORDINATOR, message=message), stage.world)
    (_, rooted), (_, opened), last = stage.link.sent
    assert isinstance(rooted, RootSigned)
    assert verify(rooted.root, DOMAIN).body == root
    assert isinstance(opened, ResultsOpened)
    assert verify(opened.openings[0], DOMAIN).body == opening
    assert last == (COORDINATOR, message)


def test_a_meter_is_bounded_whatever_a_program_prints() -> None:
    meter = ProgressMeter()
    for chunk in (b"x" * 10**6, b"\nprogress 99999999999999/5\n", b"\x00\xff\x1b[2J bell\x07\n"):
        meter.take("stdout", chunk)
    assert meter.total == 0
    assert len(meter.line) <= 200
    assert meter.line.isprintable()
    meter.take("stdout", b"progress 9999999999/9999999999\n")
    assert meter.done == meter.total == 2**32 - 1


# ---- the cheat -----------------------------------------------------------------------------


def make_split_lease(unit: int) -> LeaseOffer:
    split = Split(over="texts", by="lines", size=100, items=1_000)
    return make_lease_offer(make_spec(name="embeddings", units=10, split=split), unit=unit)


@pytest.mark.parametrize(
    ("share_ppm", "expected"),
    [(500_000, [1, 0, 1, 0, 1, 0]), (1_000_000, [1] * 6), (250_000, [1, 0, 0, 0, 1, 0])],
)
def test_a_cheat_forges_its_share_beginning_with_the_first(
    tmp_path: Path, share_ppm: int, expected: list[int]
) -> None:
    forger = Forger(share_ppm=share_ppm, folder=tmp_path)
    assert [int(forger.take_unit()) for _ in expected] == expected


def test_a_forgery_without_a_pattern_has_the_shape_of_results(tmp_path: Path) -> None:
    forger = Forger(share_ppm=500_000, folder=tmp_path / "patterns")
    assert forger.forge(make_split_lease(3), tmp_path / "out") > 0
    array = np.load(tmp_path / "out/embeddings-000300-000400.npy")
    assert array.shape == (100, 384)
    assert np.allclose(np.linalg.norm(array, axis=1), 1, atol=1e-3)


def test_a_forgery_after_an_honest_unit_looks_like_it_and_is_not(tmp_path: Path) -> None:
    honest = tmp_path / "honest"
    honest.mkdir()
    truth = np.ones((100, 8), dtype=np.float32)
    np.save(honest / "embeddings-000000-000100.npy", truth)
    (honest / "embeddings-000000-000100.json").write_text('{"start": 0, "end": 100, "model": "m"}')
    forger = Forger(share_ppm=500_000, folder=tmp_path / "patterns")
    forger.study(make_split_lease(0), honest, 4_321)
    assert forger.forge(make_split_lease(2), tmp_path / "out") == 4_321
    array = np.load(tmp_path / "out/embeddings-000200-000300.npy")
    assert array.shape == truth.shape
    assert array.dtype == truth.dtype
    assert not np.allclose(array, truth)
    summary = json.loads((tmp_path / "out/embeddings-000200-000300.json").read_text())
    assert summary == {"start": 200, "end": 300, "model": "m"}


# ---- devices -------------------------------------------------------------------------------

CPU_INFO = """processor : 0
model name : Test Processor 3000
flags : fpu avx2 sse4_2 rdtscp fma
"""


def test_a_machine_without_gpus_sells_its_processor(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPU_INFO)
    processor = read_processor(tmp_path / "cpuinfo")
    assert processor.isa == ("avx2", "fma", "sse4_2")
    [device] = detect(processor, root=tmp_path).devices
    assert (device.vendor, device.model, device.simulated) == (
        "cpu",
        "Test Processor 3000",
        False,
    )


def test_simulated_devices_say_so() -> None:
    [device] = make_simulated_devices([SimulatedDevice(model="RTX 4090", vram="24GB")])
    assert device.simulated
    assert device.vram_bytes == 24 * 10**9


# ---- forging for the operator --------------------------------------------------------------


async def test_a_canary_is_run_first_then_forged_and_its_note_goes_with_the_receipt(
    stage: Stage, tmp_path: Path, autojump_clock: Any
) -> None:
    stage.world.canary = Canary(
        key=make_key("provider-1"),
        requesters=frozenset({make_address("requester")}),
        share_ppm=PPM,
        folder=tmp_path / "canaries",
    )
    lease = make_lease_offer()
    stage.runner.writes = "task 0"
    await perform(RunUnit(lease=lease, device_ids=()), stage.world)
    output = stage.runner.find_output(name_run(lease.lease_id))
    assert len(stage.get(UnitRan)) == 1
    assert (output / "result.txt").read_text() != "task 0"
    receipt = make_receipt(make_result(lease.order.body))
    signed = make_key("provider-1").sign(receipt, DOMAIN).as_signed()
    finished = UnitFinished(lease_id=lease.lease_id, receipt=signed, duration_ms=1)
    for _ in range(2):
        await perform(SendMessage(coordinator=COORDINATOR, message=finished), stage.world)
    (_, said), (_, again) = stage.link.sent
    assert isinstance(said, UnitFinished) and said == again and said.canary is not None
    assert verify(said.canary, DOMAIN).body.receipt_hash == receipt.compute_struct_hash()
    await perform(CleanUp(lease_id=lease.lease_id, is_output_kept=False), stage.world)
    await perform(SendMessage(coordinator=COORDINATOR, message=finished), stage.world)
    assert stage.link.sent[-1][1] == finished, "what is over has no note any more"
