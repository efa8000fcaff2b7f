"""Random values of typed documents, read off their types: anything that the type allows."""

from __future__ import annotations

import re
from random import Random
from typing import Any, Final

import msgspec
from msgspec import inspect

ITEMS_MAX: Final = 2
"""The most items in a made list beyond those that must be there."""
TEXTS: Final = ("sha256:" + "0f" * 32, "acme", "/dev/kfd", "/", "/in/a-b_c.d", "0", "0.001", "1e-6")
"""At least one for every pattern of the protocol."""
LETTERS: Final = 'az09 -_./:"\\\n\0é✓𝄞'
INT64_MAX: Final = 2**63 - 1


def make_value(as_type: Any, draw: Random) -> Any:
    """Return a random value of a type, built through the type's own checks."""
    plain = _make(inspect.type_info(as_type), draw)
    return msgspec.convert(plain, as_type, builtin_types=(bytes,))


def _make(shape: inspect.Type, draw: Random) -> Any:
    match shape:
        case inspect.IntType():
            low = -INT64_MAX if shape.ge is None else shape.ge
            high = INT64_MAX if shape.le is None else shape.le
            return draw.choice((low, high, draw.randint(low, high)))
        case inspect.StrType():
            return _make_text(shape, draw)
        case inspect.BytesType():
            least = shape.min_length or 0
            return draw.randbytes(draw.randint(least, shape.max_length or least + 80))
        case inspect.BoolType():
            return draw.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return draw.choice(shape.values)
        case _:
            return _make_container(shape, draw)


def _make_text(shape: inspect.StrType, draw: Random) -> str:
    if shape.pattern is not None:
        return draw.choice([text for text in TEXTS if re.search(shape.pattern, text)])
    least = shape.min_length or 0
    length = draw.randint(least, min(shape.max_length or 40, least + 40))
    return "".join(draw.choice(LETTERS) for _ in range(length))


def _make_container(shape: inspect.Type, draw: Random) -> Any:
    match shape:
        case inspect.StructType():
            made = {each.encode_name: _make(each.type, draw) for each in shape.fields}
            return made if shape.tag_field is None else made | {shape.tag_field: shape.tag}
        case inspect.VarTupleType():
            least = shape.min_length or 0
            most = least + ITEMS_MAX if shape.max_length is None else shape.max_length
            count = draw.randint(least, min(most, least + ITEMS_MAX))
            return [_make(shape.item_type, draw) for _ in range(count)]
        case inspect.TupleType():
            return [_make(each, draw) for each in shape.item_types]
        case inspect.DictType():
            keys = [_make(shape.key_type, draw) for _ in range(draw.randint(0, ITEMS_MAX))]
            return {key: _make(shape.value_type, draw) for key in keys}
        case inspect.UnionType():
            return _make(draw.choice(shape.types), draw)
        case _:
            raise TypeError(f"no values for {shape}")
