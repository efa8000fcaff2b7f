"""
The reproducibility class: which machines give the same bits for the same program.

It is declared and probed: a hash over what a machine says of itself and over the digest of a
small fixed program that it ran. A false declaration gives a class of its own, in which nobody
else checks, and so nothing; only the same machine gives the same class.

Source: PyTorch's and NumPy's notes on reproducibility; results depend on the instructions chosen
at run time, the libraries, the number of threads, and on a GPU on its model, driver and CUDA.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gpumarket.protocol.codec import encode_document
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import Device
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.signing import keccak256

THREAD_NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""How numeric libraries are told their number of threads; results depend on it."""
EMULATION_NAMES = frozenset(
    {
        "NPY_DISABLE_CPU_FEATURES",
        "OPENBLAS_CORETYPE",
        "MKL_ENABLE_INSTRUCTIONS",
        "MKL_CBWR",
        "ATEN_CPU_CAPABILITY",
        "ONEDNN_MAX_CPU_ISA",
        *THREAD_NAMES,
    }
)
"""Variables that make a processor compute as another one would: for the devnet and for tests."""
PROBE_THREADS = 1
_CLASS_TAG = b"gpumarket.repro-class.v2"


class ReproFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a class is made of; what is not known is empty."""

    architecture: str
    model: str
    isa: tuple[str, ...]
    """Vector instructions by which libraries choose how they sum, sorted."""
    threads: int
    """Of the probe; a job says its own number, the same wherever it runs."""
    devices: tuple[str, ...]
    """GPUs that compute here, with capability, CUDA and driver, sorted."""
    libraries: tuple[str, ...]
    """What the probe computed with, like `numpy 2.4.6`, sorted."""
    fingerprint: Hash32
    """Digest of what the probe gave."""


def compute_repro_class(facts: ReproFacts) -> Hash32:
    """Name the machines whose outputs are bit-identical to those of a machine with these facts."""
    return keccak256(_CLASS_TAG + encode_document(facts))


def describe_devices(devices: tuple[Device, ...]) -> tuple[str, ...]:
    """Return what of the devices belongs to the class; simulated ones compute nothing."""
    return tuple(
        sorted(
            f"{device.vendor} {device.model} {device.compute_capability} {device.cuda} "
            f"{device.driver}"
            for device in devices
            if not device.simulated and device.vendor != "cpu"
        )
    )


def make_thread_env(threads: int) -> dict[str, str]:
    """Return the variables that hold numeric libraries to a number of threads."""
    return dict.fromkeys(THREAD_NAMES, str(max(1, threads)))


def check_emulation(emulation: Mapping[str, str]) -> None:
    """Raise `InvalidInput` GM-1302 for a variable that is not about how a processor computes."""
    strange = sorted(set(emulation) - EMULATION_NAMES)
    if strange:
        raise InvalidInput(
            f"emulate cannot set {', '.join(strange)}",
            code="GM-1302",
            why=f"it may set {', '.join(sorted(EMULATION_NAMES))}",
        )
