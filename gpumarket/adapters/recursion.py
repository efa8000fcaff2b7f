"""
How deep Python may recurse, where a library has lifted the limit for the whole process.

`eth_keyfile` imports `py_ecc`, which allows 100,000 levels. The decoders of the standard library
and of msgspec count on the limit: without it a file of brackets from a stranger ends the process
by a segmentation fault, where it must end in an error.
"""

from __future__ import annotations

import sys
from typing import Final

RECURSION_MAX: Final = 1_000
"""What Python starts with."""


def restore_recursion_limit() -> None:
    """Set the limit again; for modules that import web3 or its parts, right after that."""
    sys.setrecursionlimit(RECURSION_MAX)
