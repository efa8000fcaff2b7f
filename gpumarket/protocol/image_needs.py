"""
What an image says it needs: its architecture, and CUDA or ROCm by what builders leave in it.

NVIDIA's images carry `NVIDIA_REQUIRE_CUDA`, which their container runtime enforces at start: words
are alternatives, commas inside of one join conditions. Ours is read before anybody signs. Only the
part that all alternatives without a brand or an upper bound need is kept: the others are for
drivers that some data-center cards take forward, which is not counted here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET

from gpumarket.protocol.compatibility import (
    MINOR_COMPATIBLE_SINCE,
    NONE,
    find_cuda_for_driver,
    find_driver,
    name_architecture,
    parse_driver,
)
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.gpu import Version
from gpumarket.protocol.job import Resources

CONFIG_BYTES_MAX: Final = 2**20
BRACKETS_MAX: Final = 2_000
ENV_MAX: Final = 4_096
REQUIREMENT_CHARS_MAX: Final = 8_192
ALTERNATIVES_MAX: Final = 256
CONDITIONS_MAX: Final = 32
_CONDITION: Final = re.compile(
    r"([a-z]{1,20})(>=|<=|!=|=|>|<)([A-Za-z0-9][A-Za-z0-9._-]{0,30})", re.ASCII
)
_VERSION: Final = re.compile(r"(\d{1,4})(?:\.(\d{1,4}))?(?:\.\d{1,6})*", re.ASCII)
_CUDA_LABEL: Final = "com.nvidia.cuda.version"


class ImageNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """What an image needs of a machine; empty and zero ask for nothing."""

    architecture: str = ""
    vendor: str = ""
    """`nvidia`, `amd`, or none that can be told."""
    cuda_min: Version = NONE
    compute_capability_min: Version = NONE


NO_NEEDS: Final = ImageNeeds()


def decode_image_needs_untrusted(config: bytes) -> ImageNeeds:
    """
    Read what the config JSON of an image says it needs.

    Raises `RemoteProtocolError` GM-5204 for what is no config, or holds a requirement that NVIDIA's
    runtime could not read either.
    """
    if len(config) > CONFIG_BYTES_MAX:
        raise _refuse(f"its config is larger than {CONFIG_BYTES_MAX} bytes")
    # As many bound how deep it goes: a library of ours lifts Python's own limit on that.
    if config.count(b"[") + config.count(b"{") > BRACKETS_MAX:
        raise _refuse(f"its config has more than {BRACKETS_MAX} lists and objects")
    try:
        document = json.loads(config)
    except (ValueError, RecursionError):
        raise _refuse("its config is malformed") from None
    defaults = document.get("config") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(defaults, dict | None):
        raise _refuse("its config is not an object")
    env = _read_env(defaults or {})
    architecture = document.get("architecture")
    is_named = isinstance(architecture, str)
    cuda, capability = _read_cuda(env, (defaults or {}).get("Labels"))
    is_cuda = cuda != NONE or capability != NONE
    is_rocm = bool(env.get("ROCM_VERSION") or env.get("ROCM_PATH"))
    return ImageNeeds(
        architecture=name_architecture(str(architecture)) if is_named else "",
        vendor="" if is_cuda == is_rocm else "nvidia" if is_cuda else "amd",
        cuda_min=NONE if is_rocm else cuda,
        compute_capability_min=NONE if is_rocm else capability,
    )


def meet_image(resources: Resources, needs: ImageNeeds) -> Resources:
    """Add to what the file asks for what its image needs; raise GM-1132 where they disagree."""
    asked = resources.devices
    # A task without a device may run an image that could use one.
    if asked.count:
        if needs.vendor and asked.vendor not in ("any", needs.vendor):
            raise InvalidInput(
                f"resources.gpu asks for {asked.vendor}, the image is built for {needs.vendor}",
                code="GM-1132",
                money="nothing was signed",
                hints=(
                    f"write  vendor: {needs.vendor}",
                    f"take an image built for {asked.vendor}",
                ),
                fault="requester",
            )
        asked = msgspec.structs.replace(
            asked,
            vendor=needs.vendor or asked.vendor,
            cuda_min=max(asked.cuda_min, needs.cuda_min),
            compute_capability_min=max(asked.compute_capability_min, needs.compute_capability_min),
        )
    return msgspec.structs.replace(
        resources, devices=asked, architecture=needs.architecture or UNSET
    )


def _read_env(defaults: Mapping[str, Any]) -> dict[str, str]:
    lines = defaults.get("Env") or []
    if not isinstance(lines, list) or len(lines) > ENV_MAX:
        raise _refuse(f"its environment is no list of at most {ENV_MAX} lines")
    pairs = [line.partition("=") for line in lines if isinstance(line, str)]
    return {name: value for name, _, value in pairs}


def _read_cuda(env: Mapping[str, str], labels: object) -> tuple[Version, Version]:
    """Return the CUDA release and the compute capability that are needed at least."""
    if env.get("NVIDIA_DISABLE_REQUIRE", "").lower() not in ("1", "true"):
        found = [
            reduce_requirement(value)
            for name, value in env.items()
            if name.startswith("NVIDIA_REQUIRE_") and value.strip()
        ]
        if found:
            return max(cuda for cuda, _ in found), max(capability for _, capability in found)
    named = labels.get(_CUDA_LABEL) if isinstance(labels, dict) else None
    said = env.get("CUDA_VERSION") or (named if isinstance(named, str) else "")
    match = _VERSION.fullmatch(said.strip())
    if match is None:
        return NONE, NONE
    major, minor = int(match[1]), int(match[2] or 0)
    return (major, 0 if major >= MINOR_COMPATIBLE_SINCE else minor), NONE


def reduce_requirement(text: str) -> tuple[Version, Version]:
    """
    Return the CUDA release and the compute capability that a requirement needs at least.

    Raises `RemoteProtocolError` GM-5204 where it is malformed.
    """
    if len(text) > REQUIREMENT_CHARS_MAX:
        raise _refuse("a requirement in it is too long")
    words = text.split()
    if len(words) > ALTERNATIVES_MAX:
        raise _refuse(f"a requirement in it has more than {ALTERNATIVES_MAX} alternatives")
    alternatives = [list(_read_conditions(word)) for word in words]
    plain = [each for each in alternatives if not any(map(_is_bounded, each))]
    return min((_reduce(each) for each in plain or alternatives), default=(NONE, NONE))


def _read_conditions(word: str) -> Iterator[tuple[str, str, str]]:
    parts = word.split(",")
    if len(parts) > CONDITIONS_MAX:
        raise _refuse(f"a requirement in it joins more than {CONDITIONS_MAX} conditions")
    for part in parts:
        match = _CONDITION.fullmatch(part)
        if match is None:
            raise _refuse(f"a requirement in it cannot be read: {part[:60]!r}")
        yield match[1], match[2], match[3]


def _is_bounded(condition: tuple[str, str, str]) -> bool:
    name, sign, _ = condition
    return name not in ("cuda", "driver", "arch") or sign not in (">=", ">")


def _reduce(conditions: Sequence[tuple[str, str, str]]) -> tuple[Version, Version]:
    cuda, capability = NONE, NONE
    for name, sign, value in conditions:
        if sign not in (">=", ">", "="):
            continue
        if name == "driver":
            cuda = max(cuda, _find_cuda(value, is_above=sign == ">"))
        elif name in ("cuda", "arch"):
            match = _VERSION.fullmatch(value)
            if match is None:
                raise _refuse(f"a requirement in it names no version: {value[:60]!r}")
            least = (int(match[1]), int(match[2] or 0) + (sign == ">"))
            cuda = max(cuda, least) if name == "cuda" else cuda
            capability = max(capability, least) if name == "arch" else capability
    return cuda, capability


def _find_cuda(driver: str, *, is_above: bool) -> Version:
    parsed = parse_driver(driver)
    if not parsed:
        raise _refuse(f"a requirement in it names no driver: {driver[:60]!r}")
    cuda = find_cuda_for_driver(parsed)
    is_next = is_above and find_driver(cuda) == parsed
    return (cuda[0], cuda[1] + 1) if is_next else cuda


def _refuse(why: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "what the image needs cannot be told", code="GM-5204", why=why, fault="requester"
    )
