"""The JSON Schema of a proof file in DAG-JSON, made from the types that read it."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from gpumarket.protocol.proof_format import ProofFile

SCHEMA_ID: Final = "https://gpumarket.example/schemas/proof-v1.json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_UNPADDED: Final = {28: 27, 44: 43, 88: 87}
"""Base64 characters of 20, 32 and 65 bytes, with padding and without."""


def make_proof_schema() -> dict[str, Any]:
    """Return the schema; byte strings are `{"/": {"bytes": base64}}`, as DAG-JSON has them."""
    (schema,), parts = msgspec.json.schema_components((ProofFile,), ref_template="#/$defs/{name}")
    found: dict[str, Any] = _rewrite(
        {
            "$schema": _DIALECT,
            "$id": SCHEMA_ID,
            "title": "A gpumarket proof of execution, version 1, as DAG-JSON",
            **schema,
            "$defs": {_name(name): part for name, part in sorted(parts.items())},
        }
    )
    return found


def _name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")


def _rewrite(value: Any) -> Any:
    if isinstance(value, list):
        return [_rewrite(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("contentEncoding") == "base64":
        return _describe_bytes(value)
    changed = {key: _rewrite(item) for key, item in value.items()}
    if "$ref" in changed:
        changed["$ref"] = "#/$defs/" + _name(changed["$ref"].removeprefix("#/$defs/"))
    if isinstance(changed.get("pattern"), str):
        changed["pattern"] = changed["pattern"].replace(r"\Z", "$")
    changed.pop("default", None)  # what has its default is left out of a file
    return changed


def _describe_bytes(value: dict[str, Any]) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string", "contentEncoding": "base64"}
    # DAG-JSON writes base64 without padding; msgspec counts it with.
    for name in ("minLength", "maxLength"):
        if value.get(name) in _UNPADDED:
            text[name] = _UNPADDED[value[name]]
    inner = {
        "type": "object",
        "properties": {"bytes": text},
        "required": ["bytes"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"/": inner},
        "required": ["/"],
        "additionalProperties": False,
    }
