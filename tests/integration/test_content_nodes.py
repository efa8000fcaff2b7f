"""Our content nodes among themselves: whole files, broken sources, full stores."""

import hashlib
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from gpumarket.adapters.content import EmbeddedNode, open_node
from gpumarket.adapters.p2p import open_network
from gpumarket.protocol.cids import Codec, compute_cid, format_cid
from gpumarket.protocol.errors import ContentError, InvalidInput
from tests.integration.content_harness import drive
from tests.patience import PATIENCE

MB = 10**6
NOBODY = format_cid(compute_cid(b"nobody has this", Codec.RAW))


def make_bytes(size: int) -> bytes:
    return hashlib.shake_256(b"nodes").digest(size)


@asynccontextmanager
async def run_node(
    folder: Path, *, quota_bytes: int = 2**30
) -> AsyncIterator[tuple[EmbeddedNode, str]]:
    seed = hashlib.sha256(str(folder).encode()).digest()
    async with (
        open_network(key_seed=seed, listen_port=0) as network,
        open_node(network, folder, quota_bytes=quota_bytes) as node,
    ):
        yield node, network.addresses[0]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_two_processes_exchange_50_mb(stack: ExitStack, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(make_bytes(50 * MB))
    one = stack.enter_context(drive("content_process.py", tmp_path / "one", 2**30))
    two = stack.enter_context(drive("content_process.py", tmp_path / "two", 2**30))
    cid = (await one.do(do="add", path=str(source)))["cid"]
    reply = await two.do(
        do="fetch", cid=cid, sources=[one.address], deadline_s=PATIENCE, max_bytes=60 * MB
    )
    assert "error" not in reply, reply
    await two.do(do="export", cid=cid, path=str(target))
    assert target.read_bytes() == source.read_bytes()


async def test_a_fetch_goes_on_from_another_source_when_one_is_killed(
    stack: ExitStack, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(make_bytes(50 * MB))
    dying, other, taker = (
        stack.enter_context(drive("content_process.py", tmp_path / name, 2**30))
        for name in ("dying", "other", "taker")
    )
    cid = (await dying.do(do="add", path=str(source)))["cid"]
    await other.do(do="add", path=str(source))
    taker.start(do="fetch", cid=cid, sources=[dying.address], deadline_s=8, max_bytes=60 * MB)
    blocks = tmp_path / "taker" / "blocks"
    with trio.fail_after(PATIENCE):
        while count_bytes(blocks) < 2 * MB:
            await trio.sleep(0.01)
    dying.kill()
    first = await taker.wait()
    assert first["code"] == "GM-6015"
    kept = count_bytes(blocks)
    assert 2 * MB <= kept < 50 * MB
    second = await taker.do(
        do="fetch",
        cid=cid,
        sources=[dying.address, other.address],
        deadline_s=PATIENCE,
        max_bytes=60 * MB,
    )
    assert "error" not in second, second
    assert second["bytes"] == count_bytes(blocks) - kept, "nothing that was here came again"


async def test_a_fetch_moves_to_the_other_source_without_being_asked_again(
    stack: ExitStack, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(make_bytes(50 * MB))
    dying, other, taker = (
        stack.enter_context(drive("content_process.py", tmp_path / name, 2**30))
        for name in ("dying", "other", "taker")
    )
    cid = (await dying.do(do="add", path=str(source)))["cid"]
    await other.do(do="add", path=str(source))
    taker.start(
        do="fetch",
        cid=cid,
        sources=[dying.address, other.address],
        deadline_s=PATIENCE,
        max_bytes=60 * MB,
    )
    with trio.fail_after(PATIENCE):
        while count_bytes(tmp_path / "taker" / "blocks") < 2 * MB:
            await trio.sleep(0.01)
    dying.kill()
    reply = await taker.wait()
    assert "error" not in reply, reply
    assert await taker.do(do="export", cid=cid, path=str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == source.read_bytes()


async def test_a_cid_that_nobody_has_names_who_was_asked(tmp_path: Path) -> None:
    async with run_node(tmp_path / "a") as (_, a), run_node(tmp_path / "b") as (taker, _):
        gone = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDormSkhwiLB12rK36z9CP6dFqKN5CAXGc2w9NCtursGw"
        with pytest.raises(ContentError) as caught:
            await taker.fetch(NOBODY, sources=[a, gone], deadline_s=4, max_bytes=MB)
    assert caught.value.code == "GM-6012"
    assert "0 of 2 peers" in caught.value.message
    assert f"{a} does not have it" in caught.value.why
    assert f"{gone} was not reached" in caught.value.why


async def test_a_fetch_with_nobody_to_ask_fails_at_once(tmp_path: Path) -> None:
    async with run_node(tmp_path / "a") as (node, _):
        with pytest.raises(ContentError) as caught:
            await node.fetch(NOBODY, sources=[], deadline_s=PATIENCE, max_bytes=MB)
    assert caught.value.code == "GM-6012"


async def test_content_added_while_somebody_waits_for_it_is_sent(tmp_path: Path) -> None:
    data = make_bytes(600_000)
    async with run_node(tmp_path / "a") as (giver, a), run_node(tmp_path / "b") as (taker, _):
        cid = await taker.add_bytes(data)
        async with run_node(tmp_path / "c") as (late, _), trio.open_nursery() as nursery:
            nursery.start_soon(fetch, late, cid, [a])
            await trio.sleep(0.5)
            assert await giver.add_bytes(data) == cid
        assert await taker.read_bytes(cid) == data


async def fetch(node: EmbeddedNode, cid: str, sources: list[str]) -> None:
    await node.fetch(cid, sources=sources, deadline_s=PATIENCE, max_bytes=MB)


async def test_what_is_here_needs_no_source(tmp_path: Path) -> None:
    async with run_node(tmp_path / "a") as (node, _):
        cid = await node.add_bytes(make_bytes(600_000))
        await node.fetch(cid, sources=[], deadline_s=PATIENCE, max_bytes=MB)
        assert await node.has(cid)
        stat = await node.stat(cid)
        assert (stat.file_bytes, stat.block_count, stat.is_complete) == (600_000, 4, True)


async def test_content_known_to_be_whole_is_looked_at_again_once_a_block_is_gone(
    tmp_path: Path,
) -> None:
    async with run_node(tmp_path / "a") as (node, _):
        cid = await node.add_bytes(make_bytes(600_000))
        assert await node.has(cid)
        other = await node.add_bytes(make_bytes(10))
        await node.pin(other)
        assert await node.has(cid)
        await node.collect_garbage(grace_s=0)
        assert not await node.has(cid)
        assert await node.has(other)


async def test_a_file_over_the_limit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    async with run_node(tmp_path / "a") as (giver, a), run_node(tmp_path / "b") as (taker, _):
        cid = await giver.add_bytes(make_bytes(5 * MB))
        with pytest.raises(ContentError) as caught:
            await taker.fetch(cid, sources=[a], deadline_s=PATIENCE, max_bytes=MB)
        assert caught.value.code == "GM-6013"
        assert taker.measure_store().used_bytes < MB


async def test_a_full_quota_ends_the_fetch_and_leaves_no_half_block(tmp_path: Path) -> None:
    async with (
        run_node(tmp_path / "a") as (giver, a),
        run_node(tmp_path / "b", quota_bytes=2 * MB) as (taker, _),
    ):
        cid = await giver.add_bytes(make_bytes(5 * MB))
        with pytest.raises(ContentError) as caught:
            await taker.fetch(cid, sources=[a], deadline_s=PATIENCE, max_bytes=10 * MB)
        assert caught.value.code == "GM-6030"
        assert taker.measure_store().used_bytes == count_bytes(tmp_path / "b" / "blocks")
        assert taker.measure_store().used_bytes <= 2 * MB
        assert not os.listdir(tmp_path / "b" / "temporary")
        assert await taker.collect_garbage(grace_s=0) > 0
        assert taker.measure_store().used_bytes == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


async def test_a_full_disk_ends_the_fetch_and_leaves_no_half_block(
    small_disk: Path, tmp_path: Path
) -> None:
    async with (
        run_node(tmp_path / "a") as (giver, a),
        run_node(small_disk / "b") as (taker, _),
    ):
        cid = await giver.add_bytes(make_bytes(5 * MB))
        with pytest.raises(ContentError) as caught:
            await taker.fetch(cid, sources=[a], deadline_s=PATIENCE, max_bytes=10 * MB)
        assert caught.value.code == "GM-6030"
        assert "disk" in caught.value.message
        assert not os.listdir(small_disk / "b" / "temporary")
        assert taker.measure_store().used_bytes == count_bytes(small_disk / "b" / "blocks")
        assert await taker.collect_garbage(grace_s=0) > 0
        with pytest.raises(ContentError):
            await taker.add_bytes(make_bytes(5 * MB))


async def test_a_document_travels_as_one_block(tmp_path: Path) -> None:
    document = b"\xa1\x61a\x01"
    async with run_node(tmp_path / "a") as (giver, a), run_node(tmp_path / "b") as (taker, _):
        cid = await giver.add_document(document)
        assert cid.startswith("bafyrei")
        await taker.fetch(cid, sources=[a], deadline_s=PATIENCE, max_bytes=100)
        assert await taker.read_bytes(cid, 100) == document


async def test_a_cid_that_is_none_is_the_callers_mistake(tmp_path: Path) -> None:
    async with run_node(tmp_path / "a") as (node, _):
        with pytest.raises(InvalidInput):
            await node.fetch("bafynonsense", sources=[], deadline_s=1, max_bytes=1)


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))
