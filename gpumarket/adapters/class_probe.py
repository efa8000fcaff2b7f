"""
Find this machine's reproducibility class: read what it is, and run the canned program.

The program runs in a process of its own, on the host and not in a container: a container has the
same processor, kernel and instructions, and no image is at hand before the first job. It gets the
environment that matters for results as jobs get it, and nothing else. It takes about half a second
of processor time at each start, and is not cached: a cache would declare what it should probe.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from gpumarket.adapters.gpus import Processor, read_processor
from gpumarket.protocol.errors import Unrecoverable
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.repro import (
    PROBE_THREADS,
    ReproFacts,
    compute_repro_class,
    describe_devices,
    make_thread_env,
)

PROBE_SECONDS_MAX: Final = 120.0
_KEPT: Final = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
"""What a library needs to be found; it changes no result by itself."""


def probe_repro_class(
    processor: Processor | None = None,
    devices: Sequence[Device] = (),
    *,
    emulation: Mapping[str, str] | None = None,
) -> Hash32:
    """Return this machine's class; blocks while the probe runs."""
    return compute_repro_class(probe_facts(processor, devices, emulation=emulation))


def probe_facts(
    processor: Processor | None = None,
    devices: Sequence[Device] = (),
    *,
    emulation: Mapping[str, str] | None = None,
) -> ReproFacts:
    """Run the probe; raises `Unrecoverable` GM-2130 where it does not end well."""
    processor, emulation = processor or read_processor(), dict(emulation or {})
    described = describe_devices(tuple(devices))
    has_torch = bool(described) and importlib.util.find_spec("torch") is not None
    environment = make_thread_env(PROBE_THREADS) | emulation
    found = _run_probe(["gpu"] if has_torch else [], environment)
    return ReproFacts(
        architecture=processor.architecture,
        model=processor.model,
        isa=processor.isa,
        threads=int(environment["OPENBLAS_NUM_THREADS"]),
        devices=described,
        libraries=tuple(found["libraries"]),
        fingerprint=bytes.fromhex(str(found["fingerprint"])),
    )


def _run_probe(arguments: list[str], environment: dict[str, str]) -> dict[str, list[str]]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gpumarket.adapters.fingerprint", *arguments],
            env=kept | environment,
            capture_output=True,
            timeout=PROBE_SECONDS_MAX,
            check=True,
        )
        found: dict[str, list[str]] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise Unrecoverable(
            "the reproducibility class could not be probed",
            code="GM-2130",
            why=said.decode(errors="replace").strip().rpartition("\n")[2][:300] or str(error)[:300],
            money="nothing was offered",
        ) from error
    return found
