"""
Merkle trees over hashes, with an index bound to every path.

Leaves and nodes carry different tags, an odd last node is promoted unchanged, and a path is
checked against the index and the count, so no second position can show the same leaf. A
multiproof is one path for many leaves: what they share is in it once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import ZERO_HASH, Hash32
from gpumarket.protocol.signing import keccak256

_LEAF_TAG = b"\x00"
_NODE_TAG = b"\x01"


def compute_root(leaves: Sequence[Hash32]) -> Hash32:
    """Return the root over `leaves` in order; no leaves give the zero hash."""
    return _build_levels(leaves)[-1][0] if leaves else ZERO_HASH


def compute_path(leaves: Sequence[Hash32], index: int) -> tuple[Hash32, ...]:
    """Return the sibling hashes from leaf `index` up to the root."""
    return compute_multipath(leaves, (index,))


def has_leaf(root: Hash32, leaf: Hash32, *, index: int, count: int, path: Sequence[Hash32]) -> bool:
    """Tell whether `leaf` is at `index` of the `count` leaves under `root`."""
    try:
        return root == climb_multipath([(index, leaf)], count=count, path=path)
    except RemoteProtocolError:
        return False


def compute_multipath(leaves: Sequence[Hash32], indexes: Collection[int]) -> tuple[Hash32, ...]:
    """
    Return the hashes that the leaves at `indexes` need for the root: level by level, left to right.

    With no index that is the root itself.
    """
    known = sorted(set(indexes))
    if known != list(indexes) or any(not 0 <= each < len(leaves) for each in known):
        raise InvalidInput(f"leaves {list(indexes)[:8]} are not among {len(leaves)} leaves")
    levels = _build_levels(leaves)
    if not known:
        return (levels[-1][0],) if leaves else ()
    path: list[Hash32] = []
    for level in levels[:-1]:
        have = frozenset(known)
        wanted = (each ^ 1 for each in known if each ^ 1 not in have)
        path += (level[each] for each in wanted if each < len(level))
        known = sorted({index // 2 for index in known})
    return tuple(path)


def climb_multipath(
    opened: Sequence[tuple[int, Hash32]], *, count: int, path: Sequence[Hash32]
) -> Hash32:
    """
    Return the root over `count` leaves of which `opened` (index, leaf) are shown.

    Raises `RemoteProtocolError` unless the indexes rise and are below `count`, and each hash of
    the path is used, in order.
    """
    indexes = [index for index, _ in opened]
    check_places(indexes, count)
    if not opened:
        if len(path) != (1 if count else 0):
            raise RemoteProtocolError("a tree of which nothing is shown is shown by its root")
        return path[0] if count else ZERO_HASH
    level = [(index, keccak256(_LEAF_TAG + leaf)) for index, leaf in opened]
    used = 0
    while count > 1:
        above: list[tuple[int, Hash32]] = []
        place = 0
        while place < len(level):
            index, node = level[place]
            place += 1
            if index ^ 1 >= count:  # the last one, without a neighbor
                above.append((index // 2, node))
                continue
            if place < len(level) and level[place][0] == index + 1 and index % 2 == 0:
                sibling = level[place][1]
                place += 1
            elif used < len(path):
                sibling = path[used]
                used += 1
            else:
                raise RemoteProtocolError("a Merkle path is too short")
            pair = node + sibling if index % 2 == 0 else sibling + node
            above.append((index // 2, keccak256(_NODE_TAG + pair)))
        level, count = above, (count + 1) // 2
    if used != len(path):
        raise RemoteProtocolError("a Merkle path is too long")
    return level[0][1]


def check_places(indexes: Sequence[int], count: int) -> None:
    """Raise `RemoteProtocolError` unless indexes rise strictly and are below `count`."""
    last = -1
    for index in indexes:
        if not last < index < count:
            raise RemoteProtocolError("an opened leaf is out of its place")
        last = index


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
