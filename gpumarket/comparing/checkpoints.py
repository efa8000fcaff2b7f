"""
Checkpoints of a training task: what a state says of one, and when two runs of a segment agree.

A checkpoint is a folder of four files (`PARTS` and `PROGRESS`). Within a reproducibility class a
segment done again ends with the same bytes. Between classes what counts is the distance as a part
of the segment's own update: closeness of the weights themselves says nothing, since one segment
moves them by less than any tolerance that would be given for numbers of their size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import numpy as np

from gpumarket.comparing.dtypes import Numbers
from gpumarket.comparing.json_text import decode_json_untrusted
from gpumarket.comparing.tensor_files import (
    Tensor,
    TensorFile,
    decode_safetensors_untrusted,
)
from gpumarket.comparing.tensors import PIECE_ENTRIES, Norm, find_difference_in_form
from gpumarket.protocol.errors import RemoteProtocolError
from gpumarket.protocol.ids import Hash32
from gpumarket.protocol.training import (
    SegmentState,
    compute_tensor_leaf,
    compute_tensors_root,
)

PARTS: Final = ("model", "optimizer", "rng")
PROGRESS: Final = "progress.json"
FILES: Final = frozenset({*(f"{part}.safetensors" for part in PARTS), PROGRESS})
PROGRESS_BYTES_MAX: Final = 4_096
NORM_DIGITS: Final = 9
NORM_TOLERANCE: Final = Decimal("1e-6")
"""Norms are sums of doubles: machines may add in another order."""
_MEASURE = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint as it was read; the tensors are parts of the files."""

    step: int
    cursor: int
    loss: str
    """Decimal text."""
    model: TensorFile
    optimizer: TensorFile
    rng: TensorFile

    def compute_roots(self) -> tuple[Hash32, Hash32, Hash32]:
        """Return the roots of model, optimizer and generators."""
        model, optimizer, rng = (compute_file_root(getattr(self, part)) for part in PARTS)
        return model, optimizer, rng


def decode_checkpoint_untrusted(files: Mapping[str, bytes]) -> Checkpoint:
    """Read a checkpoint's files by name; raise `RemoteProtocolError` for anything malformed."""
    if files.keys() != FILES:
        odd = min(files.keys() ^ FILES)
        raise RemoteProtocolError(
            f"a checkpoint has four files; {odd[:60]!r} is one too many or few"
        )
    progress = decode_json_untrusted(
        files[PROGRESS], bytes_max=PROGRESS_BYTES_MAX, parse_integer=_parse_count
    )
    if not isinstance(progress, dict) or progress.keys() != {"cursor", "loss", "step"}:
        raise RemoteProtocolError(f"{PROGRESS} has other fields than cursor, loss and step")
    step, cursor, loss = progress["step"], progress["cursor"], progress["loss"]
    if type(step) is not int or type(cursor) is not int or min(step, cursor) < 0:
        raise RemoteProtocolError(f"{PROGRESS}: step and cursor are counts")
    if not isinstance(loss, str) or not _MEASURE.fullmatch(loss):
        raise RemoteProtocolError(f"{PROGRESS}: the loss is a decimal in quotes")
    parts = {part: decode_safetensors_untrusted(files[f"{part}.safetensors"]) for part in PARTS}
    return Checkpoint(step=step, cursor=cursor, loss=loss, **parts)


def compute_file_root(file: TensorFile) -> Hash32:
    """Return the root over a file's tensors, each of which can be shown alone."""
    return compute_tensors_root(
        {
            name: compute_tensor_leaf(
                name, dtype=tensor.dtype.name, shape=tensor.shape, data=tensor.data
            )
            for name, tensor in file.tensors.items()
        }
    )


def measure_update(before: Checkpoint | None, after: Checkpoint) -> str:
    """Return how far the model moved, as text; 0 at the beginning, where it has not moved."""
    if before is None:
        return "0"
    norm = measure_distance(before.model, after.model)
    return f"{2 * norm.scale * norm.sum**0.5:.{NORM_DIGITS}g}"


def measure_distance(a: TensorFile, b: TensorFile) -> Norm:
    """
    Return half the Euclidean distance over all floats of two files.

    Raises `RemoteProtocolError` where the files cannot be compared: other tensors or shapes,
    integers that differ, or numbers that are not finite.
    """
    fault = find_difference_in_form(a, b)
    if fault:
        raise RemoteProtocolError(fault)
    norm = Norm()
    for name in sorted(a.tensors):
        _add_tensor(norm, name, a.tensors[name], b.tensors[name])
    return norm


def _add_tensor(norm: Norm, name: str, a: Tensor, b: Tensor) -> None:
    for start in range(0, a.count, PIECE_ENTRIES):
        stop = min(start + PIECE_ENTRIES, a.count)
        x, y = a.read(start, stop), b.read(start, stop)
        if not a.dtype.is_float:
            # Counters of an optimizer: they rise from checkpoint to checkpoint, and have no norm.
            continue
        if not (_is_finite(x) and _is_finite(y)):
            raise RemoteProtocolError(f"{name[:60]!r} holds numbers that are not finite")
        # Halves, since a difference of two doubles may be beyond a double.
        norm.add(x / 2 - y / 2)


def _is_finite(values: Numbers) -> bool:
    return bool(np.isfinite(values).all())


# ---- what a state says ---------------------------------------------------------------------


def find_false_word(state: SegmentState, checkpoint: Checkpoint, before: Checkpoint | None) -> str:
    """Say what of a state does not fit its checkpoint and the one before; empty for nothing."""
    model, optimizer, rng = checkpoint.compute_roots()
    facts = {
        "model": (state.model_root, model),
        "optimizer": (state.optimizer_root, optimizer),
        "generators": (state.rng_root, rng),
        "step": (state.step_to, checkpoint.step),
        "data cursor": (state.cursor, checkpoint.cursor),
        "loss": (Decimal(state.loss), Decimal(checkpoint.loss)),
    }
    for what, (said, found) in facts.items():
        if said != found:
            return f"the state of segment {state.index} names another {what} than its checkpoint"
    try:
        norm = Decimal(measure_update(before, checkpoint))
    except RemoteProtocolError as error:
        return f"the update of segment {state.index} has no length: {error.message}"
    said_norm = Decimal(state.update_norm)
    if abs(said_norm - norm) > NORM_TOLERANCE * norm:
        return f"the update of segment {state.index} is {norm} long and not {said_norm}"
    return ""


# ---- two runs of a segment -----------------------------------------------------------------


def find_fault(
    own: Checkpoint,
    theirs: Checkpoint,
    base: Checkpoint,
    *,
    is_same_class: bool,
    tolerance: str,
) -> tuple[str, float]:
    """
    Say why `theirs` is not what the segment gives, and how far it is off in parts of its update.

    `base` is where the segment started; for the beginning itself, where the first one ended. The
    text is empty where the two agree.
    """
    # The loss is rounded too: of the same weights, other machines may say another last digit.
    allowed = Decimal(0) if is_same_class else Decimal(tolerance)
    if own.compute_roots() == theirs.compute_roots():
        return _compare_progress(own, theirs, allowed), 0.0
    try:
        share = max(_measure_share(own, theirs, base, part) for part in ("model", "optimizer"))
        _check_integers(own, theirs)
    except RemoteProtocolError as error:
        return error.message, float("inf")
    if is_same_class:
        return f"other bytes in the same class, {share:.3g} of the segment's update away", share
    if not share <= float(tolerance):
        return f"{share:.3g} of the segment's update away, over {tolerance}", share
    return _compare_progress(own, theirs, allowed), share


def _measure_share(own: Checkpoint, theirs: Checkpoint, base: Checkpoint, part: str) -> float:
    gap = measure_distance(getattr(own, part), getattr(theirs, part))
    return gap.compute_share(measure_distance(getattr(theirs, part), getattr(base, part)))


def _check_integers(own: Checkpoint, theirs: Checkpoint) -> None:
    for part in PARTS:
        mine, other = getattr(own, part).tensors, getattr(theirs, part).tensors
        for name, tensor in mine.items():
            is_exact = part == "rng" or not tensor.dtype.is_float
            if is_exact and (name not in other or tensor.data != other[name].data):
                raise RemoteProtocolError(f"{part}: {name[:60]!r} is another and must be equal")


def _compare_progress(own: Checkpoint, theirs: Checkpoint, tolerance: Decimal) -> str:
    if (own.step, own.cursor) != (theirs.step, theirs.cursor):
        return "another step or place in the data"
    mine, said = Decimal(own.loss), Decimal(theirs.loss)
    if abs(mine - said) > tolerance * abs(mine):
        return f"its loss is {mine} and not {said}"
    return ""


def _parse_count(text: str) -> Any:
    if len(text) > 18:
        raise ValueError(f"a count of {len(text)} digits")
    return int(text)
