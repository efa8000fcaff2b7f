from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.adapters.images import (
    decode_image_archive_untrusted,
    encode_image_config,
    pack_layer,
    stream_image_archive,
    write_image_archive,
)
from gpumarket.protocol.errors import RemoteProtocolError

Members = dict[str, bytes]


def make_archive(folder: Path) -> tuple[Path, str]:
    """Write a small, good archive with one layer."""
    root = folder / "root"
    root.mkdir()
    (root / "program").write_text("x")
    layer = folder / "layer.tar"
    pack_layer(root, layer)
    config = encode_image_config([layer], architecture="amd64", env={"A": "b"}, entrypoint=())
    path = folder / "image.tar"
    return path, write_image_archive(path, config=config, layers=[layer])


def read_members(path: Path) -> Members:
    with tarfile.open(path) as archive:
        return {
            entry.name: content.read()
            for entry in archive.getmembers()
            if (content := archive.extractfile(entry))
        }


def write_members(path: Path, members: Members) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def rewrite_config(path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Change the config inside an archive, under its own new digest; return the digest."""
    members = read_members(path)
    (name,) = (name for name in members if name.endswith(".json") and name != "manifest.json")
    document = json.loads(members.pop(name))
    change(document)
    config = json.dumps(document).encode()
    digest = hashlib.sha256(config).hexdigest()
    manifest = json.loads(members["manifest.json"])
    manifest[0]["Config"] = f"{digest}.json"
    members |= {f"{digest}.json": config, "manifest.json": json.dumps(manifest).encode()}
    write_members(path, members)
    return digest


def test_equal_trees_give_equal_layers_whatever_their_dates(tmp_path: Path) -> None:
    for name in ("one", "two"):
        root = tmp_path / name
        (root / "b").mkdir(parents=True)
        for file in ("z", "a", "b/c") if name == "one" else ("b/c", "a", "z"):
            (root / file).write_text(file)
        pack_layer(root, tmp_path / f"{name}.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_good_archive_is_read_and_streamed_without_tags_and_extras(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    members = read_members(path)
    manifest = json.loads(members["manifest.json"])
    manifest[0]["RepoTags"] = ["debian:latest"]
    members |= {"manifest.json": json.dumps(manifest).encode(), "repositories": b"{}", "x": b"y"}
    write_members(path, members)

    image = decode_image_archive_untrusted(path, digest)
    streamed = tmp_path / "streamed.tar"
    streamed.write_bytes(b"".join(stream_image_archive(image)))
    kept = read_members(streamed)
    assert set(kept) == {"0.tar", f"{digest}.json", "manifest.json"}
    assert json.loads(kept["manifest.json"])[0]["RepoTags"] is None
    assert hashlib.sha256(kept[f"{digest}.json"]).hexdigest() == digest


def test_an_archive_of_another_image_is_a_mismatch(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_image_archive_untrusted(path, "0" * 64)
    assert caught.value.code == "GM-5203"
    assert digest in caught.value.why


def test_a_changed_layer_is_a_mismatch(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    members = read_members(path)
    (layer,) = (name for name in members if name.endswith(".tar"))
    members[layer] = members[layer].replace(b"program", b"prograN")
    write_members(path, members)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_image_archive_untrusted(path, digest)
    assert caught.value.code == "GM-5203"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Volumes", {"/data": {}}),
        ("Healthcheck", {"Test": ["CMD", "x"]}),
        ("OnBuild", ["RUN x"]),
    ],
)
def test_images_that_ask_for_what_we_forbid_are_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    path, _ = make_archive(tmp_path)
    digest = rewrite_config(path, lambda document: document["config"].update({key: value}))
    with pytest.raises(RemoteProtocolError, match="refused") as caught:
        decode_image_archive_untrusted(path, digest)
    assert (caught.value.code, caught.value.why) == ("GM-5204", f"its config sets {key}")


def test_keys_spelled_otherwise_are_forbidden_too(tmp_path: Path) -> None:
    """Docker is written in Go, which reads JSON keys without regard to case."""
    path, _ = make_archive(tmp_path)
    for change in (
        lambda document: document["config"].update({"volumes": {"/data": {}}}),
        lambda document: document.update({"Config": {"Volumes": {"/data": {}}}}),
        lambda document: document.update({"container_config": {"Volumes": {"/data": {}}}}),
    ):
        digest = rewrite_config(path, change)
        with pytest.raises(RemoteProtocolError):
            decode_image_archive_untrusted(path, digest)


def test_keys_that_are_given_twice_are_refused(tmp_path: Path) -> None:
    """Python keeps the last of two keys, Go merges both: they would read different images."""
    path, _ = make_archive(tmp_path)
    members = read_members(path)
    (name,) = (name for name in members if name.endswith(".json") and name != "manifest.json")
    config = members.pop(name)
    doubled = b'{"config":{"Volumes":{"/data":{}}},' + config[1:]
    digest = hashlib.sha256(doubled).hexdigest()
    manifest = members["manifest.json"].replace(name.encode(), f"{digest}.json".encode())
    write_members(path, members | {f"{digest}.json": doubled, "manifest.json": manifest})
    with pytest.raises(RemoteProtocolError, match="refused"):
        decode_image_archive_untrusted(path, digest)


def test_links_special_files_and_doubled_names_are_refused(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    good = path.read_bytes().rstrip(b"\0")
    good += bytes(-len(good) % 512)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE):
        entry = tarfile.TarInfo("odd")
        entry.type, entry.linkname = kind, "/etc/passwd"
        path.write_bytes(good + entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(RemoteProtocolError, match="refused"):
            decode_image_archive_untrusted(path, digest)
    doubled = tarfile.TarInfo("manifest.json").tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(good + doubled + bytes(1024))
    with pytest.raises(RemoteProtocolError, match="refused"):
        decode_image_archive_untrusted(path, digest)


def test_extended_headers_may_carry_times_but_no_names(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    good = path.read_bytes()
    for headers, is_fine in (({"mtime": "1.5"}, True), ({"path": "manifest.json"}, False)):
        entry = tarfile.TarInfo("extra")
        entry.pax_headers = headers
        path.write_bytes(entry.tobuf(tarfile.PAX_FORMAT) + good)
        if is_fine:
            assert decode_image_archive_untrusted(path, digest).config_digest == digest
        else:
            with pytest.raises(RemoteProtocolError):
                decode_image_archive_untrusted(path, digest)


def test_an_archive_above_the_size_limit_is_not_even_opened(tmp_path: Path) -> None:
    path, digest = make_archive(tmp_path)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_image_archive_untrusted(path, digest, bytes_max=100)
    assert "the limit is 100" in caught.value.why


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_archives_raise_only_the_peers_error(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    path, digest = make_archive(folder)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(RemoteProtocolError):
        decode_image_archive_untrusted(path, digest)


@settings(max_examples=100)
@given(noise=st.binary(max_size=2048))
def test_noise_raises_only_the_peers_error(
    noise: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("noise") / "image.tar"
    path.write_bytes(noise)
    with pytest.raises(RemoteProtocolError):
        decode_image_archive_untrusted(path, "0" * 64)
