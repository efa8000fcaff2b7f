"""`gpumarket audit`: every outcome has its exit code and its lines."""

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters import chain as chain_adapter
from gpumarket.adapters import rerunning
from gpumarket.adapters.chain import ChainFact, Rules
from gpumarket.cli import main as cli_main
from gpumarket.cli.audit import DEEP_LIMIT
from gpumarket.protocol.audit import CHECKS, NOT_CHECKED
from gpumarket.protocol.cids import Codec, ContentId, format_cid
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.evidence import AuditVerdict, Check
from gpumarket.protocol.ids import Address, format_hex
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof, format_proof
from gpumarket.testing import factories
from gpumarket.testing.factories import change, make_address
from gpumarket.testing.fake_coordinator import FakeCoordinator
from gpumarket.testing.proofs import SEED_DELAY, ProofMaker, make_header, make_settled_job
from gpumarket.testing.stored_outputs import VALUES, plan_job

RPC = "http://127.0.0.1:1/"
LIAR = "http://127.0.0.1:2/"
PROOF, FACTS = make_settled_job()
BATCH_TX = next(fact.tx_hash for fact in FACTS if fact.name == "BatchPosted")
FLAGS = ("--chain-id", "31337", "--contract", format_hex(factories.DOMAIN.contract))


class FakeChain:
    """The events of one settled job, as any endpoint but the liar's tells them."""

    head_block = 40

    def __init__(self, *, rpc_url: str, contract: Address, secret: bytes | None = None) -> None:
        self.is_liar = rpc_url == LIAR

    async def check_network(self, expected_chain_id: int) -> None:
        if expected_chain_id != factories.DOMAIN.chain_id:
            raise InvalidInput("wrong network", code="GM-3020")

    async def head(self) -> tuple[int, int]:
        return self.head_block, factories.NOW

    async def read_rules(self) -> Rules:
        values = {field.name: 1 for field in fields(Rules)} | {"seed_delay_blocks": SEED_DELAY}
        return Rules(**values)  # type: ignore[arg-type]  # an audit looks at the delay only

    async def read_header(self, number: int) -> bytes:
        return make_header(number)

    async def read_facts(self, from_block: int, to_block: int) -> list[ChainFact]:
        facts = FACTS[:-1] if self.is_liar else FACTS
        return [
            ChainFact(each.name, each.args, each.block, each.log_index, each.tx_hash)
            for each in facts
            if from_block <= each.block <= to_block
        ]


@pytest.fixture(autouse=True)
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(chain_adapter, "Chain", FakeChain)
    monkeypatch.chdir(tmp_path)


def save(path: Path, proof: ProofOfExecution) -> str:
    path.write_bytes(encode_proof(proof))
    return str(path)


@pytest.fixture
def proof_file(tmp_path: Path) -> str:
    return save(tmp_path / "proof.cbor", PROOF)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli_main.run(("audit", *argv))
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    code, out, _ = run(capsys, *argv, "--json")
    return code, json.loads(out)


def test_an_honest_proof_passes_with_every_line_numbered(capsys, proof_file):
    code, out, err = run(capsys, "verify", proof_file, "--rpc", RPC, *FLAGS)
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0].startswith(" 1 PASS  order signed by 0x")
    for number in range(1, len(CHECKS) + 1):
        assert lines[number - 1].startswith(f"{number:2d} PASS  ")
    for number, text in enumerate(NOT_CHECKED, start=len(CHECKS)):
        assert lines[number] == f"{number + 1:2d} ----  not checked: {text}"
    assert f"PASS  {len(CHECKS)} checks, 4 groups not checked" in lines
    assert lines[-1].startswith(f"trust used: 1 RPC endpoint ({RPC}), chain 31337, contract 0xc0c0")
    assert "head block 40 0x" in lines[-1]
    assert lines[-1].endswith("nothing from the coordinator was believed")


def test_the_balances_stand_before_and_after_and_their_sums_agree(capsys, proof_file):
    _, out, _ = run(capsys, "verify", proof_file, "--rpc", RPC, *FLAGS)
    rows = [line.split() for line in out.splitlines() if " escrow " in line or " credit " in line]
    shown = {row[0]: row[3:] for row in rows if len(row) == 6}
    assert shown == {
        "requester": ["50.00", "49.389", "-0.611"],
        "provider": ["0.00", "0.006", "+0.006"],
        "verifier": ["0.00", "0.60", "+0.60"],
        "coordinator": ["0.00", "0.005", "+0.005"],
    }
    (total,) = [line.split() for line in out.splitlines() if line.startswith("sum ")]
    assert total[1:] == ["50.00", "50.00", "0.00"]


def test_the_json_form_has_the_same_lines(capsys, proof_file):
    code, document = run_json(capsys, "verify", proof_file, "--rpc", RPC, *FLAGS)
    data = document["data"]
    assert (code, document["schema"], document["ok"]) == (0, "gpumarket.audit.verify/1", True)
    assert [check["name"] for check in data["checks"]] == list(CHECKS)
    assert data["trust"]["rpc"] == [RPC]
    assert data["trust"]["head"] == 40
    assert sum(int(each["before"]["base"]) for each in data["balances"]) == 50_000_000


def test_the_json_form_of_a_proof_is_read_as_well(capsys, tmp_path):
    path = tmp_path / "proof.json"
    path.write_text("\n " + format_proof(PROOF))
    assert run(capsys, "verify", str(path), "--rpc", RPC, *FLAGS)[0] == 0


def test_a_lie_exits_with_10_and_names_its_line(capsys, tmp_path):
    settlement = PROOF.settlements[0]
    lied = change(settlement, batch=change(settlement.batch, lanes=settlement.batch.lanes[:1]))
    path = save(tmp_path / "lie", change(PROOF, settlements=(lied,)))
    code, out, _ = run(capsys, "verify", path, "--rpc", RPC, *FLAGS)
    assert code == 10
    assert "12 FAIL  the batch on chain has other lanes" in out
    assert "checks found a contradiction" in out


def test_a_proof_whose_chain_is_too_short_exits_with_11(capsys, proof_file, monkeypatch):
    monkeypatch.setattr(FakeChain, "head_block", 15)
    code, out, _ = run(capsys, "verify", proof_file, "--rpc", RPC, *FLAGS)
    assert code == 11
    assert " 3 ----  commitment 1 is not among the chain's events read here" in out
    assert "INCOMPLETE" in out


def test_what_is_allowed_without_proof_exits_with_11_when_strict(capsys, tmp_path, monkeypatch):
    proof, facts = make_settled_job(ProofMaker(verifiers=("verifier-1", "verifier-2")))
    monkeypatch.setitem(globals(), "FACTS", facts)
    path = save(tmp_path / "proof", proof)
    code, out, _ = run(capsys, "verify", path, "--rpc", RPC, *FLAGS)
    assert code == 0
    assert "         note: " in out
    assert run(capsys, "verify", path, "--rpc", RPC, *FLAGS, "--strict")[0] == 11


def test_two_endpoints_that_disagree_prove_nothing(capsys, proof_file):
    assert run(capsys, "verify", proof_file, "--rpc", RPC, "--rpc", RPC, *FLAGS)[0] == 0
    code, _, err = run(capsys, "verify", proof_file, "--rpc", RPC, "--rpc", LIAR, *FLAGS)
    assert code == 11
    assert "tell different stories" in err


def test_events_that_begin_too_late_prove_nothing(capsys, proof_file):
    code, _, err = run(capsys, "verify", proof_file, "--rpc", RPC, "--from-block", "4", *FLAGS)
    assert code == 11
    assert "falls below zero" in err


def test_another_chain_or_contract_than_the_trusted_one_is_refused(capsys, proof_file):
    other = ("--chain-id", "31337", "--contract", "0x" + "11" * 20)
    assert run(capsys, "verify", proof_file, "--rpc", RPC, *other)[0] == 10
    code, _, err = run(
        capsys, "verify", proof_file, "--rpc", RPC, "--chain-id", "1", "--contract", other[3]
    )
    assert code != 0
    assert "GM-3020" in err


def test_a_contract_that_only_the_proof_names_is_said(capsys, proof_file):
    code, _, err = run(capsys, "verify", proof_file, "--rpc", RPC)
    assert code == 0
    assert "is the one that the proof names" in err


def test_the_proof_of_a_job_is_fetched_and_not_believed(
    capsys, fake: FakeCoordinator, devnet: Path
):
    fake.proof = encode_proof(PROOF)
    fake.jobs["gm-7f3kq2x4ab"] = {"id": "gm-7f3kq2x4ab"}
    code, _, err = run(capsys, "verify", "gm-7f3kq2x4ab", "--rpc", RPC, *FLAGS)
    assert code == 0
    assert f"proof of gm-7f3kq2x4ab from {fake.url}; nothing in it is believed" in err


def test_outputs_in_a_folder_are_compared_again(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "outputs"
    proof, facts = make_settled_job(plan_job(folder))
    monkeypatch.setitem(globals(), "FACTS", facts)
    argv = ("verify", save(tmp_path / "proof", proof), "--rpc", RPC, *FLAGS, "--deep", str(folder))
    number = len(CHECKS) + 1
    assert run(capsys, *argv[:-2], "--strict")[0] == 11  # matches of other bytes, and no outputs
    code, out, _ = run(capsys, *argv, "--strict")
    assert code == 0
    assert f"{number} PASS  " in out
    assert "verdicts on this job compared again by its rule json" in out
    assert f"not checked: {DEEP_LIMIT}" in out
    assert NOT_CHECKED[0] not in out
    output = proof.epochs[0].checks[0].opening.body.result.output
    (folder / output).rename(folder / "elsewhere")
    code, out, err = run(capsys, *argv)
    assert (code, err) == (0, f"not in {folder}: {output}\n")
    assert "not decided, such as task" in out
    assert run(capsys, *argv, "--strict")[0] == 11


def test_a_verdict_that_the_outputs_contradict_exits_with_10(capsys, tmp_path, monkeypatch):
    folder = tmp_path / "outputs"
    proof, facts = make_settled_job(
        plan_job(folder, values={**VALUES, "provider-1": 1.5}, close=0.7)
    )
    monkeypatch.setitem(globals(), "FACTS", facts)
    path = save(tmp_path / "proof", proof)
    assert run(capsys, "verify", path, "--rpc", RPC, *FLAGS)[0] == 0
    code, document = run_json(capsys, "verify", path, "--rpc", RPC, *FLAGS, "--deep", str(folder))
    assert code == 10
    last = document["data"]["checks"][-1]
    assert (last["name"], last["verdict"]) == ("comparisons", "FAIL")


def test_a_program_that_the_order_does_not_sign_is_not_run(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(rerunning, "rerun_units", None)
    lied = change(PROOF, job=change(PROOF.job, command=("other",)))
    path = save(tmp_path / "lie", lied)
    argv = ("verify", path, "--rpc", RPC, *FLAGS, "--deep", str(tmp_path), "--reexec")
    code, out, _ = run(capsys, *argv)
    assert code == 10
    assert "nothing was run again" in out


def test_runs_need_a_folder_and_a_number_needs_runs(capsys, proof_file, tmp_path):
    assert run(capsys, "verify", proof_file, "--rpc", RPC, "--reexec")[0] == 2
    argv = ("verify", proof_file, "--rpc", RPC, "--deep", str(tmp_path), "--units", "2")
    assert run(capsys, *argv)[0] == 2
    assert run(capsys, *argv[:-2], "--all-segments")[0] == 2
    assert run(capsys, *argv[:-2], "--deep", str(tmp_path / "nowhere"))[0] == 3


@pytest.mark.parametrize("flags", [(), ("--all-segments",)])
def test_all_segments_are_run_where_they_are_asked_for(
    capsys, proof_file, tmp_path, monkeypatch, flags
):
    asked: dict[str, Any] = {}

    def rerun(_proof: Any, _folder: Any, **how: Any) -> Check:
        asked.update(how)
        return Check("re-execution", AuditVerdict.PASS, "done")

    monkeypatch.setattr(rerunning, "rerun_units", rerun)
    argv = ("verify", proof_file, "--rpc", RPC, *FLAGS, "--deep", str(tmp_path), "--reexec")
    assert run(capsys, *argv, "--units", "3", *flags)[0] == 0
    assert asked == {"count": 3, "is_whole": bool(flags)}


@pytest.mark.parametrize("data", [b"", b"\xa0", b"{}", b'{"a": ', b"\xff" * 40, b"{" * 9_000])
def test_bytes_that_are_no_proof_are_refused(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        decode_proof_untrusted(data)
    assert caught.value.code == "GM-7001"


def test_a_file_that_is_no_proof_exits_with_10_and_a_missing_one_with_3(capsys, tmp_path):
    (tmp_path / "noise").write_bytes(b"\x00" * 100)
    assert run(capsys, "verify", "noise", "--rpc", RPC)[0] == 10
    assert run(capsys, "verify", "missing.cbor", "--rpc", RPC)[0] == 3


# ---- show ----------------------------------------------------------------------------------


def show(capsys: pytest.CaptureFixture[str], name: str) -> tuple[int, Sequence[str], Any]:
    code, document = run_json(
        capsys, "show", name, "--rpc", RPC, *FLAGS, "--url", "http://127.0.0.1:1"
    )
    chain = document["data"]["chain"]
    return code, [event["event"] for event in chain["events"]], chain["balances"]


def test_an_address_is_shown_with_its_balances_and_events(capsys):
    code, events, balances = show(capsys, format_hex(make_address("requester")))
    assert code == 0
    assert events == ["Deposited", "WithdrawRequested", "Withdrawn", "BatchPosted"]
    assert balances == {
        "escrow": {"amount": "49.389000", "token": "USDC", "base": "49389000", "decimals": 6}
    }


def test_a_transaction_a_document_and_a_sequence_number_are_found(capsys):
    assert show(capsys, format_hex(BATCH_TX))[1] == ["BatchPosted"]
    document = ContentId(Codec.DAG_CBOR, compute_content_hash(PROOF.epochs[0].document))
    assert show(capsys, format_cid(document))[1] == ["Committed"]
    assert show(capsys, "1")[1] == ["Committed", "SeedFixed"]


def test_an_unknown_thing_is_not_found(capsys):
    code, out, _ = run(capsys, "show", "0x" + "77" * 32, "--rpc", RPC, *FLAGS)
    assert code == 5
    assert "on chain: 0 events" in out
    nobody = ("--url", "http://127.0.0.1:1")
    code, out, _ = run(capsys, "show", "0x" + "77" * 20, "--rpc", RPC, *FLAGS, *nobody)
    assert code == 5
    assert "no answer" in out


def test_what_the_coordinator_says_of_a_job_is_marked_as_its_word(
    capsys, fake: FakeCoordinator, devnet: Path
):
    batch = {"tx": format_hex(BATCH_TX), "seq": 0, "block": 30}
    fake.jobs["gm-7f3kq2x4ab"] = {"id": "gm-7f3kq2x4ab", "state": "settled", "batch": batch}
    code, out, _ = run(capsys, "show", "gm-7f3kq2x4ab", "--rpc", RPC, *FLAGS)
    assert code == 0
    assert "block 30  BatchPosted" in out
    assert "the coordinator says, unchecked (job):" in out
