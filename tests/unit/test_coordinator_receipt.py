"""`GET /v1/jobs/{job}/receipt` over real HTTP: whole or compact, anchored if it must be."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import pytest
import trio

from coordinator.api import Desk, desk, make_app
from coordinator.api.proofs import make_proof
from gpumarket.adapters.chain import Chain
from gpumarket.adapters.http import serve_http
from gpumarket.protocol.errors import ChainError
from gpumarket.protocol.ids import make_job_id
from gpumarket.protocol.job import VerifyPolicy
from gpumarket.protocol.proof import OpenedWork, ProofOfExecution
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import encode_proof, format_proof
from gpumarket.testing.factories import make_hash, make_spec
from tests.coordinator_market import Market

SAMPLE = VerifyPolicy(forged_share_ppm=500_000, units_min=1)


class Prover:
    """A state prover that counts, and that proves nothing where the node does not."""

    asked = 0
    is_able = True

    def __init__(self, _chain: Chain) -> None:
        pass

    async def anchor(self, proof: ProofOfExecution) -> tuple[ProofOfExecution, bytes]:
        """Return the proof as it came, or refuse."""
        Prover.asked += 1
        if not Prover.is_able:
            raise ChainError(
                "the node does not prove this job's state", code="GM-3007", why="missing trie node"
            )
        return proof, make_hash("block")


@pytest.fixture(autouse=True)
def prover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "StateProver", Prover)
    monkeypatch.setattr(Prover, "asked", 0)
    monkeypatch.setattr(Prover, "is_able", True)


def play(*, is_settled: bool = True) -> tuple[Market, ProofOfExecution, str]:
    market = Market()
    market.join("provider-1", offer={"slots": 16})
    market.join_verifier(card={"slots": 16})
    job = market.submit(make_spec(units=12, verify=SAMPLE), checks=20)
    if is_settled:
        market.run(seconds_max=100)
    return market, make_proof(market.state, job), make_job_id(job.order_hash)


@asynccontextmanager
async def serve(market: Market) -> AsyncIterator[str]:
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


async def test_the_whole_proof_and_the_compact_one_are_given_in_both_forms() -> None:
    market, proof, name = play()
    small = compact_proof(proof)
    assert len(encode_proof(small)) < len(encode_proof(proof))
    async with serve(market) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        for query, expected in (("", proof), ("?form=compact", small), ("?form=other", proof)):
            status, kind, body = await get(path + query)
            assert (status, kind) == (200, "application/vnd.ipld.dag-cbor")
            assert body == encode_proof(expected)
            status, kind, body = await get(path + query, accept="application/json")
            assert (status, kind.partition(";")[0]) == (200, "application/json")
            assert body.decode() == format_proof(expected)
    assert any(isinstance(work, OpenedWork) for each in small.epochs for work in each.document.work)


async def test_each_form_of_a_settled_job_is_proven_once() -> None:
    market, _, name = play()
    async with serve(market) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        for query in ("", "?form=compact", "?form=compact&anchors=require", "?anchors=require"):
            assert (await get(path + query))[0] == 200
    assert Prover.asked == 2


async def test_a_node_that_proves_nothing_is_an_error_only_where_anchors_are_required() -> None:
    market, proof, name = play()
    Prover.is_able = False
    async with serve(market) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        status, _, body = await get(f"{path}?form=compact")
        assert (status, body) == (200, encode_proof(compact_proof(proof)))
        for form in ("", "form=compact&"):
            status, kind, body = await get(f"{path}?{form}anchors=require")
            problem = json.loads(body)
            assert (status, kind.partition(";")[0]) == (502, "application/problem+json")
            assert (problem["code"], problem["why"]) == ("GM-3007", "missing trie node")
        Prover.is_able = True
        assert (await get(f"{path}?anchors=require"))[0] == 200, "a refusal is not remembered"


async def test_an_unsettled_job_is_proven_only_where_anchors_are_required() -> None:
    market, proof, name = play(is_settled=False)
    assert not proof.settlements
    async with serve(market) as url:
        path = f"{url}/v1/jobs/{name}/receipt"
        assert (await get(path))[0] == 200
        assert Prover.asked == 0
        assert (await get(f"{path}?anchors=require"))[0] == 200
        assert Prover.asked == 1


async def test_an_unknown_job_has_no_receipt() -> None:
    market, _, _ = play(is_settled=False)
    async with serve(market) as url:
        status, _, body = await get(f"{url}/v1/jobs/gm-aaaaaaaaaa/receipt?anchors=require")
    assert (status, Prover.asked) == (404, 0)
    assert json.loads(body)["code"].startswith("GM-")
