"""
Changes of a proof file, for tests that none of them passes: bytes, values and elements.

A change is made of the plain tree of a file and written canonically, so that what is refused is
its content and not its spelling; the first kind flips bytes of the file as they lie.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import libipld

from gpumarket.protocol.dagcbor import write_dag_cbor

Path = tuple[str | int, ...]

KINDS: Final = ("bytes", "value", "drop", "double", "move", "key")


def walk(value: Any, path: Path = ()) -> Iterator[Path]:
    """Name every place in a plain tree, from the root on."""
    if path:
        yield path
    items = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else items:
        yield from walk(item, (*path, key))


def get(value: Any, path: Path) -> Any:
    """Return what is at a place."""
    for key in path:
        value = value[key]
    return value


class Mutator:
    """Changes one file at random; the same seed gives the same changes."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = data
        self._random = random.Random(seed)  # noqa: S311  reproducible, and no secret
        self._plain: Any = libipld.decode_dag_cbor(data)
        places = list(walk(self._plain))
        self._values = [
            path for path in places if not isinstance(get(self._plain, path), dict | list)
        ]
        self._items = [path for path in places if isinstance(path[-1], int)]
        self._keys = [path for path in places if isinstance(path[-1], str)]

    def mutate(self) -> tuple[str, bytes]:
        """Return what was done, and a file that differs from the original in its content."""
        changes: dict[str, Callable[[], tuple[str, bytes]]] = {
            "bytes": self._flip_bytes,
            "value": self._change_value,
            "drop": lambda: self._change_list("drop"),
            "double": lambda: self._change_list("double"),
            "move": lambda: self._change_list("move"),
            "key": self._change_key,
        }
        while True:
            what, data = changes[self._random.choice(KINDS)]()
            if data != self._data:
                return what, data

    def _flip_bytes(self) -> tuple[str, bytes]:
        raw = bytearray(self._data)
        for _ in range(self._random.randint(1, 3)):
            place = self._random.randrange(len(raw))
            raw[place] ^= self._random.randint(1, 255)
        return "bytes flipped", bytes(raw)

    def _change_value(self) -> tuple[str, bytes]:
        path = self._random.choice(self._values)
        return self._edit("value", path, self._replace)

    def _replace(self, holder: Any, key: Any) -> None:
        value = holder[key]
        if isinstance(value, bool):
            holder[key] = not value
        elif isinstance(value, int):
            step = self._random.choice((-1, 1, 7, 1 << self._random.randrange(40)))
            holder[key] = max(0, value + step)
        elif isinstance(value, bytes):
            place = self._random.randrange(len(value)) if value else 0
            flipped = bytes([value[place] ^ self._random.randint(1, 255)]) if value else b"\1"
            holder[key] = value[:place] + flipped + value[place + 1 :]
        elif isinstance(value, str):
            place = self._random.randrange(len(value)) if value else 0
            other = chr(ord(value[place]) ^ 1) if value else "x"
            holder[key] = value[:place] + other + value[place + 1 :]
        else:
            holder[key] = 0

    def _change_list(self, how: str) -> tuple[str, bytes]:
        def change(holder: Any, key: Any) -> None:
            if how == "drop":
                del holder[key]
            elif how == "double":
                holder.insert(key, holder[key])
            else:
                item = holder.pop(key)
                holder.insert(self._random.randrange(len(holder) + 1), item)

        return self._edit(how, self._random.choice(self._items), change)

    def _change_key(self) -> tuple[str, bytes]:
        def change(holder: Any, key: Any) -> None:
            if self._random.random() < 0.5:
                del holder[key]
            else:
                holder[f"{key}x"] = holder[key]

        return self._edit("key", self._random.choice(self._keys), change)

    def _edit(self, how: str, path: Path, change: Callable[[Any, Any], None]) -> tuple[str, bytes]:
        # Only what lies on the way to the place is copied: a file is large and a change small.
        root = copy.copy(self._plain)
        holder = root
        for key in path[:-1]:
            holder[key] = copy.copy(holder[key])
            holder = holder[key]
        change(holder, path[-1])
        return f"{how} {'/'.join(map(str, path))}", write_dag_cbor(root)
