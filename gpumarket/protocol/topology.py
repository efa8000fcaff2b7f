"""
How near devices of one machine are to each other: islands of fast links, and places on the bus.

Places form a tree: whoever shares a board shares the switch, whoever shares the switch shares the
host bridge. So a device's place is a short tuple of group numbers, from the widest to the
narrowest group, and two devices are as near as the beginnings of their places agree.
Source: the levels are those of NVML's `nvmlGpuTopologyLevel_t`, which `nvidia-smi topo -m` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Final

import msgspec

from gpumarket.protocol.gpu import Device, DeviceFacts

BOARD: Final = 0
SWITCH: Final = 10
SWITCHES: Final = 20
BRIDGE: Final = 30
NODE: Final = 40
SYSTEM: Final = 50
"""What the path between two devices crosses at most."""
LEVELS: Final = (NODE, BRIDGE, SWITCHES, SWITCH, BOARD)
"""Of the groups of a place, the widest first."""
_NAMES: Final = ("system", "node", "bridge", "switches", "switch", "board")


def place_devices(count: int, get_level: Callable[[int, int], int]) -> list[tuple[int, ...]]:
    """Return each device's place; `get_level(a, b)` is asked once for each pair with a < b."""
    near = [(get_level(a, b), (a, b)) for a in range(count) for b in range(a + 1, count)]
    groups = [
        number_groups(count, [pair for found, pair in near if found <= level]) for level in LEVELS
    ]
    return [tuple(group[device] for group in groups) for device in range(count)]


def find_islands(ends: Sequence[Iterable[Hashable]], names: Sequence[Hashable]) -> list[int]:
    """
    Number the islands of devices that fast links join, from one; zero is a device without.

    `ends` has for each device the names of what its links lead to: another device, by its name in
    `names`, or a switch, by any name at all.
    """
    meetings: dict[Hashable, list[int]] = {name: [index] for index, name in enumerate(names)}
    for index, others in enumerate(ends):
        for other in others:
            meetings.setdefault(other, []).append(index)
    pairs = [(group[0], other) for group in meetings.values() for other in group[1:]]
    groups = number_groups(len(names), pairs)
    large = sorted({group for group in groups if groups.count(group) > 1})
    return [large.index(group) + 1 if group in large else 0 for group in groups]


def number_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Join what pairs join, and number the groups from zero by their first member."""
    leaders = list(range(count))
    for one, other in pairs:
        older, younger = sorted((leaders[one], leaders[other]))
        leaders = [older if leader == younger else leader for leader in leaders]
    order = sorted(set(leaders))
    return [order.index(leader) for leader in leaders]


def find_nearness(one: Device, other: Device) -> str:
    """
    Name what joins two devices of one offer.

    From the nearest: `nvlink` or `xgmi`, `board`, `switch`, `switches`, `bridge`, `node`, `system`;
    `unknown` where the offer does not say.
    """
    near, far = one.facts, other.facts
    if not isinstance(near, DeviceFacts) or not isinstance(far, DeviceFacts):
        return "unknown"
    if near.island and (near.island, near.link_kind) == (far.island, far.link_kind):
        return near.link_kind or "unknown"
    if not near.place or not far.place:
        return "unknown"
    shared = 0
    for mine, yours in zip(near.place, far.place, strict=False):
        if mine != yours:
            break
        shared += 1
    return _NAMES[shared]


def note_place(device: Device, *, place: tuple[int, ...], island: int) -> Device:
    """Write into a device with facts where it hangs and which island it is on."""
    if not isinstance(device.facts, DeviceFacts):
        return device
    facts = msgspec.structs.replace(device.facts, place=place, island=island)
    return msgspec.structs.replace(device, facts=facts)
