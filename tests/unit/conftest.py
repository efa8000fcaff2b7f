"""What several files use: a fake coordinator, a job with an image, an account, training runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpumarket.adapters.images import encode_image_config, pack_layer, write_image_archive
from gpumarket.adapters.keys import write_keystore, write_password
from gpumarket.client.connection import Connection, find_connection
from gpumarket.client.wallet import Account, Signer
from gpumarket.protocol.ids import format_hex
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.fake_coordinator import CONTRACT, FakeCoordinator

if TYPE_CHECKING:
    # Only two files want them, and numpy takes a while.
    from scripts.benchmarks.training_lab import Checkpoint, Lab
    from tests.adversary.training_runs import Run

TEST_SECRET = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""The first key of the development mnemonic: public."""
JOB = """\
version: 1
name: hello
image: file:image.tar
command: [python3, main.py]
resources: {gpu: {count: 0}}
inputs:
  - {name: texts, from: "file:texts.txt", to: /in/texts.txt}
outputs:
  - {from: /out, max_size: 1MB}
split: {over: texts, by: lines, size: 2}
budget: {max: 0.05 USDC}
"""


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with FakeCoordinator() as running:
        yield running


@pytest.fixture
def job_path(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    root = folder / "root"
    root.mkdir(parents=True)
    (root / "main.py").write_text("print('hello')\n")
    layer = folder / "layer.tar"
    pack_layer(root, layer)
    config = encode_image_config([layer], architecture="amd64", env={}, entrypoint=())
    digest = write_image_archive(folder / "image.tar", config=config, layers=[layer])
    (folder / "image.json").write_text(json.dumps({"config_digest": digest}))
    (folder / "texts.txt").write_text("one\ntwo\nthree\nfour\nfive")
    path = folder / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write one cheap keystore and its password file, once."""
    from gpumarket.adapters.keys import SCRYPT_N_DEVNET

    folder = tmp_path_factory.mktemp("keys")
    write_keystore(folder / "alice.json", TEST_SECRET, password="pw", scrypt_n=SCRYPT_N_DEVNET)
    write_password(folder / "password", "pw")
    return folder / "alice.json", folder / "password"


@pytest.fixture
def signer() -> Signer:
    key = PrivateKey(TEST_SECRET)
    return Signer(Account("alice", key.address, Path("alice.json")), key, TEST_SECRET)


@pytest.fixture
def connection(fake: FakeCoordinator, tmp_path: Path) -> Connection:
    return find_connection({"url": fake.url}, env={}, folder=tmp_path)


@pytest.fixture
def devnet(
    fake: FakeCoordinator,
    key_file: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Describe the fake as the devnet of the current folder, and forget all other settings."""
    folder = tmp_path / "work"
    (folder / ".gpumarket").mkdir(parents=True)
    account = {
        "address": format_hex(PrivateKey(TEST_SECRET).address),
        "keystore": str(key_file[0]),
        "password_file": str(key_file[1]),
    }
    content = {
        "url": fake.url,
        "chain_id": fake.chain_id,
        "contract": format_hex(CONTRACT),
        "accounts": {"alice": account},
    }
    (folder / ".gpumarket/devnet.json").write_text(json.dumps(content))
    monkeypatch.chdir(folder)
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    for key in ("URL", "RPC_URL", "CHAIN_ID", "CONTRACT", "ACCOUNT", "KEYSTORE", "PASSWORD_FILE"):
        monkeypatch.delenv(f"GPUMARKET_{key}", raising=False)
    return folder


@pytest.fixture(scope="module")
def trained() -> "Iterator[tuple[Lab, list[Checkpoint]]]":
    """Train the example with numpy, honestly; also gives where it was done."""
    from scripts.benchmarks.training_lab import open_lab

    with open_lab("numpy", {}) as lab:
        yield lab, lab.train_honestly()


@pytest.fixture
def honest_run(trained: "tuple[Lab, list[Checkpoint]]") -> "Run":
    from tests.adversary.training_runs import Run

    return Run(*trained)


@pytest.fixture
def stale_run(trained: "tuple[Lab, list[Checkpoint]]") -> "Run":
    """Show the checkpoint before segment 3 again at its end."""
    from scripts.benchmarks.training_spoofs import keep_stale
    from tests.adversary.training_runs import Run

    lab, honest = trained
    return Run(lab, keep_stale(lab, honest, 3))
