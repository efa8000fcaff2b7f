"""A provider process with real keys, content and containers, and a coordinator in the test."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio

from gpumarket.adapters.p2p import open_network
from gpumarket.adapters.session import Session
from gpumarket.protocol import messages
from gpumarket.protocol.codec import compute_content_hash
from gpumarket.protocol.job import Limits, Split
from gpumarket.protocol.messages import SESSION_PROTOCOL
from gpumarket.protocol.signing import verify
from gpumarket.testing.factories import change, make_cid, make_input, make_reason, make_seal
from tests.patience import PATIENCE


def load(name: str) -> Any:
    """Load a neighbor file: test folders are no packages."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


harness = load("provider_harness")
job_image_fixture = load("sandbox_fixture").job_image_fixture

WRITE = """
import time
time.sleep(0.2)
open('/out/result', 'w').write('42')
print('progress 1/2')
print('half way')
"""
SLOW = "import time\nprint('progress 1/9', flush=True)\ntime.sleep(4)\n" + WRITE
"""Long enough to be killed in the middle."""


@pytest.fixture(scope="module")
def rpc_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from harness.run_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
async def office(tmp_path: Path, job_image: tuple[Path, str], rpc_url: str) -> AsyncIterator[Any]:
    async with harness.open_office(tmp_path, job_image, rpc_url) as office:
        yield office


@pytest.fixture
async def node(tmp_path: Path, office: Any) -> AsyncIterator[Any]:
    node = harness.make_node(tmp_path, office)
    await node.start()
    await harness.until(lambda: office.desk.hellos)
    yield node
    node.close()
    assert not harness.list_containers(harness.make_provider_address().hex())


async def test_a_unit_runs_from_lease_to_payment(office: Any, node: Any, tmp_path: Path) -> None:
    lease = office.make_lease(await office.make_job(WRITE))
    await office.propose(lease)
    finished = await office.await_message(messages.UnitFinished, lease)
    assert office.desk.get(messages.LeaseAccepted, lease)
    receipt = verify(finished.receipt, office.domain)
    assert receipt.signer == receipt.body.provider == office.provider
    assert 0 < receipt.body.price <= lease.price_max, finished
    progress = office.desk.get(messages.LeaseProgress, lease)
    assert {"fetch", "run", "upload"} <= {message.phase for message in progress}

    await office.say(messages.RootRequested(epoch=1, lease_ids=(lease.lease_id,)))
    signed = await office.await_message(messages.RootSigned)
    assert verify(signed.root, office.domain).body.count == 1
    seal = make_seal(receipt_hash=receipt.body.compute_struct_hash())
    await office.say(
        messages.OpeningsRequested(
            epoch=1, lease_ids=(lease.lease_id,), seals=(office.sign(seal, "verifier-1"),)
        )
    )
    opened = await office.await_message(messages.ResultsOpened)
    opening = verify(opened.openings[0], office.domain).body
    assert opening.result.compute_hash() == receipt.body.result_hash
    assert opening.seal_hashes == (compute_content_hash(seal),)

    sources = office.desk.hellos[-1].offer.body.addresses
    cid = opening.result.output
    await office.content.fetch(cid, sources=sources, deadline_s=PATIENCE, max_bytes=10**6)
    await office.content.export(cid, tmp_path / "output")
    assert (tmp_path / "output/result").read_text() == "42"

    await office.say(messages.EpochClosed(epoch=1, accepted=(lease.lease_id,), rejected=()))
    with trio.fail_after(PATIENCE):
        while True:
            status = json.loads(await node.read_page("/v1/status"))
            if status["leases"]["paid"] == 1:
                break
            await trio.sleep(0.05)
    assert int(status["money"]["earned"]["base"]) == receipt.body.price
    assert json.loads(await node.read_page("/v1/why-idle"))["ran"] == 1
    metrics = await node.read_page("/metrics")
    assert 'gpumarket_jobs_total{fault="none",outcome="paid"} 1.0' in metrics
    assert "gpumarket_node_ready 1.0" in metrics
    assert node.stop() == 0


async def test_a_provider_killed_in_the_middle_finishes_with_exactly_one_receipt(
    office: Any, node: Any
) -> None:
    lease = office.make_lease(await office.make_job(SLOW))
    await office.propose(lease)
    await harness.until(
        lambda: any(m.done == 1 for m in office.desk.get(messages.LeaseProgress, lease))
    )
    node.kill()
    await harness.until(lambda: office.desk.left == 1)
    assert harness.list_containers(office.provider.hex())
    await node.start()
    await harness.until(lambda: len(office.desk.hellos) == 2)
    assert office.desk.hellos[-1].running == (lease.lease_id,)
    await office.await_message(messages.UnitFinished, lease)

    # Killed again with the receipt signed: the same receipt is said again, no other one.
    node.kill()
    await node.start()
    await harness.until(lambda: len(office.desk.get(messages.UnitFinished, lease)) == 2)
    first, second = office.desk.get(messages.UnitFinished, lease)
    assert first == second
    await office.say(messages.RootRequested(epoch=1, lease_ids=(lease.lease_id,)))
    await office.await_message(messages.RootSigned)


BAD_PROGRAMS = {
    "GM-5101": ("import sys\nprint('what went wrong', file=sys.stderr)\nsys.exit(3)\n", {}),
    "GM-5102": ("import time\ntime.sleep(60)\n", {"run_seconds": 1}),
    "GM-5103": ("open('/out/big', 'wb').write(bytes(1_500_000))\n", {}),
    "GM-5104": ("b = bytearray(900_000_000)\n", {}),
}


async def test_failures_are_told_with_their_code_and_the_requesters_fault(
    office: Any, node: Any
) -> None:
    for code, (program, limits) in BAD_PROGRAMS.items():
        job = await office.make_job(program)
        if limits:
            job = await office.make_job(program, limits=Limits(**limits))
        lease = office.make_lease(job)
        await office.propose(lease)
        failed = await office.await_message(messages.UnitFailed, lease)
        assert (failed.reason.code, failed.reason.fault) == (code, "requester"), failed
        if code == "GM-5101":
            assert failed.exit_code == 3
            assert "what went wrong" in failed.log_tail
    # Content that nobody has, and an archive that is another image than the one signed.
    job = await office.make_job(WRITE)
    nowhere = make_input(name="x", cid=make_cid("nobody has it"), path="/in/x", size_bytes=10)
    missing = office.make_lease(change(job, inputs=(*job.inputs, nowhere)))
    await office.propose(missing)
    failed = await office.await_message(messages.UnitFailed, missing)
    assert failed.reason.code == "GM-6012"
    other = office.make_lease(change(job, image=change(job.image, digest="sha256:" + "ab" * 32)))
    await office.propose(other)
    failed = await office.await_message(messages.UnitFailed, other)
    assert (failed.reason.code, failed.reason.fault) == ("GM-5203", "requester")
    assert not office.desk.get(messages.UnitFinished)


async def test_a_full_provider_declines_and_a_cancelled_unit_frees_its_slot(
    office: Any, node: Any
) -> None:
    lease = office.make_lease(await office.make_job("import time\ntime.sleep(100)\n"))
    await office.propose(lease)
    await harness.until(lambda: harness.list_containers(office.provider.hex()))
    full = office.make_lease(await office.make_job(WRITE, name="one too many"))
    await office.propose(full)
    declined = await office.await_message(messages.Declined)
    assert (declined.about, declined.code) == (full.lease_id, "slots")
    await office.say(
        messages.LeaseCancelled(lease_id=lease.lease_id, reason=make_reason(code="GM-5401"))
    )
    await harness.until(lambda: not harness.list_containers(office.provider.hex()))
    after = office.make_lease(await office.make_job(WRITE))
    await office.propose(after)
    await office.await_message(messages.UnitFinished, after)
    assert not office.desk.get(messages.UnitFinished, lease)


async def test_a_coordinator_that_sends_garbage_harms_nobody(tmp_path: Path, office: Any) -> None:
    async def insult(session: Session) -> None:
        for _ in range(50):
            await session.send(os.urandom(300))
        await session.wait_closed()

    async with open_network(key_seed=os.urandom(32), listen_port=0) as network:
        network.serve(SESSION_PROTOCOL, insult)
        node = harness.make_node(tmp_path, office)
        text = node.config.read_text()
        both = f'coordinators = ["{network.addresses[0]}", "{office.address}"]'
        node.config.write_text(text.replace(f'coordinators = ["{office.address}"]', both))
        try:
            await node.start()
            lease = office.make_lease(await office.make_job(WRITE))
            await harness.until(lambda: office.desk.hellos)
            await office.propose(lease)
            await office.await_message(messages.UnitFinished, lease)
            assert "a message was refused" in node.read_log()
        finally:
            node.close()


async def test_a_cheat_forges_the_first_of_each_pair(tmp_path: Path, office: Any) -> None:
    program = (
        "import os, numpy as np\n"
        "s = int(os.environ['GPUMARKET_SPLIT_START'])\n"
        "np.save(f'/out/test-{s:06d}-{s + 2:06d}.npy', np.ones((2, 384), np.float32))\n"
    )
    split = Split(over="program", by="index", size=2, items=6)
    job = await office.make_job(program, units=3, split=split)
    node = harness.make_node(tmp_path, office, extra="cheat = {forge_share = 0.5}")
    await node.start()
    try:
        await harness.until(lambda: office.desk.hellos)
        leases = [office.make_lease(job, unit) for unit in range(3)]
        for lease in leases:
            await office.propose(lease)
            await office.await_message(messages.UnitFinished, lease)
        ids = tuple(lease.lease_id for lease in leases)
        await office.say(messages.RootRequested(epoch=1, lease_ids=ids))
        await office.await_message(messages.RootSigned)
        await office.say(messages.OpeningsRequested(epoch=1, lease_ids=ids, seals=()))
        opened = await office.await_message(messages.ResultsOpened)
        sources = office.desk.hellos[-1].offer.body.addresses
        honest = []
        for unit, opening in enumerate(opened.openings):
            cid = opening.body.result.output
            await office.content.fetch(cid, sources=sources, deadline_s=PATIENCE, max_bytes=10**6)
            await office.content.export(cid, tmp_path / f"unit-{unit}")
            name = f"unit-{unit}/test-{2 * unit:06d}-{2 * unit + 2:06d}.npy"
            array = np.load(tmp_path / name)
            assert array.shape == (2, 384)
            honest.append(bool((array == 1).all()))
        assert honest == [False, True, False]
    finally:
        node.close()
