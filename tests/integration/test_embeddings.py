"""The embeddings example against an independent implementation, and as a task in the sandbox."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gpumarket.adapters.execution import InputMount, RunRequest
from gpumarket.adapters.sandbox import DockerSandbox
from tests.job_image import ROOT

from .sandbox_fixture import (
    LIMITS,
    MIB,
    job_image_fixture,  # noqa: F401  pytest finds it by its name
    sandbox_fixture,  # noqa: F401  pytest finds it by its name
)

EXAMPLE = ROOT / "examples/embeddings"
MODEL = ROOT / "build/models/all-MiniLM-L6-v2"


def load_program() -> Any:
    """Import embed.py, which is a program and no part of a package."""
    spec = importlib.util.spec_from_file_location("embed", EXAMPLE / "embed.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="model")
def model_fixture() -> Any:
    subprocess.run([ROOT / "scripts/fetch-model"], check=True, timeout=600, capture_output=True)
    return load_program().SentenceModel(MODEL)


def test_embeddings_equal_those_of_pytorch_and_transformers(model: Any) -> None:
    reference = json.loads((EXAMPLE / "reference.json").read_text())
    expected = np.array(reference["embeddings"], dtype=np.float32)
    together = model.embed(reference["texts"])
    alone = np.vstack([model.embed([text]) for text in reference["texts"]])
    for found in (together, alone):
        cosines = (found * expected).sum(axis=1)
        assert cosines.min() >= 0.99999
        assert np.abs(found - expected).max() < 1e-4


def test_a_paraphrase_is_nearer_than_something_unrelated(model: Any) -> None:
    cat, feline, stocks = model.embed(
        ["the cat sits on the mat", "a feline rests on a rug", "stock prices fell sharply"]
    )
    assert cat @ feline > 0.5
    assert max(cat @ stocks, feline @ stocks) < 0.2


def test_the_job_splits_all_of_its_texts_into_tasks() -> None:
    job = yaml.safe_load((EXAMPLE / "job.yaml").read_text())
    lines = load_program().read_lines(EXAMPLE / "texts.txt.gz")
    assert len(lines) == 2400
    assert len(lines) / job["split"]["size"] == 24
    assert (EXAMPLE / "texts.txt.gz").stat().st_size < 400_000
    for source in job["inputs"]:
        path = EXAMPLE / source["from"].removeprefix("file:")
        assert path.exists() or "build/models" in str(path)


async def test_a_task_runs_in_the_sandbox_and_gives_the_same_bytes_twice(
    sandbox: DockerSandbox, job_image: tuple[Path, str], model: Any
) -> None:
    digests, seen = [], list[bytes]()
    for run in ("one", "two"):
        seen.clear()
        request = build_task(sandbox, job_image[1], sandbox.folder / run)
        result = await sandbox.run(request, on_output=lambda _, chunk: seen.append(chunk))
        assert result.is_success, result.stderr_tail.decode()
        assert b"".join(seen).splitlines()[-1] == b"progress 60/60"
        digests.append(
            {
                path.name: hashlib.sha256(path.read_bytes()).hexdigest()
                for path in request.output_folder.iterdir()
            }
        )
    assert digests[0] == digests[1]
    assert set(digests[0]) == {f"embeddings-000100-000160.{end}" for end in ("npy", "json")}

    rows = np.load(sandbox.folder / "one/embeddings-000100-000160.npy")
    assert (rows.shape, rows.dtype) == ((60, 384), np.float32)
    lines = load_program().read_lines(EXAMPLE / "texts.txt.gz")[100:160]
    assert np.abs(rows - model.embed(lines)).max() < 1e-4


def build_task(sandbox: DockerSandbox, digest: str, output_folder: Path) -> RunRequest:
    return RunRequest(
        name=f"gpumarket-{sandbox.owner}",
        lease_id="lease-1",
        image_digest=digest,
        argv=tuple("python3 /in/embed.py --texts /in/texts --model /in/model --out /out".split()),
        env={"GPUMARKET_SPLIT_START": "100", "GPUMARKET_SPLIT_END": "160"},
        inputs=(
            InputMount(host_path=EXAMPLE / "embed.py", container_path="/in/embed.py"),
            InputMount(host_path=EXAMPLE / "texts.txt.gz", container_path="/in/texts"),
            InputMount(host_path=MODEL, container_path="/in/model"),
        ),
        output_path="/out",
        output_folder=output_folder,
        limits=replace(LIMITS, memory_bytes=1000 * MIB),
    )
