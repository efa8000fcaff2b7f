"""
A program that tries to break the limits, to learn whether an engine enforces them.

Some set-ups accept every limit and enforce none (gVisor with `--ignore-cgroups`: a memory bomb
ran until it was stopped by hand). Such an engine must never run a stranger's job. The probe needs
no image from anywhere: it is one hand-assembled program of 129 bytes of code, which is itself
bounded, so that it does no harm where nothing stops it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from gpumarket.adapters.execution import Limits, RunRequest
from gpumarket.adapters.images import encode_image_config, pack_layer, write_image_archive
from gpumarket.protocol.errors import SandboxError

MEMORY_LIMIT_BYTES: Final = 64 << 20
MEMORY_TOUCHED_BYTES: Final = 512 << 20
PROCESS_LIMIT: Final = 64
PROCESSES_STARTED: Final = 300
EXIT_NOT_STOPPED: Final = 9
EXIT_KILLED: Final = 137
KNOWN_ENGINES_MAX: Final = 16

MEMORY_ARGV: Final = ("/probe",)
PROCESS_ARGV: Final = ("/probe", "fork")

# For x86-64 Linux. With one argument it starts 300 processes that sleep; without, it maps 16 MiB
# and touches each page, 32 times. It ends with 0 when the kernel refuses it one more, and with
# EXIT_NOT_STOPPED when it got everything it asked for.
X86_64_CODE: Final = bytes.fromhex(
    "48833c2402744abb20000000b80900000031ffbe00000001ba0300000041"
    "ba2200000049c7c0ffffffff4531c90f054885c07844b900100000c60001"
    "480500100000ffc975f3ffcb75c2bf09000000eb29bb2c010000b8390000"
    "000f054885c07816740bffcb75eebf09000000eb0bb8220000000f05ebf7"
    "31ffb83c0000000f05"
)
LOAD_ADDRESS: Final = 0x400000
ELF_HEADER_BYTES: Final = 64
PROGRAM_HEADER_BYTES: Final = 56


def is_probe_available() -> bool:
    """Whether there is probe code for this machine's processor."""
    return platform.machine() == "x86_64"


def build_request(digest: str, argv: tuple[str, ...], *, runtime: str, folder: Path) -> RunRequest:
    """Say how the probe is run: under limits that it must not get over."""
    limits = Limits(
        memory_bytes=MEMORY_LIMIT_BYTES,
        cpu_millis=1000,
        run_ms=20_000,
        output_bytes=0,
        pids=PROCESS_LIMIT,
        scratch_bytes=1 << 20,
        shm_bytes=1 << 20,
    )
    return RunRequest(
        name=f"gpumarket-probe-{secrets.token_hex(8)}",
        lease_id="probe",
        image_digest=digest,
        argv=argv,
        env={},
        inputs=(),
        output_path="/out",
        output_folder=folder / "out",
        limits=limits,
        runtime=runtime,
    )


def encode_probe_program() -> bytes:
    """Wrap the code in the smallest Linux executable: one header, one segment."""
    code_offset = ELF_HEADER_BYTES + PROGRAM_HEADER_BYTES
    size = code_offset + len(X86_64_CODE)
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, 62, 1, LOAD_ADDRESS + code_offset, ELF_HEADER_BYTES, 0, 0),
        *(ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 1, 0, 0, 0),
    )
    readable_and_executable = 5
    segment = struct.pack(
        "<IIQQQQQQ", 1, readable_and_executable, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000
    )
    return header + segment + X86_64_CODE


def write_probe_image(folder: Path) -> tuple[Path, str]:
    """Write the probe's image archive into `folder`; return its path and config digest."""
    root = folder / "root"
    root.mkdir(parents=True)
    program = root / "probe"
    program.write_bytes(encode_probe_program())
    program.chmod(0o755)
    layer = folder / "layer.tar"
    pack_layer(root, layer)
    config = encode_image_config([layer], architecture="amd64", env={}, entrypoint=())
    archive = folder / "probe.tar"
    return archive, write_image_archive(archive, config=config, layers=[layer])


def compute_engine_key(info: Mapping[str, Any], runtime: str) -> str:
    """Name an engine with everything that decides whether it enforces limits."""
    facts = [
        *(info["ID"], info["ServerVersion"], info.get("KernelVersion"), info.get("CgroupDriver")),
        *(info.get("CgroupVersion"), runtime, info["Runtimes"].get(runtime)),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_probed_keys(record: Path) -> list[str]:
    """Read which engines were found to enforce limits; nothing if the record is unreadable."""
    try:
        keys = json.loads(record.read_text())
    except (OSError, ValueError):
        return []
    return [str(key) for key in keys][-KNOWN_ENGINES_MAX:] if isinstance(keys, list) else []


def limits_not_enforced(why: str) -> SandboxError:
    """Make the error for an engine that must not run strangers' programs."""
    return SandboxError(
        "the engine does not enforce the sandbox's limits",
        code="GM-2110",
        why=why,
        hints=("gpumarket doctor --role provider",),
        fault="provider",
    )
