"""
When two outputs of one task count as the same: the rules a requester can sign.

One struct a rule, told apart by `rule`; its defaults are the published ones, measured in
docs/measurements/comparators.md. What a rule does is in `gpumarket.comparing`, one file each. Files
that a rule's glob leaves out are compared by their bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from gpumarket.protocol.ids import Cid, Hash32, ShortText
from gpumarket.protocol.signing import Document
from gpumarket.protocol.units import U64, ShareInPpm

OWN_PATH = "/own"
"""Where the comparator of a `program` rule finds the verifier's output."""
THEIRS_PATH = "/theirs"
"""Where it finds the provider's."""
TOKENS_NAME = "tokens.npy"
"""Where a task under the rule `llm` leaves its tokens: integers [prompts, tokens]."""
FINGERPRINTS_NAME = "fingerprints.npy"
"""Where it, and its replay, leaves what it saw: float16 [prompts, tokens, directions]."""
PROOFS_NAME = "toploc.npy"
"""Where it leaves TOPLOC's proofs in place of those: uint8 [prompts, tokens / 32, 258]."""
ACTIVATIONS_NAME = "activations.npy"
"""Where the replay leaves what is proved: float32 [prompts, tokens, width]."""
MARGINS_NAME = "margins.npy"
"""Where the replay leaves best score - score of the claimed token: floats [prompts, tokens]."""
DecimalText = Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?(e-?[0-9]+)?\Z", max_length=32)]
"""A non-negative decimal as text, since documents hold no floats."""


class _Rule(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="rule"
):
    """What every rule has."""

    @property
    def name(self) -> str:
        """The value of `rule`."""
        return str(self.__struct_config__.tag)


class BytesRule(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="bytes"):
    """The same files with the same bytes: for machines of one reproducibility class."""


class _Tolerance(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rules with a tolerance have."""

    calibration: Cid | None = None
    """The `Calibration` document that the tolerance rests on."""


class _TensorRule(_Tolerance, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    The same tensors by key, dtype and shape, close entry by entry.

    An entry is close where `abs(d) <= atol + rtol * abs(own)`; integers know `atol` only.
    """

    rtol: DecimalText = "0.0001"
    atol: DecimalText = "0.000001"
    max_mismatch: DecimalText = "0.0001"
    """The share of a tensor's entries that need not be close."""
    base: ShortText = ""
    """Name of the input that the work started from: a file, or a folder with the same names."""
    tau: DecimalText = "0.0001"
    """With a base: norm(own - theirs) over norm(own - base) is at most this in every tensor."""


class NpyRule(_TensorRule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="npy"):
    """One array a file, as numpy saves it."""

    files: ShortText = "*.npy"


class SafetensorsRule(
    _TensorRule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="safetensors"
):
    """Many named tensors a file."""

    files: ShortText = "*.safetensors"


class JsonRule(_Tolerance, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="json"):
    """The same JSON value; numbers are close where `abs(d) <= atol + rtol * abs(own)`."""

    files: ShortText = "*.json"
    rtol: DecimalText = "0.000001"
    atol: DecimalText = "0"


class ImageRule(_Tolerance, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="image"):
    """The same picture by its pixels, everywhere: the worst place decides, not the mean."""

    files: ShortText = "*.png"
    ssim_min: DecimalText = "0.97"
    """Structural similarity of the worst 64 x 64 pixels."""
    atol: DecimalText = "4"
    """Levels, of 255, by which a channel of a pixel may differ."""
    max_mismatch: DecimalText = "0.0001"
    """The share of channel values that may differ by more."""


class ProgramRule(_Rule, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="program"):
    """
    The requester's own comparator, run in the job's image and sandbox.

    It finds both outputs at `/own` and `/theirs`, and the job's inputs at their places. It exits
    with 0 for the same and 1 for different; anything else decides nothing. Its last line says why.
    """

    command: Annotated[tuple[ShortText, ...], Meta(min_length=1, max_length=64)]


class LlmRule(_Tolerance, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="llm"):
    """
    Tokens sampled with the job's seed from the job's model, by two signals; both must pass.

    The verifier runs `command`, the model's replay, in the job's image and sandbox with the
    provider's output at `/theirs`. To the job's output path it writes the margins and fingerprints
    of the tokens it finds there, and every other file of the output as those tokens give it. A
    token that the model cannot give has an infinite margin. A text that ends early is filled up.
    With `toploc` it writes activations in place of fingerprints, and the verifier needs that extra.
    """

    command: Annotated[tuple[ShortText, ...], Meta(min_length=1, max_length=64)]
    margin_max: DecimalText = "0.005"
    """What the mean margin of the worst 64 tokens of a prompt may be, in units of the scores."""
    margin_clip: DecimalText = "1"
    """What one token counts at most."""
    distance_max: DecimalText = "0.002"
    """What norm(own - theirs) over norm(own) may be, of the fingerprints of the worst 64 tokens."""
    fingerprint: Literal["projection", "toploc"] = "projection"
    """What a task leaves of its activations: directions of them, or TOPLOC's proofs."""
    exponent_max: DecimalText = "0.1"
    """TOPLOC: the share of the 128 values of a proof whose exponent may be another."""
    mantissa_max: DecimalText = "0.75"
    """TOPLOC: what the mean error of the worst proof may be, in bfloat16's last place."""
    exact_in_class: bool = True
    """Within a reproducibility class the tokens must be the same; false for batching servers."""


Comparison = BytesRule | NpyRule | SafetensorsRule | JsonRule | ImageRule | ProgramRule | LlmRule
RULES: Mapping[str, type[Comparison]] = {
    "bytes": BytesRule,
    "npy": NpyRule,
    "safetensors": SafetensorsRule,
    "json": JsonRule,
    "image": ImageRule,
    "program": ProgramRule,
    "llm": LlmRule,
}
DECIMAL_FIELDS = frozenset(
    {
        *("rtol", "atol", "max_mismatch", "tau", "ssim_min"),
        *("margin_max", "margin_clip", "distance_max", "exponent_max", "mantissa_max"),
    }
)


# ---- what a tolerance rests on -----------------------------------------------------------------


class Quantile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The value that a share of all measured values is at most."""

    share_ppm: ShareInPpm
    value: DecimalText


class Noise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far runs are from each other in one of the rule's quantities."""

    what: ShortText
    """`honest`, or the cheat that was tried."""
    pair: tuple[ShortText, ShortText]
    """The class that judged, and the one that was judged, each one of the document's."""
    quantity: Literal["rtol", "tau", "margin_max", "distance_max"]
    """What of the rule would have to be this value to let the run pass."""
    samples: U64
    quantiles: tuple[Quantile, ...]


class Calibration(Document, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measured noise between classes of machines; named in a rule by its CID."""

    KIND: ClassVar[str] = "gpumarket.calibration.v1"

    rule: Comparison
    classes: tuple[ShortText, ...]
    """The machines in words: processor, instruction set, threads."""
    noise: tuple[Noise, ...]
    software: dict[ShortText, ShortText]
    """Version by name."""
    digests: dict[ShortText, Hash32]
    """SHA-256 of the programs, models and libraries that were run, by name."""


_TENSORS = "bafyreige5jwrwr6gflyw6dw7may56kfvdxvm4dlp63a4onqzcirrycy77m"
CALIBRATIONS: Mapping[str, Cid] = {
    "npy": _TENSORS,
    "safetensors": _TENSORS,
    "llm": "bafyreidgchf7jdhx2j4kt5orazl5excyfqr5cy7eq436ivcw5aul5etgma",
}
"""What the default tolerances rest on, by rule: documents of docs/measurements/calibration."""
