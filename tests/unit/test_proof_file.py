"""The proof file's published shape, and the statement that is written beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpumarket.protocol.audit import check_proof
from gpumarket.protocol.errors import InvalidInput, RemoteProtocolError
from gpumarket.protocol.evidence import AuditVerdict
from gpumarket.protocol.proof_compact import compact_proof
from gpumarket.protocol.proof_file import decode_proof_untrusted, encode_proof, format_proof
from gpumarket.protocol.proof_schema import make_proof_schema
from gpumarket.protocol.statement import find_trusted_block, format_statement
from gpumarket.testing.factories import change
from gpumarket.testing.proofs import make_chain_evidence, make_settled_job

ROOT = Path(__file__).resolve().parents[2]
PROOF, FACTS = make_settled_job()
DATA = encode_proof(PROOF)

STATEMENT_SHAPE: dict[str, Any] = {
    # in-toto Attestation Framework, spec/v1/statement.md, and SLSA v1.0, provenance: required
    # fields and their types.
    "type": "object",
    "required": ["_type", "subject", "predicateType", "predicate"],
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "subject": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/resource"}},
        "predicateType": {"const": "https://slsa.dev/provenance/v1"},
        "predicate": {
            "type": "object",
            "required": ["buildDefinition", "runDetails"],
            "additionalProperties": False,
            "properties": {
                "buildDefinition": {
                    "type": "object",
                    "required": ["buildType", "externalParameters"],
                    "additionalProperties": False,
                    "properties": {
                        "buildType": {"type": "string", "format": "uri"},
                        "externalParameters": {"type": "object"},
                        "internalParameters": {"type": "object"},
                        "resolvedDependencies": {
                            "type": "array",
                            "items": {"$ref": "#/$defs/resource"},
                        },
                    },
                },
                "runDetails": {
                    "type": "object",
                    "required": ["builder"],
                    "additionalProperties": False,
                    "properties": {
                        "builder": {"type": "object", "required": ["id"]},
                        "metadata": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "invocationId": {"type": "string"},
                                "startedOn": {"type": "string"},
                                "finishedOn": {"type": "string"},
                            },
                        },
                        "byproducts": {"type": "array", "items": {"$ref": "#/$defs/resource"}},
                    },
                },
            },
        },
    },
    "additionalProperties": False,
    "$defs": {
        "resource": {
            "type": "object",
            "additionalProperties": False,
            "anyOf": [{"required": ["uri"]}, {"required": ["digest"]}],
            "properties": {
                "uri": {"type": "string"},
                "name": {"type": "string"},
                "digest": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {"type": "string", "pattern": "^[0-9a-f]+$"},
                },
                "content": {"type": "string"},
                "downloadLocation": {"type": "string"},
                "mediaType": {"type": "string"},
                "annotations": {"type": "object"},
            },
        }
    },
}


def test_the_published_schema_is_what_the_types_give() -> None:
    published = json.loads((ROOT / "gpumarket/schemas/proof-v1.json").read_text())
    assert published == make_proof_schema()


def test_a_proof_as_json_fits_its_schema_and_reads_back() -> None:
    text = format_proof(PROOF)
    jsonschema.Draft202012Validator(make_proof_schema()).validate(json.loads(text))
    assert encode_proof(decode_proof_untrusted(text.encode())) == DATA


@pytest.mark.parametrize("key", ["version", "claim", "order", "domain"])
def test_the_schema_asks_for_what_the_reader_asks_for(key: str) -> None:
    plain = json.loads(format_proof(PROOF))
    del plain[key]
    validator = jsonschema.Draft202012Validator(make_proof_schema())
    assert not validator.is_valid(plain)
    with pytest.raises(RemoteProtocolError):
        decode_proof_untrusted(json.dumps(plain).encode())


def test_another_version_is_refused() -> None:
    plain = json.loads(format_proof(PROOF)) | {"version": 2}
    with pytest.raises(RemoteProtocolError):
        decode_proof_untrusted(json.dumps(plain).encode())


def test_a_file_reads_back_to_the_same_proof_and_bytes() -> None:
    again = decode_proof_untrusted(DATA)
    assert encode_proof(again) == DATA
    assert check_proof(again, make_chain_evidence(FACTS)).verdict is AuditVerdict.PASS


def test_a_small_proof_passes_and_says_what_it_does_not_show() -> None:
    small = decode_proof_untrusted(encode_proof(compact_proof(PROOF)))
    report = check_proof(small, make_chain_evidence(FACTS))
    assert report.verdict is AuditVerdict.PASS
    remarks = {check.name: check.remark for check in report.checks if check.remark}
    assert "not shown" in remarks["commitments"]
    assert report.tighten().verdict is AuditVerdict.INCOMPLETE
    assert len(encode_proof(small)) < len(DATA)


def test_a_proof_whose_parts_do_not_fit_is_not_written() -> None:
    with pytest.raises(InvalidInput):
        encode_proof(change(PROOF, claim=None))
    stray = change(PROOF.epochs[0], rejected_receipts=(b"r" * 32,))
    with pytest.raises(InvalidInput):
        encode_proof(change(PROOF, epochs=(stray, *PROOF.epochs[1:])))


def test_the_statement_has_the_shape_of_in_toto_and_slsa() -> None:
    statement = json.loads(format_statement(DATA, "proof.cbor"))
    jsonschema.Draft202012Validator(STATEMENT_SHAPE).validate(statement)
    names = [subject["name"] for subject in statement["subject"]]
    assert names == [f"task-{unit}" for unit in range(6)]
    # What was refused is nobody's product: tasks 1, 3 and 5 were done again by the other.
    assert find_trusted_block(DATA) is None
