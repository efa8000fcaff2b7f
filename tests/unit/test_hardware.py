"""The arithmetic of hardware challenges, and the node's side of one."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from gpumarket.adapters.hardware import Prover, open_backend
from gpumarket.adapters.logs import Log
from gpumarket.hardware.answering import Solver, check_answer
from gpumarket.hardware.product import NUMPY, compute_rows, make_rows
from gpumarket.hardware.table import compute_entry, fill_table
from gpumarket.protocol import messages
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.hardware import (
    CPU_CLASS,
    DEVICE_CLASSES,
    GPU_CLASS,
    HardwareShape,
    draw_rows,
    find_class,
    make_task,
    plan_challenge,
)
from gpumarket.protocol.messages import FRAME_BYTES_MAX
from gpumarket.testing.factories import make_address, make_device

SHAPE = HardwareShape(
    size=128,
    rounds=3,
    opened_rows=6,
    table_entries=1_001,
    stages=5,
    walkers=32,
    steps=6,
    checked_walks=4,
)
TASK = make_task(
    b"s" * 32,
    coordinator=make_address("coordinator"),
    provider=make_address("provider-1"),
    device=0,
    shape=SHAPE,
)
SECOND, CHECK = b"2" * 32, b"c" * 32
PROCESSOR = make_device(vendor="cpu", model="a processor", vram_bytes=0)
COORDINATOR = make_address("coordinator")


def test_the_product_is_the_one_of_whole_numbers() -> None:
    every = range(SHAPE.size)
    left, right = (
        make_rows(NUMPY, TASK, turn=1, matrix=name, rows=every) for name in ("left", "right")
    )
    assert (left.min(), left.max()) == (-16, 15)
    exact = left.astype(np.int64) @ right.astype(np.int64)
    (row,) = compute_rows(NUMPY, TASK, ((1, 77),))
    assert np.frombuffer(row, dtype="<i4").tolist() == exact[77].tolist()


def test_rounds_and_seeds_have_matrices_of_their_own() -> None:
    other = msgspec.structs.replace(TASK, seed=b"t" * 32)
    rows = range(2)
    found = {
        make_rows(NUMPY, task, turn=turn, matrix=name, rows=rows).tobytes()
        for task in (TASK, other)
        for turn in (0, 1)
        for name in ("left", "right")
    }
    assert len(found) == 8


@pytest.mark.parametrize("entries", [2, 3, 64, 1_001])
def test_an_entry_alone_is_the_one_in_the_table(entries: int) -> None:
    shape = msgspec.structs.replace(SHAPE, table_entries=entries)
    task = msgspec.structs.replace(TASK, shape=shape)
    table = fill_table(NUMPY, task)
    places = range(0, entries, max(1, entries // 40))
    assert [compute_entry(task, place) for place in places] == [int(table[i]) for i in places]


def test_rows_are_drawn_distinct_and_from_both_seeds() -> None:
    drawn = draw_rows(SECOND, b"r" * 32, SHAPE)
    assert len(set(drawn)) == SHAPE.opened_rows
    assert all(turn < SHAPE.rounds and row < SHAPE.size for turn, row in drawn)
    assert drawn != draw_rows(b"3" * 32, b"r" * 32, SHAPE)
    assert drawn != draw_rows(SECOND, b"q" * 32, SHAPE)


def test_an_answer_is_accepted_with_its_own_seeds_only() -> None:
    solver = Solver(NUMPY, TASK)
    root = solver.multiply()
    solver.fill()
    rows, walks = solver.open(SECOND)
    check_answer(TASK, root=root, second=SECOND, check_seed=CHECK, rows=rows, walks=walks)
    for task, second in (
        (TASK, b"3" * 32),
        (msgspec.structs.replace(TASK, seed=b"t" * 32), SECOND),
    ):
        with pytest.raises(RemoteProtocolError) as caught:
            check_answer(task, root=root, second=second, check_seed=CHECK, rows=rows, walks=walks)
        assert caught.value.code == "GM-4052"


def test_every_class_is_asked_for_what_one_message_can_hold() -> None:
    for name in (*(name for name, _ in DEVICE_CLASSES), "a card nobody knows"):
        plan = plan_challenge(make_device(model=name, vram_bytes=80 * 10**9))
        shape = plan.shape
        opened = shape.opened_rows * (shape.size * 4 + 64 * 8 + 32 * 32)
        assert opened + shape.walkers * 4 < FRAME_BYTES_MAX * 9 // 10
        assert shape.table_entries * 8 > 40 * 10**9
        assert shape.size % 64 == 0


def test_a_device_is_measured_as_what_it_is_offered_as() -> None:
    assert find_class(PROCESSOR) is CPU_CLASS
    assert find_class(make_device(simulated=True)) is CPU_CLASS
    assert find_class(make_device(model="NVIDIA H100 80GB HBM3")).name == "h100"
    assert find_class(make_device(model="L40S")).name == "l40s"
    assert find_class(make_device(model="Something 1")) is GPU_CLASS


# ---- the node ------------------------------------------------------------------------------


class Post:
    """Collects what the node sends."""

    def __init__(self) -> None:
        self.sent: list[messages.Message] = []
        self.moved = trio.Event()

    async def send(self, _coordinator: bytes, message: messages.Message) -> bool:
        self.sent.append(message)
        self.moved.set()
        self.moved = trio.Event()
        return True

    async def wait_for(self, kind: type) -> messages.Message:
        with trio.fail_after(60):
            while not any(isinstance(message, kind) for message in self.sent):
                await self.moved.wait()
        return next(message for message in self.sent if isinstance(message, kind))


def make_challenge(shape: HardwareShape, device: int = 0) -> messages.HardwareChallenged:
    task = msgspec.structs.replace(TASK, shape=shape, device=device)
    return messages.HardwareChallenged(task=task, answer_by=1, ready_by=2)


async def test_a_node_answers_what_its_device_is_asked_for() -> None:
    post = Post()
    prover = Prover((PROCESSOR,), post.send, Log("test"))
    challenged = make_challenge(plan_challenge(PROCESSOR).shape)
    async with trio.open_nursery() as nursery:
        await nursery.start(prover.run)
        prover.begin(COORDINATOR, challenged)
        await post.wait_for(messages.HardwareReady)
        drawn = messages.HardwareDrawn(challenge=TASK.challenge, seed=SECOND, open_by=3)
        prover.draw(make_address("stranger"), drawn)
        prover.draw(COORDINATOR, drawn)
        opened = await post.wait_for(messages.HardwareOpened)
        nursery.cancel_scope.cancel()
    answered = post.sent[0]
    assert isinstance(answered, messages.HardwareAnswered)
    assert isinstance(opened, messages.HardwareOpened)
    check_answer(
        challenged.task,
        root=answered.root,
        second=SECOND,
        check_seed=CHECK,
        rows=opened.rows,
        walks=opened.walks,
    )


@pytest.mark.parametrize(
    ("shape", "device"),
    [
        (msgspec.structs.replace(plan_challenge(PROCESSOR).shape, rounds=1_000), 0),
        (plan_challenge(PROCESSOR).shape, 1),
    ],
)
async def test_a_node_does_no_work_that_nobody_may_ask_for(
    shape: HardwareShape, device: int
) -> None:
    post = Post()
    prover = Prover((PROCESSOR,), post.send, Log("test"))
    async with trio.open_nursery() as nursery:
        await nursery.start(prover.run)
        prover.begin(COORDINATOR, make_challenge(shape, device))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert post.sent == []


async def test_a_challenge_that_is_given_up_stops() -> None:
    post = Post()
    notes: list[tuple[int, bool]] = []

    async def note(device: int, is_over: bool) -> None:
        notes.append((device, is_over))

    prover = Prover((PROCESSOR,), post.send, Log("test"), note=note)
    shape = plan_challenge(PROCESSOR).shape
    async with trio.open_nursery() as nursery:
        await nursery.start(prover.run)
        prover.begin(COORDINATOR, make_challenge(shape))
        await post.wait_for(messages.HardwareReady)
        prover.stop(TASK.challenge)
        await trio.testing.wait_all_tasks_blocked()
        post.sent.clear()
        prover.begin(COORDINATOR, make_challenge(shape))
        await post.wait_for(messages.HardwareReady)
        nursery.cancel_scope.cancel()
    assert [type(message) for message in post.sent] == [
        messages.HardwareAnswered,
        messages.HardwareReady,
    ]
    assert notes == [(0, False), (0, True)] * 2


def test_without_a_gpu_the_processor_computes() -> None:
    assert open_backend(PROCESSOR) is NUMPY
    assert open_backend(make_device(simulated=True)) is NUMPY
