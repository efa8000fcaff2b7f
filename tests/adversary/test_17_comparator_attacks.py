"""
Attack 17: an output made to break the verifier that reads it, or to look like what it is not.

Each bomb goes to a process that may take 256 MiB more than it has after its imports, and what is
too large is refused by its sizes, before the library that would unpack it is called.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import gpumarket.comparing
from gpumarket.comparing import image
from gpumarket.comparing.folder import COMPARATORS, compare_outputs
from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    Comparison,
    ImageRule,
    JsonRule,
    NpyRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import RemoteProtocolError

MEMORY_BEYOND_IMPORTS = 256 * 2**20
MIB = 2**20


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def an_image(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def a_safetensors(header: bytes, body: bytes = bytes(4)) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def a_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def a_png(width: int, height: int, *chunks: bytes, body: bytes = b"") -> bytes:
    header = a_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    end = a_chunk(b"IDAT", body) + a_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


GOOD_PIXELS = np.random.default_rng(1).integers(0, 256, (64, 64, 3)).astype(np.uint8)
TENSOR = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
GOOD: dict[str, tuple[Comparison, bytes]] = {
    "a.npy": (NpyRule(), an_npy([1.0, 2.0])),
    "a.safetensors": (SafetensorsRule(), a_safetensors(json.dumps({"a": TENSOR}).encode())),
    "a.json": (JsonRule(), b'{"a": [1, 2]}'),
    "a.png": (ImageRule(), an_image(GOOD_PIXELS)),
    "a.jpg": (ImageRule(files="*.jpg"), an_image(GOOD_PIXELS, "JPEG")),
}


def compare(name: str, theirs: bytes, own: bytes | None = None) -> Outcome:
    rule, good = GOOD[name]
    return compare_outputs({name: good if own is None else own}, {name: theirs}, rule)


# ---- bombs -------------------------------------------------------------------------------------


def a_zip_bomb() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", bytes(64 * MIB))
    return file.getvalue()


def an_npy_header(text: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text


def a_scan_bomb() -> bytes:
    plain = an_image(np.zeros((2048, 2048), np.uint8), "JPEG", progressive=True)
    scan = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[scan:-2] * 2000 + plain[-2:]


def many_tensors() -> bytes:
    entry = b'{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    names = (b'"%x":' % index + entry for index in range(120_000))
    return a_safetensors(b"{" + b",".join(names) + b"}", b"")


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "npz that unpacks to a thousand times its size": ("a.npy", a_zip_bomb),
    "npy of more numbers than there is memory": (
        "a.npy",
        lambda: an_npy_header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999,)}"),
    ),
    "npy with a shape that overflows": (
        "a.npy",
        lambda: an_npy_header(
            b"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"
        ),
    ),
    "npy with a header of a gigabyte": (
        "a.npy",
        lambda: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**30) + bytes(100),
    ),
    "npy with a header nested without end": ("a.npy", lambda: an_npy_header(b"(" * 4000)),
    "npy with a header of signs": ("a.npy", lambda: an_npy_header(b"-" * 4000 + b"1")),
    "safetensors header of eight exabytes": (
        "a.safetensors",
        lambda: struct.pack("<Q", 2**63) + b"{}",
    ),
    "safetensors header nested without end": (
        "a.safetensors",
        lambda: a_safetensors(b'{"a":' * 1_000_000),
    ),
    "safetensors of too many tensors": ("a.safetensors", many_tensors),
    "JSON of brackets": ("a.json", lambda: b"[" * (16 * MIB)),
    "JSON of empty lists": ("a.json", lambda: b"[" + b"[]," * (5 * MIB) + b"[]]"),
    "JSON of numbers": ("a.json", lambda: b"[" + b"1," * (7 * MIB) + b"1]"),
    "JSON of one number": ("a.json", lambda: b"9" * (16 * MIB)),
    "JSON of one exponent": ("a.json", lambda: b"1e" + b"9" * MIB),
    "JSON of quotes": ("a.json", lambda: b'"' * (16 * MIB)),
    "JSON of escapes without an end": ("a.json", lambda: b'"' + b'\\"' * (7 * MIB)),
    "JSON of too many bytes": ("a.json", lambda: b'"' + bytes(16 * MIB) + b'"'),
    "PNG of 40 gigapixels": ("a.png", lambda: a_png(200_000, 200_000, body=bytes(100))),
    "PNG that unpacks to a thousand times its size": (
        "a.png",
        lambda: a_png(20_000, 20_000, body=zlib.compress(bytes(200 * MIB), 9)),
    ),
    "PNG with a text that unpacks likewise": (
        "a.png",
        lambda: a_png(1, 1, a_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 * MIB), 9))),
    ),
    "PNG with a color profile that unpacks likewise": (
        "a.png",
        lambda: a_png(1, 1, a_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 * MIB), 9))),
    ),
    "PNG of a million chunks": ("a.png", lambda: a_png(1, 1, a_chunk(b"teXt", b"") * 1_000_000)),
    "JPEG of two thousand scans": ("a.jpg", a_scan_bomb),
    "JPEG of a million segments": ("a.jpg", lambda: b"\xff\xd8" + b"\xff\xe1\0\2" * 1_000_000),
    "JPEG of padding": ("a.jpg", lambda: b"\xff" * (16 * MIB)),
    "JPEG of four gigapixels": (
        "a.jpg",
        lambda: b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xda\0\x02",
    ),
}
JUDGE = """
import json, resource, sys
from pathlib import Path
from gpumarket.comparing.folder import compare_outputs
from gpumarket.comparing.image import decode_image_untrusted
from gpumarket.protocol.comparison import ImageRule, JsonRule, NpyRule, SafetensorsRule
RULES = {"npy": NpyRule(), "safetensors": SafetensorsRule(), "json": JsonRule(),
         "png": ImageRule(), "jpg": ImageRule(files="*.jpg")}
folder, beyond = Path(sys.argv[1]), int(sys.argv[2])
for name in ("a.png", "a.jpg"):
    decode_image_untrusted((folder / f"own-{name}").read_bytes())
largest = max(path.stat().st_size for path in folder.iterdir())
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = size + largest + beyond
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    bytearray(largest + 2 * beyond)
except MemoryError:
    print(json.dumps(["control", "", "the limit holds"]))
for path in sorted(folder.glob("bomb-*")):
    number, name = path.name.split("-")[1:]
    own = {name: (folder / f"own-{name}").read_bytes()}
    outcome = compare_outputs(own, {name: path.read_bytes()}, RULES[name.partition(".")[2]])
    print(json.dumps([number, outcome.verdict.name, outcome.sentence]), flush=True)
"""


@pytest.fixture(scope="module", name="sayings")
def sayings_fixture(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What one process of bounded memory said of each bomb, and of its own bound."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, (_, good) in GOOD.items():
        (folder / f"own-{name}").write_bytes(good)
    for number, (name, make) in enumerate(BOMBS.values()):
        (folder / f"bomb-{number:02}-{name}").write_bytes(make())
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, folder, str(MEMORY_BEYOND_IMPORTS)],
        env={"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    shutil.rmtree(folder)
    names = {f"{number:02}": bomb for number, bomb in enumerate(BOMBS)}
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    said = {names.get(number, number): (verdict, text) for number, verdict, text in lines}
    assert done.returncode == 0, f"after {len(said)}: {done.stderr[-2000:]}"
    return said


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_a_mismatch_within_bounded_memory(
    bomb: str, sayings: dict[str, tuple[str, str]]
) -> None:
    verdict, sentence = sayings[bomb]
    assert verdict == "MISMATCH"
    # Refused for what it is: running out of memory would be refused for the wrong reason.
    assert "emory" not in sentence


def test_the_bound_on_memory_is_one(sayings: dict[str, tuple[str, str]]) -> None:
    assert sayings["control"] == ("", "the limit holds")


UNPACKERS = ((Image.Image, "load"), (json, "loads"), (ast, "literal_eval"))
TOO_LARGE = (
    *("JSON of brackets", "JSON of empty lists", "JSON of numbers", "JSON of quotes"),
    *("JSON of too many bytes", "safetensors header of eight exabytes"),
    *("safetensors header nested without end", "npy with a header of a gigabyte"),
    *("PNG of 40 gigapixels", "PNG that unpacks to a thousand times its size"),
    *("PNG of a million chunks", "JPEG of two thousand scans", "JPEG of a million segments"),
    *("JPEG of padding", "JPEG of four gigapixels"),
)


@pytest.mark.parametrize("bomb", TOO_LARGE)
def test_what_is_too_large_is_refused_before_anything_unpacks_it(
    bomb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, make = BOMBS[bomb]
    comparator = COMPARATORS[type(GOOD[name][0])]
    called: list[str] = []
    for place, function in UNPACKERS:
        original = getattr(place, function)

        def call(
            *args: Any, original: Any = original, function: str = function, **options: Any
        ) -> Any:
            called.append(function)
            return original(*args, **options)

        monkeypatch.setattr(place, function, call)
    comparator.decode(GOOD[name][1])
    assert called  # the good one is unpacked by one of those that are watched
    data = make()
    called.clear()
    with pytest.raises(RemoteProtocolError):
        comparator.decode(data)
    assert called == []


# ---- nothing is executed -----------------------------------------------------------------------


class Exploit:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    array = np.array([Exploit(mark)], dtype=object)
    plain, archive = io.BytesIO(), io.BytesIO()
    np.save(plain, array, allow_pickle=True)
    np.savez(archive, a=array, allow_pickle=True)
    for hostile in (plain.getvalue(), archive.getvalue(), pickle.dumps(Exploit(mark))):
        for name in GOOD:
            assert compare(name, hostile).verdict is Verdict.MISMATCH
            assert compare(name, hostile[:-1], own=hostile).verdict is Verdict.INCONCLUSIVE
    assert not mark.exists()
    np.load(io.BytesIO(plain.getvalue()), allow_pickle=True)
    assert mark.exists()  # the exploit itself works


def test_no_comparator_has_a_loader_that_could_execute() -> None:
    folder = Path(gpumarket.comparing.__file__).parent
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        modules = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert not modules & {"pickle", "marshal", "torch", "yaml", "subprocess", "ctypes"}
        assert not names & {"eval", "exec", "__import__", "fromfile", "memmap", "pickle"}


# ---- what looks alike --------------------------------------------------------------------------


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_do_not_pass_for_close(odd: float) -> None:
    own = np.linspace(1, 2, 30_000)
    theirs = own.copy()
    theirs[17] = odd
    assert compare("a.npy", an_npy(theirs), own=an_npy(own)).verdict is Verdict.MISMATCH
    assert compare("a.npy", an_npy(own), own=an_npy(theirs)).verdict is Verdict.MISMATCH
    everywhere = an_npy(np.full_like(own, odd))
    assert compare("a.npy", everywhere, own=an_npy(own)).verdict is Verdict.MISMATCH


def test_a_second_key_cannot_hide_behind_the_first() -> None:
    own = b'{"price": 5, "ok": true}'
    for theirs in (
        b'{"price": 6, "price": 5, "ok": true}',
        b'{"price": 5, "price": 6, "ok": true}',
        b'{"price": 5, "\\u0070rice": 5, "ok": true}',
    ):
        assert compare("a.json", theirs, own=own).verdict is Verdict.MISMATCH


def test_an_altered_place_does_not_hide_in_the_mean() -> None:
    y, x = np.mgrid[0:512, 0:512]
    shade = 128 + 50 * np.sin(x / 9) * np.cos(y / 13) + 40 * ((x // 16 + y // 16) % 2)
    own = np.stack([shade] * 3, axis=2).astype(np.uint8)
    copied = own.copy()
    copied[200:232, 300:332] = own[40:72, 100:132]
    loose = ImageRule(max_mismatch="1")  # the share of far pixels alone would see it too
    files = {"a.png": an_image(own)}, {"a.png": an_image(copied)}
    outcome = compare_outputs(*files, loose)
    assert outcome.verdict is Verdict.MISMATCH
    a, b = own[..., 0].astype(float), copied[..., 0].astype(float)
    assert float(np.mean(image.compute_ssim_map(a, b))) > 0.99


def test_tensors_that_share_bytes_are_no_tensors() -> None:
    header = {"a": TENSOR, "b": TENSOR}
    assert compare("a.safetensors", a_safetensors(json.dumps(header).encode())).verdict is (
        Verdict.MISMATCH
    )
    doubled = b'{"a":%b,"a":%b}' % ((json.dumps(TENSOR).encode(),) * 2)
    assert compare("a.safetensors", a_safetensors(doubled)).verdict is Verdict.MISMATCH
