"""
Blocks in files: one file for each block, under the first byte of its digest.

A block is written to a temporary file, synced and renamed, so what stands under a digest is whole
after any crash; it is hashed again whenever it is read, so a rotten disk gives an error and never
wrong bytes. Everything here is synchronous and safe to call from several threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpumarket.protocol.cids import Codec, ContentId, format_cid, is_block_of, parse_cid
from gpumarket.protocol.dagpb import BLOCK_BYTES_MAX
from gpumarket.protocol.errors import ContentError, InvalidInput, RemoteProtocolError
from gpumarket.protocol.unixfs import list_links_untrusted

GC_GRACE_S = 3_600.0
"""A block younger than this survives collection: its root may be about to be pinned."""
PINS_MAX = 100_000
_PIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSize:
    """How much a store holds and may hold, in bytes."""

    used_bytes: int
    quota_bytes: int
    block_count: int


class FileBlockStore:
    """
    A folder of blocks with a quota, named pins and garbage collection.

    One process at a time: the folder is locked until `close`. Blocks are found by digest, so two
    CIDs of the same bytes share one file.
    """

    def __init__(self, folder: Path, *, quota_bytes: int) -> None:
        self._blocks = folder / "blocks"
        self._pins = folder / "pins"
        self._temporary = folder / "temporary"
        self._quota_bytes = quota_bytes
        self._lock = threading.Lock()
        self._writes = 0
        self.removals = 0
        """Blocks removed since the folder was opened; what is whole stays so until the next."""
        with _translate_os_errors("opened", folder):
            for part in (self._blocks, self._pins, self._temporary):
                part.mkdir(parents=True, exist_ok=True)
            for shard in range(256):
                (self._blocks / f"{shard:02x}").mkdir(exist_ok=True)
            self._lock_file = _lock_folder(folder)
            for leftover in self._temporary.iterdir():
                leftover.unlink()
            self._used_bytes = self._count = 0
            for _, size, _ in self._scan():
                self._used_bytes += size
                self._count += 1

    def close(self) -> None:
        """Let another process open the folder."""
        os.close(self._lock_file)

    def put(self, cid: ContentId, data: bytes) -> bool:
        """
        Store a block after checking it against its name; say whether it was new.

        Raises `RemoteProtocolError` for bytes that hash to something else, `ContentError` GM-6030
        when quota or disk are full. Either way nothing of the block stays behind.
        """
        if len(data) > BLOCK_BYTES_MAX:
            raise RemoteProtocolError(f"a block of {len(data)} bytes, limit {BLOCK_BYTES_MAX}")
        if not is_block_of(cid, data):
            raise RemoteProtocolError(f"the bytes given for {format_cid(cid)} are something else")
        path = self._path(cid)
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)  # young again, so that a collection leaves it
            return False
        self._reserve(len(data))
        try:
            with _translate_os_errors("written", path):
                is_new = self._write(path, data)
        except BaseException:
            self._release(len(data))
            raise
        if not is_new:
            self._release(len(data))
        return is_new

    def get(self, cid: ContentId) -> bytes:
        """
        Read a block and check it again.

        Raises `ContentError` GM-6016 when it is not here; a block that has rotted on disk is
        removed and counts as not here.
        """
        path = self._path(cid)
        try:
            with _translate_os_errors("read", path):
                data = path.read_bytes()
        except FileNotFoundError:
            raise ContentError(
                f"{format_cid(cid)} is not in the content store", code="GM-6016"
            ) from None
        if not is_block_of(cid, data):
            self.delete(cid)
            raise ContentError(
                f"{format_cid(cid)} was damaged on disk and has been removed",
                code="GM-6016",
                hints=("fetch it again; check the disk if this repeats",),
            )
        return data

    def find_size(self, cid: ContentId) -> int | None:
        """Give the length of a block in bytes, or None when it is not here."""
        try:
            return os.stat(self._path(cid)).st_size
        except FileNotFoundError:
            return None

    def delete(self, cid: ContentId) -> None:
        """Remove one block, if it is here."""
        self._delete_path(self._path(cid))

    def measure(self) -> StoreSize:
        """Say how full the store is."""
        with self._lock:
            return StoreSize(
                used_bytes=self._used_bytes,
                quota_bytes=self._quota_bytes,
                block_count=self._count,
            )

    def pin(self, name: str, root: ContentId) -> None:
        """Keep all below `root` through collections, under a name; a used name moves."""
        if not _PIN_NAME.fullmatch(name):
            raise InvalidInput(f"{name[:128]!r} cannot name a pin", code="GM-6011")
        with _translate_os_errors("written", self._pins):
            if not (self._pins / name).exists() and len(os.listdir(self._pins)) >= PINS_MAX:
                raise ContentError(f"there are already {PINS_MAX} pins", code="GM-6030")
            self._write(self._pins / name, format_cid(root).encode(), replace=True)

    def unpin(self, name: str) -> bool:
        """Forget a pin; say whether there was one."""
        if not _PIN_NAME.fullmatch(name):
            return False
        try:
            (self._pins / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def list_pins(self) -> dict[str, ContentId]:
        """Give every pin by its name."""
        with _translate_os_errors("read", self._pins):
            paths = sorted(self._pins.iterdir())
            return {path.name: parse_cid(path.read_text("ascii")) for path in paths}

    def collect_garbage(
        self, *, grace_s: float = GC_GRACE_S, keep: Iterable[ContentId] = ()
    ) -> int:
        """
        Remove blocks that no pin reaches and that are older than `grace_s`; give the bytes freed.

        A pinned graph that is not whole keeps what it has. `keep` are further roots to honor.
        """
        reached: set[bytes] = set()
        for root in (*self.list_pins().values(), *keep):
            reached.update(self._walk_present(root))
        oldest_kept = time.time() - grace_s
        freed = 0
        for path, size, modified_at in self._scan():
            if bytes.fromhex(path.name) not in reached and modified_at <= oldest_kept:
                self._delete_path(path)
                freed += size
        return freed

    def _walk_present(self, root: ContentId) -> Iterator[bytes]:
        stack = [root]
        seen: set[ContentId] = set()
        while stack:
            cid = stack.pop()
            if cid in seen:
                continue
            seen.add(cid)
            yield cid.digest
            with contextlib.suppress(ContentError, RemoteProtocolError):
                if cid.codec is Codec.DAG_PB:
                    stack.extend(link.cid for link in list_links_untrusted(cid, self.get(cid)))

    def _path(self, cid: ContentId) -> Path:
        name = cid.digest.hex()
        return self._blocks / name[:2] / name

    def _scan(self) -> Iterator[tuple[Path, int, float]]:
        for shard in range(256):
            with os.scandir(self._blocks / f"{shard:02x}") as entries:
                for entry in entries:
                    if len(entry.name) == 64:
                        stat = entry.stat(follow_symlinks=False)
                        yield Path(entry.path), stat.st_size, stat.st_mtime

    def _reserve(self, size: int) -> None:
        with self._lock:
            if self._used_bytes + size > self._quota_bytes:
                raise ContentError(
                    "the content store is full",
                    code="GM-6030",
                    why=f"{self._used_bytes} of {self._quota_bytes} bytes are used, "
                    f"the next block needs {size}",
                    hints=("raise store_bytes_max in the role's configuration",),
                )
            self._used_bytes += size
            self._count += 1

    def _release(self, size: int) -> None:
        with self._lock:
            self._used_bytes -= size
            self._count -= 1

    def _write(self, path: Path, data: bytes, *, replace: bool = False) -> bool:
        with self._lock:
            self._writes += 1
            temporary = self._temporary / f"{self._writes:016x}"
        try:
            with open(temporary, "xb", buffering=0) as file:
                if file.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            # Two threads may write one block: the lock makes exactly one of them the first.
            with self._lock:
                if not replace and path.exists():
                    temporary.unlink()
                    return False
                os.replace(temporary, path)
            return True
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def _delete_path(self, path: Path) -> None:
        with self._lock, contextlib.suppress(FileNotFoundError):
            size = path.stat().st_size
            path.unlink()
            self.removals += 1
            self._used_bytes -= size
            self._count -= 1


def _lock_folder(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ContentError(
            f"another process uses the content store in {folder}",
            code="GM-6032",
            hints=("stop the other process or choose another data folder",),
        ) from None
    return descriptor


@contextlib.contextmanager
def _translate_os_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise ContentError(
                "the disk of the content store is full",
                code="GM-6030",
                why=f"{path.name} could not be {action}: {error.strerror}",
                hints=("free space on the disk",),
            ) from error
        raise ContentError(
            f"{path} could not be {action}: {error.strerror}", code="GM-6031"
        ) from error
