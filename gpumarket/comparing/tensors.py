"""
The rules `npy` and `safetensors`: the same tensors, close entry by entry and as a change.

Closeness of the entries alone says little of training: a whole segment may move the weights by less
than a tolerance that honest machines need. So where the job names a base, what is measured is the
distance as a part of the work that was done, norm(own - theirs) / norm(own - base). Both see signs
and places. Work goes piece by piece, so that memory stays what the files are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gpumarket.comparing.dtypes import Numbers
from gpumarket.comparing.tensor_files import Tensor, TensorFile
from gpumarket.protocol.comparison import NpyRule, SafetensorsRule
from gpumarket.protocol.errors import InvalidInput

PIECE_ENTRIES: Final = 2**18
"""Numbers looked at together: 2 MiB as float64, a few times that in all."""

TensorRule = NpyRule | SafetensorsRule


def compare_tensors(
    own: TensorFile, theirs: TensorFile, rule: TensorRule, *, base: TensorFile | None
) -> tuple[bool, str]:
    """
    Compare two tensor files by a rule; `base` is the file that the work started from, if named.

    Returns whether they are close, and the tensor that decided with its distance. Raises
    `InvalidInput` where the base does not fit the verifier's own file.
    """
    fault = find_difference_in_form(own, theirs)
    if fault:
        return False, fault
    worst = Distance()
    for name in sorted(own.tensors):
        started = _find_base(own.tensors[name], name, base)
        distance = measure(own.tensors[name], theirs.tensors[name], rule, base=started)
        fault = distance.find_fault(rule)
        if fault:
            return False, f"{_show(name)}{fault}"
        worst = max(worst, distance, key=lambda each: (each.change or 0.0, each.largest))
    change = "" if worst.change is None else f", {worst.change:.3g} of the change"
    return True, f"largest difference {worst.largest:.3g}{change}"


def find_difference_in_form(own: TensorFile, theirs: TensorFile) -> str:
    """Say in what two files differ before any number is looked at; empty for nothing."""
    if own.tensors.keys() != theirs.tensors.keys():
        return f"only one has the tensor {min(own.tensors.keys() ^ theirs.tensors.keys())[:60]!r}"
    if own.metadata != theirs.metadata:
        return "the metadata differs"
    for name, tensor in own.tensors.items():
        if tensor.form != theirs.tensors[name].form:
            there = theirs.tensors[name].form
            return f"{_show(name)}{tensor.form[:60]} here, {there[:60]} there"
    return ""


@dataclass(slots=True)
class Norm:
    """A Euclidean norm that is summed piece by piece and neither overflows nor vanishes."""

    scale: float = 0.0
    sum: float = 0.0

    def add(self, values: Numbers) -> None:
        """Take more finite values in."""
        largest = float(np.max(np.abs(values), initial=0.0))
        if largest == 0.0:
            return
        if largest > self.scale:
            self.sum *= (self.scale / largest) ** 2
            self.scale = largest
        self.sum += float(np.sum(np.square(values / self.scale)))

    def compute_share(self, other: Norm) -> float:
        """Return this norm divided by the other: 0 for nothing, infinite for a part of nothing."""
        if self.scale == 0.0:
            return 0.0
        if other.scale == 0.0:
            return math.inf
        return self.scale / other.scale * math.sqrt(self.sum / other.sum)


@dataclass(slots=True)
class Distance:
    """How far a tensor is from another."""

    entries: int = 0
    outside: int = 0
    """Entries that are not close."""
    largest: float = 0.0
    """Largest absolute difference of two finite entries."""
    masks_differ: bool = False
    """NaN or an infinity stands where the other has none."""
    change: float | None = None
    """norm(own - theirs) / norm(own - base), where there is a base."""
    norms: tuple[Norm, Norm] = field(default_factory=lambda: (Norm(), Norm()))

    def find_fault(self, rule: TensorRule) -> str:
        """Say why the two are not the same by the rule; empty where they are."""
        if self.masks_differ:
            return "NaN or infinite numbers stand in other places"
        if self.outside > math.floor(float(rule.max_mismatch) * self.entries):
            return (
                f"{self.outside} of {self.entries} entries are over the tolerance, "
                f"largest difference {self.largest:.3g}"
            )
        if self.change is not None and not self.change <= float(rule.tau):
            return f"differs by {self.change:.3g} of the change from the base, over {rule.tau}"
        return ""


def measure(own: Tensor, theirs: Tensor, rule: TensorRule, *, base: Tensor | None) -> Distance:
    """Measure two tensors of one form, and against a base of the same shape."""
    distance = Distance(entries=own.count)
    for start, stop in _cut(own.count):
        a, b = own.read(start, stop), theirs.read(start, stop)
        if not own.dtype.is_float:
            _add_integers(distance, a, b, rule)
            continue
        started = None if base is None else base.read(start, stop).astype(np.float64)
        with np.errstate(all="ignore"):
            _add_floats(distance, a, b, rule, started)
    if base is not None and own.dtype.is_float:
        distance.change = distance.norms[0].compute_share(distance.norms[1])
    return distance


def _add_integers(distance: Distance, a: Numbers, b: Numbers, rule: TensorRule) -> None:
    # The larger minus the smaller wraps around to what it is when read as unsigned.
    gap = np.subtract(np.maximum(a, b), np.minimum(a, b)).view(f"u{a.dtype.itemsize}")
    most, atol = int(np.iinfo(gap.dtype).max), float(rule.atol)
    allowed = most if atol >= most else math.floor(atol)
    distance.outside += int(np.count_nonzero(gap > gap.dtype.type(allowed)))
    distance.largest = max(distance.largest, float(np.max(gap, initial=0)))


def _add_floats(
    distance: Distance, a: Numbers, b: Numbers, rule: TensorRule, base: Numbers | None
) -> None:
    finite = np.isfinite(a)
    # Where one is not finite the other must be the very same: NaN, plus or minus infinity.
    is_same = np.array_equal(a[~finite], b[~finite], equal_nan=True)
    if not is_same or not np.isfinite(b[finite]).all():
        distance.masks_differ = True
        return
    a, b = a[finite], b[finite]
    gap = np.abs(a - b)
    allowed = float(rule.atol) + float(rule.rtol) * np.abs(a)
    distance.outside += int(np.count_nonzero(~(gap <= allowed)))
    distance.largest = max(distance.largest, float(np.max(gap, initial=0.0)))
    if base is not None:
        base = np.where(np.isfinite(base), base, 0.0)[finite]
        # Halves, since a difference of two doubles may be beyond a double.
        distance.norms[0].add(a / 2 - b / 2)
        distance.norms[1].add(a / 2 - base / 2)


def _find_base(own: Tensor, name: str, base: TensorFile | None) -> Tensor | None:
    if base is None:
        return None
    found = base.tensors.get(name)
    if found is None or (found.shape, found.is_fortran) != (own.shape, own.is_fortran):
        raise InvalidInput(f"{_show(name)}the base has no such tensor of this shape")
    return found


def _cut(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, PIECE_ENTRIES):
        yield start, min(start + PIECE_ENTRIES, count)


def _show(name: str) -> str:
    return f"{name[:60]!r}: " if name else ""
