"""
The canned program of the class probe: run by `class_probe.py` in a process of its own.

It prints one line of JSON: the digest of everything it computed, and what it computed with. Inputs
are the same everywhere: integers mixed by integers, no random generator of any library. The
values are chosen so that instructions, libraries and threads show in the last bits of products,
sums, and functions. With the argument `gpu` it computes on each GPU as well, through PyTorch.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

SIZE: Final = 192
"""Of matrices: large enough for every kernel of a BLAS, small enough for a few milliseconds."""
LONG: Final = 40_009
"""Of vectors; prime, so that every way to split it leaves a rest."""

Floats = npt.NDArray[Any]


def make_values(count: int, salt: int) -> npt.NDArray[np.float32]:
    """Return values in -0.5 to 0.5, exact in float32 and equal on every machine."""
    words = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9 + 2 * salt)
    top = (words >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return (top.astype(np.float64) / float(1 << 24)).astype(np.float32)


def compute_on_processor() -> Iterator[tuple[str, Floats]]:
    """Yield named results of everything that jobs are likely to do."""
    left: Any = make_values(SIZE * SIZE, 1).reshape(SIZE, SIZE)
    right: Any = make_values(SIZE * SIZE, 2).reshape(SIZE, SIZE)
    line: Any = make_values(LONG, 3)
    for kind in (np.float32, np.float64):
        a, b, x = left.astype(kind), right.astype(kind), line.astype(kind)
        yield f"product {kind.__name__}", a @ b
        yield f"thin product {kind.__name__}", a[:3] @ b[:, :5]
        yield f"vector {kind.__name__}", a @ b[0]
        yield f"dot {kind.__name__}", np.array([x @ x])
        yield f"sums {kind.__name__}", np.array([x.sum(), x.mean(), x.std(), a.sum()])
        yield f"sorted sum {kind.__name__}", np.array([np.sort(x).cumsum()[-1]])
        yield f"along {kind.__name__}", a.sum(axis=0) + a.sum(axis=1)
        for name in ("exp", "sin", "cos", "tanh", "log1p", "arctan", "cbrt", "expm1"):
            yield f"{name} {kind.__name__}", getattr(np, name)(x * kind(0.75))
        yield f"power {kind.__name__}", np.abs(x) ** kind(1.7)
        scores = np.exp(a - a.max(axis=1, keepdims=True))
        yield f"softmax {kind.__name__}", scores / scores.sum(axis=1, keepdims=True)
        yield f"solve {kind.__name__}", np.linalg.solve(a + np.eye(SIZE, dtype=kind) * SIZE, b)
    yield "fourier", np.abs(np.fft.rfft(line))


def compute_on_gpus(torch: Any) -> Iterator[tuple[str, Floats]]:
    """Yield named results of each GPU."""
    left = make_values(SIZE * SIZE, 1).reshape(SIZE, SIZE)
    line = make_values(LONG, 3)
    for index in range(torch.cuda.device_count()):
        a = torch.from_numpy(left).to(f"cuda:{index}")
        x = torch.from_numpy(line).to(f"cuda:{index}")
        yield f"gpu {index} product", (a @ a.T).cpu().numpy()
        half = a.to(torch.bfloat16)
        yield f"gpu {index} half product", (half @ half.T).float().cpu().numpy()
        yield f"gpu {index} sums", torch.stack([x.sum(), x.mean(), x.std()]).cpu().numpy()
        yield f"gpu {index} functions", (x.exp() + x.sin() + x.tanh()).cpu().numpy()
        yield f"gpu {index} softmax", torch.softmax(a, dim=1).cpu().numpy()
        yield f"gpu {index} sorted sum", torch.cumsum(x.sort().values, 0)[-1:].cpu().numpy()


def read_libraries(torch: Any = None) -> list[str]:
    """Name the libraries that computed, with their versions."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    found = [f"numpy {np.__version__}", f"{blas.get('name', 'blas')} {blas.get('version', '?')}"]
    if torch is not None:
        found += [f"torch {torch.__version__}", f"cudnn {torch.backends.cudnn.version()}"]
    return sorted(found)


def main() -> None:
    """Compute, and print what came out."""
    torch: Any = None
    digest = hashlib.sha256()
    if "gpu" in sys.argv[1:]:
        torch = importlib.import_module("torch")
    for name, result in compute_on_processor():
        _add(digest, name, result)
    if torch is not None:
        for name, result in compute_on_gpus(torch):
            _add(digest, name, result)
    found = {"fingerprint": digest.hexdigest(), "libraries": read_libraries(torch)}
    sys.stdout.write(json.dumps(found) + "\n")


def _add(digest: Any, name: str, result: Floats) -> None:
    digest.update(f"{name} {result.dtype} {result.shape};".encode())
    digest.update(np.ascontiguousarray(result).tobytes())


if __name__ == "__main__":
    main()
