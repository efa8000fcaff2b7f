"""
Merkle trees over hashes, with an index bound to every path.

Leaves and nodes carry different tags, an odd last node is promoted unchanged, and a path is
checked against the index and the count, so no second position can show the same leaf.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import ZERO_HASH, Hash32
from gpumarket.protocol.signing import keccak256

_LEAF_TAG = b"\x00"
_NODE_TAG = b"\x01"


def compute_root(leaves: Sequence[Hash32]) -> Hash32:
    """Return the root over `leaves` in order; no leaves give the zero hash."""
    return _build_levels(leaves)[-1][0] if leaves else ZERO_HASH


def compute_path(leaves: Sequence[Hash32], index: int) -> tuple[Hash32, ...]:
    """Return the sibling hashes from leaf `index` up to the root."""
    if not 0 <= index < len(leaves):
        raise InvalidInput(f"leaf {index} is not among {len(leaves)} leaves")
    path = []
    for level in _build_levels(leaves)[:-1]:
        if index ^ 1 < len(level):
            path.append(level[index ^ 1])
        index //= 2
    return tuple(path)


def has_leaf(root: Hash32, leaf: Hash32, *, index: int, count: int, path: Sequence[Hash32]) -> bool:
    """Tell whether `leaf` is at `index` of the `count` leaves under `root`."""
    if not 0 <= index < count:
        return False
    node, used = keccak256(_LEAF_TAG + leaf), 0
    while count > 1:
        if index ^ 1 < count:
            if used == len(path):
                return False
            sibling = path[used]
            used += 1
            pair = node + sibling if index % 2 == 0 else sibling + node
            node = keccak256(_NODE_TAG + pair)
        index, count = index // 2, (count + 1) // 2
    return node == root and used == len(path)


def _build_levels(leaves: Sequence[Hash32]) -> list[list[Hash32]]:
    levels = [[keccak256(_LEAF_TAG + leaf) for leaf in leaves]]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append(
            [
                keccak256(_NODE_TAG + below[i] + below[i + 1]) if i + 1 < len(below) else below[i]
                for i in range(0, len(below), 2)
            ]
        )
    return levels
