"""Sampled units run again by an auditor: real engine, real image, everything from one folder."""

from __future__ import annotations

import json
import platform
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumarket.adapters.images import encode_image_config, write_image_archive
from gpumarket.adapters.rerunning import rerun_units
from gpumarket.adapters.trees import TreeAdder
from gpumarket.comparing.rechecking import list_sampled
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.comparison import BytesRule, ProgramRule
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.testing.factories import make_image
from gpumarket.testing.stored_outputs import VALUES, settle

from .sandbox_fixture import job_image_fixture  # noqa: F401  pytest finds it by its name
from .shelf import shelve, shelve_job

PASS, FAIL, INCOMPLETE = AuditVerdict.PASS, AuditVerdict.FAIL, AuditVerdict.INCOMPLETE
COMPARATOR = """
import json, sys
own, theirs = (json.load(open(f"/{name}/x.json"))["x"] for name in ("own", "theirs"))
sys.exit(0 if abs(own - theirs) < 0.01 else 1)
"""
COLLUDING = {**VALUES, "provider-1": 1.5, "verifier-1": 1.5}


@pytest.fixture(name="folder")
def folder_fixture(tmp_path: Path) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    return folder


@pytest.fixture(name="job")
def job_fixture(job_image: tuple[Path, str], folder: Path) -> dict[str, Any]:
    """A job of the small image, with its input and the image archive on the shelf."""
    return shelve_job(folder, job_image)


@pytest.fixture(name="other_image")
def other_image_fixture(job_image: tuple[Path, str], tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """The small image under a digest that the engine has not seen."""
    with tarfile.open(job_image[0]) as archive:
        archive.extractall(tmp_path / "image", filter="data")
    manifest = json.loads((tmp_path / "image/manifest.json").read_text())
    layers = [tmp_path / "image" / name for name in manifest[0]["Layers"]]
    machine = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = encode_image_config(
        layers, architecture=machine, env={"MARK": tmp_path.name}, entrypoint=()
    )
    path = tmp_path / "other.tar"
    digest = write_image_archive(path, config=config, layers=layers)
    yield path, digest
    remove = ["docker", "rmi", "--force", f"sha256:{digest}"]
    subprocess.run(remove, capture_output=True, check=False, timeout=60)


def run_all(proof: ProofOfExecution, folder: Path) -> tuple[AuditVerdict, str]:
    check = rerun_units(proof, folder, count=100)
    return check.verdict, f"{check.text} {check.remark}"


def test_units_come_out_as_committed_and_forged_ones_do_not(folder: Path, job: dict[str, Any]):
    proof = settle(folder, job=job)
    sampled = list_sampled(proof)
    assert {each.is_accepted for each in sampled} == {True, False}
    verdict, text = run_all(proof, folder)
    assert verdict is PASS, text
    assert f"{len(sampled)} of {len(sampled)} sampled results run again" in text
    check = rerun_units(proof, folder, count=1)
    assert check.text.startswith(f"1 of {len(sampled)} ")


def test_a_result_that_provider_and_verifier_made_up_is_found(folder: Path, job: dict[str, Any]):
    verdict, text = run_all(settle(folder, job=job, values=COLLUDING), folder)
    assert verdict is FAIL
    assert "differs from the result that was accepted" in text


def test_a_requesters_comparator_decides(folder: Path, job: dict[str, Any]):
    rule = ProgramRule(command=("python3", "-c", COMPARATOR))
    verdict, text = run_all(settle(folder, rule, job=job), folder)
    assert verdict is PASS, text
    assert run_all(settle(folder, rule, job=job, values=COLLUDING), folder)[0] is FAIL


def test_other_bytes_on_another_class_of_machine_blame_nobody(folder: Path, job: dict[str, Any]):
    verdict, text = run_all(settle(folder, BytesRule(), job=job, values=COLLUDING), folder)
    assert verdict is INCOMPLETE
    assert "proves nothing between machines of different classes" in text


def test_the_image_comes_from_the_folder(
    folder: Path, job: dict[str, Any], other_image: tuple[Path, str]
):
    archive, digest = other_image
    image = make_image(
        digest=f"sha256:{digest}",
        archive=format_cid(TreeAdder(lambda _block: None).add_file(archive).cid),
        archive_bytes=archive.stat().st_size,
    )
    proof = settle(folder, job=job | {"image": image})
    verdict, text = run_all(proof, folder)
    assert verdict is INCOMPLETE
    assert f"{image.archive} is not in" in text
    shelve(folder, archive)
    assert run_all(proof, folder)[0] is PASS


def test_a_program_that_fails_here_or_lacks_its_input_decides_nothing(
    folder: Path, job: dict[str, Any]
):
    broken = job | {"command": ("python3", "-c", "raise SystemExit(3)")}
    verdict, text = run_all(settle(folder, job=broken), folder)
    assert (verdict, "the program exited with 3 here" in text) == (INCOMPLETE, True)
    (folder / job["inputs"][0].cid).write_text("9.9")
    verdict, text = run_all(settle(folder, job=job), folder)
    assert (verdict, "is something else" in text) == (INCOMPLETE, True)


def test_without_an_engine_nothing_is_decided(
    folder: Path, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{folder}/nobody.sock")
    assert run_all(settle(folder, job=job), folder)[0] is INCOMPLETE
