"""`job accept` and `provider accept`: what is signed, by whom, and how it gets to a provider."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gpumarket.adapters.approvals import ApprovalFolder
from gpumarket.adapters.keys import SCRYPT_N_DEVNET, create_identity, write_keystore, write_password
from gpumarket.cli import main as cli_main
from gpumarket.client import Client
from gpumarket.client.accepting import Delivery, read_delivery
from gpumarket.client.connection import find_connection
from gpumarket.client.wallet import Account, Signer
from gpumarket.protocol.approvals import decode_approvals_untrusted
from gpumarket.protocol.codec import to_dag_json
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.ids import format_hex, make_job_id
from gpumarket.protocol.offer import DEVNET_CHAIN_ID
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import encode_proof, format_proof
from gpumarket.protocol.signing import Domain, Signed
from gpumarket.testing.factories import change, make_address, make_key, make_secret, sign
from gpumarket.testing.fake_coordinator import CONTRACT, FakeCoordinator, make_job
from gpumarket.testing.proofs import ProofMaker, make_settled_job
from provider_node.commands import provider
from tests.unit.test_cli import GOLDEN, normalize, run, run_json

DOMAIN = Domain(chain_id=DEVNET_CHAIN_ID, contract=CONTRACT)
MAKER = ProofMaker(domain=DOMAIN)
PAID, _ = make_settled_job(MAKER)
OPEN = change(PAID, settlements=())
"""Six tasks by one provider, three of them after a forger's were rejected; not settled."""
FIRST = change(OPEN, epochs=OPEN.epochs[:1])
JOB = make_job_id(OPEN.order.body.compute_struct_hash())


@pytest.fixture(name="fake")
def fake_fixture(fake: FakeCoordinator) -> FakeCoordinator:
    """A coordinator that has the job and its proof."""
    order = OPEN.order.body
    fake.jobs[JOB] = make_job(JOB, spec=MAKER.spec, order=order, state="settling")
    fake.proof = encode_proof(FIRST)
    return fake


@pytest.fixture(name="wallet")
def wallet_fixture(devnet: Path) -> tuple[str, ...]:
    """Flags that name the requester's account."""
    path, password = devnet / "requester.json", devnet / "password"
    write_keystore(path, make_secret("requester"), password="pw", scrypt_n=SCRYPT_N_DEVNET)
    write_password(password, "pw")
    return ("--account", "requester", "--keystore", str(path), "--password-file", str(password))


def sign_as(name: str) -> Signer:
    account = Account(name, make_address(name), Path("key.json"))
    return Signer(account, make_key(name), make_secret(name))


def check_golden(name: str, code: int, envelope: dict[str, Any]) -> None:
    found = normalize(json.dumps({"exit": code, **envelope}, indent=1, ensure_ascii=False)) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GPUMARKET_WRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), "set GPUMARKET_WRITE_GOLDEN=1 if this change is meant"


# ---- what can be accepted ------------------------------------------------------------------


def list_tasks(delivery: Delivery) -> list[int]:
    return [task.task for task in delivery.tasks]


def test_what_was_opened_and_not_rejected_can_be_accepted() -> None:
    delivery = read_delivery(OPEN)
    assert list_tasks(delivery) == [0, 1, 2, 3, 4, 5]
    assert {task.receipt.signer for task in delivery.tasks} == {make_address("provider-1")}
    assert delivery.amount == 6_000
    assert delivery.left_out == ()
    first = read_delivery(FIRST)
    assert list_tasks(first) == [0, 2, 4]
    assert [each.task for each in first.left_out] == [1, 3, 5]


def test_what_a_batch_has_paid_is_left_out() -> None:
    delivery = read_delivery(PAID)
    assert delivery.tasks == ()
    assert {each.why for each in delivery.left_out} == {"batch 0 has paid it"}


def test_an_order_that_its_requester_has_not_signed_here_is_no_order() -> None:
    for spoiled in (
        change(OPEN, domain=change(DOMAIN, chain_id=1)),
        change(OPEN, order=sign(OPEN.order.body, "bob", domain=DOMAIN)),
    ):
        with pytest.raises(RemoteProtocolError):
            read_delivery(spoiled)


def spoil_openings(proof: ProofOfExecution, **changes: Any) -> ProofOfExecution:
    """Replace every opening of the first epoch by one with another content, signed as before."""

    def spoil(opening: Signed[Any]) -> Signed[Any]:
        result = change(opening.body.result, **changes)
        return sign(change(opening.body, result=result), "provider-1", domain=DOMAIN)

    epoch = proof.epochs[0]
    checks = tuple(change(check, opening=spoil(check.opening)) for check in epoch.checks)
    openings = tuple(spoil(opening) for opening in epoch.openings)
    return change(proof, epochs=(change(epoch, checks=checks, openings=openings),))


@pytest.mark.parametrize("changes", [{"output_bytes": 7}, {"unit": 9}])
def test_a_result_that_its_receipt_does_not_hide_is_not_accepted(changes: dict[str, int]) -> None:
    assert read_delivery(spoil_openings(FIRST, **changes)).tasks == ()


def test_a_receipt_that_its_provider_has_not_signed_is_not_accepted() -> None:
    epoch = FIRST.epochs[0]
    work = tuple(
        change(each, receipts=tuple(change(r, signature=bytes(65)) for r in each.receipts))
        for each in epoch.document.work
    )
    document = change(epoch.document, work=work)
    assert read_delivery(change(FIRST, epochs=(change(epoch, document=document),))).tasks == ()


def test_what_a_verifier_found_wrong_is_not_accepted_though_nobody_rejects_it() -> None:
    epoch = change(FIRST.epochs[0], rejected_receipts=())
    found = {task.receipt_hash for task in read_delivery(change(FIRST, epochs=(epoch,))).tasks}
    wrong = {
        c.attestation.body.receipt_hash for c in epoch.checks if c.attestation.body.verdict == 2
    }
    assert wrong
    assert not found & wrong


def test_only_results_that_are_here_are_accepted(tmp_path: Path) -> None:
    delivery = read_delivery(FIRST)
    record = {"0": delivery.tasks[0].output, "2": "another", "4": delivery.tasks[2].output}
    (tmp_path / "outputs.json").write_text(json.dumps(record))
    (tmp_path / "task-00000").mkdir()
    kept = delivery.keep_present(tmp_path)
    assert list_tasks(kept) == [0]
    assert [each.task for each in kept.left_out] == [1, 2, 3, 4, 5]


# ---- the SDK -------------------------------------------------------------------------------


def test_the_sdk_accepts_in_one_call(fake: FakeCoordinator, tmp_path: Path) -> None:
    connection = find_connection({"url": fake.url}, env={}, folder=tmp_path)
    fake.absent = [format_hex(make_address("provider-1"))]
    with Client(connection=connection) as client:
        answer = client.accept(JOB, sign_as("requester"))
        assert answer == {"id": JOB, "taken": 3, "absent": fake.absent}
        names = [each.body.receipt_hash for each in fake.acceptances]
        assert names == [task.receipt_hash for task in client.delivery(JOB).tasks]
        with pytest.raises(InvalidInput) as caught:
            client.accept(JOB, sign_as("bob"))
    assert caught.value.code == "GM-1204"
    assert len(fake.acceptances) == 3


# ---- the requester's command ---------------------------------------------------------------


def test_the_json_of_accepting_is_what_it_was(
    fake: FakeCoordinator, wallet: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, envelope = run_json(capsys, "job", "accept", JOB, "--yes", *wallet)
    check_golden("job-accept", code, envelope)
    assert len(fake.acceptances) == 3


def test_what_signing_means_is_said_before_the_question_and_no_is_the_default(
    fake: FakeCoordinator, wallet: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "job", "accept", JOB, *wallet)
    assert (code, out) == (2, "")
    assert "3 tasks of 6, 0.003 USDC to 1 provider" in err
    assert "its provider may take its price from your escrow itself" in err
    assert "left out: task 1, the proof shows no accepted result" in err
    assert "error[GM-1003]" in err
    assert fake.acceptances == []


def test_without_a_coordinator_a_proof_becomes_a_file_for_the_providers(
    fake: FakeCoordinator,
    wallet: tuple[str, ...],
    devnet: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proof, out = devnet / "proof.cbor", devnet / "accepted.json"
    proof.write_bytes(encode_proof(OPEN))
    away = ("--url", "http://127.0.0.1:9", *wallet)
    code, _, err = run(capsys, "job", "accept", JOB, "--yes", "--out", str(out), *away)
    assert (code, out.exists()) == (8, False), err
    code, envelope = run_json(
        capsys, "job", "accept", "--proof", str(proof), "--out", str(out), "--yes", *away
    )
    check_golden("job-accept-out", code, envelope)
    said = decode_approvals_untrusted(out.read_bytes().strip())
    assert len(said.approvals) == 6
    assert fake.acceptances == []


@pytest.mark.parametrize(
    ("change_argv", "code", "exit_code"),
    [
        (("--account", "alice"), "GM-1204", 4),
        (("--contract", "0x" + "12" * 20), "GM-3020", 9),
        (("--chain-id", "1"), "GM-3020", 9),
        (("--results", "empty"), "GM-5003", 9),
        (("--proof", "empty"), "GM-1001", 2),
        (("--proof", "nowhere"), "GM-1301", 3),
        (("--proof", "noise"), "GM-7001", 10),
        (("--proof", "paid"), "GM-5003", 9),
    ],
)
def test_what_cannot_be_accepted_is_refused_and_nothing_is_signed(
    fake: FakeCoordinator,
    wallet: tuple[str, ...],
    devnet: Path,
    capsys: pytest.CaptureFixture[str],
    change_argv: tuple[str, str],
    code: str,
    exit_code: int,
) -> None:
    (devnet / "empty").mkdir()
    (devnet / "noise").write_bytes(b"noise")
    (devnet / "paid").write_bytes(encode_proof(PAID))
    (devnet / "proof").write_text(format_proof(OPEN))
    argv = ("job", "accept", JOB, "--proof", "proof", "--yes", *wallet, *change_argv)
    ended, envelope = run_json(capsys, *argv)
    assert (ended, envelope["errors"][0]["code"]) == (exit_code, code)
    assert fake.acceptances == []


def test_a_proof_of_another_job_is_noticed_and_a_job_or_a_proof_is_needed(
    fake: FakeCoordinator,
    wallet: tuple[str, ...],
    devnet: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (devnet / "proof").write_bytes(encode_proof(OPEN))
    argv = ("job", "accept", "gm-aaaaaaaaaa", "--proof", "proof", "--yes", *wallet)
    assert run_json(capsys, *argv)[1]["errors"][0]["code"] == "GM-5001"
    assert run_json(capsys, "job", "accept", "--yes", *wallet)[0] == 2


# ---- the provider's command ----------------------------------------------------------------


@pytest.fixture(name="node")
def node_fixture(tmp_path: Path) -> Path:
    """The configuration of a node that does not run."""
    data_dir = tmp_path / "keys0" / "node"
    data_dir.parent.mkdir()
    create_identity(
        data_dir, password="pw", secret=make_secret("provider-1"), scrypt_n=SCRYPT_N_DEVNET
    )
    path = tmp_path / "node.toml"
    path.write_text(f"""\
[role]
data_dir = "{data_dir}"
password_file = "none"
rpc_url = "http://127.0.0.1:9"
chain_id = {DEVNET_CHAIN_ID}
contract = "{format_hex(CONTRACT)}"

[provider]
price_per_device_hour = "0.20 USDC"
region = "NO"
""")
    return path


@pytest.fixture(name="accepted")
def accepted_fixture(
    fake: FakeCoordinator,
    wallet: tuple[str, ...],
    devnet: Path,
    capsys: pytest.CaptureFixture[str],
) -> Path:
    """The file that the requester wrote."""
    path = devnet / "accepted.json"
    assert run(capsys, "job", "accept", JOB, "--out", str(path), "--yes", *wallet)[0] == 0
    return path


def test_a_node_keeps_what_is_its_own_of_a_file(node: Path, accepted: Path) -> None:
    argv = ["accept", str(accepted), "--config", str(node), "--json"]
    done = CliRunner().invoke(provider, argv, standalone_mode=False)
    check_golden("provider-accept", done.return_value, json.loads(done.stdout))
    folder = ApprovalFolder(node.parent / "keys0" / "node", domain=DOMAIN)
    for task in read_delivery(FIRST).tasks:
        found = folder.find(task.receipt_hash, FIRST.order.body)
        assert found is not None
        assert found.acceptance is not None
    again = CliRunner().invoke(provider, argv, standalone_mode=False)
    data = json.loads(again.stdout)["data"]
    assert (data["kept"], data["known"]) == (0, 3)


def test_a_file_that_is_none_or_somebody_elses_is_refused(
    node: Path, accepted: Path, tmp_path: Path
) -> None:
    said = decode_approvals_untrusted(accepted.read_bytes().strip())
    forged = change(said.approvals[0].acceptance, signature=bytes(65))
    spoiled = (
        b"noise",
        to_dag_json(change(said, approvals=())).encode(),
        to_dag_json(
            change(said, approvals=(change(said.approvals[0], acceptance=forged),))
        ).encode(),
    )
    for content in (None, *spoiled):
        path = tmp_path / "file.json"
        if content is not None:
            path.write_bytes(content)
        argv = ["accept", str(path), "--config", str(node), "--json"]
        done = CliRunner().invoke(provider, argv, standalone_mode=False)
        assert done.return_value == 3
        assert json.loads(done.stdout)["errors"][0]["code"] == "GM-1304"
    assert not (node.parent / "keys0" / "node" / "approvals").exists()


def test_the_provider_command_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_main.run(["provider", "accept", "--help"]) == 0
    assert "acceptances" in capsys.readouterr().out
