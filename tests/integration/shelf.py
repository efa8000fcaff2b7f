"""A job of the small image with all that it needs in one folder by CID, as an auditor has it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gpumarket.adapters.trees import TreeAdder
from gpumarket.protocol.cids import format_cid
from gpumarket.protocol.ids import Cid
from gpumarket.testing.factories import make_image, make_input, make_output, make_resources

PROGRAM = """
import json, os
content = {"task": int(os.environ["GPUMARKET_TASK_INDEX"]), "x": float(open("/in/x").read())}
open("/out/x.json", "w").write(json.dumps(content))
"""


def shelve(folder: Path, source: Path) -> Cid:
    """Copy a file to its name by CID."""
    cid = format_cid(TreeAdder(lambda _block: None).add_file(source).cid)
    shutil.copy(source, folder / cid)
    return cid


def shelve_job(folder: Path, job_image: tuple[Path, str]) -> dict[str, Any]:
    """Return a job's fields, with its input and the image archive put into `folder`."""
    archive, digest = job_image
    (folder / "x").write_text("1.0005")
    value = shelve(folder, folder / "x")
    return {
        "image": make_image(
            digest=f"sha256:{digest}",
            archive=shelve(folder, archive),
            archive_bytes=archive.stat().st_size,
        ),
        "command": ("python3", "-c", PROGRAM),
        "inputs": (make_input(cid=value, path="/in/x", size_bytes=6),),
        "outputs": (make_output(path="/out"),),
        "resources": make_resources(memory_bytes=200 * 10**6),
    }
