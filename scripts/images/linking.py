"""
Cut a shared library's links to libraries that its user never calls.

Debian's PyTorch is linked with everything Caffe2 once could do: video, maps, databases, hundreds of
libraries for an image that trains. A cut removes the entry that makes the loader look for a library
(DT_NEEDED) and the versions wanted of it (DT_VERNEED), and lets the functions that came from there
be absent (weak). Whatever else is missing still stops the loader. A call of an absent function ends
the process: cut only what nothing reaches.

Formats: System V ABI (ELF-64, little-endian), Linux Standard Base 5.0 (symbol versions).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SYMTAB = 0, 1, 5, 6
DT_GNU_HASH, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFEF5, 0x6FFFFFFE, 0x6FFFFFFF
GLOBAL_FUNCTION, GLOBAL_UNTYPED, WEAK = 0x12, 0x10, 0x20
SYMBOL_BYTES = 24


def cut_links(path: Path, *, libraries: re.Pattern[str], functions: re.Pattern[str]) -> list[str]:
    """
    Cut a library's links to those whose name begins as `libraries` says; return their names.

    `functions` says how the names begin that came from there. Raises ValueError for another format.
    """
    library = Library(bytearray(path.read_bytes()))
    cut = [name for _, name in library.list_needed() if libraries.match(name)]
    library.forget_versions(cut)
    library.forget_needed(cut)
    library.weaken(functions)
    path.write_bytes(library.data)
    return cut


@dataclass
class Library:
    """A shared library in memory, seen as its loader sees it."""

    data: bytearray
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """Address, size and place in the file of each part that is loaded."""
    dynamic: int = 0
    """Where the table of dynamic entries begins in the file."""

    def __post_init__(self) -> None:
        if self.data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("not a 64-bit little-endian ELF file")
        (first,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        for index in range(count):
            kind, _, place, address, _, length = struct.unpack_from(
                "<IIQQQQ", self.data, first + index * size
            )
            if kind == PT_LOAD:
                self.segments.append((address, length, place))
            elif kind == PT_DYNAMIC:
                self.dynamic = place
        if not self.dynamic:
            raise ValueError("not a shared library")

    def find_place(self, address: int) -> int:
        """Return where in the file lies what is loaded at an address."""
        for start, length, place in self.segments:
            if start <= address < start + length:
                return place + address - start
        raise ValueError(f"nothing of the file is loaded at {address:#x}")

    def list_entries(self) -> Iterator[tuple[int, int, int]]:
        """Yield place, tag and value of each dynamic entry, without the end."""
        place = self.dynamic
        while True:
            tag, value = struct.unpack_from("<QQ", self.data, place)
            if tag == DT_NULL:
                return
            yield place, tag, value
            place += 16

    def find_table(self, wanted: int) -> int:
        """Return where a table lies that a dynamic entry points to."""
        return self.find_place(self.read_entry(wanted)[1])

    def read_entry(self, wanted: int) -> tuple[int, int]:
        """Return place and value of the first dynamic entry with a tag."""
        for place, tag, value in self.list_entries():
            if tag == wanted:
                return place, value
        raise ValueError(f"no dynamic entry {wanted:#x}")

    def read_name(self, offset: int) -> str:
        """Return a string of the dynamic string table."""
        start = self.find_table(DT_STRTAB) + offset
        return self.data[start : self.data.index(0, start)].decode("ascii")

    def list_needed(self) -> list[tuple[int, str]]:
        """Return place and name of each library that the loader looks for."""
        entries = [(place, value) for place, tag, value in self.list_entries() if tag == DT_NEEDED]
        return [(place, self.read_name(value)) for place, value in entries]

    def forget_needed(self, names: list[str]) -> None:
        """Take entries out of the dynamic table, and fill its end with nothing."""
        gone = {place for place, name in self.list_needed() if name in names}
        entries = list(self.list_entries())
        kept = [(tag, value) for place, tag, value in entries if place not in gone]
        kept += [(DT_NULL, 0)] * len(gone)
        for index, entry in enumerate(kept):
            struct.pack_into("<QQ", self.data, self.dynamic + index * 16, *entry)

    def forget_versions(self, names: list[str]) -> None:
        """Take libraries out of the chain of wanted versions, which the loader insists on."""
        count_place, count = self.read_entry(DT_VERNEEDNUM)
        first = self.find_table(DT_VERNEED)
        places, place = [first], first
        for _ in range(count - 1):
            place += struct.unpack_from("<I", self.data, place + 12)[0]
            places.append(place)
        kept = [
            place
            for place in places
            if self.read_name(struct.unpack_from("<I", self.data, place + 4)[0]) not in names
        ]
        if kept[:1] != [first]:
            raise ValueError("the first library of the versions cannot be cut")
        for here, there in zip(kept, [*kept[1:], kept[-1]], strict=True):
            struct.pack_into("<I", self.data, here + 12, there - here)
        struct.pack_into("<Q", self.data, count_place + 8, len(kept))

    def weaken(self, functions: re.Pattern[str]) -> None:
        """Let functions be absent whose names begin so; data may not be."""
        table, names = self.find_table(DT_SYMTAB), self.find_table(DT_STRTAB)
        # What is not defined here comes before what is, and the hash table begins with the latter.
        (count,) = struct.unpack_from("<I", self.data, self.find_table(DT_GNU_HASH) + 4)
        for place in range(table, table + count * SYMBOL_BYTES, SYMBOL_BYTES):
            offset, kind = struct.unpack_from("<IB", self.data, place)
            if kind not in (GLOBAL_FUNCTION, GLOBAL_UNTYPED):
                continue
            start = names + offset
            name = self.data[start : self.data.index(0, start)].decode("ascii")
            if functions.match(name):
                self.data[place + 4] = WEAK | kind & 0xF
