"""
The package toploc, where it is installed: activations against one of its proofs.

It is an extra, since it brings PyTorch: some 5 GB. Its native code is given only what
`gpumarket.comparing.toploc_proofs` has let pass.
"""

from __future__ import annotations

from gpumarket.comparing.dtypes import Numbers
from gpumarket.comparing.toploc_proofs import (
    INSTALL_TOPLOC,
    PROOF_TOKENS,
    PROOF_VALUES,
    ProofError,
    VerifyProof,
)
from gpumarket.protocol.comparison import Comparison, LlmRule
from gpumarket.protocol.errors import InvalidInput


def find_verify_proof() -> VerifyProof | None:
    """Return the package's judgment of one proof; None where it, or its PyTorch, is not there."""
    try:
        import torch
        from toploc import verify_proofs_bytes
    except ImportError:
        return None

    def verify(states: Numbers, proof: bytes) -> ProofError:
        # One tensor without a prefill: with a list, toploc 0.1.6 leaves out the proof's modulus.
        (found,) = verify_proofs_bytes(
            torch.from_numpy(states).to(torch.bfloat16),
            [proof],
            decode_batching_size=PROOF_TOKENS,
            topk=PROOF_VALUES,
            skip_prefill=True,
        )
        return ProofError(int(found.exp_mismatches), float(found.mant_err_mean))

    return verify


def check_toploc(rule: Comparison) -> None:
    """Raise `InvalidInput` (GM-7205) where a rule needs the package and it is not there."""
    is_needed = isinstance(rule, LlmRule) and rule.fingerprint == "toploc"
    if is_needed and find_verify_proof() is None:
        raise InvalidInput(
            "the package toploc, which the job's rule needs, is not installed here",
            code="GM-7205",
            why="toploc 0.1.6 with torch 2.6.0 is an extra, and is imported by name",
            hints=(INSTALL_TOPLOC,),
        )
