"""What goes wrong by somebody's mistake or ill will: a clear error, nothing charged or lost."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from gpumarket.adapters.keys import read_keystore
from gpumarket.adapters.p2p import open_network
from gpumarket.adapters.session import PeerUnreachable, SessionClosed, StreamClosed
from gpumarket.client.ordering import make_order
from gpumarket.protocol.cids import Codec, compute_cid, format_cid
from gpumarket.protocol.codec import to_dag_json
from gpumarket.protocol.frames import FRAME_VERSION, Hello, encode_hello
from gpumarket.protocol.messages import SESSION_PROTOCOL
from gpumarket.protocol.signing import Domain, PrivateKey
from gpumarket.protocol.units import Timestamp
from gpumarket.testing.devnet import PASSWORD
from tests.e2e.market import (
    DETACHED,
    Market,
    expect_results,
    make_program,
    run_role,
)
from tests.patience import PATIENCE

pytestmark = pytest.mark.filterwarnings(DETACHED)
NOBODY_HAS = format_cid(compute_cid(b"nobody has this", Codec.RAW))

# ---- refused before anything is promised -------------------------------------------------------


def test_an_invalid_job_file_is_refused_with_all_mistakes_and_their_lines(market: Market) -> None:
    path = market.folder / "wrong.yaml"
    path.write_text(
        "version: 1\n"
        f"image: ipfs://{market.image}\n"
        "comand: [python3]\n"
        "resources:\n"
        "  gpu: {count: -1}\n"
        "  memory: 12XB\n"
        "budget: {max: five dollars}\n"
    )
    error = market.refuse(path).error
    assert (error["code"][:6], error["exit"], error["fault"]) == ("GM-110", 3, "requester")
    assert {each["line"] for each in error["mistakes"]} >= {3, 5, 6, 7}

    answer = market.run("run", path, "-y")
    assert answer.exit == 3
    for line in (3, 5, 6, 7):
        assert f"wrong.yaml:{line}: " in answer.stderr


@pytest.mark.parametrize(
    "fields",
    [
        {"image": f"ipfs://{NOBODY_HAS}"},
        {"inputs": [{"name": "data", "from": f"ipfs://{NOBODY_HAS}", "to": "/in/data"}]},
    ],
    ids=["image", "input"],
)
def test_a_cid_that_nobody_has_is_refused(market: Market, fields: dict[str, Any]) -> None:
    error = market.refuse(market.write_job("absent", **fields)).error
    assert (error["code"], error["exit"], error["fault"]) == ("GM-6012", 5, "requester")
    assert NOBODY_HAS in error["message"]
    assert "charged" in error["money"]


def test_more_than_the_escrow_holds_is_refused(market: Market) -> None:
    error = market.refuse(market.write_job("rich", budget={"max": "500 USDC"})).error
    assert (error["code"], error["exit"], error["fault"]) == ("GM-3011", 6, "requester")
    assert "is free" in error["why"]
    assert "charged" in error["money"]
    assert any("deposit" in hint for hint in error["hints"])


def test_a_chain_other_than_the_configured_one_is_refused_before_signing(market: Market) -> None:
    path = market.write_job("elsewhere")
    error = market.refuse(path, env={"GPUMARKET_CHAIN_ID": "1"}).error
    assert (error["code"], error["exit"]) == ("GM-3020", 9)
    assert error["money"]


def test_an_order_that_is_signed_for_another_chain_is_refused(market: Market) -> None:
    plan = market.client.plan(market.write_job("replayed"))
    account = market.devnet.state["accounts"]["alice"]
    key = PrivateKey(read_keystore(Path(account["keystore"]), password=PASSWORD))
    now = Timestamp(market.client.info()["time"])
    order = make_order(plan, requester=key.address, now=now)
    domain = Domain(chain_id=1, contract=plan.market.domain.contract)
    status, problem = post_job(
        market,
        {
            "spec": json.loads(to_dag_json(plan.spec)),
            "order": json.loads(to_dag_json(key.sign(order, domain).as_signed())),
        },
    )
    assert (status, problem["code"]) == (401, "GM-1204")
    assert "chain 31337" in problem["why"]
    assert "charged" in problem["money"]


def test_an_order_that_no_provider_can_serve_is_refused_with_the_counts(market: Market) -> None:
    gpu = {"name": ["H200"], "vram": "141GB..", "count": 8}
    path = market.write_job("huge", resources={"gpu": gpu, "cpu": 1, "memory": "1GB"})
    error = market.refuse(path).error
    assert (error["code"], error["exit"]) == ("GM-4021", 7)
    assert error["funnel"][0] == {"stage": "online", "need": "", "fell": 0, "left": 3}
    assert error["funnel"][-1]["left"] == 0
    assert "charged" in error["money"]
    assert error["hints"]

    answer = market.run("run", path, "-y")
    assert answer.exit == 7
    assert "3 online" in answer.stderr


# ---- jobs that fail ----------------------------------------------------------------------------

FAILING: dict[str, dict[str, Any]] = {
    "exits": {"program": make_program(then="print('no such model', file=sys.stderr); sys.exit(3)")},
    "too-large": {"program": make_program(then="open('/out/x', 'wb').write(bytes(300_000))")},
    "too-long": {"program": make_program(then="time.sleep(60)"), "limits": {"run": "2s"}},
    "other-image": {"image_digest": f"sha256:{'ab' * 32}"},
    "one-of-two": {
        "program": make_program(then="sys.exit(os.environ['GPUMARKET_TASK_INDEX'] == '1')"),
        "tasks": 2,
    },
}


@pytest.fixture(scope="module", name="failing")
def failing_fixture(market: Market) -> Iterator[dict[str, str]]:
    """Send all jobs that will fail at once, so that they fail side by side."""
    ids = {}
    for name, fields in FAILING.items():
        ids[name] = market.submit(market.write_job(name, **{"tasks": 1, **fields}))
    yield ids
    assert market.list_containers() == []


@pytest.mark.parametrize(
    ("name", "code", "is_charged"),
    [
        ("exits", "GM-5101", False),
        ("too-large", "GM-5103", False),
        ("too-long", "GM-5102", False),
        ("other-image", "GM-5203", False),
        ("one-of-two", "GM-5101", True),
    ],
)
def test_a_job_that_fails_by_its_own_code_says_so_and_what_was_charged(
    market: Market, failing: dict[str, str], name: str, code: str, is_charged: bool
) -> None:
    job = market.wait_job(failing[name])
    assert job["state"] == "failed"
    assert (job["reason"]["code"], job["reason"]["fault"]) == (code, "requester")
    spent = {key: int(value["base"]) for key, value in job["money"].items()}
    assert spent["payable"] + spent["checks"] + spent["fee"] == spent["spent"]
    assert (spent["spent"] > 0) == is_charged

    failed = [task for task in market.tasks(failing[name]) if task["failures"]]
    (task,) = failed
    providers = {failure["provider"] for failure in task["failures"]}
    assert len(providers) >= 2  # one provider's word is not enough

    answer = market.run("job", "wait", failing[name])
    assert answer.exit == 20
    assert "spent" in answer.stdout


def test_the_failed_jobs_cost_what_they_say_and_their_audit_passes(
    market: Market, failing: dict[str, str]
) -> None:
    jobs = [market.wait_job(job_id) for job_id in failing.values()]
    paid = [job for job in jobs if int(job["money"]["spent"]["base"])]
    assert [job["name"] for job in paid] == ["one-of-two"]
    money = market.read_money()
    everything = [market.wait_job(job["id"]) for job in market.client.list_jobs()]
    assert 100_000_000 - money.escrow == sum(int(j["money"]["spent"]["base"]) for j in everything)
    assert market.audit(paid[0]["id"]).exit == 0
    logs = market.run("job", "logs", failing["exits"])
    assert "no such model" in logs.stdout


# ---- bad peers ---------------------------------------------------------------------------------


async def test_garbage_oversized_and_unsigned_messages_leave_the_market_as_it_was(
    market: Market,
) -> None:
    address: str = market.devnet.state["coordinator"]
    port, peer_id = int(address.split("/")[4]), address.rpartition("/")[2]
    for _ in range(5):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(os.urandom(4_000))
        await stream.aclose()
    hello = encode_hello(Hello(version=FRAME_VERSION, max_frame_bytes=1 << 20))
    async with open_network(key_seed=b"bad".ljust(32), listen_port=0) as bad:
        for data in (
            os.urandom(500),
            b"\xff" * 64,
            hello + b"\xff\xff\xff\xff\x00",
            hello + (2 << 20).to_bytes(4, "big") + b"\x00" + bytes(70_000),
            hello + b"\x00\x00\x00\x05\x09none",
        ):
            with trio.move_on_after(5):
                try:
                    raw = await bad.open_raw(peer_id, SESSION_PROTOCOL, address=address)
                    await raw.write(data)
                    await raw.read(100)
                    await raw.reset()
                except (PeerUnreachable, StreamClosed):
                    continue
        for body in (b"unsigned", os.urandom(1_000), b"\xa0"):
            with trio.move_on_after(5):
                try:
                    session = await bad.dial(address, SESSION_PROTOCOL)
                    for _ in range(20):
                        await session.send(body)
                    await session.receive()
                except (PeerUnreachable, SessionClosed):
                    continue
    status, problem = await trio.to_thread.run_sync(post_job, market, b"x" * (3 << 20))
    assert (status, problem["code"]) == (413, "GM-6013")
    status, problem = await trio.to_thread.run_sync(post_job, market, b"{garbage")
    assert status == 400
    assert problem["code"].startswith("GM-")

    assert market.devnet.list_processes()["coordinator"]
    assert market.ask("/v1/info")["members"] == {"providers": 3, "verifiers": 1}
    job_id = await trio.to_thread.run_sync(market.submit, market.write_job("after", tasks=1))
    await trio.to_thread.run_sync(market.wait_settled, job_id)
    log = (market.devnet.folder / "logs" / "coordinator.log").read_text()
    assert "Traceback" not in log


# ---- this machine ------------------------------------------------------------------------------


def test_a_second_coordinator_on_the_same_data_folder_stops_and_the_first_goes_on(
    market: Market,
) -> None:
    config = market.devnet.folder / "config" / "coordinator.toml"
    answer = run_role(
        "coordinator", config, GPUMARKET_ROLE__HTTP_PORT="0", GPUMARKET_ROLE__LISTEN_PORT="0"
    )
    assert answer.exit == 9
    assert "GM-8102" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "ready" not in answer.stdout
    assert market.ask("/v1/info")["members"]["providers"] == 3


def test_a_full_content_store_refuses_the_upload_and_works_again_with_more_room(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    (market.folder / "data.bin").write_bytes(os.urandom(2 << 20))
    inputs = [{"name": "data", "from": "file:data.bin", "to": "/in/data"}]
    path = market.write_job("large", tasks=1, inputs=inputs)
    with monkeypatch.context() as small:
        small.setenv("GPUMARKET_ROLE__STORE_BYTES_MAX", "1000000")
        restart(market, "coordinator")
        error = market.refuse(path).error
        assert error["code"] == "GM-6030"
        assert error["exit"] == 21
    restart(market, "coordinator")
    job_id = market.submit(path)
    market.wait_settled(job_id)
    assert market.download(job_id) == expect_results(1)


def test_the_tasks_of_a_provider_whose_content_store_is_full_go_to_others(
    market: Market, monkeypatch: pytest.MonkeyPatch
) -> None:
    (market.folder / "more.bin").write_bytes(os.urandom(2 << 20))
    inputs = [{"name": "data", "from": "file:more.bin", "to": "/in/data"}]
    path = market.write_job("elsewhere", tasks=1, inputs=inputs)
    with monkeypatch.context() as small:
        small.setenv("GPUMARKET_ROLE__STORE_BYTES_MAX", "1000000")
        restart(market, "provider-1")  # the cheapest: it is asked first
    job_id = market.submit(path)
    market.wait_settled(job_id)
    (task,) = market.tasks(job_id)
    assert task["provider"] != market.address("provider-1")
    assert {each["reason"]["fault"] for each in task["failures"]} <= {"provider", "none"}
    restart(market, "provider-1")


def restart(market: Market, role: str) -> None:
    """Restart a role with the environment as it is now, and wait until the market is whole."""
    market.devnet.kill(role)
    market.devnet.restart(role)
    market.devnet._wait_members(3)


def post_job(market: Market, body: object) -> tuple[int, dict[str, Any]]:
    """POST a job as it is; return the status and the problem."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        market.devnet.state["url"] + "/v1/jobs",
        data=data,
        headers={"Content-Type": "application/json", "Idempotency-Key": os.urandom(8).hex()},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
