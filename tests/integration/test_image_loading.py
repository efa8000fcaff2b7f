"""Images reach the engine by digest only: the same bytes for whoever runs them."""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from gpumarket.adapters.images import encode_image_config, pack_layer, write_image_archive
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.protocol.errors import SandboxError


@pytest.fixture
def engine() -> Iterator[Any]:
    client = docker.APIClient()
    yield client
    client.close()


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[DockerSandbox]:
    sandbox = DockerSandbox(owner=f"test-{tmp_path.name}", folder=tmp_path / "sandbox")
    yield sandbox
    sandbox.close()


def make_archive(folder: Path) -> tuple[Path, str]:
    """Write an archive that no other test has, with one small layer."""
    root = folder / "root"
    root.mkdir()
    (root / "unique").write_text(secrets.token_hex(16))
    layer = folder / "layer.tar"
    pack_layer(root, layer)
    config = encode_image_config([layer], architecture="amd64", env={}, entrypoint=())
    path = folder / "image.tar"
    return path, write_image_archive(path, config=config, layers=[layer])


def change_archive(path: Path, change: Any) -> None:
    """Let `change` edit the members of an archive, a dict of name to bytes."""
    with tarfile.open(path) as archive:
        members = {
            entry.name: content.read()
            for entry in archive.getmembers()
            if (content := archive.extractfile(entry))
        }
    change(members)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def has_image(engine: Any, name: str) -> bool:
    try:
        engine.inspect_image(name)
    except docker.errors.NotFound:
        return False
    return True


async def test_an_archive_is_loaded_under_its_config_digest_and_found_the_second_time(
    sandbox: DockerSandbox, engine: Any, tmp_path: Path
) -> None:
    path, digest = make_archive(tmp_path)
    with pytest.raises(SandboxError, match="no image"):
        await sandbox.ensure_image(None, digest)
    try:
        await sandbox.ensure_image(path, digest)
        assert has_image(engine, f"sha256:{digest}")
        path.unlink()
        await sandbox.ensure_image(None, digest)
    finally:
        engine.remove_image(f"sha256:{digest}", force=True)


async def test_tags_in_an_archive_do_not_reach_the_engine(
    sandbox: DockerSandbox, engine: Any, tmp_path: Path
) -> None:
    path, digest = make_archive(tmp_path)
    tag = f"gpumarket-test-{secrets.token_hex(8)}:latest"

    def add_tag(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest[0]["RepoTags"] = [tag]
        members["manifest.json"] = json.dumps(manifest).encode()

    change_archive(path, add_tag)
    try:
        await sandbox.ensure_image(path, digest)
        assert not has_image(engine, tag)
    finally:
        engine.remove_image(f"sha256:{digest}", force=True)


@pytest.mark.parametrize("what", ["layer", "config"])
async def test_a_tampered_archive_is_refused_and_nothing_is_loaded(
    sandbox: DockerSandbox, engine: Any, tmp_path: Path, what: str
) -> None:
    path, digest = make_archive(tmp_path)

    def tamper(members: dict[str, bytes]) -> None:
        suffix = ".tar" if what == "layer" else f"{digest}.json"
        (name,) = (name for name in members if name.endswith(suffix))
        before, after = (b"unique", b"uniqu3") if what == "layer" else (b"65534", b"00000")
        members[name] = members[name].replace(before, after)

    change_archive(path, tamper)
    with tarfile.open(path) as archive:
        (name,) = (each for each in archive.getnames() if each.endswith(f"{digest}.json"))
        config = archive.extractfile(name)
        assert config is not None
        tampered = hashlib.sha256(config.read()).hexdigest()
    with pytest.raises(SandboxError) as caught:
        await sandbox.ensure_image(path, digest)
    assert (caught.value.code, caught.value.fault) == ("GM-5203", "requester")
    assert not has_image(engine, f"sha256:{digest}")
    assert not has_image(engine, f"sha256:{tampered}")


async def test_an_image_with_a_volume_is_refused_also_when_the_engine_already_has_it(
    sandbox: DockerSandbox, engine: Any, tmp_path: Path
) -> None:
    path, _ = make_archive(tmp_path)
    digests: list[str] = []

    def add_volume(members: dict[str, bytes]) -> None:
        (name,) = (name for name in members if name.endswith(".json") and "manifest" not in name)
        document = json.loads(members.pop(name))
        document["config"]["volumes"] = {"/data": {}}  # Go reads it, whatever its case
        config = json.dumps(document).encode()
        digests.append(hashlib.sha256(config).hexdigest())
        manifest = members["manifest.json"].replace(name.encode(), f"{digests[0]}.json".encode())
        members |= {f"{digests[0]}.json": config, "manifest.json": manifest}

    change_archive(path, add_volume)
    for is_there_before in (False, True):
        if is_there_before:
            list(engine.load_image(path.read_bytes()))
        with pytest.raises(SandboxError) as caught:
            await sandbox.ensure_image(path, digests[0])
        assert caught.value.code == "GM-5204"
        assert has_image(engine, f"sha256:{digests[0]}") is is_there_before
    assert engine.inspect_image(f"sha256:{digests[0]}")["Config"]["Volumes"] == {"/data": {}}
    engine.remove_image(f"sha256:{digests[0]}", force=True)
