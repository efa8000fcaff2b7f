"""
Answer hardware challenges on this machine's devices: in threads, beside everything else.

Nothing of a challenge survives a restart: an unanswered one is asked again by the coordinator.
The GPU libraries are imported only where an offer names a GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from gpumarket.adapters.logs import Log
from gpumarket.hardware.answering import Abandoned, Solver
from gpumarket.hardware.arrays import Backend
from gpumarket.hardware.product import NUMPY
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.hardware import CPU_CLASS, HardwareTask, find_class, plan_challenge
from gpumarket.protocol.ids import Address, Hash32
from gpumarket.protocol.messages import (
    HardwareAnswered,
    HardwareChallenged,
    HardwareDrawn,
    HardwareOpened,
    HardwareReady,
    Message,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus  # the stubs in force lack trio's own name

HELD_SECONDS_MAX = 600.0
"""A table whose walks nobody asks for makes room again after this."""

Send = Callable[[Address, Message], Awaitable[bool]]
Note = Callable[[int, bool], Awaitable[None]]
"""Takes a device's index and whether its check is over; must not be cut off by cancelling."""


@dataclass(slots=True)
class _Trial:
    """One challenge that is being answered."""

    coordinator: Address
    solver: Solver
    before: trio.Event
    """Set when the device has stopped what it did before."""
    over: trio.Event = field(default_factory=trio.Event)
    drawn: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    second: Hash32 = b""

    def give_up(self) -> None:
        """Stop soon: a thread looks by itself, and waiting ends at once."""
        self.solver.is_abandoned = True
        self.scope.cancel()


class Prover:
    """Answers what coordinators ask of this node's devices, one challenge a device at a time."""

    def __init__(
        self, devices: Sequence[Device], send: Send, log: Log, *, note: Note | None = None
    ) -> None:
        """Answer by `send`; `note` hears which device begins an answer, and when it is done."""
        self._note = note or _ignore
        self._devices = tuple(devices)
        self._send = send
        self._log = log
        self._trials: dict[int, _Trial] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def begin(self, coordinator: Address, challenged: HardwareChallenged) -> None:
        """Start to answer a challenge, or say in the log why not."""
        task = challenged.task
        refusal = self._find_refusal(coordinator, task)
        if refusal or self._nursery is None:
            self._log.warn("a hardware challenge is not answered", reason=refusal)
            return
        older, before = self._trials.get(task.device), trio.Event()
        if older is None:
            before.set()
        else:
            # Its coordinator has forgotten it: it was restarted.
            older.give_up()
            before = older.over
        trial = _Trial(coordinator, self.make_solver(task), before)
        self._trials[task.device] = trial
        self._nursery.start_soon(self._answer, trial)

    def draw(self, coordinator: Address, drawn: HardwareDrawn) -> None:
        """Go on with the walks of a challenge that is ready."""
        for trial in self._trials.values():
            is_meant = trial.solver.task.challenge == drawn.challenge
            if is_meant and trial.coordinator == coordinator:
                trial.second = drawn.seed
                trial.drawn.set()

    def stop(self, challenge: Hash32) -> None:
        """Give up a challenge that its coordinator has given up; others are left alone."""
        for trial in self._trials.values():
            if trial.solver.task.challenge == challenge:
                trial.give_up()

    def make_solver(self, task: HardwareTask) -> Solver:
        """Choose what computes."""
        return Solver(open_backend(self._devices[task.device]), task)

    def _find_refusal(self, coordinator: Address, task: HardwareTask) -> str:
        if task.device >= len(self._devices):
            return "there is no such device"
        older = self._trials.get(task.device)
        if older is not None and older.coordinator != coordinator:
            return "the device is answering another coordinator"
        if task.shape != plan_challenge(self._devices[task.device]).shape:
            return "it is not what this device is asked for"
        return ""

    async def _answer(self, trial: _Trial) -> None:
        device = trial.solver.task.device
        try:
            await trial.before.wait()
            await self._note(device, False)
            await self._answer_steps(trial)
            self._log.info("a hardware challenge is answered", device=device)
        except Abandoned:
            self._log.info("a hardware challenge makes way for a newer one", device=device)
        except (MemoryError, RuntimeError) as error:
            # What a GPU library says when its memory is not there; the deadline does the rest.
            self._log.warn("a hardware challenge failed", device=device, reason=str(error)[:200])
        finally:
            await self._note(device, True)
            trial.over.set()
            if self._trials.get(device) is trial:
                del self._trials[device]

    async def _answer_steps(self, trial: _Trial) -> None:
        solver, coordinator = trial.solver, trial.coordinator
        challenge = solver.task.challenge
        root = await _in_thread(solver.multiply)
        await self._send(coordinator, HardwareAnswered(challenge=challenge, root=root))
        await _in_thread(solver.fill)
        await self._send(coordinator, HardwareReady(challenge=challenge))
        # Only here: a thread that computes cannot be cancelled, it looks by itself.
        with trio.move_on_after(HELD_SECONDS_MAX), trial.scope:
            await trial.drawn.wait()
        solver.check_wanted()
        if trial.drawn.is_set():
            rows, walks = await _in_thread(lambda: solver.open(trial.second))
            opened = HardwareOpened(challenge=challenge, rows=rows, walks=walks)
            await self._send(coordinator, opened)


async def _ignore(_device: int, _is_over: bool) -> None:
    """Nobody keeps a ledger."""


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # type: ignore[call-arg]  # stubs of an older trio


def open_backend(device: Device) -> Backend:
    """Return what computes for a device: PyTorch on its GPU where both are there, else NumPy."""
    if find_class(device) is CPU_CLASS:
        return NUMPY
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return NUMPY
    index = _find_cuda_index(torch, device)
    if index is None:
        return NUMPY
    # Values are small whole numbers: TF32 gives them exactly, and is what tensor cores are for.
    torch.backends.cuda.matmul.allow_tf32 = True
    return Backend(name="torch", xp=torch, device=torch.device("cuda", index))


def _find_cuda_index(torch: Any, device: Device) -> int | None:
    if not torch.cuda.is_available():
        return None
    wanted = device.device_id.removeprefix("GPU-")
    count = int(torch.cuda.device_count())
    for index in range(count):
        if str(getattr(torch.cuda.get_device_properties(index), "uuid", "")) == wanted:
            return index
    return 0 if count == 1 else None
