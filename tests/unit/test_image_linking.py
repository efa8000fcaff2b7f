"""Links of a real library cut: numpy's own BLAS, which needs a Fortran library beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts.images.linking import Library, cut_links

BESIDE_NUMPY = Path(np.__file__).resolve().parents[1] / "numpy.libs"
FORTRAN = re.compile("libgfortran")
NOTHING = re.compile(r"\b\B")


@pytest.fixture(name="library")
def library_fixture(tmp_path: Path) -> Path:
    (path,) = BESIDE_NUMPY.glob("libscipy_openblas*")
    return Path(shutil.copy(path, tmp_path / "library.so"))


def load(library: Path) -> str:
    """Load it in a process of its own; return what the loader complains of."""
    program = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", program, library],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr if done.returncode else ""


def test_a_cut_library_loads_without_what_it_needed(library: Path) -> None:
    assert "libgfortran" in load(library)
    (cut,) = cut_links(library, libraries=FORTRAN, functions=re.compile("_gfortran"))
    assert cut.startswith("libgfortran")
    assert load(library) == ""


def test_a_function_that_was_not_named_still_stops_the_loader(library: Path) -> None:
    cut_links(library, libraries=FORTRAN, functions=re.compile("_gfortran_concat"))
    assert "undefined symbol: _gfortran" in load(library)


def test_what_is_not_cut_stays_as_it_is(library: Path) -> None:
    before = library.read_bytes()
    names = [name for _, name in Library(bytearray(before)).list_needed()]
    assert cut_links(library, libraries=NOTHING, functions=NOTHING) == []
    assert library.read_bytes() == before
    cut_links(library, libraries=FORTRAN, functions=NOTHING)
    after = [name for _, name in Library(bytearray(library.read_bytes())).list_needed()]
    assert after == [name for name in names if not FORTRAN.match(name)]


def test_the_first_library_of_the_versions_is_not_cut(library: Path) -> None:
    # Its place is known to the loader; nothing here needs it, so it is refused and not handled.
    with pytest.raises(ValueError, match="first library"):
        cut_links(library, libraries=re.compile("libm"), functions=NOTHING)


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(64)])
def test_another_format_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="not a 64-bit"):
        cut_links(path, libraries=FORTRAN, functions=NOTHING)
