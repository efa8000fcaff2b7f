"""
When two outputs of one task are the same, by the rule the requester signed.

Both outputs are hostile bytes: sizes and headers are bounded before anything is parsed, and
pickled objects are never loaded. Files outside the rule's glob are compared by bytes.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fnmatch import fnmatch
from math import prod

import numpy as np
import numpy.typing as npt

from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.job import Comparison

HEADER_BYTES_MAX = 4096
ELEMENTS_MAX = 2**28
_MAGIC = b"\x93NUMPY"
_KINDS = frozenset("biuf")
_HEADER_KEYS = {"descr", "fortran_order", "shape"}


def compare_outputs(
    own: Mapping[str, bytes], theirs: Mapping[str, bytes], rule: Comparison
) -> tuple[Verdict, str]:
    """
    Compare two output folders, file name to bytes.

    Returns the verdict and one sentence that names the deciding file and by how much.
    """
    if own.keys() != theirs.keys():
        odd = min(own.keys() ^ theirs.keys())
        return Verdict.MISMATCH, f"only one of the two outputs has the file {odd!r}"
    worst = "all files are equal byte by byte"
    for name in sorted(own):
        if own[name] == theirs[name]:
            continue
        if rule.rule != "npy" or not fnmatch(name, rule.files):
            return Verdict.MISMATCH, f"{name!r} differs in its bytes"
        is_close, sentence = _compare_arrays(own[name], theirs[name], rule)
        if not is_close:
            return Verdict.MISMATCH, f"{name!r}: {sentence}"
        worst = f"{name!r}: {sentence}"
    return Verdict.MATCH, worst


def decode_npy_untrusted(data: bytes) -> npt.NDArray[np.generic]:
    """Read a .npy file of plain numbers; raise `RemoteProtocolError` for anything else."""
    if len(data) < 10 or data[:6] != _MAGIC or data[6] not in (1, 2):
        raise RemoteProtocolError("not a .npy file")
    length_bytes = 2 if data[6] == 1 else 4
    start = 8 + length_bytes
    size = int.from_bytes(data[8:start], "little")
    if size > HEADER_BYTES_MAX or start + size > len(data):
        raise RemoteProtocolError("the .npy header is too long")
    dtype, shape, is_fortran = _read_header(data[start : start + size])
    body = data[start + size :]
    if prod(shape) > ELEMENTS_MAX or prod(shape) * dtype.itemsize != len(body):
        raise RemoteProtocolError("the .npy body does not have the size its header says")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if is_fortran else "C")


def _read_header(raw: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], bool]:
    try:
        header = ast.literal_eval(raw.decode("latin1").strip())
        if not isinstance(header, dict) or header.keys() != _HEADER_KEYS:
            raise ValueError("unexpected keys")
        shape, descr = header["shape"], header["descr"]
        dtype: np.dtype[np.generic] = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise RemoteProtocolError(f"the .npy header is malformed: {error}") from error
    if not isinstance(descr, str) or dtype.kind not in _KINDS:
        raise RemoteProtocolError("the .npy file does not hold plain numbers")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise RemoteProtocolError("the .npy shape is malformed")
    return dtype, shape, bool(header["fortran_order"])


def _compare_arrays(own: bytes, theirs: bytes, rule: Comparison) -> tuple[bool, str]:
    try:
        a, b = decode_npy_untrusted(own), decode_npy_untrusted(theirs)
    except RemoteProtocolError as error:
        return False, error.message
    if a.dtype != b.dtype or a.shape != b.shape:
        return False, f"{a.dtype}{a.shape} here, {b.dtype}{b.shape} there"
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(x), np.isfinite(y)):
        return False, "infinite or missing numbers stand in other places"
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    cosine = _worst_cosine(x, y)
    if float(rule.cosine_min) and cosine < float(rule.cosine_min):
        return False, f"worst row cosine {cosine:.6f} is below {rule.cosine_min}"
    has_tolerance = float(rule.rtol) > 0 or float(rule.atol) > 0
    distance = float(np.max(np.abs(x - y), initial=0.0))
    if has_tolerance or not float(rule.cosine_min):
        allowed = float(rule.atol) + float(rule.rtol) * np.abs(x)
        if bool(np.any(np.abs(x - y) > allowed)):
            return False, f"largest difference {distance:.3g} is over the tolerance"
    return True, f"worst row cosine {cosine:.6f}, largest difference {distance:.3g}"


def _worst_cosine(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    rows_x = x.reshape(-1, x.shape[-1]) if x.ndim > 1 else x.reshape(1, -1)
    rows_y = y.reshape(rows_x.shape)
    norms = np.linalg.norm(rows_x, axis=1) * np.linalg.norm(rows_y, axis=1)
    dots = np.einsum("ij,ij->i", rows_x, rows_y)
    # Two zero rows are equal; one zero row is as far as can be.
    both_zero = ~rows_x.any(axis=1) & ~rows_y.any(axis=1)
    cosines = np.where(both_zero, 1.0, dots / np.where(norms > 0, norms, 1.0))
    return float(np.min(cosines, initial=1.0))
