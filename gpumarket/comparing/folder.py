"""
Two output folders of one task, compared by the rule that the requester signed.

Both are hostile bytes. What the verifier's own file cannot be read as proves nothing about the
provider; what only the provider's cannot be read as is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from gpumarket.comparing.exact import compare_bytes
from gpumarket.comparing.image import compare_images, decode_image_untrusted
from gpumarket.comparing.json_numbers import compare_json
from gpumarket.comparing.json_text import decode_json_untrusted
from gpumarket.comparing.judging import Outcome
from gpumarket.comparing.tensor_files import decode_npy_untrusted, decode_safetensors_untrusted
from gpumarket.comparing.tensors import compare_tensors
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    ImageRule,
    JsonRule,
    LlmRule,
    NpyRule,
    ProgramRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError

NAME_CHARS_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Comparator:
    """How one rule reads a file and compares two of them."""

    decode: Callable[[bytes], Any]
    """Raises `RemoteProtocolError` and nothing else."""
    compare: Callable[..., tuple[bool, str]]
    """Takes own, theirs, rule and `base=`; raises `InvalidInput` where own and base do not fit."""


COMPARATORS: Final[Mapping[type[Comparison], Comparator]] = {
    NpyRule: Comparator(decode_npy_untrusted, compare_tensors),
    SafetensorsRule: Comparator(decode_safetensors_untrusted, compare_tensors),
    JsonRule: Comparator(decode_json_untrusted, compare_json),
    ImageRule: Comparator(decode_image_untrusted, compare_images),
}
"""One row a rule that looks into files."""


def compare_outputs(
    own: Mapping[str, bytes],
    theirs: Mapping[str, bytes],
    rule: Comparison,
    *,
    base: Mapping[str, bytes] | None = None,
) -> Outcome:
    """
    Compare two output folders, file name to bytes; each file is asked for once.

    `base` has the files that the rule's base names, under the names of the outputs. The rules
    `program` and `llm` are not for here, except where all files are equal. The sentence names the
    deciding file.
    """
    if own.keys() != theirs.keys():
        odd = min(own.keys() ^ theirs.keys())
        return _differ(rule.name, f"only one of the two outputs has the file {_show(odd)}")
    last = Outcome(Verdict.MATCH, "bytes", "all files are equal byte by byte")
    for name in sorted(own):
        outcome = _compare_file(own[name], theirs[name], rule, name=name, base=base)
        if outcome.verdict is not Verdict.MATCH:
            return outcome
        last = outcome if outcome.rule != "bytes" else last
    return last


def _compare_file(
    own: bytes, theirs: bytes, rule: Comparison, *, name: str, base: Mapping[str, bytes] | None
) -> Outcome:
    is_equal, sentence = compare_bytes(own, theirs)
    if is_equal:
        return Outcome(Verdict.MATCH, "bytes", f"{_show(name)}: {sentence}")
    if isinstance(rule, LlmRule):
        return _give_up(rule, f"{_show(name)} {sentence}: its tokens must be replayed")
    if isinstance(rule, BytesRule | ProgramRule) or not fnmatchcase(name, rule.files):
        return _differ("bytes", f"{_show(name)} {sentence}")
    comparator = COMPARATORS[type(rule)]
    try:
        mine = comparator.decode(own)
        started = _decode_base(rule, name, base, comparator)
    except (RemoteProtocolError, InvalidInput) as error:
        return _give_up(rule, f"{_show(name)} or its base cannot be compared: {error.message}")
    try:
        other = comparator.decode(theirs)
    except RemoteProtocolError as error:
        return _differ(rule.name, f"{_show(name)}: {error.message} there")
    try:
        is_close, sentence = comparator.compare(mine, other, rule, base=started)
    except InvalidInput as error:
        return _give_up(rule, f"{_show(name)}: {error.message}")
    verdict = Verdict.MATCH if is_close else Verdict.MISMATCH
    return Outcome(verdict, rule.name, f"{_show(name)}: {sentence}")


def _decode_base(
    rule: Comparison, name: str, base: Mapping[str, bytes] | None, comparator: Comparator
) -> Any:
    if not isinstance(rule, NpyRule | SafetensorsRule) or not rule.base:
        return None
    if base is None or name not in base:
        raise InvalidInput(f"the input {rule.base!r} has no file of that name")
    return comparator.decode(base[name])


def _differ(rule: str, sentence: str) -> Outcome:
    return Outcome(Verdict.MISMATCH, rule, sentence)


def _give_up(rule: Comparison, sentence: str) -> Outcome:
    return Outcome(Verdict.INCONCLUSIVE, rule.name, sentence)


def _show(name: str) -> str:
    return repr(name[:NAME_CHARS_SHOWN])
