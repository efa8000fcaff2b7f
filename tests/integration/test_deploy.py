"""`scripts/deploy` against a real anvil: it puts the contracts there, and tells false ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from web3 import Web3
from web3.types import RPCEndpoint

from gpumarket.adapters.artifacts import load_artifact
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.deployment import verify_deployment
from gpumarket.adapters.deployment_rules import decode_deployment_untrusted
from gpumarket.adapters.keys import SCRYPT_N_DEVNET, write_keystore, write_password
from gpumarket.protocol.signing import PrivateKey
from gpumarket.testing.anvil import run_anvil
from gpumarket.testing.factories import make_secret
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SECRET = make_secret("deployer")
FINDINGS = 29
"""Chain, three for each contract, twelve parameters, five addresses, domain, token."""


@dataclass(frozen=True)
class Site:
    """A chain with a token, and the deployer's files."""

    url: str
    token: str
    folder: Path

    def run(self, *arguments: str, answer: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "scripts/deploy"), "--rpc-url", self.url, *arguments]
        return subprocess.run(
            command, input=answer, capture_output=True, text=True, timeout=120, check=False
        )

    def deploy(self, *more: str, answer: str = "y\n", **changes: str) -> Any:
        values = {
            "chain-id": "31337",
            "token": self.token,
            "parameters": str(ROOT / "docs/deployment.toml"),
            "keystore": str(self.folder / "deployer.json"),
            "password-file": str(self.folder / "password"),
            "out": str(self.folder / "deployment.json"),
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        flat = [part for name, value in values.items() for part in (f"--{name}", value)]
        return self.run(*flat, *more, answer=answer)

    def rpc(self, method: str, *params: object) -> Any:
        answer = connect(self.url).provider.make_request(RPCEndpoint(method), list(params))
        assert "error" not in answer, answer
        return answer["result"]

    def find_failed(self, claimed: dict[str, Any]) -> list[str]:
        """Return what of a deployment file is false."""
        deployment = decode_deployment_untrusted(json.dumps(claimed).encode())
        findings = trio.run(verify_deployment, self.url, deployment)
        return [finding.describe() for finding in findings if not finding.passed]


def connect(url: str) -> Web3:
    return Web3(Web3.HTTPProvider(url, request_kwargs={"timeout": PATIENCE}))


def create(url: str, bytecode: str) -> str:
    web3 = connect(url)
    sent = web3.eth.send_transaction({"from": web3.eth.accounts[0], "data": bytecode})  # type: ignore[typeddict-item]  # hex is fine
    return str(web3.eth.wait_for_transaction_receipt(sent, timeout=PATIENCE)["contractAddress"])


def open_site(url: str, folder: Path) -> Site:
    """Put a token on a chain and gas into the deployer's account."""
    write_keystore(
        folder / "deployer.json", SECRET, password="secret word", scrypt_n=SCRYPT_N_DEVNET
    )
    write_password(folder / "password", "secret word")
    site = Site(url, create(url, load_artifact("TestToken")["bytecode"]), folder)
    site.rpc("anvil_setBalance", Web3.to_checksum_address(PrivateKey(SECRET).address), hex(10**19))
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("deploy")
    with run_anvil(folder, block_seconds=None) as url:
        made = open_site(url, folder)
        made.rpc("anvil_mine", hex(3))  # the first block has no randomness
        yield made


@pytest.fixture(scope="module")
def deployed(site: Site) -> dict[str, Any]:
    done = site.deploy("--descriptors", str(site.folder / "wallets"))
    assert done.returncode == 0, done.stderr
    assert "Deploy? [y/N]" in done.stdout
    assert f"all {FINDINGS} PASS" in done.stdout
    assert SECRET.hex() not in done.stdout + done.stderr
    assert "secret word" not in done.stdout + done.stderr
    deployment: dict[str, Any] = json.loads((site.folder / "deployment.json").read_text())
    return deployment


async def test_what_was_deployed_is_what_was_asked_for(
    site: Site, deployed: dict[str, Any]
) -> None:
    contract = bytes.fromhex(deployed["contracts"]["Settlement"]["address"][2:])
    rules = await Chain(rpc_url=site.url, contract=contract).read_rules()
    for name, value in deployed["parameters"].items():
        assert getattr(rules, name) == value
    assert rules.token == bytes.fromhex(site.token[2:])
    assert rules.jury == bytes.fromhex(deployed["contracts"]["Jury"]["address"][2:])
    wallet = json.loads((site.folder / "wallets/calldata-Jury.json").read_text())
    place = {"chainId": 31337, "address": deployed["contracts"]["Jury"]["address"]}
    assert wallet["context"]["contract"]["deployments"] == [place]


def test_a_second_look_passes_too(site: Site, deployed: dict[str, Any]) -> None:
    assert site.find_failed(deployed) == []


@pytest.mark.parametrize("name", ["Settlement", "Disputes", "Jury"])
def test_tampered_code_fails(site: Site, deployed: dict[str, Any], name: str) -> None:
    address = deployed["contracts"][name]["address"]
    code = site.rpc("eth_getCode", address, "latest")
    # The last byte of the code: no immutable, and no call of the checks runs it.
    changed = code[:-2] + f"{(int(code[-2:], 16) + 1) % 256:02x}"
    site.rpc("anvil_setCode", address, changed)
    try:
        failed = site.find_failed(deployed)
        done = site.run("--verify", str(site.folder / "deployment.json"))
    finally:
        site.rpc("anvil_setCode", address, code)
    assert len(failed) == 2, "the code and its hash"
    assert done.returncode == 1
    assert [line for line in done.stdout.splitlines() if line.startswith("FAIL")] == failed
    assert all(f"{name} " in line for line in failed)


def test_code_that_another_constructor_left_fails(site: Site, deployed: dict[str, Any]) -> None:
    """The same code can have other storage: what it was created from is what counts."""
    jury = deployed["contracts"]["Jury"]
    web3 = connect(site.url)
    original = web3.eth.get_transaction(jury["transaction"])["input"].to_0x_hex()
    # Other input, same code: here an argument too many, else a constructor that fills accounts.
    sent = web3.eth.send_transaction(
        {"from": web3.eth.accounts[0], "data": original + "00" * 32}  # type: ignore[typeddict-item]  # hex is fine
    )
    receipt = web3.eth.wait_for_transaction_receipt(sent, timeout=PATIENCE)
    claimed = json.loads(json.dumps(deployed))
    claimed["contracts"]["Jury"] |= {
        "address": receipt["contractAddress"],
        "transaction": receipt["transactionHash"].to_0x_hex(),
        "block": receipt["blockNumber"],
    }
    failed = site.find_failed(claimed)
    assert any("Jury was created by" in line and "other input" in line for line in failed)
    assert not any("it is other code" in line for line in failed)
    # And the settlement has another jury.
    assert any("Settlement.JURY" in line for line in failed)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"chain_id": 1}, "the node is 31337"),
        ({"token": "0x" + "11" * 20}, "Settlement.TOKEN"),
        ({"token_symbol": "DAI"}, "token DAI"),
        ({"parameters": {}}, "parameters do not fit"),
    ],
)
def test_a_file_that_claims_something_else_fails(
    site: Site, deployed: dict[str, Any], change: dict[str, Any], expected: str
) -> None:
    failed = site.find_failed({**deployed, **change})
    assert any(expected in line for line in failed), failed


@pytest.mark.parametrize("name", ["bond_slash", "exit_delay", "seed_delay_blocks"])
def test_a_false_parameter_fails(site: Site, deployed: dict[str, Any], name: str) -> None:
    parameters = {**deployed["parameters"], name: deployed["parameters"][name] + 1}
    failed = site.find_failed({**deployed, "parameters": parameters})
    assert any(line.startswith(f"FAIL {name} is") for line in failed)
    assert any("Settlement was created by" in line for line in failed)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("transaction", "0x" + "22" * 32, "the node does not know it"),
        ("block", 1, "it is in block"),
        ("address", "0x" + "33" * 20, "it is other code"),
        ("code_hash", "0x" + "44" * 32, "has code hash"),
    ],
)
def test_a_false_place_fails(
    site: Site, deployed: dict[str, Any], field: str, value: object, expected: str
) -> None:
    claimed = json.loads(json.dumps(deployed))
    claimed["contracts"]["Settlement"][field] = value
    failed = site.find_failed(claimed)
    assert any(expected in line for line in failed), failed


# ---- refusals before anything is spent -------------------------------------------------------


def test_nothing_is_spent_on_what_would_be_refused(
    site: Site, deployed: dict[str, Any], tmp_path: Path
) -> None:
    unsafe = tmp_path / "unsafe.toml"
    shipped = (ROOT / "docs/deployment.toml").read_text()
    unsafe.write_text(shipped.replace("exit_delay = 864_000", "exit_delay = 1"))
    out = str(tmp_path / "out.json")
    deployer = Web3.to_checksum_address(PrivateKey(SECRET).address)
    before = connect(site.url).eth.get_balance(deployer)
    # Returns 18 for whatever it is asked.
    dear_token = create(site.url, "0x600a600c600039600a6000f3601260005260206000f3")
    refusals = {
        "exit_delay is 1": site.deploy(out=out, parameters=str(unsafe)),
        "wrong network": site.deploy(out=out, chain_id="1"),
        "does not answer like": site.deploy(out=out, token="0x" + "55" * 20),
        "decimals": site.deploy(out=out, token=dear_token),
        "exists and is not overwritten": site.deploy(),
        "--token must be given": site.run(
            "--chain-id",
            "1",
            "--parameters",
            out,
            "--keystore",
            out,
            "--password-file",
            out,
            "--out",
            out,
        ),
        "nothing was sent": site.deploy(out=out, answer="n\n"),
        "No such file": site.deploy(out=str(tmp_path / "nowhere" / "out.json")),
    }
    for expected, done in refusals.items():
        assert done.returncode == 3, expected
        assert expected in done.stdout + done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    assert connect(site.url).eth.get_balance(deployer) == before
    assert not Path(out).exists()


def test_a_chain_without_randomness_is_refused(tmp_path: Path) -> None:
    with run_anvil(tmp_path, block_seconds=None) as url:
        done = open_site(url, tmp_path).deploy()
    assert done.returncode == 3
    assert "no randomness" in done.stderr


def test_a_file_or_node_that_is_not_there_is_told_so(tmp_path: Path) -> None:
    nowhere = Site("http://127.0.0.1:1", "", tmp_path)
    done = nowhere.run("--verify", str(tmp_path / "none.json"))
    assert done.returncode == 3
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_deployer_without_gas_is_told_so(site: Site, tmp_path: Path) -> None:
    write_keystore(
        tmp_path / "poor.json", make_secret("poor"), password="x", scrypt_n=SCRYPT_N_DEVNET
    )
    write_password(tmp_path / "password", "x")
    done = site.deploy(
        out=str(tmp_path / "out.json"),
        keystore=str(tmp_path / "poor.json"),
        password_file=str(tmp_path / "password"),
    )
    assert done.returncode == 3
    assert "GM-3012" in done.stderr
