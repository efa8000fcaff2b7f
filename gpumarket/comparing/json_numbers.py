"""The rule `json`: the same value, with numbers that are close and all else exact."""

from __future__ import annotations

from typing import Any

from gpumarket.protocol.comparison import JsonRule

_PATH_CHARS_MAX = 80


def compare_json(
    own: Any,
    theirs: Any,
    rule: JsonRule,
    *,
    base: None,  # a value has none
) -> tuple[bool, str]:
    """
    Compare two decoded JSON values; the order of keys says nothing.

    Returns whether they are close, and the first place where they are not or the largest distance.
    """
    rtol, atol = float(rule.rtol), float(rule.atol)
    worst, worst_path = 0.0, ""
    # A list of what is still to look at, not recursion: depth is the writer's choice.
    pending: list[tuple[str, Any, Any]] = [("$", own, theirs)]
    while pending:
        path, a, b = pending.pop()
        if type(a) is not type(b):
            return False, f"{path}: {_name_kind(a)} here, {_name_kind(b)} there"
        if isinstance(a, float):
            distance = abs(a - b)
            if not distance <= atol + rtol * abs(a):
                return False, f"{path}: {a!r} here, {b!r} there"
            if distance > worst:
                worst, worst_path = distance, f" at {path}"
        elif isinstance(a, dict):
            if a.keys() != b.keys():
                return False, f"{path}: only one has the key {min(a.keys() ^ b.keys())[:40]!r}"
            pending += [(_extend(path, f".{key}"), a[key], b[key]) for key in a]
        elif isinstance(a, list):
            if len(a) != len(b):
                return False, f"{path}: {len(a)} entries here, {len(b)} there"
            pending += [
                (_extend(path, f"[{index}]"), x, y)
                for index, (x, y) in enumerate(zip(a, b, strict=True))
            ]
        elif a != b:
            return False, f"{path}: {str(a)[:40]!r} here, {str(b)[:40]!r} there"
    return True, f"the same value, numbers within {worst:.3g}{worst_path}"


def _extend(path: str, step: str) -> str:
    return (path + step)[:_PATH_CHARS_MAX]


def _name_kind(value: Any) -> str:
    kinds = {dict: "an object", list: "an array", str: "text", float: "a number", bool: "a truth"}
    return kinds.get(type(value), "null")
