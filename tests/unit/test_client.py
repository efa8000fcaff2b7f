"""The client checks what it can, resumes what breaks, and never promises more than the budget."""

import asyncio
import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from gpumarket.client import AsyncClient, Client, CoordinatorRefused, CoordinatorUnreachable
from gpumarket.client.connection import Connection, find_connection
from gpumarket.client.ordering import (
    CLOCK_SECONDS,
    SETTLE_SECONDS,
    Market,
    Plan,
    estimate_checks,
    make_order,
    share_budget,
)
from gpumarket.client.packing import iterate_car, pack, read_image
from gpumarket.client.wallet import Signer, find_account, open_account
from gpumarket.jobfile import InvalidJobFile
from gpumarket.protocol.car import decode_car_untrusted
from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.errors import (
    ContentError,
    GpuMarketError,
    InvalidInput,
    RemoteProtocolError,
)
from gpumarket.protocol.job import JobSpec, VerifyPolicy
from gpumarket.protocol.order import check_order_fits
from gpumarket.protocol.units import Amount
from gpumarket.protocol.unixfs import read_file
from gpumarket.testing.factories import DOMAIN, NOW, make_address, make_spec
from gpumarket.testing.fake_coordinator import FakeCoordinator


def make_event(number: int, kind: str = "task.finished") -> dict[str, object]:
    return {"id": number, "time": "2026-01-02T03:04:05Z", "type": kind, "text": f"event {number}"}


def store(fake: FakeCoordinator, path: Path) -> str:
    packed = pack(path)
    for block in decode_car_untrusted(iterate_car(packed), bytes_max=10**8):
        fake.blocks[block.cid.digest] = block
    return packed.cid


# ---- lightness -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "banned"),
    [
        ("import gpumarket", "aiohttp msgspec yaml jsonschema web3 trio libp2p docker"),
        ("import gpumarket; gpumarket.Client", "web3 libp2p docker trio nacl ipfshttpclient"),
        ("from gpumarket import *", "web3 libp2p docker trio nacl ipfshttpclient"),
    ],
)
def test_importing_the_library_brings_no_node_with_it(code: str, banned: str) -> None:
    check = f"{code}; import sys; print([m for m in {banned.split()!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- planning ------------------------------------------------------------------------------


def test_a_plan_counts_tasks_and_never_costs_more_than_the_budget(
    connection: Connection, job_path: Path
) -> None:
    with Client(connection=connection) as client:
        plan = client.plan(job_path)
    assert plan.spec.units == 3
    assert plan.spec.image.digest.startswith("sha256:")
    assert 0 < plan.exposure <= plan.budget == 50_000
    assert plan.is_feasible


def test_every_local_path_that_is_missing_is_named_at_once(
    connection: Connection, job_path: Path
) -> None:
    for name in ("image.tar", "texts.txt"):
        (job_path.parent / name).unlink()
    with Client(connection=connection) as client, pytest.raises(InvalidJobFile) as caught:
        client.plan(job_path)
    assert [(each.line, each.code) for each in caught.value.mistakes] == [
        (3, "GM-1122"),
        (7, "GM-1122"),
    ]


def test_an_image_that_is_not_the_named_one_is_refused_before_signing(
    connection: Connection, job_path: Path
) -> None:
    other = "sha256:" + "00" * 32
    with Client(connection=connection) as client, pytest.raises(InvalidInput) as caught:
        client.plan(job_path, overrides={"image_digest": other})
    assert caught.value.code == "GM-5203"
    assert caught.value.money == "nothing was signed"


def test_a_changed_image_archive_is_refused(job_path: Path) -> None:
    archive = job_path.parent / "image.tar"
    data = bytearray(archive.read_bytes())
    data[data.index(b"hello")] ^= 1
    archive.write_bytes(data)
    with pytest.raises(InvalidInput) as caught:
        read_image(archive)
    assert caught.value.code == "GM-5203"


def test_a_file_that_is_no_image_is_refused(job_path: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_image(job_path)
    assert caught.value.code == "GM-5204"


def test_a_coordinator_of_another_chain_is_refused_and_nothing_is_signed(
    fake: FakeCoordinator, tmp_path: Path, job_path: Path
) -> None:
    elsewhere = find_connection({"url": fake.url, "chain_id": "1"}, env={}, folder=tmp_path)
    with Client(connection=elsewhere) as client, pytest.raises(InvalidInput) as caught:
        client.plan(job_path)
    assert caught.value.code == "GM-3020"
    assert fake.uploads == []


@pytest.mark.parametrize("providers", [1, 2, 3, 50])
@pytest.mark.parametrize("units", [1, 2, 24, 100])
def test_an_order_pays_for_a_full_sample_and_one_redone_share(units: int, providers: int) -> None:
    full, some, none = (
        estimate_checks(VerifyPolicy(mode=mode), units, providers=providers, budget=Amount(10**6))
        for mode in ("full", "sample", "none")
    )
    assert none == 0
    assert units < full <= 2.1 * units + 1
    assert 0 < some <= full


@pytest.mark.parametrize("budget", [1, 7, 50_000, 10**12])
@pytest.mark.parametrize(("units", "checks", "fee"), [(1, 0, 0), (24, 30, 0), (3, 3, 5)])
def test_a_shared_budget_is_never_exceeded(budget: int, units: int, checks: int, fee: int) -> None:
    if budget - fee < units + checks:
        with pytest.raises(InvalidInput) as caught:
            share_budget(Amount(budget), units=units, checks=checks, fee=Amount(fee))
        assert caught.value.code == "GM-1150"
        return
    prices = share_budget(Amount(budget), units=units, checks=checks, fee=Amount(fee))
    spent = units * prices.max_unit_price + checks * prices.max_check_price + prices.max_fee
    assert budget - (units + checks) < spent <= budget


@pytest.mark.parametrize("lifetime", [0, 3_600, 86_360, 8 * 86_400, 365 * 86_400])
def test_an_order_ends_before_its_escrow_can_leave(lifetime: int) -> None:
    spec = make_spec()
    order = make_order(make_plan(spec, lifetime), requester=make_address("requester"), now=NOW)
    check_order_fits(order, spec, now=NOW)
    assert NOW < order.settle_by < order.expiry
    if lifetime:
        assert order.expiry <= NOW + lifetime - CLOCK_SECONDS
        # Long enough for work, and for a provider that is left out.
        assert order.settle_by >= NOW + lifetime // 2 or order.settle_by >= NOW + SETTLE_SECONDS
        assert order.expiry - order.settle_by >= min(lifetime, 86_400) // 5


def make_plan(spec: JobSpec, lifetime: int) -> Plan:
    return Plan(
        spec=spec,
        market=Market(
            domain=DOMAIN,
            coordinator=make_address("coordinator"),
            fee=Amount(0),
            version="0",
            is_devnet=True,
            order_lifetime=lifetime,
        ),
        budget=Amount(10**6),
        prices=share_budget(Amount(10**6), units=spec.units, checks=1, fee=Amount(0)),
        quote={},
        packed=(),
    )


# ---- content -------------------------------------------------------------------------------


def test_a_folder_arrives_as_it_is(
    fake: FakeCoordinator, connection: Connection, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    (folder / "inner").mkdir(parents=True)
    big = bytes(range(256)) * 4096 * 3
    (folder / "inner" / "big.bin").write_bytes(big)
    (folder / "empty").write_bytes(b"")
    with Client(connection=connection) as client:
        packed = client.add_content(folder)
        stat = client.stat_content(packed.cid)
    assert fake.uploads == [packed.cid]
    assert (packed.file_count, packed.file_bytes) == (2, len(big))
    assert (stat.is_directory, stat.file_count, stat.size_bytes) == (True, 2, len(big))


def test_lines_are_counted_with_a_last_one_that_has_no_end(tmp_path: Path) -> None:
    for text, lines in [("", 0), ("a", 1), ("a\n", 1), ("a\nb", 2), ("\n\n", 2)]:
        path = tmp_path / "lines.txt"
        path.write_text(text)
        assert pack(path, count_lines=True).line_count == lines


def test_the_lines_of_a_gzip_file_are_those_of_its_text(tmp_path: Path) -> None:
    path = tmp_path / "lines.gz"
    text = b"line\n" * 600_000 + b"last"
    path.write_bytes(gzip.compress(text) + gzip.compress(b" of two members\n"))
    assert pack(path, count_lines=True).line_count == 600_001
    path.write_bytes(gzip.compress(text)[:-400])
    with pytest.raises(InvalidInput):
        pack(path, count_lines=True)


def test_a_link_inside_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises((InvalidInput, ContentError)):
        pack(tmp_path)


def test_content_that_changes_while_it_is_sent_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    packed = pack(path)
    path.write_text("after!")
    with pytest.raises(ContentError, match="changed"):
        list(iterate_car(packed))


def test_content_that_nobody_has_is_an_error_with_its_code(connection: Connection) -> None:
    with Client(connection=connection) as client, pytest.raises(CoordinatorRefused) as caught:
        client.stat_content("bafkreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
    assert caught.value.code == "GM-6012"


# ---- submitting ----------------------------------------------------------------------------


def test_a_submitted_order_is_signed_and_its_content_is_there(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path
) -> None:
    with Client(connection=connection) as client:
        plan = client.plan(job_path)
        job = client.submit(plan, signer)
        again = client.submit(plan, signer)
    assert job["id"].startswith("gm-")
    assert job["id"] != again["id"], "a new nonce is a new order"
    order = fake.orders[0].body
    assert order.requester == signer.address
    assert order.compute_exposure() == plan.exposure <= plan.budget
    assert len(fake.uploads) == 2, "content that is there already is not sent again"
    text = b"".join(read_file(parse_cid(plan.spec.inputs[0].cid), fake.get_block))
    assert text == b"one\ntwo\nthree\nfour\nfive"


def test_a_repeat_with_the_same_key_is_the_same_job(
    connection: Connection, signer: Signer, job_path: Path
) -> None:
    with Client(connection=connection) as client:
        plan = client.plan(job_path)
        first = client.submit(plan, signer, idempotency_key="one-and-only")
        second = client.submit(plan, signer, idempotency_key="one-and-only")
    assert first["id"] == second["id"]


def test_content_of_an_upload_that_was_cut_short_is_sent_again(
    fake: FakeCoordinator, connection: Connection, signer: Signer, tmp_path: Path, job_path: Path
) -> None:
    big = job_path.parent / "texts.txt"
    big.write_bytes(b"line\n" * 200_000)
    with Client(connection=connection) as client:
        plan = client.plan(job_path, overrides={"split.size": 1000})
        for packed in plan.packed:
            client.add_content(packed.path)
        leaf = next(digest for digest, block in fake.blocks.items() if b"line" in block.data)
        del fake.blocks[leaf]
        fake.uploads.clear()
        assert client.submit(plan, signer)["id"]
    assert plan.spec.inputs[0].cid in fake.uploads


def test_a_refusal_keeps_its_code_its_numbers_and_where_the_money_is(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path
) -> None:
    fake.refuse["/v1/jobs"] = {
        "status": 409,
        "code": "GM-4021",
        "detail": "3 providers online, none fits",
        "why": "1 has too little memory",
        "money": "nothing was charged",
        "funnel": [{"stage": "online", "left": 3}],
        "hints": [{"text": "wait", "command": "gpumarket job run job.yaml"}],
    }
    with Client(connection=connection) as client:
        plan = client.plan(job_path)
        with pytest.raises(CoordinatorRefused) as caught:
            client.submit(plan, signer)
    error = caught.value
    assert (error.code, error.message) == ("GM-4021", "3 providers online, none fits")
    assert (error.why, error.money) == ("1 has too little memory", "nothing was charged")
    assert error.hints == ("gpumarket job run job.yaml",)
    assert error.problem["funnel"] == [{"stage": "online", "left": 3}]


def test_cancelling_is_signed(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path
) -> None:
    with Client(connection=connection) as client:
        job = client.submit(client.plan(job_path), signer)
        assert client.cancel(job["id"][:7], signer)["state"] == "cancelled"


# ---- watching and fetching -----------------------------------------------------------------


def test_a_stream_that_breaks_is_resumed_without_loss_or_repeat(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path
) -> None:
    fake.events = [make_event(number) for number in range(1, 11)]
    fake.cut_stream_after = 4

    async def follow(job_id: str) -> list[int]:
        async with AsyncClient(connection=connection) as client:
            return [event.id async for event in client.events(job_id, follow=True)]

    with Client(connection=connection) as client:
        job_id = client.submit(client.plan(job_path), signer)["id"]
        assert [event.id for event in client.events(job_id, after=8)] == [9, 10]
        fake.jobs[job_id]["state"] = "running"
        following = client.events(job_id, follow=True)
        seen = [next(following).id for _ in range(9)]
        fake.jobs[job_id]["state"] = "settled"
        seen += [event.id for event in following]
    assert seen == list(range(1, 11))
    assert fake.connections >= 2
    assert asyncio.run(follow(job_id)) == list(range(1, 11))


def test_waiting_ends_with_its_own_code_when_the_time_is_over(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path
) -> None:
    fake.state_after_submit = "running"
    with Client(connection=connection) as client:
        job_id = client.submit(client.plan(job_path), signer)["id"]
        with pytest.raises(GpuMarketError) as caught:
            client.wait(job_id, timeout=0.1)
        fake.jobs[job_id]["state"] = "settling"
        assert client.wait(job_id, until="finished")["state"] == "settling"
    assert caught.value.code == "GM-5004"


def test_results_are_fetched_once_and_whole(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path, tmp_path: Path
) -> None:
    source = tmp_path / "made"
    source.mkdir()
    (source / "vectors.npy").write_bytes(b"v" * 600_000)
    cid = store(fake, source)
    entry = {"cid": cid, "bytes": 600_000, "provider": "0x00"}
    fake.outputs = [
        {"task": 0, **entry, "verified": True},
        {"task": 1, **entry, "verified": False},
    ]
    target = tmp_path / "results"
    with Client(connection=connection) as client:
        job_id = client.submit(client.plan(job_path), signer)["id"]
        only = client.download(job_id, target, only_verified=True)
        assert ([path.name for path in only.fetched], only.skipped) == (["task-00000"], (1,))
        rest = client.download(job_id, target)
    assert [path.name for path in rest.present] == ["task-00000"]
    assert [path.name for path in rest.fetched] == ["task-00001"]
    assert (target / "task-00001/vectors.npy").read_bytes() == b"v" * 600_000
    assert sorted(path.name for path in target.iterdir()) == [
        "outputs.json",
        "task-00000",
        "task-00001",
    ]


def test_a_wrong_or_missing_byte_never_lands(
    fake: FakeCoordinator, connection: Connection, signer: Signer, job_path: Path, tmp_path: Path
) -> None:
    source = tmp_path / "made.bin"
    source.write_bytes(b"v" * 600_000)
    cid = store(fake, source)
    fake.outputs = [{"task": 0, "cid": cid, "bytes": 1000, "verified": True}]
    with Client(connection=connection) as client:
        job_id = client.submit(client.plan(job_path), signer)["id"]
        with pytest.raises((RemoteProtocolError, ContentError)):
            client.download(job_id, tmp_path / "too-large")
        digest, block = next(each for each in fake.blocks.items() if b"vvvv" in each[1].data)
        fake.blocks[digest] = block._replace(data=b"w" + block.data[1:])
        fake.outputs[0]["bytes"] = 600_000
        with pytest.raises(RemoteProtocolError):
            client.download(job_id, tmp_path / "wrong")
    for name in ("too-large", "wrong"):
        assert list((tmp_path / name).iterdir()) == []


def test_nobody_at_the_address_is_said_with_what_to_do(tmp_path: Path) -> None:
    nowhere = find_connection({"url": "http://127.0.0.1:9"}, env={}, folder=tmp_path)
    with Client(connection=nowhere) as client, pytest.raises(CoordinatorUnreachable) as caught:
        client.info()
    assert caught.value.code == "GM-8003"
    assert "gpumarket doctor" in caught.value.hints


@pytest.mark.parametrize("name", ["../../x", "gm-UPPER", "gm-a/b", "", "gm-"])
def test_a_job_id_cannot_leave_its_place_in_the_path(connection: Connection, name: str) -> None:
    with Client(connection=connection) as client, pytest.raises(InvalidInput) as caught:
        client.job(name)
    assert caught.value.code == "GM-5001"


# ---- settings and accounts -----------------------------------------------------------------


def test_settings_come_from_the_nearest_place_and_say_from_where(
    devnet: Path, fake: FakeCoordinator
) -> None:
    found = find_connection({}, env={}, folder=devnet / "deep" / "below")
    assert found.url == fake.url
    assert found.settings["url"].origin.startswith("devnet ")
    (devnet / "gpumarket.toml").write_text('[client]\naccount = "bob"\n')
    found = find_connection({}, env={"GPUMARKET_RPC_URL": "http://127.0.0.1:1"}, folder=devnet)
    assert found.settings["account"].origin == f"file {devnet / 'gpumarket.toml'}"
    assert found.settings["rpc_url"].origin == "environment GPUMARKET_RPC_URL"


def test_a_devnet_is_not_mixed_with_another_coordinator(devnet: Path) -> None:
    found = find_connection({"url": "http://127.0.0.1:1"}, env={}, folder=devnet)
    assert found.devnet is None
    assert found.chain_id is None


def test_an_unknown_setting_is_refused_with_the_nearest_name(devnet: Path) -> None:
    (devnet / "gpumarket.toml").write_text('[client]\nrpc = "x"\n')
    with pytest.raises(InvalidInput) as caught:
        find_connection({}, env={}, folder=devnet)
    assert caught.value.code == "GM-1302"
    assert "rpc_url" in caught.value.why


def test_a_test_key_opens_on_the_devnet_and_nowhere_else(devnet: Path) -> None:
    account = find_account(find_connection({}, env={}, folder=devnet))
    assert account.is_test_key
    assert open_account(account, password="pw", chain_id=31337).address == account.address
    with pytest.raises(InvalidInput) as caught:
        open_account(account, password="pw", chain_id=1)
    assert caught.value.code == "GM-3022"
    with pytest.raises(InvalidInput) as caught:
        open_account(account, password="wrong", chain_id=31337)
    assert caught.value.code == "GM-3103"
