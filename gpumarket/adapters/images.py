"""
Image archives: made without a registry or an engine, and read as the hostile bytes they are.

An archive is what `docker load` accepts: a tar of one config JSON, uncompressed layer tars and a
manifest. The sha2-256 of the config is the image's name everywhere in this market. The config
lists the hash of each layer, so one digest fixes every byte a container starts from.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from gpumarket.protocol.errors import RemoteProtocolError

ARCHIVE_BYTES_MAX: Final = 32 << 30
ENTRIES_MAX: Final = 1024
LAYERS_MAX: Final = 127  # overlay file systems stack no more
JSON_BYTES_MAX: Final = 1 << 20
EXTENSION_BYTES_MAX: Final = 64 << 10
CHUNK_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 512

# A volume is writable disk outside every limit; the other two run what nobody asked for.
FORBIDDEN_CONFIG_KEYS: Final = ("volumes", "healthcheck", "onbuild")


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """Where one file of the archive lies: byte offset of its content, and its size in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageArchive:
    """A checked archive: its config, and its layers in order from the lowest."""

    path: Path
    config_digest: str
    """Lower-case hex sha2-256 of `config`; the engine's image id without `sha256:`."""
    config: bytes
    layers: tuple[ArchiveEntry, ...]


# --- writing -------------------------------------------------------------------------------------


def pack_layer(root: Path, layer: Path) -> None:
    """Write `root` as a tar whose bytes depend only on names, modes, links and contents."""
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder, folder_names, file_names in os.walk(root):
            folder_names.sort()
            for name in sorted(folder_names + file_names):
                path = os.path.join(folder, name)
                add_plain_entry(archive, path, os.path.relpath(path, root))


def add_plain_entry(archive: tarfile.TarFile, path: str, name: str) -> None:
    """Add one file, folder or link without owner and time, which differ between machines."""
    entry = archive.gettarinfo(path, name)
    entry.mtime = entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    if entry.isreg():
        with open(path, "rb") as source:
            archive.addfile(entry, source)
    else:
        archive.addfile(entry)


def encode_image_config(
    layers: Sequence[Path], *, architecture: str, env: Mapping[str, str], entrypoint: Sequence[str]
) -> bytes:
    """Build the config JSON of an image; equal inputs give equal bytes."""
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": [f"{key}={value}" for key, value in sorted(env.items())],
            "Entrypoint": list(entrypoint),
            "User": "65534:65534",
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hash_file(path)}" for path in layers]},
        "history": [{"created": "1970-01-01T00:00:00Z"} for _ in layers],
    }
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def write_image_archive(path: Path, *, config: bytes, layers: Sequence[Path]) -> str:
    """Write a loadable archive to `path` and return its config digest in hex."""
    config_digest = hashlib.sha256(config).hexdigest()
    names = [f"{hash_file(layer)}.tar" for layer in layers]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        # Layers first: what does not change between versions stays at the same offset, so the
        # blocks of the content store are shared.
        for name, layer in zip(names, layers, strict=True):
            add_plain_entry(archive, str(layer), name)
        for name, data in (
            (f"{config_digest}.json", config),
            ("manifest.json", encode_manifest(config_digest, names)),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return config_digest


def encode_manifest(config_digest: str, layer_names: Sequence[str]) -> bytes:
    """Build a manifest that names no tag: a tag in an archive overwrites the engine's own."""
    image = {"Config": f"{config_digest}.json", "RepoTags": None, "Layers": list(layer_names)}
    return json.dumps([image]).encode()


def hash_file(path: Path) -> str:
    """Compute the hex sha2-256 of a file."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


# --- reading hostile bytes -----------------------------------------------------------------------


def decode_image_archive_untrusted(
    path: Path, config_digest: str, *, bytes_max: int = ARCHIVE_BYTES_MAX
) -> ImageArchive:
    """
    Check an archive somebody sent, before any engine sees it.

    The config must hash to `config_digest` and each layer to what the config says; so layers are
    uncompressed and nothing in the archive can unpack to more than its own size.
    Raises RemoteProtocolError GM-5203 for other bytes than named, GM-5204 for what we refuse.
    """
    size = path.stat().st_size
    if size > bytes_max:
        raise refuse(f"it has {size} bytes, the limit is {bytes_max}")
    with path.open("rb") as archive:
        entries = read_entries(archive, size)
        manifest = read_manifest(archive, entries)
        config = read_small(archive, entries, manifest["Config"])
        if hashlib.sha256(config).hexdigest() != config_digest:
            raise digest_mismatch(config_digest, hashlib.sha256(config).hexdigest())
        layers = tuple(find_entry(entries, name) for name in manifest["Layers"])
        check_config(config, [hash_entry(archive, layer) for layer in layers])
    return ImageArchive(path=path, config_digest=config_digest, config=config, layers=layers)


def read_entries(archive: IO[bytes], archive_size: int) -> dict[str, ArchiveEntry]:
    """
    List the regular files of a tar.

    Our own reader instead of `tarfile`, which follows size and path overrides and sparse maps
    of any length; the few forms that archives of images need fit on a page.
    """
    entries: dict[str, ArchiveEntry] = {}
    position = 0
    for _ in range(ENTRIES_MAX):
        archive.seek(position)
        header = archive.read(BLOCK_BYTES)
        if header == bytes(BLOCK_BYTES):
            return entries
        name, kind, size = decode_tar_header(header)
        position += BLOCK_BYTES
        if position + size > archive_size:
            raise refuse("it is cut off")
        if kind in b"0\0":
            if name in entries:
                raise refuse("two entries have the same name")
            entries[name] = ArchiveEntry(offset=position, size=size)
        elif kind in b"xg":
            check_extension(archive.read(min(size, EXTENSION_BYTES_MAX + 1)))
        elif kind not in b"5":
            raise refuse("it holds links or special files")
        position += -(-size // BLOCK_BYTES) * BLOCK_BYTES
    raise refuse(f"it has more than {ENTRIES_MAX} entries")


def decode_tar_header(header: bytes) -> tuple[str, bytes, int]:
    """Read name, kind and size of one tar header; raise RemoteProtocolError where it is odd."""
    if len(header) != BLOCK_BYTES:
        raise refuse("it is cut off")
    try:
        checksum = int(header[148:156].strip(b" \0"), 8)
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        prefix = header[345:500] if header[257:263] == b"ustar\0" else b""
        name = "/".join(
            part.partition(b"\0")[0].decode("ascii")
            for part in (prefix, header[:100])
            if part[:1] != b"\0" and part
        )
    except ValueError:
        raise refuse("a tar header is malformed") from None
    if size < 0 or checksum != sum(header[:148]) + sum(header[156:]) + 8 * 0x20:
        raise refuse("a tar header is malformed")
    return name, header[156:157], size


def check_extension(data: bytes) -> None:
    """Let extended headers pass that carry times; refuse those that change names or sizes."""
    if len(data) > EXTENSION_BYTES_MAX:
        raise refuse("an extended tar header is too large")
    for key in (b" path=", b" size=", b" linkpath=", b" GNU.sparse"):
        if key in data:
            raise refuse("an extended tar header changes a name or a size")


def read_manifest(archive: IO[bytes], entries: Mapping[str, ArchiveEntry]) -> dict[str, Any]:
    """Read which config and layers make the one image of this archive."""
    images = decode_json(read_small(archive, entries, "manifest.json"))
    if not (isinstance(images, list) and len(images) == 1 and isinstance(images[0], dict)):
        raise refuse("it must hold exactly one image")
    config, layers = images[0].get("Config"), images[0].get("Layers")
    if not isinstance(config, str) or not isinstance(layers, list):
        raise refuse("its manifest names no config or no layers")
    if not all(isinstance(layer, str) for layer in layers) or not 0 < len(layers) <= LAYERS_MAX:
        raise refuse(f"its layers must be 1 to {LAYERS_MAX} names")
    return {"Config": config, "Layers": layers}


def check_config(config: bytes, layer_digests: Sequence[str]) -> None:
    """Check that the config names exactly these layers and asks for nothing we forbid."""
    document = decode_json(config)
    if not isinstance(document, dict):
        raise refuse("its config is not an object")
    defaults = document.get("config") or {}
    rootfs = document.get("rootfs") or {}
    if not isinstance(defaults, dict) or not isinstance(rootfs, dict):
        raise refuse("its config is malformed")
    check_nothing_forbidden(document)
    expected = [f"sha256:{digest}" for digest in layer_digests]
    if rootfs.get("diff_ids") != expected:
        raise RemoteProtocolError(
            "a layer of the image has other bytes than its config names, or is compressed",
            code="GM-5203",
            why=f"config: {str(rootfs.get('diff_ids'))[:200]}; archive: {str(expected)[:200]}",
            fault="requester",
        )


def check_nothing_forbidden(document: Mapping[str, Any]) -> None:
    """
    Refuse a config that sets a volume, a health check or a build trigger.

    The engine reads keys without regard to case, so we look at them the same way.
    """
    for name, defaults in document.items():
        if name.casefold() not in ("config", "container_config") or not isinstance(defaults, dict):
            continue
        for key, value in defaults.items():
            if key.casefold() in FORBIDDEN_CONFIG_KEYS and value:
                raise refuse(f"its config sets {key}")


def find_entry(entries: Mapping[str, ArchiveEntry], name: str) -> ArchiveEntry:
    """Find a file of the archive by name, or refuse the archive."""
    if name not in entries:
        raise refuse(f"a file is missing: {name[:100]!r}")
    return entries[name]


def read_small(archive: IO[bytes], entries: Mapping[str, ArchiveEntry], name: str) -> bytes:
    """Read one JSON-sized file of the archive."""
    entry = find_entry(entries, name)
    if entry.size > JSON_BYTES_MAX:
        raise refuse(f"{name[:100]!r} is larger than {JSON_BYTES_MAX} bytes")
    archive.seek(entry.offset)
    return archive.read(entry.size)


def decode_json(data: bytes) -> Any:
    """Parse JSON; bad text, deep nesting and keys that say things twice become a refusal."""
    try:
        return json.loads(data, object_pairs_hook=build_unambiguous)
    except (ValueError, RecursionError):
        raise refuse("a JSON file in it is malformed") from None


def build_unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object whose keys differ for every reader, also one that ignores case."""
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise ValueError("two keys are the same")
    return dict(pairs)


def hash_entry(archive: IO[bytes], entry: ArchiveEntry) -> str:
    """Compute the hex sha2-256 of one file of the archive."""
    digest = hashlib.sha256()
    for chunk in read_chunks(archive, entry):
        digest.update(chunk)
    return digest.hexdigest()


def read_chunks(archive: IO[bytes], entry: ArchiveEntry) -> Iterator[bytes]:
    """Yield the content of one file of the archive."""
    archive.seek(entry.offset)
    left = entry.size
    while left > 0 and (chunk := archive.read(min(left, CHUNK_BYTES))):
        left -= len(chunk)
        yield chunk


def stream_image_archive(image: ImageArchive) -> Iterator[bytes]:
    """Yield a new archive of only what was checked: no tags, no other files."""
    names = [f"{number}.tar" for number in range(len(image.layers))]
    with image.path.open("rb") as archive:
        for name, layer in zip(names, image.layers, strict=True):
            yield encode_tar_header(name, layer.size)
            yield from read_chunks(archive, layer)
            yield bytes(-layer.size % BLOCK_BYTES)
    for name, data in (
        (f"{image.config_digest}.json", image.config),
        ("manifest.json", encode_manifest(image.config_digest, names)),
    ):
        yield encode_tar_header(name, len(data))
        yield data + bytes(-len(data) % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def encode_tar_header(name: str, size: int) -> bytes:
    """Build the header of a regular file; GNU format, for layers above 8 GiB."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    return entry.tobuf(format=tarfile.GNU_FORMAT)


def refuse(why: str) -> RemoteProtocolError:
    """Make the error for an archive that must not reach the engine."""
    return RemoteProtocolError(
        "the image archive is refused", code="GM-5204", why=why, fault="requester"
    )


def digest_mismatch(expected: str, found: str) -> RemoteProtocolError:
    """Make the error for an image that is not the one that was named."""
    return RemoteProtocolError(
        "the image is not the one that was signed",
        code="GM-5203",
        why=f"expected sha256:{expected}, found sha256:{found}",
        fault="requester",
    )
