"""
A proof of execution in the words of the software supply chain: an in-toto statement about it.

The statement says of each opened output that this job made it; the proof file, named by its digest,
says why one may believe that. It is not signed; the proof's own signatures are what counts.
Source: in-toto Attestation Framework, Statement v1; SLSA v1.0, Provenance.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from gpumarket.protocol.cids import parse_cid
from gpumarket.protocol.header import decode_header_untrusted
from gpumarket.protocol.ids import Hash32, format_hex, make_job_id
from gpumarket.protocol.proof import ProofOfExecution
from gpumarket.protocol.proof_file import decode_proof_untrusted
from gpumarket.protocol.proof_reading import list_openings, list_own_checks

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:gpumarket:job:v1"
"""Names the meaning of `externalParameters`: the job specification of docs/jobs."""


def find_trusted_block(data: bytes) -> tuple[int, Hash32] | None:
    """Return number and hash of the block on which a proof file hangs, or None without anchors."""
    chain = decode_proof_untrusted(data).chain
    if chain is None:
        return None
    header = decode_header_untrusted(chain.anchors[0].header)
    return header.number, header.block_hash


def format_statement(data: bytes, name: str) -> str:
    """Write the statement about a proof file of this name as JSON, keys sorted."""
    statement = make_statement(decode_proof_untrusted(data), data, name)
    return json.dumps(statement, indent=2, sort_keys=True) + "\n"


def make_statement(proof: ProofOfExecution, data: bytes, name: str) -> dict[str, Any]:
    """Return the statement about the outputs that a proof opens."""
    order = proof.order.body
    image = proof.job.image
    builder = {"id": f"eip155:{proof.domain.chain_id}:{format_hex(order.coordinator)}"}
    dependencies = [
        {"uri": f"ipfs://{image.archive}", "digest": {"sha256": image.digest.partition(":")[2]}}
    ]
    dependencies += [
        {"uri": f"ipfs://{each.cid}", "name": each.name, "digest": _digest(each.cid)}
        for each in proof.job.inputs
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": list_subjects(proof),
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": list(proof.job.command),
                    "env": dict(proof.job.env),
                    "units": proof.job.units,
                },
                "internalParameters": {
                    "jobHash": format_hex(order.job_hash),
                    "verifyHash": format_hex(order.verify_hash),
                },
                "resolvedDependencies": dependencies,
            },
            "runDetails": {
                "builder": builder,
                "metadata": {"invocationId": make_job_id(order.compute_struct_hash())},
                "byproducts": [
                    {
                        "name": name,
                        "mediaType": "application/vnd.ipld.dag-cbor",
                        "digest": {"sha256": hashlib.sha256(data).hexdigest()},
                    }
                ],
            },
        },
    }


def list_subjects(proof: ProofOfExecution) -> list[dict[str, Any]]:
    """Return the outputs of this job that are opened and were not refused, by unit."""
    own = proof.order.body.compute_struct_hash()
    found = {}
    for epoch in proof.epochs:
        checked = {check.opening.body.receipt_hash for check in list_own_checks(proof, epoch)}
        for opening in list_openings(epoch):
            body = opening.body
            if body.result.order_hash == own and body.receipt_hash not in epoch.rejected_receipts:
                found[body.result.unit] = {
                    "name": f"task-{body.result.unit}",
                    "uri": f"ipfs://{body.result.output}",
                    "digest": _digest(body.result.output),
                    "annotations": {"checked": body.receipt_hash in checked},
                }
    return [found[unit] for unit in sorted(found)]


def _digest(cid: str) -> dict[str, str]:
    # The digest of the root block, as in-toto wants digests: by the name of the algorithm.
    return {"sha256": parse_cid(cid).digest.hex()}
