"""
How fast this machine copies memory, and writes and reads its disk; measured within bounded time.

Memory is counted as STREAM counts it, what is read and what is written, on all cores at once.
A disk write counts when it is on the disk (fsync); before it is read again the kernel is told to
forget it, which it does for what is clean. Each figure is the median of its passes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import psutil

from gpumarket.adapters.sysfs import read_text
from gpumarket.protocol.codec import from_dag_json_untrusted, to_dag_json
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.machine import Measured
from gpumarket.protocol.units import Timestamp

SECONDS: Final = 2.0
"""For each of the three figures, when nobody says otherwise."""
SECONDS_MAX: Final = 60.0
COPY_BYTES: Final = 64 << 20
"""For each core: more than a share of the last cache."""
MEMORY_SHARE_MAX: Final = 8
"""At most one part in so many of what is free."""
FILE_BYTES: Final = 256 << 20
BLOCK_BYTES: Final = 4 << 20
THREADS_MAX: Final = 64
PASSES_MAX: Final = 200
FILE_NAME: Final = "bench.json"


def measure(folder: Path, *, now: Timestamp, seconds: float = SECONDS) -> Measured:
    """
    Measure this machine's memory, and the disk of a folder; blocks for about three times `seconds`.

    Raises `InvalidInput` GM-2201 where the disk cannot be written, GM-1001 for unbounded time.
    """
    if not 0 < seconds <= SECONDS_MAX:
        raise InvalidInput(
            f"{seconds:g} s is no time to measure for",
            code="GM-1001",
            why=f"more than 0 and at most {SECONDS_MAX:g}",
        )
    memory = measure_memory(seconds)
    write, read = measure_disk(folder, seconds)
    return Measured(measured_at=now, memory_copy=memory, disk_write=write, disk_read=read)


def measure_memory(seconds: float = SECONDS) -> int:
    """Return bytes a second, read and written."""
    threads = min(os.cpu_count() or 1, THREADS_MAX)
    free = int(psutil.virtual_memory().available)
    size = max(1 << 20, min(COPY_BYTES, free // MEMORY_SHARE_MAX // (2 * threads)))
    pairs: list[tuple[Any, Any]] = [
        (np.full(size, 1, dtype=np.uint8), np.full(size, 2, dtype=np.uint8)) for _ in range(threads)
    ]
    with ThreadPoolExecutor(threads) as pool:

        def copy_all() -> int:
            list(pool.map(_copy, pairs))
            return 2 * size * threads

        copy_all()  # the first one also starts the threads
        return _take_median(copy_all, seconds)


def _copy(pair: tuple[Any, Any]) -> None:
    source, target = pair
    np.copyto(target, source)  # lets other threads run meanwhile


def measure_disk(folder: Path, seconds: float = SECONDS) -> tuple[int, int]:
    """Return bytes a second written until they stay, and read; the file is gone afterwards."""
    block = os.urandom(BLOCK_BYTES)  # zeros would be compressed, or not written at all
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            number = file.fileno()

            def write_all() -> int:
                os.lseek(number, 0, os.SEEK_SET)
                written = 0
                for _ in _while_time(seconds):
                    written += os.write(number, block)
                    if written >= FILE_BYTES:
                        break
                os.fsync(number)
                return written

            def read_all() -> int:
                os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
                os.lseek(number, 0, os.SEEK_SET)
                done = 0
                for _ in _while_time(seconds):
                    got = len(os.read(number, BLOCK_BYTES))
                    done += got
                    if not got:
                        break
                return done

            return _take_median(write_all, seconds), _take_median(read_all, seconds)
    except OSError as error:
        raise InvalidInput(
            "the speed of the disk cannot be measured",
            code="GM-2201",
            why=f"{folder}: {error.strerror or error}",
            money="nothing was offered",
        ) from error


def _take_median(do_pass: Callable[[], int], seconds: float) -> int:
    rates: list[float] = []
    for _ in _while_time(seconds):
        begin = time.perf_counter()
        done = do_pass()
        rates.append(done / max(time.perf_counter() - begin, 1e-9))
    return int(statistics.median(rates))


def _while_time(seconds: float) -> Iterator[None]:
    """Go round until the time is over, once at least."""
    end = time.perf_counter() + seconds
    for index in range(PASSES_MAX):
        if index and time.perf_counter() >= end:
            return
        yield


def keep_measured(data_dir: Path, measured: Measured) -> None:
    """Write down what was measured, for the node's next start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / FILE_NAME
    fresh = path.with_suffix(".new")
    fresh.write_text(to_dag_json(measured))
    fresh.replace(path)


def find_measured(data_dir: Path) -> Measured | None:
    """Return what was last measured; None where nothing was, or where it cannot be read."""
    try:
        return from_dag_json_untrusted(read_text(data_dir / FILE_NAME), Measured)
    except RemoteProtocolError:
        return None
