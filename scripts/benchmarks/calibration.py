"""
Calibration documents: what a rule's tolerances rest on, measured, and found by the hash of it.

A document is DAG-CBOR and named by its CID; what is kept is its DAG-JSON, which people can read and
which gives the same bytes back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from gpumarket.protocol.cids import Codec, compute_cid, format_cid
from gpumarket.protocol.codec import encode_document, from_dag_json_untrusted, to_dag_json
from gpumarket.protocol.comparison import Calibration, Noise, Quantile
from gpumarket.protocol.ids import Cid
from scripts.benchmarks.figures import compute_quantile

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "docs/measurements/calibration"
SHARES_PPM: Final = (500_000, 990_000, 999_000, 999_900, 1_000_000)
Quantity = Literal["rtol", "tau", "margin_max", "distance_max"]


def make_noise(
    what: str, pair: tuple[str, str], quantity: Quantity, values: Sequence[float]
) -> Noise:
    """Say how the measured values of one pair of classes are distributed."""
    return Noise(
        what=what,
        pair=pair,
        quantity=quantity,
        samples=len(values),
        quantiles=tuple(
            Quantile(share_ppm=share, value=_round(compute_quantile(values, share / 1e6)))
            for share in SHARES_PPM
        ),
    )


def name_document(calibration: Calibration) -> Cid:
    """Return the CID that a rule names a document by."""
    return format_cid(compute_cid(encode_document(calibration), Codec.DAG_CBOR))


def write_document(calibration: Calibration, path: Path) -> Cid:
    """Write a document for people and programs; return its CID."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_dag_json(calibration) + "\n")
    return name_document(calibration)


def read_document(path: Path) -> Calibration:
    """Read what `write_document` wrote; raises `RemoteProtocolError`."""
    return from_dag_json_untrusted(path.read_bytes().strip(), Calibration)


def digest_software(programs: Iterable[Path]) -> dict[str, bytes]:
    """Return SHA-256 of some files of this repository, and of numpy's code and its BLAS."""
    libraries = Path(np.__file__).parent
    binary = [
        *sorted(libraries.glob("_core/_multiarray_umath*.so")),
        *sorted(libraries.parent.glob("numpy.libs/*openblas*")),
    ]
    named = [(str(path.relative_to(ROOT)), path) for path in programs]
    named += [(path.name, path) for path in binary]
    return {name: hashlib.sha256(path.read_bytes()).digest() for name, path in named}


def name_blas() -> str:
    """Return name and version of the library under numpy."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def _round(value: float) -> str:
    return "0" if value == 0 else f"{value:.3e}".replace("e+0", "e").replace("e-0", "e-")
