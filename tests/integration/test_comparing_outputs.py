"""A verifier comparing real content, with a requester's own comparator in the real sandbox."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import trio

from gpumarket.adapters.blockstore import FileBlockStore
from gpumarket.adapters.content import EmbeddedNode
from gpumarket.adapters.sandbox import DockerSandbox
from gpumarket.adapters.toploc import find_verify_proof
from gpumarket.adapters.unit_runner import UnitRunner
from gpumarket.comparing.judging import Outcome
from gpumarket.protocol.attestation import OwnResult, Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    LlmRule,
    NpyRule,
    ProgramRule,
)
from gpumarket.protocol.job import JobSpec, VerifyPolicy
from gpumarket.protocol.messages import CheckRequested
from gpumarket.protocol.receipt import UnitResult
from gpumarket.testing.factories import (
    change,
    make_image,
    make_input,
    make_output,
    make_resources,
    make_spec,
)
from verifier.core.effects import CompareOutputs
from verifier.outputs import Bench, compare

from .sandbox_fixture import (
    job_image_fixture,  # noqa: F401  pytest finds it by its name
    sandbox_fixture,  # noqa: F401  pytest finds it by its name
)

Image = tuple[Path, str]
Files = dict[str, bytes]


class NoPeers:
    """A network without anybody: everything that is compared here is here already."""

    def serve_raw(self, _protocol: str, _handler: object) -> None:
        """Serve nobody."""

    async def open_raw(self, *_: object, **__: object) -> NoReturn:
        """Reach nobody."""
        raise AssertionError("a peer was asked for what is here")

    async def disconnect(self, _peer_id: str) -> None:
        """Break off nothing."""


@dataclass
class Market:
    """A verifier's bench, and what it is asked to compare."""

    bench: Bench
    job: JobSpec
    folder: Path

    async def add(self, files: Files) -> str:
        """Store an output folder and return its CID."""
        folder = self.folder / f"made-{len(list(self.folder.iterdir()))}"
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return await self.bench.content.add_directory(folder)

    async def compare(self, own: Files, theirs: Files, rule: Comparison) -> Outcome:
        """Compare two outputs of the job's first task."""
        job = change(self.job, verify=VerifyPolicy(comparison=rule))
        request = CheckRequested(
            order_hash=b"o" * 32,
            unit=0,
            receipt_hash=b"r" * 32,
            job=job,
            deadline=100,
            sources=(),
        )
        mine = OwnResult(
            order_hash=b"o" * 32,
            unit=0,
            verifier=b"v" * 20,
            output=await self.add(own),
            exit_code=0,
            repro_class=bytes(32),
            duration_ms=1,
            nonce=b"n" * 32,
        )
        other = UnitResult(
            order_hash=b"o" * 32,
            unit=0,
            provider=b"p" * 20,
            input_hash=bytes(32),
            output=await self.add(theirs),
            output_bytes=sum(len(data) for data in theirs.values()),
            repro_class=bytes(32),
            duration_ms=1,
            salt=b"s" * 32,
        )
        effect = CompareOutputs(request=request, own=mine, theirs=other, sources=())
        outcome = await compare(effect, self.bench)
        work = self.bench.folder
        assert not list(work.glob("compare-*"))
        assert not list(work.glob("runs/*"))
        return outcome


@pytest.fixture(name="market")
async def market_fixture(
    sandbox: DockerSandbox, job_image: Image, tmp_path: Path
) -> AsyncIterator[Market]:
    store = FileBlockStore(tmp_path / "blocks", quota_bytes=10**9)
    node = EmbeddedNode(NoPeers(), store)
    runner = UnitRunner(content=node, sandbox=sandbox, folder=tmp_path / "work")
    made = tmp_path / "made"
    made.mkdir()
    bench = Bench(content=node, runner=runner, folder=tmp_path / "work")
    async with trio.open_nursery() as nursery:
        await nursery.start(node.run)
        base = await node.add_bytes(an_npy(WEIGHTS))
        job = make_spec(
            image=make_image(digest=f"sha256:{job_image[1]}"),
            inputs=(make_input(name="start", cid=base, path="/in/start.npy", size_bytes=9_000),),
            outputs=(make_output(path="/out"),),
            resources=make_resources(memory_bytes=200 * 10**6),
        )
        job = change(job, limits=change(job.limits, run_seconds=20))
        yield Market(bench, job, made)
        nursery.cancel_scope.cancel()
    store.close()


def an_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


WEIGHTS = np.random.default_rng(1).normal(size=2_000).astype(np.float32)
UPDATE = np.random.default_rng(2).normal(size=2_000).astype(np.float32) * np.float32(1e-5)


async def test_bytes_and_numbers_are_compared_on_real_content(market: Market) -> None:
    own = {"a/x.npy": an_npy(WEIGHTS), "log": b"1"}
    near = {**own, "a/x.npy": an_npy(WEIGHTS * np.float32(1 + 1e-6))}
    assert (await market.compare(own, own, BytesRule())).verdict is Verdict.MATCH
    assert (await market.compare(own, near, BytesRule())).verdict is Verdict.MISMATCH
    assert (await market.compare(own, near, NpyRule())).verdict is Verdict.MATCH
    outcome = await market.compare(own, {**near, "log": b"2"}, NpyRule())
    assert (outcome.verdict, outcome.rule) == (Verdict.MISMATCH, "bytes")


async def test_the_base_is_the_input_that_the_rule_names(market: Market) -> None:
    own = {"x.npy": an_npy(WEIGHTS + UPDATE)}
    lazy = {"x.npy": an_npy(WEIGHTS + UPDATE * np.float32(0.99))}
    loose = NpyRule(rtol="0.01", atol="0.01")
    assert (await market.compare(own, lazy, loose)).verdict is Verdict.MATCH
    outcome = await market.compare(own, lazy, change(loose, base="start"))
    assert outcome.verdict is Verdict.MISMATCH
    assert "change from the base" in outcome.sentence
    outcome = await market.compare(own, lazy, change(loose, base="nowhere"))
    assert outcome.verdict is Verdict.INCONCLUSIVE


COMPARATOR = """
import os, sys
own, theirs = open("/own/x").read(), open("/theirs/x").read()
for path in ("/own/x", "/theirs/x", "/in/start.npy"):
    try:
        open(path, "w")
        sys.exit(9)
    except OSError:
        pass
assert os.listdir("/out") == [] and os.path.getsize("/in/start.npy") > 8_000
assert os.environ["GPUMARKET_TASK_INDEX"] == "0"
assert os.listdir("/sys/class/net") == ["lo"]
print("reading")
print(f"{own} here, {theirs} there")
sys.exit(0 if own.lower() == theirs.lower() else 1)
"""


async def test_a_requesters_comparator_decides_in_the_sandbox(market: Market) -> None:
    rule = ProgramRule(command=("python3", "-c", COMPARATOR))
    found = await market.compare({"x": b"Yes"}, {"x": b"yes"}, rule)
    assert (found.verdict, found.rule) == (Verdict.MATCH, "program")
    assert found.sentence.endswith("Yes here, yes there")
    found = await market.compare({"x": b"Yes"}, {"x": b"no"}, rule)
    assert found.verdict is Verdict.MISMATCH
    assert found.sentence.endswith("Yes here, no there")


@pytest.mark.parametrize(
    "command",
    [
        ("python3", "-c", "raise SystemExit(2)"),
        ("python3", "-c", "import os; os.kill(os.getpid(), 9)"),
        ("python3", "-c", "x = bytearray(10**9); raise SystemExit(1)"),
        ("no-such-program",),
    ],
    ids=["two", "killed", "memory", "absent"],
)
async def test_a_comparator_that_breaks_decides_nothing(
    market: Market, command: tuple[str, ...]
) -> None:
    found = await market.compare({"x": b"1"}, {"x": b"2"}, ProgramRule(command=command))
    assert (found.verdict, found.rule) == (Verdict.INCONCLUSIVE, "program")


async def test_a_comparator_that_does_not_end_decides_nothing(market: Market) -> None:
    market.job = change(market.job, limits=change(market.job.limits, run_seconds=1))
    rule = ProgramRule(command=("python3", "-c", "while True: pass"))
    found = await market.compare({"x": b"1"}, {"x": b"2"}, rule)
    assert found.verdict is Verdict.INCONCLUSIVE


REPLAY = """
import os, shutil, sys
assert os.listdir("/out") == [] and os.path.getsize("/in/start.npy") > 8_000
assert os.listdir("/sys/class/net") == ["lo"]
data = open("/theirs/tokens.npy", "rb").read()
number = data[-4]
if number == 9:
    sys.exit(1)
shutil.copy("/own/fingerprints.npy", "/out/fingerprints.npy")
header = data[:128].replace(b"<i4", b"<f4")
margin = {1: b"\\0\\0\\0\\0", 2: b"\\0\\0\\x80\\x3f"}[number]
open("/out/margins.npy", "wb").write(header + margin)
"""


@pytest.mark.parametrize(
    ("token", "verdict"),
    [(1, Verdict.MATCH), (2, Verdict.MISMATCH), (9, Verdict.INCONCLUSIVE)],
)
async def test_claimed_tokens_are_replayed_in_the_sandbox_and_judged_here(
    market: Market, token: int, verdict: Verdict
) -> None:
    def make(number: int) -> Files:
        prints = np.ones((1, 1, 4), np.float16)
        tokens = np.array([[number]], np.int32)
        return {"tokens.npy": an_npy(tokens), "fingerprints.npy": an_npy(prints)}

    rule = LlmRule(command=("python3", "-c", REPLAY), exact_in_class=False)
    found = await market.compare(make(0), make(token), rule)
    assert (found.verdict, found.rule) == (verdict, "llm"), found.sentence
    exact = await market.compare(make(0), make(token), change(rule, exact_in_class=True))
    assert exact.verdict is Verdict.MISMATCH
    assert "same class" in exact.sentence


async def test_toplocs_proofs_are_judged_where_the_package_is_and_decide_nothing_elsewhere(
    market: Market,
) -> None:
    def make(token: int, coefficient: int) -> Files:
        words = np.full((1, 1, 129), coefficient, ">u2")
        words[:, :, 0] = 65_497
        tokens = np.array([[token]], np.int32)
        return {"tokens.npy": an_npy(tokens), "toploc.npy": an_npy(words.view(np.uint8))}

    replayed = {
        "margins.npy": an_npy(np.zeros((1, 1))),
        "activations.npy": an_npy(np.zeros((1, 1, 128), np.float32)),
    }
    program = "".join(
        f"open('/out/{name}', 'wb').write(bytes.fromhex('{data.hex()}'))\n"
        for name, data in replayed.items()
    )
    rule = LlmRule(command=("python3", "-c", program), fingerprint="toploc", exact_in_class=False)
    is_there = find_verify_proof() is not None
    for coefficient, verdict in ((0, Verdict.MATCH), (7, Verdict.MISMATCH)):
        found = await market.compare(make(1, 0), make(2, coefficient), rule)
        expected = verdict if is_there else Verdict.INCONCLUSIVE
        assert found.verdict is expected, found.sentence
        assert is_there or "pip install 'gpumarket[toploc]'" in found.sentence
