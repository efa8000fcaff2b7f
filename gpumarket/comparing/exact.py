"""The rule `bytes`, which also holds for every file that another rule's glob leaves out."""

from __future__ import annotations


def compare_bytes(own: bytes, theirs: bytes) -> tuple[bool, str]:
    """Tell whether two files are equal, and else where they first differ."""
    if own == theirs:
        return True, "equal byte by byte"
    return False, f"differs in its bytes from byte {find_difference(own, theirs)} on"


def find_difference(own: bytes, theirs: bytes) -> int:
    """Return the index of the first byte that two unequal files do not share."""
    low, high = 0, min(len(own), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if own[low:middle] == theirs[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
