"""
The rule `llm`: tokens that the signed seed gives, from activations that the signed model has.

Sampled text cannot be compared as text: between classes of machines one near tie sends the rest
another way. So the verifier's replay reads the tokens that the provider claims, and two signals
must both pass. Margins say how far each token is from what the seeded sampler picks (Token-DiFR):
they find another seed, another model, and the best of many tries, but hardly a rounded model.
Fingerprints of activations find the rounded model, but not the seed. Each is judged by its worst
window, so that a short forgery does not hide in a long text. Within a class of machines there are
no near ties: there the tokens must be the same. Fingerprints are directions of the activations, or
TOPLOC's proofs of them, which a package judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from gpumarket.comparing.dtypes import Numbers
from gpumarket.comparing.exact import find_difference
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.tensor_files import Tensor, decode_npy_untrusted
from gpumarket.comparing.toploc_proofs import (
    INSTALL_TOPLOC,
    PROOF_VALUES,
    VerifyProof,
    decode_proofs_untrusted,
    is_close,
    measure_proofs,
)
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    ACTIVATIONS_NAME,
    FINGERPRINTS_NAME,
    MARGINS_NAME,
    PROOFS_NAME,
    TOKENS_NAME,
    LlmRule,
)
from gpumarket.protocol.errors import RemoteProtocolError

WINDOW: Final = 64
"""Tokens that are judged together."""
TOKENS_MAX: Final = 2**20
"""Of one output, which bounds the memory of a comparison to some 500 MiB."""
DIRECTIONS_MAX: Final = 16
FLOAT16_BYTES: Final = 2
LEAST_SQUARE: Final = 1e-30
"""Under the square of any float16, and far enough from zero to divide by."""
OTHER_SEED: Final = "the seed does not give these tokens"
OTHER_MODEL: Final = "the model has other activations"
Files = Mapping[str, bytes]


class Signals(NamedTuple):
    """What the worst window of an output is off by."""

    margin: float
    """Mean clipped margin of the sampler's scores."""
    distance: float
    """norm(own - theirs) over norm(own), of fingerprints."""


def compare_before_replay(
    own: Files, theirs: Files, rule: LlmRule, *, is_same_class: bool
) -> Outcome | None:
    """
    Say what two outputs show without a replay; None where the provider's must be replayed.

    The replaying program is given only what has passed here: tokens of the verifier's own shape.
    """
    if own.keys() != theirs.keys():
        odd = min(own.keys() ^ theirs.keys())
        return _differ(f"only one of the two outputs has the file {odd[:60]!r}")
    if all(own[name] == theirs[name] for name in own):
        return Outcome(Verdict.MATCH, "bytes", "all files are equal byte by byte")
    try:
        forms = _read_forms(own, rule)
    except RemoteProtocolError as error:
        return _give_up(error.message)
    try:
        found = _read_forms(theirs, rule)
        for name in forms:
            if found[name] != forms[name]:
                return _differ(f"{name}: {forms[name][:60]} here, {found[name][:60]} there")
    except RemoteProtocolError as error:
        return _differ(f"{error.message} there")
    if is_same_class and rule.exact_in_class and own[TOKENS_NAME] != theirs[TOKENS_NAME]:
        place = find_difference(own[TOKENS_NAME], theirs[TOKENS_NAME])
        text = f"other tokens from byte {place} on, by a machine of the same class"
        return _differ(f"{TOKENS_NAME}: {text}")
    return None


def compare_replay(
    replayed: Files, theirs: Files, rule: LlmRule, *, verify_proof: VerifyProof | None = None
) -> Outcome:
    """
    Compare a provider's output with what the verifier's replay of its tokens wrote.

    `theirs` has passed `compare_before_replay`. A replay that is not what the rule asks for
    decides nothing, nor does one that must be judged by TOPLOC where that is not (`verify_proof`).
    """
    kept, shown = _name_fingerprints(rule)
    expected = {*theirs} - {TOKENS_NAME, kept} | {MARGINS_NAME, shown}
    if replayed.keys() != expected:
        odd = min(replayed.keys() ^ expected)
        return _give_up(f"the replay has {odd[:60]!r} too much or too little")
    for name in sorted(expected - {MARGINS_NAME, shown}):
        if replayed[name] != theirs[name]:
            return _differ(f"{name[:60]!r} is not what the tokens give")
    try:
        if rule.fingerprint == "toploc":
            return _judge_proofs(replayed, theirs, rule, verify_proof)
        signals = measure_signals(replayed, theirs, clip=float(rule.margin_clip))
    except RemoteProtocolError as error:
        return _give_up(error.message)
    text = f"worst mean margin {signals.margin:.3g}, worst distance {signals.distance:.3g}"
    if not signals.margin <= float(rule.margin_max):
        return _differ(f"{text}: {OTHER_SEED}, over {rule.margin_max}")
    if not signals.distance <= float(rule.distance_max):
        return _differ(f"{text}: {OTHER_MODEL}, over {rule.distance_max}")
    return Outcome(Verdict.MATCH, rule.name, text)


def _judge_proofs(
    replayed: Files, theirs: Files, rule: LlmRule, verify_proof: VerifyProof | None
) -> Outcome:
    shape = _read(theirs, TOKENS_NAME).shape
    margin = _measure_margin(replayed, shape, clip=float(rule.margin_clip))
    text = f"worst mean margin {margin:.3g}"
    if not margin <= float(rule.margin_max):
        return _differ(f"{text}: {OTHER_SEED}, over {rule.margin_max}")
    if verify_proof is None:
        return _give_up(f"toploc is not installed here: {INSTALL_TOPLOC}")
    proofs = decode_proofs_untrusted(theirs[PROOFS_NAME], shape)
    error = measure_proofs(replayed[ACTIVATIONS_NAME], proofs, shape=shape, verify=verify_proof)
    text += f", worst proof {error.exponents} of {PROOF_VALUES} exponents and {error.mantissa:.3g}"
    if not is_close(error, rule):
        return _differ(f"{text}: {OTHER_MODEL}, over {rule.exponent_max}, {rule.mantissa_max}")
    return Outcome(Verdict.MATCH, rule.name, text)


def measure_signals(replayed: Files, theirs: Files, *, clip: float) -> Signals:
    """
    Measure both signals in their worst windows of `WINDOW` tokens of one prompt.

    A margin may be infinite, for a token that the model cannot give, but not negative or NaN.
    Raises `RemoteProtocolError` where the replay is none of these tokens.
    """
    shape = _read(theirs, TOKENS_NAME).shape
    margin = _measure_margin(replayed, shape, clip=clip)
    own, other = (_read_array(files, FINGERPRINTS_NAME) for files in (replayed, theirs))
    if own.shape != other.shape or own.shape[:2] != shape or not bool(np.isfinite(own).all()):
        raise RemoteProtocolError(f"{FINGERPRINTS_NAME} of the replay is not one for each token")
    starts = np.arange(0, shape[1], WINDOW)
    return Signals(margin, _measure_distance(own, other, starts))


def _measure_margin(replayed: Files, shape: tuple[int, ...], *, clip: float) -> float:
    margins = _read_array(replayed, MARGINS_NAME)
    if margins.shape != shape or not bool((margins >= 0).all()):
        raise RemoteProtocolError(f"{MARGINS_NAME} of the replay has no margin for each token")
    starts = np.arange(0, shape[1], WINDOW)
    counts = np.minimum(WINDOW, shape[1] - starts)
    means = np.add.reduceat(np.minimum(margins, clip), starts, axis=1) / counts
    return float(means.max())


def _measure_distance(own: Numbers, theirs: Numbers, starts: Numbers) -> float:
    if not np.isfinite(theirs).all():
        return float("inf")
    off = np.add.reduceat(np.square(own - theirs).sum(-1), starts, axis=1)
    size = np.add.reduceat(np.square(own).sum(-1), starts, axis=1)
    # Activations of nothing (after the end of a text) must be nothing there too.
    shares = np.where(off == 0, 0.0, off / np.maximum(size, LEAST_SQUARE))
    return float(np.sqrt(shares.max()))


def _name_fingerprints(rule: LlmRule) -> tuple[str, str]:
    """Return what a task leaves, and what its replay leaves in its place."""
    if rule.fingerprint == "toploc":
        return PROOFS_NAME, ACTIVATIONS_NAME
    return FINGERPRINTS_NAME, FINGERPRINTS_NAME


def _read_forms(files: Files, rule: LlmRule) -> dict[str, str]:
    """Say of what form an output's arrays are; that of proofs follows from the tokens."""
    tokens = _read(files, TOKENS_NAME)
    if rule.fingerprint == "projection":
        prints = _read(files, FINGERPRINTS_NAME)
        return {TOKENS_NAME: tokens.form, FINGERPRINTS_NAME: prints.form}
    decode_proofs_untrusted(_find(files, PROOFS_NAME), tokens.shape)
    return {TOKENS_NAME: tokens.form}


def _find(files: Files, name: str) -> bytes:
    if name not in files:
        raise RemoteProtocolError(f"there is no {name}")
    return files[name]


def _read(files: Files, name: str) -> Tensor:
    """Read one array of an output's known files, bounded by its shape."""
    tensor = decode_npy_untrusted(_find(files, name)).tensors[""]
    rank = 3 if name == FINGERPRINTS_NAME else 2
    if len(tensor.shape) != rank or tensor.is_fortran or tensor.count == 0:
        raise RemoteProtocolError(f"{name} is not rows of tokens")
    if tensor.shape[0] * tensor.shape[1] > TOKENS_MAX:
        raise RemoteProtocolError(f"{name} has more than {TOKENS_MAX} tokens")
    if tensor.dtype.is_float is (name == TOKENS_NAME):
        raise RemoteProtocolError(f"{name} holds numbers of another kind")
    if rank == 3 and (tensor.dtype.item_bytes, tensor.shape[2] <= DIRECTIONS_MAX) != (
        FLOAT16_BYTES,
        True,
    ):
        raise RemoteProtocolError(f"{name} is not float16 in at most {DIRECTIONS_MAX} directions")
    return tensor


def _read_array(files: Files, name: str) -> Numbers:
    tensor = _read(files, name)
    return tensor.read(0, tensor.count).reshape(tensor.shape)


def _differ(sentence: str) -> Outcome:
    return Outcome(Verdict.MISMATCH, "llm", sentence)


def _give_up(sentence: str) -> Outcome:
    return Outcome(Verdict.INCONCLUSIVE, "llm", f"cannot be compared: {sentence}")
