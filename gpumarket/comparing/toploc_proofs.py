"""
TOPLOC's proofs of activations: what must hold before the package that reads them sees one.

A proof is the 128 largest of the activations of 32 tokens, as a polynomial that gives their
bfloat16 bits at their places (https://arxiv.org/abs/2501.16007). The package is native code that
trusts its caller: a modulus of zero, or fewer activations than a proof has values, ends the process
(toploc 0.1.6, csrc/poly.cpp). So all of that is refused here, where no package is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from gpumarket.comparing.dtypes import Numbers
from gpumarket.comparing.tensor_files import Tensor, decode_npy_untrusted
from gpumarket.protocol.comparison import ACTIVATIONS_NAME, PROOFS_NAME, LlmRule
from gpumarket.protocol.errors import RemoteProtocolError

PROOF_TOKENS: Final = 32
"""Tokens that one proof is of; the last of a text may be of fewer."""
PROOF_VALUES: Final = 128
PROOF_BYTES: Final = 2 + 2 * PROOF_VALUES
"""The modulus of the places, then the coefficients, 16 bits each, highest byte first."""
PRIME: Final = 65_497
"""Size of the field; the largest modulus, and above every coefficient."""
MODULUS_ABOVE: Final = 2**15
INSTALL_TOPLOC: Final = "pip install 'gpumarket[toploc]'"
WIDTH_MAX: Final = 2**16
"""Activations of one token, which bounds the memory of a comparison."""


class ProofError(NamedTuple):
    """What the 128 largest activations of a replay are off by from a proof."""

    exponents: int
    """How many have another exponent."""
    mantissa: float
    """Mean difference of the others' mantissas, in units of bfloat16's last place."""


VerifyProof = Callable[[Numbers, bytes], ProofError]
"""Of activations [tokens, width], float32, and one proof of `PROOF_BYTES`."""


def decode_proofs_untrusted(data: bytes, shape: tuple[int, ...]) -> Numbers:
    """
    Read the proofs of tokens [prompts, tokens]: bytes [prompts, proofs, `PROOF_BYTES`].

    Raises `RemoteProtocolError` unless they are as many as the tokens need, and each a polynomial.
    """
    tensor = decode_npy_untrusted(data).tensors[""]
    expected = (shape[0], -(-shape[1] // PROOF_TOKENS), PROOF_BYTES)
    if tensor.dtype.name != "|u1" or tensor.shape != expected or tensor.is_fortran:
        raise RemoteProtocolError(f"{PROOFS_NAME} is not uint8{list(expected)}")
    proofs = tensor.read(0, tensor.count).reshape(expected)
    words = proofs.view(">u2")
    moduli, coefficients = words[:, :, 0], words[:, :, 1:]
    is_field = (moduli > MODULUS_ABOVE) & (moduli <= PRIME) & (coefficients < PRIME).all(-1)
    if not is_field.all():
        raise RemoteProtocolError(f"{PROOFS_NAME} holds what is no proof of TOPLOC")
    return proofs


def measure_proofs(
    activations: bytes, proofs: Numbers, *, shape: tuple[int, ...], verify: VerifyProof
) -> ProofError:
    """
    Measure the worst proof in each of its two errors, by a replay's activations of the tokens.

    Raises `RemoteProtocolError` where these are not finite float32 of each token, or too few.
    """
    tensor = _read_activations(activations, shape)
    width, count = tensor.shape[2], shape[1]
    found = []
    for row in range(shape[0]):
        for number, start in enumerate(range(0, count, PROOF_TOKENS)):
            places = row * count + start, row * count + min(start + PROOF_TOKENS, count)
            states = tensor.read(*(place * width for place in places)).reshape(-1, width)
            _check_states(states)
            found.append(verify(states.astype(np.float32), proofs[row, number].tobytes()))
    exponents, mantissas = np.array(found).max(0)
    return ProofError(int(exponents), float(mantissas))


def is_close(error: ProofError, rule: LlmRule) -> bool:
    """Say whether the worst proof is within what a rule allows."""
    return error.exponents <= float(rule.exponent_max) * PROOF_VALUES and (
        error.mantissa <= float(rule.mantissa_max)
    )


def _read_activations(data: bytes, shape: tuple[int, ...]) -> Tensor:
    tensor = decode_npy_untrusted(data).tensors[""]
    if len(tensor.shape) != 3 or tensor.shape[:2] != shape or tensor.is_fortran:
        raise RemoteProtocolError(f"{ACTIVATIONS_NAME} is not one row for each token")
    if (tensor.dtype.item_bytes, tensor.dtype.is_float) != (4, True):
        raise RemoteProtocolError(f"{ACTIVATIONS_NAME} is not float32")
    if not 1 <= tensor.shape[2] <= WIDTH_MAX:
        raise RemoteProtocolError(f"{ACTIVATIONS_NAME} has no width up to {WIDTH_MAX}")
    return tensor


def _check_states(states: Numbers) -> None:
    if not np.isfinite(states).all():
        raise RemoteProtocolError(f"{ACTIVATIONS_NAME} of the replay is not finite")
    # Of equal zeros any may be among the largest; where all are (after a text) it does not matter.
    if states.size < PROOF_VALUES or 0 < np.count_nonzero(states) < PROOF_VALUES:
        text = f"has fewer than {PROOF_VALUES} activations for a proof"
        raise RemoteProtocolError(f"{ACTIVATIONS_NAME} of the replay {text}")
