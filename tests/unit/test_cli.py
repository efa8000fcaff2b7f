"""The command line: one envelope, stable exits, hints that run, and a quick start."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from gpumarket.cli import main as cli_main
from gpumarket.cli.job_view import find_job_exit, format_progress
from gpumarket.cli.output import format_error, show_amount
from gpumarket.client.connection import KEYS
from gpumarket.client.packing import iterate_car, pack
from gpumarket.protocol.car import decode_car_untrusted
from gpumarket.protocol.catalog import CATALOG
from gpumarket.protocol.errors import InvalidInput
from gpumarket.testing.fake_coordinator import FakeCoordinator, make_amount

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXTS_CID = "bafkreiccazg2kgflmpm7x5mu4opwcr7oikowyfrxwccvwseu66tnndjn6e"
"""Of the texts.txt that `job_path` writes."""
OFFER = {
    "provider": "0x70997970c51812dc3a010c7d01b50e0d17dc79c8",
    "online": True,
    "devices": [
        {"vendor": "nvidia", "model": "RTX4090", "vram_bytes": 24 * 10**9, "simulated": True}
    ],
    "slots": 2,
    "free_slots": 1,
    "region": "SE",
    "isolation": "runc",
    "price_per_device_hour": make_amount(440_000),
    "reputation": 0.5,
}
VERIFIER = {
    "verifier": "0x3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
    "online": True,
    "slots": 1,
    "price_per_check": make_amount(200),
    "stake": make_amount(400_000_000),
    "found_canaries": 2,
    "missed_canaries": 1,
    "barred_until": "2026-01-09T03:04:05Z",
}
EVENTS: list[dict[str, Any]] = [
    {"type": "submitted", "text": "signed and accepted"},
    {"type": "task.leased", "text": "leased", "task": 0},
    {
        "type": "task.retried",
        "text": "provider lost",
        "task": 0,
        "fault": "provider",
        "actor": OFFER["provider"],
    },
    {"type": "committed", "text": "results committed in block 12, before the seed"},
    {"type": "settled", "text": "settled in batch 1"},
]


@pytest.fixture
def market(fake: FakeCoordinator, devnet: Path, job_path: Path, tmp_path: Path) -> FakeCoordinator:
    """A devnet with an offer, events and one output."""
    fake.offers, fake.verifiers = [OFFER], [VERIFIER]
    fake.events = [
        {"id": number, "time": f"2026-01-02T03:04:{number:02}Z", **event}
        for number, event in enumerate(EVENTS, start=1)
    ]
    made = tmp_path / "made"
    made.mkdir()
    (made / "out.txt").write_text("done\n")
    packed = pack(made)
    for block in decode_car_untrusted(iterate_car(packed), bytes_max=10**6):
        fake.blocks[block.cid.digest] = block
    fake.outputs = [
        {"task": 0, "cid": packed.cid, "bytes": 5, "provider": "0x00", "verified": True}
    ]
    return fake


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = cli_main.run(argv)
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any]]:
    code, out, _ = run(capsys, *argv, "--json")
    return code, json.loads(out)


def submit(capsys: pytest.CaptureFixture[str], job_path: Path) -> str:
    code, out, err = run(capsys, "run", str(job_path), "-y", "--id-only")
    assert code == 0, err
    return out.strip()


# ---- golden envelopes ----------------------------------------------------------------------

COMMANDS: dict[str, tuple[str, ...]] = {
    "completion": ("completion", "bash"),
    "config-show": ("config", "show", "--origin"),
    "data-add": ("data", "add", "{folder}/texts.txt"),
    "data-stat": ("data", "stat", TEXTS_CID),
    "doctor": ("doctor",),
    "explain": ("explain", "GM-4021"),
    "job-cancel": ("job", "cancel", "{job}", "-y"),
    "job-cost": ("job", "cost", "{job}"),
    "job-describe": ("job", "describe", "{job}"),
    "job-events": ("job", "events", "{job}"),
    "job-get": ("job", "get", "{job}"),
    "job-init": ("job", "init", "-o", "new.yaml"),
    "job-list": ("job", "list"),
    "job-logs": ("job", "logs", "{job}"),
    "job-plan": ("job", "plan", "{folder}/job.yaml"),
    "job-receipt": ("job", "receipt", "{job}"),
    "job-run": ("job", "run", "{folder}/job.yaml", "-y"),
    "job-run-dry": ("job", "run", "{folder}/job.yaml", "--dry-run"),
    "job-run-follow": ("job", "run", "{folder}/job.yaml", "--follow", "-y"),
    "job-tasks": ("job", "tasks", "{job}"),
    "job-validate": ("job", "validate", "{folder}/job.yaml"),
    "job-wait": ("job", "wait", "{job}"),
    "job-why": ("job", "why", "{job}"),
    "market-offers": ("market", "offers"),
    "market-verifiers": ("market", "verifiers"),
    "ps": ("ps",),
    "version": ("version",),
    "wallet-address": ("wallet", "address"),
    "wallet-list": ("wallet", "list"),
}
_VARYING = (
    (r"gm-[a-z2-7]{10}", "gm-JOB"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"/[^\s\"]*/(?=(job|work|keys\d*)/|\.gpumarket|XDG)", "/TMP/"),
    (r"disk of .*? free", "disk of FOLDER: SIZE free"),
    (r"Python \d+\.\d+\.\d+|\"python\": \"[^\"]*\"", "PYTHON"),
    (r"keys\d*/", "keys/"),
    (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),  # a layer holds file modes, which umask decides
    (r"(?<=\"archive\": \")baf\w+", "CID"),
    (r"(?<=\"job_hash\": \")0x[0-9a-f]{64}", "HASH"),
    (r"the clocks are \d+ s apart", "the clocks are N s apart"),
    (r"(?<=\"nonce\": \")0x[0-9a-f]{64}|(?<=\"order_hash\": \")0x[0-9a-f]{64}", "HASH"),
    (r"(?<=\"receipt\": \")0x[0-9a-f]{64}", "HASH"),
    (r"(?<=\"(expiry)\": )\d+|(?<=\"(settle_by)\": )\d+", "0"),
)


def normalize(text: str) -> str:
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_json_of_a_command_is_what_it_was(
    name: str, market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_job = "{job}" in COMMANDS[name]
    job = submit(capsys, job_path) if needs_job or name == "job-list" else ""
    if name == "data-stat":
        cli_main.run(["data", "add", str(job_path.parent / "texts.txt")])
        capsys.readouterr()
    argv = [part.format(job=job, folder=job_path.parent) for part in COMMANDS[name]]
    code, envelope = run_json(capsys, *argv)
    assert list(envelope) == ["schema", "ok", "data", "warnings", "errors"]
    assert re.fullmatch(r"gpumarket\.[a-z.]+/\d+", envelope["schema"])
    found = normalize(json.dumps({"exit": code, **envelope}, indent=1, ensure_ascii=False)) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("GPUMARKET_WRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), "set GPUMARKET_WRITE_GOLDEN=1 if this change is meant"


def test_every_command_of_the_client_has_a_golden_file_or_a_reason() -> None:
    elsewhere = {
        "audit", "devnet", "coordinator", "provider", "verifier",  # other files' commands
        "schema",  # the schema file itself
        "run", "logs", "stop", "offers",  # aliases
        "wallet new", "wallet import",  # make keys; tested below
        "wallet balance", "wallet deposit", "wallet withdraw", "wallet faucet",  # need a chain
        "wallet watch",  # tests/e2e/test_challenges.py
        "job accept",  # test_cli_accept.py
    }  # fmt: skip
    context = click.Context(cli_main.cli)
    found = set()
    for name in cli_main.cli.list_commands(context):
        if name in elsewhere:
            continue
        command = cli_main.cli.get_command(context, name)
        children = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {child}" for child in children} or {name}
    covered = {name.replace("-", " ") for name in COMMANDS} | elsewhere
    assert found <= covered


# ---- streams, money, exits -----------------------------------------------------------------


def test_the_result_is_on_stdout_and_everything_else_on_stderr(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "run", str(job_path), "-y", "--id-only")
    assert code == 0
    assert re.fullmatch(r"gm-[a-z2-7]{10}\n", out)
    assert "TEST KEY" in err
    assert "privacy" in err
    assert "at most 0.05 USDC" in err
    code, out, err = run(capsys, "run", str(job_path), "-y", "--id-only", "-q")
    assert (code, err.count("\n")) == (0, 1), "quiet leaves the warning about the key"


def test_following_shows_what_matters_the_money_and_where_things_are(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "run", str(job_path), "--follow", "-y")
    assert code == 0
    assert "committed in block 12, before the seed" in err
    assert "provider lost" in err
    assert "fault: provider" in err
    assert "leased" not in err, "what comes once a task is no news"
    assert re.search(r"3/3 tasks ok, 0 retries, 0 failed   1 provider   spent 0\.003 of", err)
    folder = next(Path("results").iterdir())
    assert (folder / "task-00000/out.txt").read_text() == "done\n"
    assert (folder / "proof.cbor").read_bytes() == market.proof
    assert f"gpumarket audit verify {folder}/proof.cbor" in out


def test_ctrl_c_detaches_and_says_how_to_come_back(
    market: FakeCoordinator,
    job_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gpumarket.client import Client

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "events", interrupt)
    code, _, err = run(capsys, "run", str(job_path), "--follow", "-y")
    assert code == 130
    assert re.search(r"back: gpumarket job events gm-\w+ -f", err)
    assert re.search(r"stop: gpumarket stop gm-\w+", err)
    assert "cancelled" not in {job["state"] for job in market.jobs.values()}


def test_nothing_is_signed_where_nobody_can_be_asked(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "run", str(job_path))
    assert code == 2
    assert "error[GM-1003]" in err
    assert " -y" in err
    assert market.orders == []


def test_a_dry_run_shows_the_order_and_sends_nothing(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, envelope = run_json(capsys, "run", str(job_path), "--dry-run")
    assert code == 0
    assert envelope["data"]["order"]["primaryType"] == "Order"
    assert market.orders == []


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("GM-3011", 6), ("GM-4021", 7), ("GM-6012", 5), ("GM-1201", 9), ("GM-6013", 3)],
)
def test_a_refusal_ends_with_the_exit_of_its_code_and_the_error_form(
    market: FakeCoordinator,
    job_path: Path,
    capsys: pytest.CaptureFixture[str],
    code: str,
    exit_code: int,
) -> None:
    market.refuse["/v1/jobs"] = {
        "status": CATALOG[code].http_status,
        "code": code,
        "detail": "what happened",
        "why": "the numbers",
        "money": "nothing was charged",
    }
    ended, out, err = run(capsys, "run", str(job_path), "-y")
    assert ended == exit_code
    assert out == ""
    lines = err.splitlines()
    assert f"error[{code}]: what happened" in lines
    assert "  why    the numbers" in lines
    assert "  money  nothing was charged" in lines
    assert lines[-1] == f"  more   gpumarket explain {code}"
    ended, envelope = run_json(capsys, "run", str(job_path), "-y")
    assert (ended, envelope["ok"], envelope["errors"][0]["code"]) == (exit_code, False, code)


def test_an_invalid_file_prints_all_mistakes_and_exits_3(
    capsys: pytest.CaptureFixture[str], market: FakeCoordinator
) -> None:
    code, out, _ = run(capsys, "job", "validate", str(GOLDEN / "bad.yaml"))
    assert code == 3
    assert out.splitlines()[0].endswith("bad.yaml: 9 problems")
    assert len(out.splitlines()) == 10
    code, _, err = run(capsys, "run", str(GOLDEN / "bad.yaml"), "-y")
    assert code == 3
    assert "bad.yaml:9: unknown field 'limts' in file; did you mean 'limits'?" in err
    code, envelope = run_json(capsys, "run", str(GOLDEN / "bad.yaml"), "-y")
    assert len(envelope["errors"][0]["mistakes"]) == 9


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("explain", "GM-0"), 5),
        (("jbo",), 2),
        (("job", "describe"), 2),
        (("job", "describe", "gm-aaaaaaa"), 5),
        (("job", "describe", "../x"), 5),
        (("data", "stat", "nonsense"), 2),
        (("data", "stat", "bafkreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"), 5),
        (("wallet", "address", "nobody"), 5),
        (("wallet", "deposit", "5 EUR", "-y"), 2),
        (("job", "plan", "nowhere.yaml"), 3),
        (("offers", "--url", "http://127.0.0.1:9"), 8),
        (("offers", "--gpu", "8:A100"), 2),
    ],
)
def test_each_kind_of_failure_has_its_exit(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], code: int
) -> None:
    ended, out, err = run(capsys, *argv)
    assert (ended, out) == (code, ""), err
    assert err.startswith("error[GM-")


def test_a_wrong_chain_is_refused_before_anything_is_signed(
    market: FakeCoordinator, job_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "run", str(job_path), "-y", "--chain-id", "1")
    assert code == 9
    assert "error[GM-3020]" in err
    assert "nothing was signed" in err
    assert market.orders == []


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("settled", None, 0),
        ("failed", {"code": "GM-5101", "fault": "requester"}, 20),
        ("failed", {"code": "GM-5301", "fault": "provider"}, 21),
        ("failed", {"code": "GM-4022", "fault": "network"}, 7),
        ("cancelled", None, 22),
        ("running", None, 23),
    ],
)
def test_the_end_of_a_job_is_the_end_of_the_command(
    state: str, reason: dict[str, str] | None, code: int
) -> None:
    assert find_job_exit({"state": state, "reason": reason}) == code


def test_a_bug_becomes_a_report_without_arguments_and_exits_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(cli_main.cli, "main", break_down)
    code, out, err = run(capsys, "version", "secret-argument")
    assert (code, out) == (1, "")
    assert "error[GM-9001]" in err
    found = re.search(r"the trace is in (\S+)", err)
    assert found is not None
    report = Path(found[1])
    assert "secret-argument" not in report.read_text()
    report.unlink()


# ---- wallet --------------------------------------------------------------------------------


def test_a_new_account_is_private_to_its_owner_and_never_overwritten(
    market: FakeCoordinator,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from gpumarket.adapters import keys

    monkeypatch.setattr(keys.write_keystore, "__kwdefaults__", {"scrypt_n": 2**12})
    monkeypatch.setenv("GPUMARKET_PASSWORD", "correct horse")
    code, envelope = run_json(capsys, "wallet", "new", "bob")
    assert code == 0
    path = Path(envelope["data"]["path"])
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert run(capsys, "wallet", "new", "bob")[0] == 9
    code, out, _ = run(capsys, "wallet", "address", "bob")
    assert out.strip() == envelope["data"]["address"]
    code, envelope = run_json(capsys, "wallet", "import", str(path), "--name", "copy")
    assert (code, envelope["data"]["address"]) == (0, out.strip())
    assert run(capsys, "wallet", "new", "../evil")[0] == 2


def test_a_private_key_is_read_from_stdin_and_never_shown(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setenv("GPUMARKET_PASSWORD", "pw")
    monkeypatch.setattr(sys, "stdin", io.StringIO("0xabc\n"))
    code, out, err = run(capsys, "wallet", "import", "--private-key")
    assert code == 4
    assert "0xabc" not in out + err


# ---- form ----------------------------------------------------------------------------------


def test_help_imports_nothing_but_click() -> None:
    banned = "aiohttp web3 libp2p yaml jsonschema msgspec coincurve trio docker asyncio"
    code = (
        "import sys\nfrom gpumarket.cli.main import run\n"
        f"run(['--help'])\nprint([m for m in {banned.split()!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def list_printed_commands() -> list[str]:
    """Every `gpumarket …` that the catalog tells people to run."""
    remedies = [remedy for entry in CATALOG.values() for remedy in entry.remedies]
    return sorted({line.split("    (")[0] for line in remedies if line.startswith("gpumarket ")})


@pytest.mark.parametrize("line", list_printed_commands())
def test_every_command_that_is_printed_as_a_remedy_exists(line: str) -> None:
    words = shlex.split(line.split(" > ", maxsplit=1)[0])[1:]
    context = click.Context(cli_main.cli)
    command: click.Command | None = cli_main.cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, line
    assert command is not None
    known = {option for each in command.params for option in each.opts}
    used = {word for word in words if word.startswith("-")}
    assert used <= known | {"--help"}, line


def test_amounts_are_never_shown_as_less_than_cents_or_with_noise() -> None:
    assert show_amount(make_amount(8_230_000)) == "8.23"
    assert show_amount(make_amount(1_000)) == "0.001"
    assert show_amount(0) == "0.00"
    assert show_amount(None) == "?"


def test_an_error_has_the_form_of_the_book() -> None:
    error = InvalidInput(
        "not enough USDC",
        code="GM-3011",
        why="9.20 free\n30.00 locked",
        money="nothing was locked",
        hints=("gpumarket wallet deposit 3.30", "lower the budget"),
    )
    assert format_error(error).splitlines() == [
        "error[GM-3011]: not enough USDC",
        "  why    9.20 free",
        "         30.00 locked",
        "  money  nothing was locked",
        "  try    gpumarket wallet deposit 3.30",
        "         lower the budget",
        "  more   gpumarket explain GM-3011",
    ]


def test_the_progress_line_has_the_money_on_it() -> None:
    job = {
        "state": "RUNNING",
        "units": {
            "total": 24, "finished": 10, "accepted": 4, "running": 3, "waiting": 7, "retries": 1,
        },
        "placements": [{"provider": "a"}, {"provider": "b"}, {"provider": "a"}],
        "money": {"spent": make_amount(1_000), "locked": make_amount(50_000)},
    }  # fmt: skip
    line = format_progress(job)
    assert "running   14/24 tasks ok, 1 retry, 0 failed   2 providers" in line
    assert line.endswith("spent 0.001 of 0.05 USDC")


def test_every_setting_can_be_given_as_a_flag(
    market: FakeCoordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in KEYS:
        code, envelope = run_json(capsys, "config", "show", f"--{key.replace('_', '-')}", "7")
        assert code == 0
        assert envelope["data"][key] == {"value": "7", "origin": f"flag --{key.replace('_', '-')}"}
