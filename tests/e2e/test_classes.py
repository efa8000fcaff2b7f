"""
A market of unlike machines: emulated instruction sets, whose floating-point bits really differ.

Bytes are held to a verifier of the provider's own class. Where none is left, a rule with a
tolerance still decides, and outputs of other bytes match within it.
"""

from __future__ import annotations

import pytest

from gpumarket.testing.devnet import CPU_PROVIDER, ProviderProfile, VerifierProfile
from gpumarket.testing.machine_classes import SSE
from tests.e2e.market import DETACHED, Json, Market

SETTINGS = ", ".join(f'{name} = "{value}"' for name, value in SSE.items())
EMULATES = f"emulate = {{{SETTINGS}}}\n"
PROVIDER = ProviderProfile(CPU_PROVIDER.name, CPU_PROVIDER.settings + EMULATES)
NATIVE, SAME = VerifierProfile("verifier"), VerifierProfile("verifier-2", EMULATES)
DEVNET_MEMBERS = ((PROVIDER,), (NATIVE, SAME))
TASKS = 2
PROGRAM = """
import os,numpy as n
r=n.random.default_rng(int(os.environ["GPUMARKET_TASK_INDEX"]))
a,b=(r.random((150,150),"f4") for _ in "ab")
n.save("/out/product.npy",a@b)
"""
"""A product that instruction sets round in their own ways."""
VERIFY = {"mode": "full"}
pytestmark = pytest.mark.filterwarnings(DETACHED)


def run(market: Market, name: str, compare: object) -> tuple[str, list[Json]]:
    """Run a job whose every task is checked; return it and what its checks said."""
    path = market.write_job(
        name, program=PROGRAM, tasks=TASKS, verify=VERIFY | {"compare": compare}
    )
    job_id = market.submit(path)
    market.wait_settled(job_id)
    said = [entry for entry in market.events(job_id) if entry["type"] == "task.match"]
    assert len(said) == TASKS, market.describe(job_id)
    return job_id, said


def test_bytes_are_checked_in_class_and_a_tolerance_holds_across_classes(market: Market) -> None:
    _, said = run(market, "bytes", "bytes")
    assert {entry["actor"] for entry in said} == {market.address(SAME.name)}
    assert {entry["text"] for entry in said} == {"both outputs have the same CID"}

    market.devnet.kill(SAME.name)
    job_id, said = run(market, "tolerance", {"as": "npy"})
    assert {entry["actor"] for entry in said} == {market.address(NATIVE.name)}
    audit = market.run("audit", "verify", job_id)
    assert audit.exit == 0, audit.stdout
    assert f"{TASKS} matches are of outputs with different CIDs" in audit.stdout
