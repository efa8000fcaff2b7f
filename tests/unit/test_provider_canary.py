"""The operator's provider: forges what its secret picks of its operator's orders, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpumarket.adapters.output_files import compare_folders
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.comparison import (
    BytesRule,
    Comparison,
    JsonRule,
    LlmRule,
    NpyRule,
    ProgramRule,
)
from gpumarket.protocol.ids import Address
from gpumarket.protocol.lease import LeaseOffer
from gpumarket.protocol.units import PPM
from gpumarket.testing.factories import (
    change,
    make_address,
    make_cid,
    make_key,
    make_receipt,
    make_result,
    make_signed_order,
    make_spec,
)
from gpumarket.testing.factories import make_lease_offer as make_offer
from provider_node.canary import Canary

OPERATOR = make_address("operator")
HONEST = make_cid("honest")


def make_canary(folder: Path, *, share_ppm: int = PPM, key: str = "provider-1") -> Canary:
    requesters: frozenset[Address] = frozenset({OPERATOR})
    return Canary(
        key=make_key(key), requesters=requesters, share_ppm=share_ppm, folder=folder / "canaries"
    )


def make_lease(
    rule: Comparison | None = None, *, signer: str = "operator", **changes: Any
) -> LeaseOffer:
    spec = make_spec(units=1_000)
    spec = change(spec, verify=change(spec.verify, comparison=rule or BytesRule()))
    values: dict[str, Any] = {"order": make_signed_order(spec, signer), "job": spec, "attempt": 0}
    return change(make_offer(), **(values | changes))


# ---- which ---------------------------------------------------------------------------------


def test_about_the_share_is_picked_by_a_secret_and_the_same_ones_after_a_restart(
    tmp_path: Path,
) -> None:
    canary = make_canary(tmp_path, share_ppm=PPM // 4)
    leases = [make_lease(unit=unit) for unit in range(1_000)]
    picked = [lease.unit for lease in leases if canary.picks(lease)]
    assert 190 < len(picked) < 310
    again = make_canary(tmp_path, share_ppm=PPM // 4)
    assert [lease.unit for lease in leases if again.picks(lease)] == picked
    other = make_canary(tmp_path, share_ppm=PPM // 4, key="provider-2")
    assert [lease.unit for lease in leases if other.picks(lease)] != picked


@pytest.mark.parametrize(
    "lease",
    [
        make_lease(signer="alice"),
        make_lease(attempt=1),
        make_lease(LlmRule(command=("python", "replay.py"))),
        make_lease(ProgramRule(command=("python", "compare.py"))),
    ],
    ids=["another's order", "done again", "llm", "program"],
)
def test_what_must_not_or_cannot_be_forged_is_not_picked(tmp_path: Path, lease: LeaseOffer) -> None:
    assert not make_canary(tmp_path).picks(lease)
    assert make_canary(tmp_path).picks(make_lease())


# ---- how -----------------------------------------------------------------------------------


def write_output(folder: Path, name: str) -> Path:
    """Write an honest output of one kind; return its folder."""
    output = folder / "output"
    output.mkdir()
    match name:
        case "floats":
            np.save(output / "rows.npy", np.random.default_rng(1).normal(size=(20, 4)))
        case "integers":
            np.save(output / "rows.npy", np.arange(10, dtype=np.uint8))
        case "bools":
            np.save(output / "rows.npy", np.array([True, False]))
        case "json":
            (output / "sum.json").write_text(json.dumps({"count": 3, "loss": 0.5, "ok": True}))
        case "counts":
            (output / "sum.json").write_text(json.dumps([{"count": 3}]))
        case "text":
            (output / "result.txt").write_text("task 7")
        case "words":
            (output / "result.txt").write_text("cats and dogs")
        case _:
            (output / "noise.bin").write_bytes(bytes(range(256)))
    return output


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("floats", NpyRule()),
        ("integers", NpyRule()),
        ("bools", NpyRule()),
        ("json", JsonRule()),
        ("counts", JsonRule()),
        ("json", BytesRule()),
        ("text", BytesRule()),
        ("words", BytesRule()),
    ],
)
def test_a_forged_output_is_a_mismatch_by_the_jobs_own_rule_and_is_noted(
    tmp_path: Path, kind: str, rule: Comparison
) -> None:
    canary, output = make_canary(tmp_path), write_output(tmp_path, kind)
    before = tmp_path / "before"
    output.rename(before)

    shutil.copytree(before, output)
    lease = make_lease(rule)
    assert canary.forge(lease, output, HONEST)
    assert compare_folders(before, output, rule, base=None).verdict is Verdict.MISMATCH
    assert {p.name for p in output.iterdir()} == {p.name for p in before.iterdir()}
    receipt = make_receipt(make_result(lease.order.body, "provider-1", unit=lease.unit))
    note = canary.make_note(lease.lease_id, receipt)
    assert note is not None
    assert (note.receipt_hash, note.honest) == (receipt.compute_struct_hash(), HONEST)
    assert make_canary(tmp_path).make_note(lease.lease_id, receipt) == note, "after a restart"
    canary.forget(lease.lease_id)
    assert canary.make_note(lease.lease_id, receipt) is None


def test_json_that_looks_right_at_a_glance_keeps_its_counts(tmp_path: Path) -> None:
    output = write_output(tmp_path, "json")
    assert make_canary(tmp_path).forge(make_lease(JsonRule()), output, HONEST)
    forged = json.loads((output / "sum.json").read_text())
    assert (forged["count"], forged["ok"]) == (3, True) and forged["loss"] != 0.5


def test_what_cannot_be_made_wrong_stays_right_and_is_not_noted(tmp_path: Path) -> None:
    canary, output, lease = make_canary(tmp_path), write_output(tmp_path, "noise"), make_lease()
    before = (output / "noise.bin").read_bytes()
    assert not canary.forge(lease, output, HONEST)
    assert (output / "noise.bin").read_bytes() == before
    receipt = make_receipt(make_result(lease.order.body, "provider-1", unit=lease.unit))
    assert canary.make_note(lease.lease_id, receipt) is None
