"""
The job file: what a person writes, checked as a whole, every mistake with its line.

`load_job_file` gives a `JobFile` or raises `InvalidJobFile` with all mistakes at once.
`resolving.resolve_job` turns it into the `JobSpec` that is signed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from gpumarket.protocol.errors import InvalidInput
from gpumarket.yaml_text import Pointer, YamlMistake, YamlText

JOB_FILE_BYTES_MAX = 64 * 1024
MISTAKES_MAX = 100
"""More than this says nothing new about one file."""
SCHEMA_NAME = "job-v1"
_TEXT_SHOWN_MAX = 80


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One thing wrong with a file: where, what, and the page that explains it."""

    line: int
    text: str
    code: str
    pointer: str = ""
    """Where it stands, as `inputs.0.from`; empty for the whole file."""


class InvalidJobFile(InvalidInput):
    """A job file with mistakes; `mistakes` has all of them, in the order of their lines."""

    default_code = "GM-1105"

    def __init__(self, name: str, mistakes: Sequence[Mistake]) -> None:
        first = mistakes[0]
        if len(mistakes) == 1:
            message = f"{name} line {first.line}: {first.text}"
        else:
            message = f"{name} has {len(mistakes)} mistakes"
        super().__init__(
            message,
            code=first.code,
            why="" if len(mistakes) == 1 else "\n".join(format_mistakes(name, mistakes)),
            hints=("gpumarket schema job",),
            fault="requester",
        )
        self.name = name
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True)
class JobFile:
    """A job file that fits the schema; `document` is its content as plain values."""

    name: str
    folder: Path
    """Where `file:` paths start."""
    document: Mapping[str, Any]
    text: YamlText

    def make_mistake(self, code: str, pointer: Pointer, text: str) -> Mistake:
        """Say that the value at `pointer` is wrong."""
        return Mistake(self.text.find_line(pointer), text, code, _format_pointer(pointer))


def load_job_file(path: Path, *, overrides: Mapping[str, Any] | None = None) -> JobFile:
    """
    Read and check a job file; `overrides` maps dotted paths to values that replace its own.

    Raises `InvalidJobFile` with every mistake, or `InvalidInput` where it cannot be read.
    """
    name = path.name
    return parse_job_text(read_job_text(path), name, path.parent, overrides=overrides or {})


def parse_job_text(
    text: str, name: str, folder: Path, *, overrides: Mapping[str, Any] | None = None
) -> JobFile:
    """Check the text of a job file whose `file:` paths start at `folder`."""
    try:
        parsed = YamlText(text)
    except YamlMistake as mistake:
        raise InvalidJobFile(name, [_from_yaml(mistake)]) from mistake
    document = parsed.document
    for dotted, value in (overrides or {}).items():
        _override(document, dotted, value)
    mistakes = _check_document(parsed, document)
    if mistakes:
        raise InvalidJobFile(name, mistakes)
    return JobFile(name, folder, document, parsed)


def check_job_text(text: str, name: str) -> list[Mistake]:
    """Return all mistakes of a job file's text, in the order of their lines."""
    try:
        parse_job_text(text, name, Path())
    except InvalidJobFile as error:
        return list(error.mistakes)
    return []


def read_job_text(path: Path) -> str:
    """Read a job file's text, or raise `InvalidInput` GM-1101."""
    try:
        with path.open("rb") as file:
            data = file.read(JOB_FILE_BYTES_MAX + 1)
        if len(data) > JOB_FILE_BYTES_MAX:
            raise InvalidInput(f"{path} is larger than {JOB_FILE_BYTES_MAX} bytes", code="GM-1101")
        return data.decode("utf-8")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}",
            code="GM-1101",
            hints=("gpumarket job init -o job.yaml",),
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8 text", code="GM-1101") from error


@lru_cache(maxsize=1)
def load_schema() -> dict[str, Any]:
    """Return the JSON Schema of job files, which ships with the package."""
    text = (files("gpumarket") / "schemas" / f"{SCHEMA_NAME}.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def format_mistakes(name: str, mistakes: Sequence[Mistake]) -> list[str]:
    """Write mistakes one a line, as compilers do: `job.yaml:4: text`."""
    return [f"{name}:{mistake.line}: {mistake.text}" for mistake in mistakes]


def _from_yaml(mistake: YamlMistake) -> Mistake:
    return Mistake(mistake.line, mistake.text, "GM-1102")


def _override(document: Any, dotted: str, value: Any) -> None:
    *above, last = dotted.split(".")
    place = document
    for step in above:
        if not isinstance(place, dict):
            break
        place = place.setdefault(step, {})
    if not isinstance(place, dict) or not last:
        raise InvalidInput(f"--set cannot reach {dotted!r} in the job file")
    place[last] = value


def _check_document(parsed: YamlText, document: Any) -> list[Mistake]:
    if not isinstance(document, dict):
        return [Mistake(1, "a job file is a list of fields, like  version: 1", "GM-1105")]
    # jsonschema takes a fifth of a second to import; only commands with a job file pay it.
    from jsonschema import Draft202012Validator, FormatChecker

    validator = Draft202012Validator(load_schema(), format_checker=FormatChecker())
    found = {
        Mistake(parsed.find_line(pointer), text, code, _format_pointer(pointer))
        for error in validator.iter_errors(document)
        for code, pointer, text in _explain(error)
    }
    return sorted(found)[:MISTAKES_MAX]


# ---- schema errors in our words ------------------------------------------------------------

_Explained = tuple[str, Pointer, str]


def _explain(error: Any) -> Iterator[_Explained]:
    pointer: Pointer = tuple(error.absolute_path)
    explain = _EXPLAINERS.get(error.validator, _explain_value)
    yield from explain(error, pointer)


def _explain_unknown(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    known = list(error.schema["properties"])
    for key in error.instance:
        if key in known:
            continue
        close = difflib.get_close_matches(str(key), known, 1, 0.5)
        advice = f"; did you mean '{close[0]}'?" if close else f"; allowed: {', '.join(known)}"
        text = f"unknown field '{key}' in {_format_pointer(pointer) or 'file'}{advice}"
        yield "GM-1104", (*pointer, str(key)), text


def _explain_required(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    for key in error.validator_value:
        if key not in error.instance:
            where = _format_pointer(pointer)
            text = f"{where}: '{key}' is missing" if where else f"the field '{key}' is missing"
            yield "GM-1103", pointer, text


def _explain_exclusion(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    text = (
        "'split' and 'gang' cannot both be set: "
        "split runs many independent tasks, gang runs one task on many nodes"
    )
    yield "GM-1106", (*pointer, "gang"), text


def _explain_choice(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    choices = [str(choice) for choice in error.validator_value]
    close = difflib.get_close_matches(str(error.instance), choices, 1, 0.4)
    advice = f"; did you mean '{close[0]}'?" if close else ""
    where = _format_pointer(pointer)
    yield (
        "GM-1107",
        pointer,
        f"{where}: '{_show(error.instance)}' is not one of {', '.join(choices)}{advice}",
    )


def _explain_alternatives(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    if pointer[-1:] == ("from",):
        yield from _explain_source(error, pointer)
        return
    # Of several forms, the one of the same JSON type is the one that was meant.
    meant = [
        inner
        for inner in error.context
        if not (inner.validator == "type" and tuple(inner.absolute_path) == pointer)
    ]
    if not meant:
        yield from _explain_value(error, pointer)
    for inner in meant:
        yield from _explain(inner)


def _explain_source(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    value = str(error.instance)
    advice = f"; did you mean 'ipfs://{value}'?" if value.startswith(("Qm", "b")) else ""
    where = _format_pointer(pointer)
    yield (
        "GM-1105",
        pointer,
        f"{where} must be ipfs://<CID> or file:<path>, got '{_show(value)}'{advice}",
    )


def _explain_value(error: Any, pointer: Pointer) -> Iterator[_Explained]:
    where = _format_pointer(pointer) or "file"
    value = error.instance
    schema = error.schema
    if schema == load_schema()["$defs"]["money"]:
        yield "GM-1108", pointer, _explain_money(where, value)
    elif where == "command" and isinstance(value, str):
        yield "GM-1105", pointer, f"command must be a list; write {json.dumps(value.split())}"
    elif error.validator == "type" and isinstance(value, int | float) and _wants(schema, "string"):
        yield "GM-1105", pointer, f'{where} must be text; write "{value}" in quotes'
    elif error.validator == "pattern" and "description" in schema:
        yield "GM-1105", pointer, f"{where}: '{_show(value)}' does not fit: {schema['description']}"
    else:
        yield "GM-1105", pointer, f"{where}: {error.message[:120]}"


def _explain_money(where: str, value: object) -> str:
    if isinstance(value, int | float):
        return f'{where} needs a token: write "{value:.2f} USDC" (in quotes is fine), not {value}'
    return f"{where} must be a decimal and a token, like 12.50 USDC, got '{_show(value)}'"


def _wants(schema: Mapping[str, Any], kind: str) -> bool:
    return bool(schema.get("type") == kind)


_EXPLAINERS = {
    "additionalProperties": _explain_unknown,
    "required": _explain_required,
    "not": _explain_exclusion,
    "enum": _explain_choice,
    "oneOf": _explain_alternatives,
    "anyOf": _explain_alternatives,
}


def _format_pointer(pointer: Pointer) -> str:
    return ".".join(str(step) for step in pointer)


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= _TEXT_SHOWN_MAX else text[:_TEXT_SHOWN_MAX] + "…"
