"""
Hardware challenges on this machine: what honest devices and impostors take for the same task.

Each impostor stands beside the honest device in the same run. Where PyTorch sees a GPU, the GPU is
measured as well, with the task of its own class; without one the figures say what this processor
takes and how far it is from the bounds of the cards it could be offered as. A processor's seconds
are its own (CPU time, all cores), so that other programs on the machine do not count.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Final

from gpumarket.adapters.gpus import detect
from gpumarket.adapters.hardware import open_backend
from gpumarket.hardware.answering import Solver, check_answer
from gpumarket.hardware.arrays import Backend
from gpumarket.hardware.product import NUMPY, compute_digests
from gpumarket.hardware.table import fill_table, walk
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.hardware import (
    DEVICE_CLASSES,
    GPU_CLASS,
    HardwareShape,
    HardwareTask,
    derive_check_seed,
    derive_second_seed,
    make_task,
    plan_challenge,
)
from gpumarket.testing.impostors import (
    ChangedRow,
    GuessingTable,
    HalfTable,
    LazyProduct,
    ZeroProduct,
)
from scripts.benchmarks import Figures

SHAPE: Final = HardwareShape(
    size=2_048,
    rounds=1,
    opened_rows=4,
    table_entries=1 << 20,
    stages=14,
    walkers=256,
    steps=8,
    checked_walks=2,
)
"""Small enough for any processor, large enough that Python's share does not show."""
IMPOSTORS: Final = (HalfTable, GuessingTable, LazyProduct, ZeroProduct, ChangedRow)
SECRET: Final = bytes(32)
ROUNDS_MAX: Final = 5
CARD_VRAM: Final = 24 * 10**9


def run(rounds: int) -> Figures:
    """Measure, print and return; a round is one challenge to each device and impostor."""
    rounds = min(rounds, ROUNDS_MAX)
    figures: dict[str, float | int] = {"rounds": rounds}
    figures |= _measure_processor(rounds)
    for device in detect().devices:
        backend = open_backend(device)
        if backend.device is not None:
            figures |= _measure_gpu(device, backend)
            break
    else:
        print("no GPU that PyTorch sees: every figure is of this processor")
    figures |= _compare_with_bounds(figures)
    figures |= _try_impostors()
    return figures


def _measure_processor(rounds: int) -> dict[str, float | int]:
    task, cores = _make_task(SHAPE, 0), os.cpu_count() or 1
    multiply = [_spend(lambda: compute_digests(NUMPY, task, 0)) for _ in range(rounds)]
    fill = [_spend(lambda: fill_table(NUMPY, task)) for _ in range(rounds)]
    gflops = cores * SHAPE.flops / SHAPE.rounds / statistics.median(multiply) / 1e9
    mega = SHAPE.entry_stages / statistics.median(fill) / 1e6
    print(f"{cores} cores      multiply {gflops:.0f} GFLOPS, one fills {mega:.0f} M stages a s")
    return {"cpu_gflops": round(gflops, 1), "cpu_fill_mega": round(mega, 1)}


def _measure_gpu(device: Device, backend: Backend) -> dict[str, float | int]:
    """Answer one whole challenge of the device's own class, as the coordinator would ask it."""
    plan = plan_challenge(device)
    task = _make_task(plan.shape, 0)
    solver = Solver(backend, task)
    answer = _time(solver.multiply)
    fill = _time(solver.fill)
    second = derive_second_seed(SECRET, task.challenge)
    opening = _time(lambda: solver.open(second))
    gflops, mega = plan.shape.flops / answer / 1e9, plan.shape.entry_stages / fill / 1e6
    table = plan.shape.table_entries * 8 / 1e9
    print(f"{device.model}: class {plan.class_name}, table {table:.0f} GB")
    for step, seconds, bound in (
        ("product", answer, plan.answer_seconds),
        ("table", fill, plan.ready_seconds),
        ("opening", opening, plan.opening_seconds),
    ):
        print(f"  {step:<10} {seconds:.2f} s of {bound} s")
    return {
        "gpu_gflops": round(gflops, 1),
        "gpu_fill_mega": round(mega, 1),
        "gpu_answer_s": round(answer, 3),
        "gpu_answer_bound_s": plan.answer_seconds,
        "gpu_fill_s": round(fill, 3),
        "gpu_fill_bound_s": plan.ready_seconds,
        "gpu_opening_s": round(opening, 3),
        "gpu_opening_bound_s": plan.opening_seconds,
        "gpu_table_bytes": plan.shape.table_entries * 8,
    }


def _compare_with_bounds(figures: dict[str, float | int]) -> dict[str, float | int]:
    """Say how many times the bound this processor would take, were it offered as each card."""
    found: dict[str, float | int] = {}
    for name in (*(name for name, _ in DEVICE_CLASSES), GPU_CLASS.name):
        card = Device(vendor="nvidia", model=name, vram_bytes=CARD_VRAM, simulated=False)
        plan = plan_challenge(card)
        seconds = plan.shape.flops / (float(figures["cpu_gflops"]) * 1e9)
        ratio = seconds / plan.answer_seconds
        print(f"cpu as {name:<8} {seconds:8.0f} s of {plan.answer_seconds} s: {ratio:.1f} times")
        found[f"cpu_as_{name}_over_bound"] = round(ratio, 2)
    return found


def _try_impostors() -> dict[str, float | int]:
    found: dict[str, float | int] = {}
    honest, problem, check = _answer(Solver)
    found |= {"honest_accepted": int(not problem), "check_s": round(check, 3)}
    print(f"honest        walks {honest * 1e3:.2f} ms; {problem or 'right'}; check {check:.3f} s")
    for impostor in IMPOSTORS:
        walking, problem, _ = _answer(impostor)
        ratio = walking / honest
        verdict = problem or "right, only late"
        print(f"{impostor.__name__:<13} walks {ratio:8.1f} times as long; {verdict}")
        found[f"{impostor.__name__}_accepted"] = int(not problem)
        found[f"{impostor.__name__}_walk_ratio"] = round(ratio, 1)
    return found


def _answer(kind: Callable[[Backend, HardwareTask], Solver]) -> tuple[float, str, float]:
    """Answer one challenge: seconds for the walks, what is wrong, seconds for the check."""
    task = _make_task(SHAPE, 1)
    solver = kind(NUMPY, task)
    root = solver.multiply()
    solver.fill()
    second = derive_second_seed(SECRET, task.challenge)
    walking = _spend(lambda: walk(NUMPY, task, second=second, lookup=solver.look_up))
    rows, walks = solver.open(second)
    opened = time.process_time()
    problem = ""
    try:
        check_answer(
            task,
            root=root,
            second=second,
            check_seed=derive_check_seed(SECRET, task.challenge),
            rows=rows,
            walks=walks,
        )
    except RemoteProtocolError as error:
        problem = error.message
    return walking, problem, time.process_time() - opened


def _make_task(shape: HardwareShape, device: int) -> HardwareTask:
    return make_task(SECRET, coordinator=bytes(20), provider=bytes(20), device=device, shape=shape)


def _spend(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
