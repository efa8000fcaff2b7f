"""
Honest noise between classes of machines against the mildest cheats, in the rules' own quantities.

Classes are emulated on one machine: a process of its own each, with other vector instructions
(OPENBLAS_CORETYPE, NPY_DISABLE_CPU_FEATURES) or another number of threads, which changes the order
of every sum. Each does the same real work in float32: a segment of training (20 steps of gradient
descent through two layers) and a batch of inference. What is printed is the tolerance that a rule
would need to let a run pass: for inference the `rtol` that all but 0.01 % of the entries keep to,
for training `tau`, the distance as a part of the segment's own update.
"""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from safetensors.numpy import load_file

from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.tensor_files import decode_safetensors_untrusted
from gpumarket.comparing.tensors import Norm
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import Calibration, SafetensorsRule
from scripts.benchmarks import Figures
from scripts.benchmarks.calibration import digest_software, make_noise, name_blas
from scripts.benchmarks.figures import compute_quantile

ROOT: Final = Path(__file__).resolve().parents[2]
WORKER: Final = "scripts.benchmarks.comparator_work"
SHARES_PPM: Final = (500_000, 990_000, 1_000_000)
RULE: Final = SafetensorsRule(base="start")
# One feature off takes those above it off too, in numpy and (by the core's name) in OpenBLAS.
CLASSES: Final[Mapping[str, Mapping[str, str]]] = {
    "as it is, 1 thread": {"OPENBLAS_NUM_THREADS": "1"},
    "as it is, 2 threads": {"OPENBLAS_NUM_THREADS": "2"},
    "AVX2, 1 thread": {
        "OPENBLAS_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
    },
    "SSE, 1 thread": {
        "OPENBLAS_NUM_THREADS": "1",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL"
        " AVX512_ICL",
    },
}
TRAINING_CHEATS: Final = (
    *("learning rate 1 % lower", "1 of 20 steps skipped", "one sample of each batch left out"),
    *("matrices in float16", "weights kept in bfloat16", "nothing done"),
)
INFERENCE_CHEATS: Final = ("matrices in float16", "weights kept in bfloat16", "weights in int8")


def run(rounds: int) -> Figures:
    """Measure so many seeds in every class and with every cheat; print and return the quantiles."""
    print(f"software     numpy {np.__version__}, Python {platform.python_version()}, {name_blas()}")
    found = measure(rounds)
    figures: dict[str, Mapping[str, float | int]] = {}
    columns = " ".join(f"{name:>9}" for name in ("least", "median", "99 %", "most"))
    print(f"{'tolerance that would be needed':<48}  {columns}")
    for name, values in found.items():
        row = {f"q{share // 10_000}": compute_quantile(values, share / 1e6) for share in SHARES_PPM}
        figures[name] = {**row, "least": min(values), "n": len(values)}
        numbers = " ".join(f"{value:9.2e}" for value in (min(values), *row.values()))
        print(f"{name:<48}  {numbers}")
    return figures


def measure(rounds: int) -> dict[str, list[float]]:
    """Return each quantity that would be needed, by what was compared, for so many seeds."""
    found: dict[str, list[float]] = {}
    for seed in range(rounds):
        for name, value in measure_seed(seed):
            found.setdefault(name, []).append(value)
    return found


def measure_seed(seed: int) -> Iterator[tuple[str, float]]:
    """Give what each class, and each cheat in the first class, is away from the first class."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        honest = {kind: do_work(folder, seed, kind, "") for kind in CLASSES}
        first = next(iter(CLASSES))
        again = do_work(folder, seed, first, "")
        others = {"same class": again, **{kind: honest[kind] for kind in [*CLASSES][1:]}}
        for kind, theirs in others.items():
            yield f"honest, {kind}: tau", compute_needed_tau(honest[first], theirs)
            yield f"honest, {kind}: rtol", compute_needed_rtol(honest[first], theirs)
        for cheat in dict.fromkeys((*TRAINING_CHEATS, *INFERENCE_CHEATS)):
            theirs = do_work(folder, seed, first, cheat)
            if cheat in TRAINING_CHEATS:
                yield f"{cheat}: tau", compute_needed_tau(honest[first], theirs)
            if cheat in INFERENCE_CHEATS:
                yield f"{cheat}: rtol", compute_needed_rtol(honest[first], theirs)


def do_work(folder: Path, seed: int, kind: str, cheat: str) -> Path:
    """Run the work in a process of this class; returns the folder that it wrote."""
    out = folder / f"{len([*folder.iterdir()])}"
    subprocess.run(
        [sys.executable, "-m", WORKER, str(seed), out, cheat],
        env={**_plain_env(), **CLASSES[kind]},
        cwd=ROOT,
        check=True,
        timeout=600,
    )
    return out


def compute_needed_rtol(own: Path, theirs: Path) -> float:
    """Return the least `rtol` with which the default rule takes one inference for the other."""
    outputs = (load_file(folder / "inference.safetensors")["y"] for folder in (own, theirs))
    a, b = (values.astype(np.float64).reshape(-1) for values in outputs)
    gap = np.maximum(np.abs(a - b) - float(RULE.atol), 0.0)
    needed = np.sort(np.divide(gap, np.abs(a), out=np.where(gap > 0, np.inf, 0.0), where=a != 0))
    return float(needed[len(needed) - 1 - math.floor(float(RULE.max_mismatch) * len(needed))])


def compute_needed_tau(own: Path, theirs: Path) -> float:
    """Return the least `tau` with which the rule takes one segment's end for the other."""
    paths = (own / "start.safetensors", own / "end.safetensors", theirs / "end.safetensors")
    data = [path.read_bytes() for path in paths]
    files = [decode_safetensors_untrusted(each) for each in data]
    worst = 0.0
    for name in files[0].tensors:
        base, a, b = (file.tensors[name].read(0, file.tensors[name].count) for file in files)
        apart, update = Norm(), Norm()
        apart.add(a - b)
        update.add(a - base)
        worst = max(worst, apart.compute_share(update))
    # The figure must say what the comparator says; the entries are left out, so tau decides.
    rule = SafetensorsRule(files="*", base="start", max_mismatch="1")
    started, mine, other = ({"end": each} for each in data)
    verdict = compare_outputs(mine, other, rule, base=started).verdict
    if (verdict is Verdict.MATCH) != (worst <= float(rule.tau)):
        raise AssertionError(f"tau is {worst}, and the comparator says {verdict.name}")
    return worst


def make_calibration(found: Mapping[str, Sequence[float]]) -> Calibration:
    """Make the document that a rule may name."""
    first = next(iter(CLASSES))
    noise = []
    for name, values in found.items():
        what, _, quantity = name.rpartition(": ")
        kind = what.removeprefix("honest, ")
        noise.append(
            make_noise(
                "honest" if kind != what else what,
                (first, kind if kind in CLASSES else first),
                "tau" if quantity == "tau" else "rtol",
                values,
            )
        )
    work = [ROOT / "scripts/benchmarks/comparator_work.py", ROOT / "gpumarket/comparing/tensors.py"]
    return Calibration(
        rule=RULE,
        classes=tuple(CLASSES),
        noise=tuple(noise),
        software={"numpy": np.__version__, "blas": name_blas()},
        digests=digest_software(work),
    )


def _plain_env() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "TMPDIR")}
    return {**kept, "PYTHONPATH": str(ROOT)}
