"""The folder of blocks: whole or not there, within its quota, pinned or collected."""

import errno
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumarket.adapters.blockstore import FileBlockStore
from gpumarket.protocol.cids import Codec, ContentId, compute_cid
from gpumarket.protocol.errors import ContentError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.unixfs import Block, build_file

QUOTA = 2_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileBlockStore]:
    store = FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    yield store
    store.close()


def make_block(data: bytes) -> Block:
    return Block(compute_cid(data, Codec.RAW), data)


def put_file(store: FileBlockStore, data: bytes) -> ContentId:
    block = None
    for block in build_file([data]):
        store.put(block.cid, block.data)
    assert block is not None
    return block.cid


def list_files(store: FileBlockStore, tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "store" / "blocks").glob("*/*") if path.is_file()]


def age_all(tmp_path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in (tmp_path / "store" / "blocks").glob("*/*"):
        os.utime(path, (then, then))


def test_a_block_is_stored_once_and_read_back(store: FileBlockStore) -> None:
    cid, data = make_block(b"data")
    assert store.put(cid, data)
    assert not store.put(cid, data)
    assert store.get(cid) == data
    assert store.find_size(cid) == 4
    assert store.measure().used_bytes == 4
    assert store.measure().block_count == 1


def test_bytes_under_a_wrong_name_are_refused(store: FileBlockStore, tmp_path: Path) -> None:
    cid, _ = make_block(b"right")
    with pytest.raises(RemoteProtocolError):
        store.put(cid, b"wrong")
    with pytest.raises(RemoteProtocolError):
        store.put(*make_block(bytes(2**21 + 1)))
    assert list_files(store, tmp_path) == []
    assert store.measure().used_bytes == 0


def test_a_block_that_rots_on_disk_is_never_given_out(
    store: FileBlockStore, tmp_path: Path
) -> None:
    cid, data = make_block(b"data")
    store.put(cid, data)
    list_files(store, tmp_path)[0].write_bytes(b"dada")
    with pytest.raises(ContentError) as caught:
        store.get(cid)
    assert caught.value.code == "GM-6016"
    assert store.find_size(cid) is None
    assert store.measure().used_bytes == 0
    assert store.put(cid, data)
    assert store.get(cid) == data


def test_the_quota_is_kept_to_the_byte(store: FileBlockStore, tmp_path: Path) -> None:
    store.put(*make_block(bytes(QUOTA - 10)))
    store.put(*make_block(b"0123456789"))
    with pytest.raises(ContentError) as caught:
        store.put(*make_block(b"x"))
    assert caught.value.code == "GM-6030"
    assert str(QUOTA) in caught.value.why
    assert not list((tmp_path / "store" / "temporary").iterdir())
    assert store.measure().used_bytes == QUOTA


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_disk_that_fills_up_leaves_nothing_half_written(
    store: FileBlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "write":
        monkeypatch.setattr("gpumarket.adapters.blockstore.open", fail, raising=False)
    else:
        monkeypatch.setattr(f"gpumarket.adapters.blockstore.os.{failing}", fail)
    with pytest.raises(ContentError) as caught:
        store.put(*make_block(b"data"))
    assert caught.value.code == "GM-6030"
    assert list_files(store, tmp_path) == []
    assert not list((tmp_path / "store" / "temporary").iterdir())
    assert store.measure().used_bytes == 0


def test_another_disk_error_is_told_apart_from_a_full_one(
    store: FileBlockStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("gpumarket.adapters.blockstore.os.fsync", fail)
    with pytest.raises(ContentError) as caught:
        store.put(*make_block(b"data"))
    assert caught.value.code == "GM-6031"


def test_a_store_counts_what_it_finds_and_clears_what_a_crash_left(tmp_path: Path) -> None:
    first = FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    first.put(*make_block(b"data"))
    (tmp_path / "store" / "temporary" / "0000000000000009").write_bytes(b"half")
    first.close()
    second = FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    assert second.measure().used_bytes == 4
    assert not list((tmp_path / "store" / "temporary").iterdir())
    second.close()


def test_a_second_process_on_the_same_folder_is_told_so(
    store: FileBlockStore, tmp_path: Path
) -> None:
    with pytest.raises(ContentError) as caught:
        FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    assert caught.value.code == "GM-6032"


def test_collection_removes_what_no_pin_reaches(store: FileBlockStore, tmp_path: Path) -> None:
    kept = put_file(store, bytes(range(250)) * 2_000)
    lost = put_file(store, bytes(600_000))
    store.pin("job-1", kept)
    age_all(tmp_path, 10_000)
    assert store.collect_garbage() == 262_144 + (600_000 - 2 * 262_144) + len(
        list(build_file([bytes(600_000)]))[-1].data
    )
    assert store.find_size(lost) is None
    assert len(list_files(store, tmp_path)) == 3
    assert store.measure().used_bytes == sum(p.stat().st_size for p in list_files(store, tmp_path))
    assert store.unpin("job-1")
    assert not store.unpin("job-1")
    store.collect_garbage()
    assert list_files(store, tmp_path) == []


def test_collection_spares_young_blocks_and_blocks_added_again(
    store: FileBlockStore, tmp_path: Path
) -> None:
    old, young = make_block(b"old"), make_block(b"young")
    again = make_block(b"again")
    store.put(*old)
    store.put(*again)
    age_all(tmp_path, 10_000)
    store.put(*young)
    store.put(*again)
    store.collect_garbage()
    assert [store.find_size(block.cid) is None for block in (old, young, again)] == [
        True,
        False,
        False,
    ]


def test_pins_survive_a_restart_and_move(tmp_path: Path) -> None:
    one, two = make_block(b"1").cid, make_block(b"2").cid
    first = FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    first.pin("job-1", one)
    first.pin("job-1", two)
    first.close()
    second = FileBlockStore(tmp_path / "store", quota_bytes=QUOTA)
    assert second.list_pins() == {"job-1": two}
    second.close()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-", "x" * 200, "a\n"])
def test_a_pin_name_cannot_leave_the_folder(store: FileBlockStore, name: str) -> None:
    with pytest.raises(InvalidInput):
        store.pin(name, make_block(b"1").cid)
    assert not store.unpin(name)


def test_threads_that_write_the_same_blocks_are_counted_once(
    store: FileBlockStore, tmp_path: Path
) -> None:
    blocks = [make_block(bytes((i,)) * 1_000) for i in range(40)]

    def write() -> None:
        for block in blocks:
            store.put(*block)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert store.measure().used_bytes == 40_000
    assert store.measure().block_count == 40
    assert len(list_files(store, tmp_path)) == 40
