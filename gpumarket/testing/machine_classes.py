"""
Machines of different classes on one machine: environments that make a processor compute as others.

Only the variables of `gpumarket.protocol.repro.EMULATION_NAMES`. Meant for x86-64; elsewhere the
instruction sets have other names and only the number of threads tells classes apart. Libraries
of other versions call the instruction sets otherwise and ignore what they do not know.
"""

from __future__ import annotations

from typing import Final

NATIVE: Final[dict[str, str]] = {}
AVX2: Final = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
SSE: Final = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Nehalem",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
}
TWO_THREADS: Final = {
    "OMP_NUM_THREADS": "2",
    "OPENBLAS_NUM_THREADS": "2",
    "MKL_NUM_THREADS": "2",
}
CLASSES: Final = {"native": NATIVE, "avx2": AVX2, "sse": SSE, "two threads": TWO_THREADS}
