"""What every ContentStore does, asked of each that we have; a real Kubo if one is named."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gpumarket.adapters.content import ContentStore, open_node
from gpumarket.adapters.kubo import open_kubo
from gpumarket.adapters.p2p import open_network
from gpumarket.protocol.cids import Codec, compute_cid, format_cid
from gpumarket.protocol.errors import ContentError, InvalidInput
from tests.integration.kubo_stub import run_kubo_stub
from tests.patience import PATIENCE

KUBO_API = os.environ.get("GPUMARKET_KUBO_API", "")
STORES = ["embedded", "kubo_stub", *(["kubo"] if KUBO_API else [])]
MISSING = format_cid(compute_cid(b"not here", Codec.RAW))
every_store = pytest.mark.parametrize("kind", STORES)


@asynccontextmanager
async def open_store(kind: str, folder: Path) -> AsyncIterator[ContentStore]:
    if kind == "embedded":
        async with (
            open_network(key_seed=bytes(32), listen_port=0) as network,
            open_node(network, folder / "store", quota_bytes=2**30) as node,
        ):
            yield node
    elif kind == "kubo_stub":
        with run_kubo_stub() as stub:
            async with open_kubo(stub.address) as store:
                yield store
    else:
        async with open_kubo(KUBO_API) as store:
            yield store


@every_store
async def test_a_file_comes_back_under_the_same_cid_everywhere(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"hello world")
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_file(tmp_path / "file")
        assert cid == "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
        assert await store.add_bytes(b"hello world") == cid
        await store.export(cid, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b"hello world"
        assert await store.read_bytes(cid) == b"hello world"


@every_store
async def test_a_folder_comes_back_whole(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "sub" / "large").write_bytes(bytes(600_000))
    (folder / "nothing").write_bytes(b"")
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_directory(folder)
        await store.export(cid, tmp_path / "out")
        stat = await store.stat(cid)
    assert (stat.is_directory, stat.is_complete, stat.block_count) == (True, True, 7)
    assert (tmp_path / "out" / "sub" / "large").read_bytes() == bytes(600_000)
    assert (tmp_path / "out" / "nothing").read_bytes() == b""
    assert (tmp_path / "out" / "sub" / "empty").is_dir()


@every_store
async def test_a_document_comes_back(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_document(b"\xa0")
        assert await store.read_bytes(cid) == b"\xa0"
        await store.fetch(cid, sources=[], deadline_s=PATIENCE, max_bytes=10)


@every_store
async def test_what_is_not_here_is_said_to_be_missing(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        assert not await store.has(MISSING)
        for work in (store.stat(MISSING), store.read_bytes(MISSING)):
            with pytest.raises(ContentError) as caught:
                await work
            assert caught.value.code == "GM-6016"
        with pytest.raises(ContentError) as caught:
            await store.fetch(MISSING, sources=[], deadline_s=1, max_bytes=100)
        assert caught.value.code == "GM-6012"


@every_store
async def test_a_read_over_the_limit_is_refused(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_bytes(bytes(1000))
        for work in (
            store.read_bytes(cid, 999),
            store.export(cid, tmp_path / "out", max_bytes=999),
            store.fetch(cid, sources=[], deadline_s=PATIENCE, max_bytes=999),
        ):
            with pytest.raises(ContentError) as caught:
                await work
            assert caught.value.code == "GM-6013"
        assert not (tmp_path / "out").exists()


@every_store
async def test_a_pin_is_made_and_forgotten_by_name(kind: str, tmp_path: Path) -> None:
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_bytes(b"pinned")
        await store.pin(cid, "job-1")
        await store.pin(cid)
        await store.unpin("job-1")
        await store.unpin(cid)
        assert await store.has(cid)


@every_store
async def test_a_target_that_exists_is_not_written_over(kind: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    async with open_store(kind, tmp_path) as store:
        cid = await store.add_bytes(b"new")
        for name in ("taken", "link"):
            with pytest.raises(InvalidInput):
                await store.export(cid, tmp_path / name)
    assert (tmp_path / "taken").read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()


@every_store
async def test_links_and_pipes_are_not_added(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    async with open_store(kind, tmp_path) as store:
        with pytest.raises((ContentError, InvalidInput)):
            await store.add_directory(folder)
        with pytest.raises(InvalidInput):
            await store.add_file(tmp_path / "pipe")
