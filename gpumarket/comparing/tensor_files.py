"""
Tensor files from strangers: .npy and safetensors, read without the libraries that wrote them.

Both are a small header and plain numbers, so nothing is unpacked and nothing is executed: the
numbers stay where they are in the file and are looked at a piece at a time. Pickled objects,
archives (.npz) and numbers of less than a byte are refused. Sources: the format pages of
numpy.lib.format and of safetensors.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from gpumarket.comparing.dtypes import NPY_DTYPES, SAFETENSORS_DTYPES, DType, Numbers
from gpumarket.comparing.json_text import decode_json_untrusted
from gpumarket.protocol.errors import RemoteProtocolError

NPY_HEADER_BYTES_MAX: Final = 4096
SAFETENSORS_HEADER_BYTES_MAX: Final = 8 * 2**20
TENSORS_MAX: Final = 100_000
RANK_MAX: Final = 32
DIGITS_MAX: Final = 18
"""Of a size or an offset; more is beyond any disk."""
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"
_NPY_KEYS = {"descr", "fortran_order", "shape"}
_TENSOR_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Numbers of one kind in a shape; `data` is a part of the file, in its own order."""

    dtype: DType
    shape: tuple[int, ...]
    data: memoryview
    is_fortran: bool = False

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return len(self.data) // self.dtype.item_bytes

    @property
    def form(self) -> str:
        """Everything but the numbers, as text."""
        order = ", by columns" if self.is_fortran else ""
        return f"{self.dtype.name}{list(self.shape)}{order}"

    def read(self, start: int, stop: int) -> Numbers:
        """Return the numbers from `start` to `stop`, flat, as they lie in the file."""
        size = self.dtype.item_bytes
        return self.dtype.decode(self.data[start * size : stop * size])


@dataclass(frozen=True, slots=True)
class TensorFile:
    """Named tensors; a .npy file has one, without a name."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def decode_npy_untrusted(data: bytes) -> TensorFile:
    """Read a .npy file of plain numbers; raise `RemoteProtocolError` for anything else."""
    if data.startswith(_ZIP_MAGIC):
        raise RemoteProtocolError("a .npz archive is not read; save .npy or safetensors")
    if len(data) < 12 or data[:6] != _NPY_MAGIC or data[6:8] not in (b"\1\0", b"\2\0"):
        raise RemoteProtocolError("not a .npy file")
    start = 10 if data[6] == 1 else 12
    size = int.from_bytes(data[8:start], "little")
    if size > NPY_HEADER_BYTES_MAX or start + size > len(data):
        raise RemoteProtocolError("the .npy header is too long")
    dtype, shape, is_fortran = _read_npy_header(data[start : start + size])
    body = memoryview(data)[start + size :]
    if prod(shape) * dtype.item_bytes != len(body):
        raise RemoteProtocolError("the .npy body does not have the size its header says")
    return TensorFile({"": Tensor(dtype, shape, body, is_fortran)}, {})


def decode_safetensors_untrusted(data: bytes) -> TensorFile:
    """Read a safetensors file; raise `RemoteProtocolError` unless its tensors tile it exactly."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(SAFETENSORS_HEADER_BYTES_MAX, len(data) - 8):
        raise RemoteProtocolError("the safetensors header is too short or too long")
    header = decode_json_untrusted(
        data[8 : 8 + size], bytes_max=SAFETENSORS_HEADER_BYTES_MAX, parse_integer=_parse_size
    )
    if not isinstance(header, dict) or len(header) > TENSORS_MAX:
        raise RemoteProtocolError("the safetensors header is not a table of tensors")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise RemoteProtocolError("the safetensors metadata is not text by name")
    body = memoryview(data)[8 + size :]
    found = {name: _read_entry(name, entry) for name, entry in header.items()}
    end = 0
    for start, stop, _, _ in sorted(found.values(), key=lambda entry: entry[:2]):
        if start != end:
            raise RemoteProtocolError("the tensors overlap or leave a gap")
        end = stop
    if end != len(body):
        raise RemoteProtocolError("the tensors do not fill the safetensors file exactly")
    tensors = {
        name: Tensor(dtype, shape, body[start:stop])
        for name, (start, stop, dtype, shape) in found.items()
    }
    return TensorFile(tensors, metadata)


def _read_npy_header(raw: bytes) -> tuple[DType, tuple[int, ...], bool]:
    try:
        header = ast.literal_eval(raw.decode("latin1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise RemoteProtocolError(f"the .npy header is malformed: {str(error)[:80]}") from error
    if not isinstance(header, dict) or header.keys() != _NPY_KEYS:
        raise RemoteProtocolError("the .npy header has other fields than it must have")
    descr, shape, is_fortran = header["descr"], header["shape"], header["fortran_order"]
    dtype = NPY_DTYPES.get(descr) if isinstance(descr, str) else None
    if dtype is None:
        raise RemoteProtocolError("the .npy file does not hold plain numbers of a known kind")
    if not isinstance(is_fortran, bool) or not isinstance(shape, tuple):
        raise RemoteProtocolError("the .npy header is malformed")
    return dtype, _check_shape(shape), is_fortran


def _read_entry(name: str, entry: Any) -> tuple[int, int, DType, tuple[int, ...]]:
    """Read one tensor of a safetensors header: start, stop, kind and shape."""
    if not isinstance(entry, dict) or entry.keys() != _TENSOR_KEYS:
        raise RemoteProtocolError("a tensor has other fields than dtype, shape, data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    dtype = SAFETENSORS_DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise RemoteProtocolError(f"the kind {str(kind)[:20]!r} of {name[:60]!r} is not read")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise RemoteProtocolError(f"the tensor {name[:60]!r} is malformed")
    sizes, (start, stop) = _check_shape(tuple(shape)), _check_shape(tuple(offsets))
    if stop - start != prod(sizes) * dtype.item_bytes:
        raise RemoteProtocolError(f"the tensor {name[:60]!r} does not have the size of its shape")
    return start, stop, dtype, sizes


def _check_shape(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if len(shape) > RANK_MAX or not all(type(n) is int and 0 <= n < 10**DIGITS_MAX for n in shape):
        raise RemoteProtocolError("a shape or an offset is malformed")
    return shape


def _parse_size(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise ValueError(f"a size of {len(text)} digits")
    return int(text)
