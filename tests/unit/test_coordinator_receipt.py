"""Proofs made, kept and given: `GET /v1/jobs/{job}/receipt` over real HTTP, and the archive."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, cast

import pytest
import trio
import trio.testing

from coordinator.api import Archive, Desk, make_app
from coordinator.api.archive import RETRY_SECONDS, TRIES_MAX
from coordinator.api.proofs import make_proof
from gpumarket.adapters.http import serve_http
from gpumarket.adapters.logs import Log
from gpumarket.adapters.proof_files import ProofFolder
from gpumarket.adapters.state_proofs import Papers
from gpumarket.protocol.errors import ChainError, ContentError
from gpumarket.protocol.ids import Address, Hash32, make_job_id
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import EpochDocument, OpenedWork, ProofOfExecution
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import encode_proof, format_proof
from gpumarket.testing.factories import DOMAIN, make_address, make_hash, make_spec
from tests.coordinator_market import Market
from tests.market_audit import HonestChain

SAMPLE = VerifyPolicy(forged_share_ppm=500_000, units_min=1)


@dataclass
class Prover:
    """A state prover that counts, and that proves nothing where the node does not."""

    asked: int = 0
    is_able: bool = True

    taken: list[int] = field(default_factory=list)
    used: list[Hash32] = field(default_factory=list)

    async def anchor(
        self, proof: ProofOfExecution, papers: Sequence[Papers] = ()
    ) -> tuple[ProofOfExecution, bytes]:
        """Return the proof as it came, or refuse."""
        self.asked += 1
        self.used += [each.state_root for each in papers]
        if not self.is_able:
            raise ChainError(
                "the node does not prove this job's state", code="GM-3007", why="missing trie node"
            )
        return proof, make_hash("block")

    async def take_papers(
        self,
        document: EpochDocument,
        *,
        requesters: Iterable[Address],
        contract: Address,
        block: int,
    ) -> Papers:
        """Return papers that name their block, or refuse."""
        assert document.work
        assert set(requesters) == {make_address("requester")}
        assert contract == DOMAIN.contract
        self.taken.append(block)
        if not self.is_able:
            raise ChainError("the node does not prove this job's state", code="GM-3007")
        return Papers(state_root=make_hash(f"state {block}"), accounts=(), settlement=())


def play(*, is_settled: bool = True, **settings: int) -> tuple[Market, ProofOfExecution, str]:
    market = Market(**settings)
    market.chain = HonestChain()
    market.join("provider-1", offer={"slots": 16})
    market.join_verifier(card={"slots": 16})
    job = market.submit(make_spec(units=12, verify=SAMPLE), checks=20)
    if is_settled:
        market.run(seconds_max=100)
    return market, make_proof(market.state, job), make_job_id(job.order_hash)


def open_archive(
    market: Market, path: Path, prover: Prover | None = None, *, bytes_max: int = 10**9
) -> Archive:
    """Open the archive of a market that has started again."""
    return Archive(
        read_state=lambda: market.state,
        prover=prover or Prover(),
        folder=ProofFolder(path, bytes_max=bytes_max),
    )


@asynccontextmanager
async def serve(market: Market, archive: Archive) -> AsyncIterator[str]:
    unused = cast("Any", None)
    desk = Desk(
        read_state=lambda: market.state,
        post=refuse,
        wait_moved=refuse,
        chain=unused,
        content=unused,
        clock=unused,
        metrics=unused,
        update_metrics=lambda: None,
        content_peers=(),
        version="0",
        archive=archive,
    )
    async with trio.open_nursery() as nursery:
        port = await nursery.start(serve_http, lambda side: make_app(side, desk), "127.0.0.1", 0)
        yield f"http://127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


async def refuse(*_: object) -> NoReturn:
    raise AssertionError("a receipt changes nothing and waits for nothing")


async def get(url: str, accept: str = "*/*") -> tuple[int, str, bytes]:
    """Return status, content type and body."""

    def ask() -> tuple[int, str, bytes]:
        request = urllib.request.Request(url, headers={"Accept": accept})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read()

    return await trio.to_thread.run_sync(ask)


def step(market: Market) -> None:
    """Let one thing happen."""
    if market.todo:
        market.perform(market.todo.pop(0))
    elif market.inbox:
        market.deliver(market.inbox.pop(0))
    else:
        market.wait()


async def file_all(archive: Archive, *, is_patient: bool = False) -> None:
    """Let the archive do what it does by itself, until it waits for others, or for nothing."""
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            if not (is_patient and archive.waiting):
                nursery.cancel_scope.cancel()
            await trio.sleep_forever()

        nursery.start_soon(archive.run, stop, Log("test"))


async def test_the_whole_proof_and_the_compact_one_are_given_in_both_forms(tmp_path: Path) -> None:
    market, proof, name = play()
    small = compact_proof(proof)
    assert len(encode_proof(small)) < len(encode_proof(proof))
    async with serve(market, open_archive(market, tmp_path)) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        for query, expected in (("", proof), ("?form=compact", small), ("?form=other", proof)):
            status, kind, body = await get(path + query)
            assert (status, kind) == (200, "application/vnd.ipld.dag-cbor")
            assert body == encode_proof(expected)
            status, kind, body = await get(path + query, accept="application/json")
            assert (status, kind.partition(";")[0]) == (200, "application/json")
            assert body.decode() == format_proof(expected)
    assert any(isinstance(work, OpenedWork) for each in small.epochs for work in each.document.work)


async def test_each_form_of_a_settled_job_is_proven_once_whatever_restarts(tmp_path: Path) -> None:
    market, _, name = play()
    prover = Prover()
    for _ in range(2):
        async with serve(market, open_archive(market, tmp_path, prover)) as url:
            path = f"{url}/v1/jobs/{name}/receipt"
            for query in ("", "?form=compact", "?form=compact&anchors=require", "?anchors=require"):
                assert (await get(path + query))[0] == 200
    assert prover.asked == 2


async def test_a_node_that_proves_nothing_is_an_error_only_where_anchors_are_required(
    tmp_path: Path,
) -> None:
    market, proof, name = play()
    prover = Prover(is_able=False)
    async with serve(market, open_archive(market, tmp_path, prover)) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        status, _, body = await get(f"{path}?form=compact")
        assert (status, body) == (200, encode_proof(compact_proof(proof)))
        for form in ("", "form=compact&"):
            status, kind, body = await get(f"{path}?{form}anchors=require")
            problem = json.loads(body)
            assert (status, kind.partition(";")[0]) == (502, "application/problem+json")
            assert (problem["code"], problem["why"]) == ("GM-3007", "missing trie node")
        prover.is_able = True
        assert (await get(f"{path}?anchors=require"))[0] == 200, "a refusal is not remembered"


async def test_an_unsettled_job_is_proven_only_where_anchors_are_required(tmp_path: Path) -> None:
    market, proof, name = play(is_settled=False)
    assert not proof.settlements
    prover = Prover()
    async with serve(market, open_archive(market, tmp_path, prover)) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        assert (await get(path))[0] == 200
        assert prover.asked == 0
        assert (await get(f"{path}?anchors=require"))[0] == 200
        assert prover.asked == 1
    assert not len(ProofFolder(tmp_path, bytes_max=1)), "what may still change is not kept"


async def test_an_unknown_job_has_no_receipt(tmp_path: Path) -> None:
    market, _, _ = play(is_settled=False)
    prover = Prover()
    async with serve(market, open_archive(market, tmp_path, prover)) as url:
        status, _, body = await get(f"{url}/v1/jobs/gm-aaaaaaaaaa/receipt?anchors=require")
    assert (status, prover.asked) == (404, 0)
    assert json.loads(body)["code"] == "GM-5001"


# ---- by itself ---------------------------------------------------------------------------------


async def test_a_paid_job_is_filed_by_itself_and_outlives_the_job_and_the_node(
    tmp_path: Path,
) -> None:
    market, proof, name = play(jobs_kept_max=1)
    expected = encode_proof(compact_proof(proof))
    await file_all(open_archive(market, tmp_path))
    market.submit(make_spec(units=2, name="another"), checks=2, nonce=make_hash("another"))
    market.run(seconds_max=100)
    assert not any(job.job_id == name for job in market.state.jobs.values())
    deaf = Prover(is_able=False)
    async with serve(market, open_archive(market, tmp_path, deaf)) as url:
        path = f"{url}/v1/jobs/{name[:9]}/receipt"
        for query in ("?form=compact", "?form=compact&anchors=require"):
            status, _, body = await get(path + query)
            assert (status, body) == (200, expected)
        status, _, body = await get(path)
        problem = json.loads(body)
        assert (status, problem["code"]) == (404, "GM-5001")
        assert "--compact" in problem["hints"][0]
    assert deaf.asked == 0


async def test_a_job_is_filed_once_its_last_epoch_is_closed_and_never_twice(tmp_path: Path) -> None:
    market, _, _ = play(is_settled=False)
    prover = Prover()
    archive = open_archive(market, tmp_path, prover)
    await file_all(archive)
    assert prover.asked == 0
    market.run(seconds_max=100)
    (job,) = market.state.jobs.values()
    market.state.open_epochs.append(job.epochs[0])
    await file_all(archive)
    assert (prover.asked, len(archive.waiting)) == (0, 1), "its checks may still change"
    market.state.open_epochs.remove(job.epochs[0])
    await file_all(archive)
    await file_all(archive)
    await file_all(open_archive(market, tmp_path, prover))
    assert (prover.asked, len(archive.waiting)) == (1, 0)


async def test_a_node_that_does_not_prove_is_asked_again_and_then_done_without(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    market, proof, name = play()
    prover = Prover(is_able=False)
    archive = open_archive(market, tmp_path, prover)
    await file_all(archive, is_patient=True)
    assert trio.current_time() >= RETRY_SECONDS * (TRIES_MAX - 1)
    assert prover.asked == TRIES_MAX
    job_hash = proof.order.body.compute_struct_hash()
    assert archive.folder.has(job_hash, "bare")
    prover.is_able = True
    archive = open_archive(market, tmp_path, prover)
    await file_all(archive)
    assert (len(archive.folder), archive.folder.has(job_hash, "compact")) == (1, True)
    data = await archive.give(name, is_compact=True, must_anchor=True)
    assert data == encode_proof(compact_proof(proof))


async def test_what_is_proven_of_an_epoch_at_its_commitment_is_there_when_its_job_ends(
    tmp_path: Path,
) -> None:
    market, _, _ = play(is_settled=False)
    prover = Prover()
    while not any(epoch.block for epoch in market.state.epochs.values()):
        await file_all(open_archive(market, tmp_path, prover))
        assert prover.taken == [], "nothing is committed yet"
        step(market)
    (epoch,) = market.state.epochs.values()
    for _ in range(2):
        await file_all(open_archive(market, tmp_path, prover))
    assert prover.taken == [epoch.block]
    market.run(seconds_max=100)
    later = Prover()
    await file_all(open_archive(market, tmp_path, later))
    assert (later.taken, later.used) == ([], [make_hash(f"state {epoch.block}")])
    archive = open_archive(market, tmp_path)
    assert archive.folder.epochs == {epoch.number}
    market.state.epochs.clear()
    await file_all(archive)
    assert open_archive(market, tmp_path).folder.epochs == set()
    assert len(archive.folder) == 1


# ---- the folder --------------------------------------------------------------------------------


def test_whole_proofs_go_first_and_of_each_form_the_oldest(tmp_path: Path) -> None:
    folder = ProofFolder(tmp_path, bytes_max=400)
    first, second, third = (make_hash(name) for name in ("1", "2", "3"))
    folder.keep(first, bytes(100), "compact")
    folder.keep(second, bytes(100), "compact")
    folder.keep(first, bytes(100), "whole")
    folder.keep(second, bytes(100), "whole")

    def list_kept() -> list[tuple[str, bool, bool]]:
        again = ProofFolder(tmp_path, bytes_max=400)
        assert len(again) == len(folder) == len(list(tmp_path.iterdir()))
        assert again.used_bytes == folder.used_bytes <= 400
        rows = (("1", first), ("2", second), ("3", third))
        return [(name, again.has(key, "whole"), again.has(key, "compact")) for name, key in rows]

    assert list_kept() == [("1", True, True), ("2", True, True), ("3", False, False)]
    folder.keep(third, bytes(100), "compact")
    assert list_kept() == [("1", False, True), ("2", True, True), ("3", False, True)]
    folder.keep(third, bytes(200), "compact")  # in place of the one before
    assert list_kept() == [("1", False, True), ("2", False, True), ("3", False, True)]
    folder.keep(third, bytes(250), "compact")
    assert list_kept() == [("1", False, False), ("2", False, True), ("3", False, True)]
    with pytest.raises(ContentError, match="longer than all"):
        folder.keep(first, bytes(401), "compact")
    assert list_kept() == [("1", False, False), ("2", False, True), ("3", False, True)]


def test_a_half_written_proof_is_no_proof_and_of_two_the_later_counts(tmp_path: Path) -> None:
    folder = ProofFolder(tmp_path, bytes_max=1_000)
    order = make_hash("order")
    folder.keep(order, b"older", "compact")
    (older,) = tmp_path.iterdir()
    folder.keep(order, b"newer", "compact")
    older.write_bytes(b"older")  # killed before it went
    (tmp_path / f"{9:012d}-{order.hex()}-whole.new").write_bytes(b"ha")
    (tmp_path / "notes.txt").write_text("somebody's own")
    again = ProofFolder(tmp_path, bytes_max=1_000)
    assert again.read(order, "compact") == b"newer"
    assert again.read(order, "whole") is None
    assert len(list(tmp_path.iterdir())) == 2
    next(tmp_path.glob("*.cbor")).unlink()
    assert again.read(order, "compact") is None
