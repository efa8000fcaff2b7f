"""
Resolving: from a checked job file and its content to the `JobSpec` that is signed.

Pure: what the image and inputs are was found out before and arrives as `Contents`. Fields that
the format has but this release does not carry out are refused here, each by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from gpumarket.checkpointing import adapt_policy, resolve_checkpoint
from gpumarket.jobfile import InvalidJobFile, JobFile, Mistake
from gpumarket.protocol.comparison import (
    CALIBRATIONS,
    DECIMAL_FIELDS,
    OWN_PATH,
    RULES,
    THEIRS_PATH,
    BytesRule,
    Comparison,
)
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.ids import Cid, parse_address
from gpumarket.protocol.image_needs import NO_NEEDS, ImageNeeds, meet_image
from gpumarket.protocol.job import (
    UNITS_MAX,
    Image,
    Input,
    JobSpec,
    Limits,
    Output,
    Placement,
    Resources,
    Retry,
    Split,
    VerifyPolicy,
)
from gpumarket.protocol.units import Amount, parse_duration, parse_money
from gpumarket.shorthand import parse_gpu, parse_range, to_decimal_text, to_ppm
from gpumarket.yaml_text import Pointer

OUTPUT_BYTES_MAX_DEFAULT = 10**9
SMALLEST_SENSIBLE_BYTES = 10**6
"""A size below this in `resources` is a forgotten unit: `memory: 16`."""
_TEXT_MAX = 200
_FILE_SCHEME = "file:"
_IPFS_SCHEME = "ipfs://"
_IMAGE_ADVICE = "write file:PATH of a `docker save` archive, or ipfs://CID"


@dataclass(frozen=True, slots=True)
class ImageContent:
    """An image archive that has been packed or looked up."""

    archive: Cid
    archive_bytes: int
    digest: str
    needs: ImageNeeds = NO_NEEDS
    """Nothing where the archive is not here to be read."""


@dataclass(frozen=True, slots=True)
class InputContent:
    """An input that has been packed or looked up; None where nobody had to count."""

    cid: Cid
    size_bytes: int
    file_count: int | None
    line_count: int | None


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything a job file refers to; `inputs` is in the order of the file."""

    image: ImageContent
    inputs: tuple[InputContent, ...]


def check_supported(job: JobFile) -> None:
    """Raise `InvalidJobFile` for contradictions and for fields not carried out yet."""
    mistakes = sorted({*find_contradictions(job), *find_unsupported(job)})
    if mistakes:
        raise InvalidJobFile(job.name, mistakes)


def resolve_job(job: JobFile, contents: Contents) -> JobSpec:
    """
    Make the spec that is signed.

    Raises `InvalidJobFile` for contradictions, values out of range, fields that are not
    supported yet, and a split that gives no tasks or too many.
    """
    check_supported(job)
    document = job.document
    split, units = _resolve_split(job, contents)
    _check_critical(job, units)
    image = contents.image
    checkpoint = resolve_checkpoint(document)
    return JobSpec(
        name=document.get("name", ""),
        image=Image(archive=image.archive, digest=image.digest, archive_bytes=image.archive_bytes),
        command=tuple(document["command"]),
        env=dict(document.get("env", {})),
        inputs=_resolve_inputs(document, contents),
        outputs=tuple(_resolve_output(output) for output in document.get("outputs", ())),
        split=split,
        units=units,
        resources=meet_image(_resolve_resources(document["resources"]), image.needs),
        placement=_resolve_placement(document),
        verify=adapt_policy(_resolve_verify(document.get("verify", {})), checkpoint),
        limits=_resolve_limits(document.get("limits", {})),
        retry=_resolve_retry(document.get("retry", {})),
        checkpoint=checkpoint,
    )


def find_budget(job: JobFile) -> Amount:
    """Return the most the job may cost."""
    return parse_money(job.document["budget"]["max"])


def name_input(entry: Mapping[str, Any], index: int) -> str:
    """Return an input's name; one without gets its number."""
    name: str = entry.get("name", f"input-{index}")
    return name


# ---- what does not fit together ------------------------------------------------------------


def find_contradictions(job: JobFile) -> list[Mistake]:
    """List what the schema cannot see: names that lead nowhere, sizes without units, and so on."""
    document = job.document
    found: list[Mistake] = []

    def attempt(pointer: Pointer, read: Callable[[], object]) -> None:
        try:
            read()
        except InvalidInput as error:
            code = error.code if error.code.startswith("GM-11") else "GM-1105"
            found.append(job.make_mistake(code, pointer, error.message))

    resources = document["resources"]
    attempt(("resources", "gpu"), partial(parse_gpu, resources["gpu"]))
    for key in ("cpu", "memory", "disk", "shm"):
        if key in resources:
            attempt(("resources", key), partial(_read_need, key, resources[key]))
    for key in ("max", "max_per_gpu_hour"):
        if key in document["budget"]:
            attempt(("budget", key), partial(parse_money, document["budget"][key]))
    attempt(("verify",), partial(_resolve_verify, document.get("verify", {})))
    attempt(("checkpoint",), partial(resolve_checkpoint, document))
    attempt(("limits",), partial(_resolve_limits, document.get("limits", {})))
    attempt(("placement",), partial(_resolve_placement, document))
    attempt(("image",), partial(_check_image, document))
    for index, argument in enumerate(document["command"]):
        attempt(("command", index), partial(_check_length, argument))
    for index, output in enumerate(document.get("outputs", ())):
        attempt(("outputs", index), partial(_resolve_output, output))
    found += _find_input_mistakes(job)
    found += _find_comparison_mistakes(job)
    found += _find_split_mistakes(job)
    return found


def _read_need(key: str, value: str | int) -> int:
    found = parse_range(value)
    if found.high is not None:
        raise InvalidInput(f"resources.{key} has no upper end; write {str(value).split('..')[0]}..")
    if key == "cpu":
        if not str(value).removesuffix("..").isdigit() or found.low < 1:
            raise InvalidInput(f"resources.cpu counts whole processors, got {value}")
    elif found.low < SMALLEST_SENSIBLE_BYTES:
        raise InvalidInput(
            f"resources.{key}: {value} means {found.low} bytes; write {value}GB", code="GM-1109"
        )
    return found.low


def _check_image(document: Mapping[str, Any]) -> None:
    if document["image"].startswith(_IPFS_SCHEME) and "image_digest" not in document:
        raise InvalidInput("image: ipfs://CID needs image_digest beside it", code="GM-1131")


def _check_length(text: str) -> None:
    if len(text) > _TEXT_MAX:
        raise InvalidInput(
            f"an argument of {len(text)} characters, the limit is {_TEXT_MAX}; "
            "put it into the image"
        )


def _find_input_mistakes(job: JobFile) -> list[Mistake]:
    found = []
    names: set[str] = set()
    places: set[str] = set()
    for index, entry in enumerate(job.document.get("inputs", ())):
        name = name_input(entry, index)
        pointer: Pointer = ("inputs", index)
        if name in names:
            text = f"two inputs are called '{name}'"
            found.append(job.make_mistake("GM-1106", (*pointer, "name"), text))
        if entry["to"] in places:
            text = f"two inputs go to {entry['to']}"
            found.append(job.make_mistake("GM-1106", (*pointer, "to"), text))
        names.add(name)
        places.add(entry["to"])
    return found


def _find_comparison_mistakes(job: JobFile) -> list[Mistake]:
    inputs = job.document.get("inputs", ())
    found = []
    base = _find_value(job.document, ("verify", "compare", "base"))
    names = [name_input(entry, index) for index, entry in enumerate(inputs)]
    if base is not None and base not in names:
        text = f"verify.compare.base names '{base}', but the inputs are: {', '.join(names)}"
        found.append(job.make_mistake("GM-1121", ("verify", "compare", "base"), text))
    if _find_comparator(job):
        found += [
            job.make_mistake(
                "GM-1106", ("inputs", index, "to"), f"{entry['to']} is kept for the comparator"
            )
            for index, entry in enumerate(inputs)
            if entry["to"] in (OWN_PATH, THEIRS_PATH)
        ]
    return found


def _find_comparator(job: JobFile) -> Sequence[str]:
    return _find_value(job.document, ("verify", "compare", "command")) or ()


def _find_split_mistakes(job: JobFile) -> list[Mistake]:
    split = job.document.get("split")
    if split is None:
        return []
    if split["by"] == "index":
        if "items" not in split:
            text = "split.by: index needs split.items, how many indexes there are"
            return [job.make_mistake("GM-1103", ("split",), text)]
        return []
    if "items" in split:
        text = f"split.items is counted for you when splitting by {split['by']}"
        return [job.make_mistake("GM-1106", ("split", "items"), text)]
    names = [name_input(entry, i) for i, entry in enumerate(job.document.get("inputs", ()))]
    if split.get("over") not in names:
        text = (
            f"split.over names '{split.get('over', '')}', "
            f"but the inputs are: {', '.join(names) or 'none'}"
        )
        return [job.make_mistake("GM-1121", ("split", "over"), text)]
    return []


# ---- what this release does not carry out --------------------------------------------------

_NEVER = object()
_UNSUPPORTED: tuple[tuple[str, object, str], ...] = (
    ("labels", _NEVER, "labels are not kept with jobs yet"),
    ("workdir", _NEVER, "a working folder other than the image's own"),
    ("secrets", _NEVER, "sealed secrets"),
    ("gang", _NEVER, "gangs of nodes"),
    ("notify", _NEVER, "notifications"),
    ("network", "none", "tasks with a network"),
    ("split.max_parallel", _NEVER, "a limit on parallel tasks"),
    ("split.allow_failed", "0", "jobs that succeed with failed tasks"),
    ("retry.when", _NEVER, "choosing which failures are tried again"),
    ("retry.exit_codes", _NEVER, "choosing which exit codes are tried again"),
    ("placement.carbon", "ignore", "placement by carbon"),
    ("verify.replicas", _NEVER, "replicated tasks"),
    ("limits.deadline", _NEVER, "a deadline for the whole job"),
)


def find_unsupported(job: JobFile) -> list[Mistake]:
    """List the fields of a job file that this release would not carry out."""
    found = [
        _refuse(job, pointer, text)
        for dotted, neutral, text in _UNSUPPORTED
        for pointer in (tuple(dotted.split(".")),)
        if (value := _find_value(job.document, pointer)) is not None and value != neutral
    ]
    image = job.document["image"]
    if not image.startswith((_FILE_SCHEME, _IPFS_SCHEME)):
        text = f"image: '{image[:80]}' is in a registry, which is not used yet; {_IMAGE_ADVICE}"
        found.append(job.make_mistake("GM-1130", ("image",), text))
    if job.document.get("verify", {}).get("mode") == "replicate":
        found.append(_refuse(job, ("verify", "mode"), "replicated tasks"))
    for index, entry in enumerate(job.document.get("inputs", ())):
        if entry.get("mode", "copy") != "copy":
            found.append(_refuse(job, ("inputs", index, "mode"), "streamed inputs"))
    outputs = job.document.get("outputs", ())
    if len(outputs) > 1:
        found.append(_refuse(job, ("outputs", 1), "a second output folder"))
    for index, entry in enumerate(outputs):
        if entry.get("encrypt", "none") != "none":
            found.append(_refuse(job, ("outputs", index, "encrypt"), "encrypted outputs"))
        if entry.get("to", "ipfs") != "ipfs":
            found.append(_refuse(job, ("outputs", index, "to"), "outputs that are thrown away"))
    for index, country in enumerate(_find_value(job.document, ("placement", "countries")) or ()):
        if country.startswith("!"):
            found.append(_refuse(job, ("placement", "countries", index), "excluded countries"))
    return found


def _refuse(job: JobFile, pointer: Pointer, what: str) -> Mistake:
    where = ".".join(str(step) for step in pointer)
    return job.make_mistake("GM-1140", pointer, f"{where}: not supported yet ({what})")


def _find_value(document: Mapping[str, Any], pointer: tuple[str, ...]) -> Any:
    value: Any = document
    for step in pointer:
        if not isinstance(value, Mapping) or step not in value:
            return None
        value = value[step]
    return value


# ---- field by field ------------------------------------------------------------------------


def _resolve_inputs(document: Mapping[str, Any], contents: Contents) -> tuple[Input, ...]:
    entries = document.get("inputs", ())
    return tuple(
        Input(
            name=name_input(entry, index),
            cid=content.cid,
            path=entry["to"],
            size_bytes=content.size_bytes,
        )
        for index, (entry, content) in enumerate(zip(entries, contents.inputs, strict=True))
    )


def _resolve_output(entry: Mapping[str, Any]) -> Output:
    limit = parse_range(entry.get("max_size", OUTPUT_BYTES_MAX_DEFAULT))
    # `max_size: 2GB` is a maximum by its name, so its lower end is the bound.
    bytes_max = limit.low if limit.high is None else limit.high
    return Output(
        path=entry["from"],
        bytes_max=bytes_max,
        pin_seconds=parse_duration(entry["pin"]) if "pin" in entry else 0,
    )


def _resolve_split(job: JobFile, contents: Contents) -> tuple[Split | None, int]:
    entry = job.document.get("split")
    if entry is None:
        return None, 1
    items = _count_items(job, entry, contents)
    units = -(-items // entry["size"])
    if not 1 <= units <= UNITS_MAX:
        text = (
            f"{items} {entry['by']} in steps of {entry['size']} give {units} tasks, "
            f"a job has 1 to {UNITS_MAX}"
        )
        raise InvalidJobFile(job.name, [job.make_mistake("GM-1123", ("split", "size"), text)])
    over = entry.get("over", "")
    return Split(over=over, by=entry["by"], size=entry["size"], items=items), units


def _check_critical(job: JobFile, units: int) -> None:
    critical = job.document.get("verify", {}).get("critical", ())
    found = [
        job.make_mistake(
            "GM-1123",
            ("verify", "critical", index),
            f"there is no task {unit}: the job has {units}, from 0",
        )
        for index, unit in enumerate(critical)
        if unit >= units
    ]
    if found:
        raise InvalidJobFile(job.name, found)


def _count_items(job: JobFile, entry: Mapping[str, Any], contents: Contents) -> int:
    if entry["by"] == "index":
        return int(entry["items"])
    names = [name_input(each, i) for i, each in enumerate(job.document["inputs"])]
    content = contents.inputs[names.index(entry["over"])]
    count = content.file_count if entry["by"] == "files" else content.line_count
    if count is None:
        text = f"the {entry['by']} of '{entry['over']}' could not be counted"
        raise InvalidJobFile(job.name, [job.make_mistake("GM-1123", ("split", "by"), text)])
    return count


def _resolve_resources(entry: Mapping[str, Any]) -> Resources:
    standard = Resources(devices=parse_gpu(entry["gpu"]))

    def read(key: str, default: int) -> int:
        return _read_need(key, entry[key]) if key in entry else default

    return Resources(
        devices=standard.devices,
        cpus=read("cpu", standard.cpus),
        memory_bytes=read("memory", standard.memory_bytes),
        disk_bytes=read("disk", standard.disk_bytes),
        shm_bytes=read("shm", standard.shm_bytes),
    )


def _resolve_placement(document: Mapping[str, Any]) -> Placement:
    entry = document.get("placement", {})
    budget = document["budget"]
    providers = entry.get("providers", ())
    standard = Placement()
    limit = budget.get("max_per_gpu_hour")
    return Placement(
        isolation=entry.get("isolation", "any"),
        regions=tuple(entry.get("countries", ())),
        reputation_min_ppm=to_ppm(entry.get("min_reputation", 0)),
        stake_min=parse_money(entry["min_stake"]) if "min_stake" in entry else Amount(0),
        providers=tuple(parse_address(text) for text in providers if text[0] != "!"),
        excluded_providers=tuple(parse_address(text[1:]) for text in providers if text[0] == "!"),
        price_per_device_hour_max=(
            standard.price_per_device_hour_max if limit is None else parse_money(limit)
        ),
        prefer=budget.get("prefer", "balanced"),
    )


def _resolve_verify(entry: Mapping[str, Any]) -> VerifyPolicy:
    standard = VerifyPolicy()
    forged = to_ppm(entry["forged"]) if "forged" in entry else standard.forged_share_ppm
    confidence = to_ppm(entry["confidence"]) if "confidence" in entry else standard.confidence_ppm
    return VerifyPolicy(
        mode=entry.get("mode", standard.mode),
        rate_ppm=to_ppm(entry.get("rate", 0)),
        forged_share_ppm=forged,
        confidence_ppm=confidence,
        units_min=entry.get("min_units", standard.units_min),
        bribe_ppm=to_ppm(entry.get("bribe", 0)),
        power_ppm=to_ppm(entry.get("power", 1)),
        critical=tuple(sorted(entry.get("critical", ()))),
        comparison=_resolve_comparison(entry.get("compare", "bytes")),
    )


def _resolve_comparison(entry: str | Mapping[str, Any]) -> Comparison:
    if isinstance(entry, str):
        return BytesRule()
    name = entry.get("as", "bytes")
    fields = {key: value for key, value in entry.items() if key != "as"}
    if name == "bytes":
        fields.pop("files", None)  # every other file is compared by its bytes too
    for key in sorted(fields.keys() - {*RULES[name].__struct_fields__}):
        having = [rule for rule, kind in RULES.items() if key in kind.__struct_fields__]
        raise InvalidInput(f"verify.compare: {key} needs  as: {' or '.join(having)}")
    for key in sorted(fields.keys() & {"exponent_max", "mantissa_max"}):
        if fields.get("fingerprint") != "toploc":
            raise InvalidInput(f"verify.compare: {key} needs  fingerprint: toploc")
    if name in ("program", "llm") and "command" not in fields:
        raise InvalidInput(f"verify.compare: as: {name} needs a command")
    decimals = {key: to_decimal_text(fields[key]) for key in fields.keys() & DECIMAL_FIELDS}
    if "calibration" in fields:
        fields["calibration"] = fields["calibration"].removeprefix(_IPFS_SCHEME)
    elif name in CALIBRATIONS and not decimals and fields.get("fingerprint") != "toploc":
        fields["calibration"] = CALIBRATIONS[name]
    values = {"rule": name, **fields, **decimals}
    try:
        comparison: Comparison = msgspec.convert(values, Comparison)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"verify.compare: {error}") from error
    return comparison


def _resolve_limits(entry: Mapping[str, Any]) -> Limits:
    standard = Limits()
    queue = parse_duration(entry["queue"]) if "queue" in entry else standard.queue_seconds
    run = parse_duration(entry["run"]) if "run" in entry else standard.run_seconds
    if run == 0:
        raise InvalidInput("limits.run is nothing; no task can finish in it")
    return Limits(queue_seconds=queue, run_seconds=run)


def _resolve_retry(entry: Mapping[str, Any]) -> Retry:
    standard = Retry()
    return Retry(
        attempts_max=entry.get("max", standard.attempts_max),
        avoid_failed_providers=entry.get("avoid_failed_providers", True),
    )
