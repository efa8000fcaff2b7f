"""The Kubo adapter: what ipfshttpclient makes of Kubo's answers, and a daemon that is not there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumarket.adapters.kubo import open_kubo
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.errors import ContentError
from gpumarket.protocol.unixfs import build_file
from tests.integration.kubo_stub import KuboStub, run_kubo_stub
from tests.patience import PATIENCE

PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDormSkhwiLB12rK36z9CP6dFqKN5CAXGc2w9NCtursGw"


@pytest.fixture
def stub() -> Iterator[KuboStub]:
    with run_kubo_stub() as stub:
        yield stub


async def test_a_kubo_newer_than_the_library_is_accepted(stub: KuboStub) -> None:
    async with open_kubo(stub.address) as store:
        assert await store.find_version() == "0.40.1"


async def test_a_daemon_that_is_not_there_gives_one_clear_error() -> None:
    with pytest.raises(ContentError) as caught:
        async with open_kubo("/ip4/127.0.0.1/tcp/9/http"):
            pass
    assert caught.value.code == "GM-6033"


async def test_a_fetch_connects_to_each_source_by_its_whole_address(stub: KuboStub) -> None:
    blocks = list(build_file([bytes(range(256)) * 3_000]))
    stub.remote = {format_cid(block.cid): block.data for block in blocks}
    cid = format_cid(blocks[-1].cid)
    async with open_kubo(stub.address) as store:
        assert not await store.has(cid)
        await store.fetch(cid, sources=[PEER], deadline_s=PATIENCE, max_bytes=10**6)
        assert stub.connects == [[PEER]]
        assert await store.has(cid)
        assert await store.read_bytes(cid) == bytes(range(256)) * 3_000


async def test_wrong_bytes_from_kubo_are_found(stub: KuboStub, tmp_path: Path) -> None:
    async with open_kubo(stub.address) as store:
        cid = await store.add_bytes(b"right")
        stub.blocks[cid] = b"wrong"
        with pytest.raises(ContentError) as caught:
            await store.read_bytes(cid)
        assert caught.value.code == "GM-6017"
        with pytest.raises(ContentError):
            await store.export(cid, tmp_path / "out")
        with pytest.raises(ContentError):
            await store.fetch(cid, sources=[], deadline_s=5, max_bytes=100)


async def test_an_endless_block_is_cut_off(stub: KuboStub) -> None:
    async with open_kubo(stub.address) as store:
        cid = await store.add_bytes(b"small")
        stub.blocks[cid] = bytes(3 * 2**20)
        with pytest.raises(ContentError) as caught:
            await store.read_bytes(cid)
        assert caught.value.code == "GM-6017"
