"""A job file is checked as a whole: every mistake, with its line and what to write instead."""

from pathlib import Path
from typing import Any

import pytest

from gpumarket.cli.job_file import format_rule
from gpumarket.jobfile import (
    JOB_FILE_BYTES_MAX,
    InvalidJobFile,
    JobFile,
    check_job_text,
    load_job_file,
    parse_job_text,
)
from gpumarket.protocol.comparison import (
    CALIBRATIONS,
    RULES,
    BytesRule,
    Comparison,
    ImageRule,
    JsonRule,
    LlmRule,
    NpyRule,
    ProgramRule,
    SafetensorsRule,
)
from gpumarket.protocol.errors import InvalidInput
from gpumarket.protocol.gpu import DeviceNeed
from gpumarket.protocol.job import UNITS_MAX
from gpumarket.resolving import (
    Contents,
    ImageContent,
    InputContent,
    find_contradictions,
    find_unsupported,
    resolve_job,
)
from gpumarket.shorthand import parse_gpu, parse_range, parse_version, to_decimal_text, to_ppm
from gpumarket.yaml_text import YamlText

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CID = "bafkreigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
DIGEST = "sha256:" + "ab" * 32
MINIMAL = f"""\
version: 1
image: ipfs://{CID}
image_digest: {DIGEST}
command: [python3, main.py]
resources: {{gpu: {{count: 0}}}}
budget: {{max: 1.00 USDC}}
"""
TEXTS = f"inputs:\n  - {{name: texts, from: 'ipfs://{CID}', to: /in}}\n"


def read(text: str) -> JobFile:
    return parse_job_text(text, "job.yaml", Path())


def make_contents(**changes: Any) -> Contents:
    entry = {"cid": CID, "size_bytes": 1000, "file_count": 3, "line_count": 45, **changes}
    return Contents(ImageContent(CID, 5_000_000, DIGEST), (InputContent(**entry),))


def make_bare_contents() -> Contents:
    return Contents(ImageContent(CID, 5_000_000, DIGEST), ())


# ---- the file ------------------------------------------------------------------------------


def test_a_file_with_nine_mistakes_gives_nine_messages_with_their_lines() -> None:
    mistakes = check_job_text((GOLDEN / "bad.yaml").read_text(), "bad.yaml")
    assert [(each.line, each.code) for each in mistakes] == [
        (3, "GM-1105"),
        (4, "GM-1103"),
        (4, "GM-1104"),
        (5, "GM-1105"),
        (6, "GM-1107"),
        (6, "GM-1105"),
        (7, "GM-1106"),
        (8, "GM-1108"),
        (9, "GM-1104"),
    ]
    texts = [each.text for each in mistakes]
    assert texts[0] == 'command must be a list; write ["python", "embed.py"]'
    assert texts[2] == "unknown field 'gpus' in resources; did you mean 'gpu'?"
    assert texts[3].endswith("did you mean 'ipfs://QmFoo'?")
    assert texts[4].endswith("did you mean 'files'?")
    assert texts[7] == 'budget.max needs a token: write "12.50 USDC" (in quotes is fine), not 12.5'
    assert texts[8] == "unknown field 'limts' in file; did you mean 'limits'?"


def test_one_mistake_is_told_in_one_sentence_with_its_line() -> None:
    with pytest.raises(InvalidJobFile, match=r"^job.yaml line 7: unknown field 'limts'"):
        read(MINIMAL + "limts: {}\n")


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "list of fields"),
        ("- a\n- b\n", 1, "list of fields"),
        ("version: 1\nimage: [", 2, ""),
        ("version: 1\nversion: 1\n", 2, "appears twice"),
        ("a: &x 1\nb: *x\n", 2, "aliases"),
        ("a: !!python/object:os.system x\n", 1, "tag"),
        ("[" * 5000, 1, "levels deep"),
        ("\tversion: 1\n", 1, ""),
        ("? [a, b]\n: 1\n", 1, "unhashable"),
    ],
    ids=["empty", "list", "open", "repeated", "alias", "tag", "deep", "tab", "complex-key"],
)
def test_text_that_is_no_job_file_is_refused_with_its_line(
    text: str, line: int, words: str
) -> None:
    (mistake,) = check_job_text(text, "job.yaml")
    assert mistake.line == line
    assert words in mistake.text


def test_yaml_1_1_scalars_stay_what_was_written() -> None:
    text = YamlText("a: on\nb: no\nc: 12:30\nd: 017\ne: 2026-01-02\nf: 1_000\ng: Yes\nh: 0x10\n")
    assert text.document == {
        "a": "on", "b": "no", "c": "12:30", "d": "017",
        "e": "2026-01-02", "f": "1_000", "g": "Yes", "h": "0x10",
    }  # fmt: skip


def test_json_s_scalars_keep_their_types() -> None:
    text = YamlText("a: true\nb: 12\nc: 0.5\nd: null\ne:\nf: 1e3\ng: '12'\n")
    assert text.document == {
        "a": True, "b": 12, "c": 0.5, "d": None, "e": None, "f": 1000.0, "g": "12",
    }  # fmt: skip


def test_a_file_that_is_missing_too_large_or_not_text_is_refused(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("#" * (JOB_FILE_BYTES_MAX + 1))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.yaml", large, binary, tmp_path):
        with pytest.raises(InvalidInput) as caught:
            load_job_file(path)
        assert caught.value.code == "GM-1101"


def test_overrides_replace_fields_before_the_check(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(MINIMAL)
    job = load_job_file(path, overrides={"budget.max": "2 USDC", "env.A": "1"})
    assert job.document["budget"]["max"] == "2 USDC"
    assert job.document["env"] == {"A": "1"}
    with pytest.raises(InvalidJobFile, match="needs a token"):
        load_job_file(path, overrides={"budget.max": 2})
    with pytest.raises(InvalidInput, match="cannot reach"):
        load_job_file(path, overrides={"version.x": 2})


# ---- short forms ---------------------------------------------------------------------------

GB = 10**9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GB..", {"count": 1, "vram_bytes_min": 24 * GB}),
        ("24GB", {"count": 1, "vram_bytes_min": 24 * GB}),
        ("16GB..24GB", {"count": 1, "vram_bytes_min": 16 * GB, "vram_bytes_max": 24 * GB}),
        ("16GB..:1", {"count": 1, "vram_bytes_min": 16 * GB}),
        ("RTX4090,RTX3090:1", {"count": 1, "models": ("RTX4090", "RTX3090")}),
        ("RTX 4090", {"count": 1, "models": ("RTX 4090",)}),
        ("A100:80GB:8", {"count": 8, "models": ("A100",), "vram_bytes_min": 80 * GB}),
        (
            "A100,H100:80GB..:1",
            {"count": 1, "models": ("A100", "H100"), "vram_bytes_min": 80 * GB},
        ),
        ("A100::2", {"count": 2, "models": ("A100",)}),
        ("2", {"count": 2}),
        ("0", {"count": 0}),
        ("nvidia:24GB", {"count": 1, "vendor": "nvidia", "vram_bytes_min": 24 * GB}),
        ("amd", {"count": 1, "vendor": "amd"}),
        ("any:2", {"count": 2}),
    ],
)
def test_the_short_form_of_a_gpu(text: str, expected: dict[str, Any]) -> None:
    assert parse_gpu(text) == DeviceNeed(**expected)


@pytest.mark.parametrize(
    "text",
    ["", ":", "8:80GB:A100", "A100:8:80GB", "A100:80GB:8:1", "nvidia,A100", "24GB..16GB", "99"],
)
def test_a_short_form_that_is_out_of_order_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_gpu(text)


def test_the_long_form_of_a_gpu() -> None:
    need = parse_gpu(
        {
            "name": ["RTX4090"], "vram": "24GB..", "count": 4, "same_model": False,
            "cuda": "12.4..", "compute_capability": "8.6",
        }
    )  # fmt: skip
    assert need == DeviceNeed(
        count=4,
        models=("RTX4090",),
        vram_bytes_min=24 * GB,
        compute_capability_min=(8, 6),
        cuda_min=(12, 4),
        same_model=False,
    )


def test_a_bare_number_means_at_least() -> None:
    assert parse_range(4) == parse_range("4..") == (4, None)
    assert parse_range("16GB") == (16 * GB, None)
    assert parse_range("1..3") == (1, 3)
    assert parse_version("8.6..") == (8, 6)


def test_shares_and_decimals_are_exact() -> None:
    assert to_ppm(0.05) == 50_000
    assert to_ppm(0.000001) == 1
    assert to_decimal_text(0.00001) == "0.00001"
    assert to_decimal_text(0.999) == "0.999"
    assert to_decimal_text(0) == "0"
    with pytest.raises(InvalidInput):
        to_ppm(0.0000001)


# ---- resolving -----------------------------------------------------------------------------


def test_the_smallest_job_is_one_task() -> None:
    spec = resolve_job(read(MINIMAL), make_bare_contents())
    assert spec.units == 1
    assert spec.split is None
    assert spec.image.digest == DIGEST
    assert spec.resources.devices.count == 0


@pytest.mark.parametrize(
    ("split", "units", "items"),
    [
        ("{over: texts, by: lines, size: 10}", 5, 45),
        ("{over: texts, by: files, size: 2}", 2, 3),
        ("{by: index, items: 7, size: 7}", 1, 7),
        ("{by: index, items: 8, size: 7}", 2, 8),
    ],
)
def test_a_split_counts_its_tasks(split: str, units: int, items: int) -> None:
    spec = resolve_job(read(MINIMAL + TEXTS + f"split: {split}\n"), make_contents())
    assert (spec.units, spec.split and spec.split.items) == (units, items)


@pytest.mark.parametrize("items", [UNITS_MAX + 1, 0])
def test_a_split_into_too_many_or_no_tasks_is_refused(items: int) -> None:
    job = read(MINIMAL + TEXTS + "split: {over: texts, by: files, size: 1}\n")
    with pytest.raises(InvalidJobFile) as caught:
        resolve_job(job, make_contents(file_count=items))
    assert caught.value.code == "GM-1123"


def test_every_field_arrives_in_the_spec() -> None:
    text = (
        MINIMAL.replace("{count: 0}", '"RTX4090:24GB..:2"').replace(
            "max: 1.00 USDC", "max: 1.00 USDC, max_per_gpu_hour: 0.60 USDC, prefer: cheapest"
        )
        + TEXTS
        + "name: all\nenv: {A: '1'}\n"
        + "outputs: [{from: /out, max_size: 2GB, pin: 30d}]\n"
        + "placement: {isolation: gvisor, countries: [DE], min_reputation: 0.9, min_stake: 5 USDC,"
        + f" providers: ['0x{'11' * 20}', '!0x{'22' * 20}']}}\n"
        + "verify: {mode: sample, rate: 0.1, forged: 0.02, confidence: 0.999, min_units: 2,"
        + " compare: {files: '*.npy', as: npy, rtol: 0.001, tau: 1e-3}}\n"
        + "limits: {queue: 1h30m, run: 45m}\nretry: {max: 2, avoid_failed_providers: false}\n"
    )
    spec = resolve_job(read(text), make_contents())
    assert spec.name == "all"
    assert spec.env == {"A": "1"}
    assert spec.resources.devices.models == ("RTX4090",)
    assert (spec.outputs[0].bytes_max, spec.outputs[0].pin_seconds) == (2 * GB, 30 * 86_400)
    assert spec.placement.regions == ("DE",)
    assert spec.placement.isolation == "gvisor"
    assert spec.placement.reputation_min_ppm == 900_000
    assert spec.placement.stake_min == 5_000_000
    assert spec.placement.providers == (b"\x11" * 20,)
    assert spec.placement.excluded_providers == (b"\x22" * 20,)
    assert spec.placement.price_per_device_hour_max == 600_000
    assert spec.placement.prefer == "cheapest"
    assert spec.verify.rate_ppm == 100_000
    assert spec.verify.forged_share_ppm == 20_000
    assert spec.verify.confidence_ppm == 999_000
    assert spec.verify.units_min == 2
    assert spec.verify.comparison == NpyRule(rtol="0.001", tau="0.001")
    assert (spec.limits.queue_seconds, spec.limits.run_seconds) == (5400, 2700)
    assert (spec.retry.attempts_max, spec.retry.avoid_failed_providers) == (2, False)


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        ("split: {over: paper, by: lines, size: 1}", "GM-1121", "names 'paper', but the inputs"),
        ("split: {by: index, size: 1}", "GM-1103", "items"),
        ("split: {over: texts, by: lines, size: 1, items: 4}", "GM-1106", "counted for you"),
        ("limits: {run: 0s}", "GM-1105", "nothing"),
        ("verify: {mode: full, compare: {files: '*', rtol: 0.1}}", "GM-1105", "as: npy"),
    ],
)
def test_contradictions_that_the_schema_cannot_see(extra: str, code: str, words: str) -> None:
    (mistake,) = find_contradictions(read(MINIMAL + TEXTS + extra + "\n"))
    assert mistake.code == code
    assert words in mistake.text
    assert mistake.line > 7


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("memory: 16", "GM-1109"),
        ("memory: 1GB..2GB", "GM-1105"),
        ('cpu: "0.5"', "GM-1105"),
        ("cpu: 4GB", "GM-1105"),
    ],
)
def test_a_resource_that_cannot_be_meant_is_refused(field: str, code: str) -> None:
    job = read(MINIMAL.replace("{count: 0}", "{count: 0}, " + field))
    assert [each.code for each in find_contradictions(job)] == [code]


@pytest.mark.parametrize(
    "extra",
    [
        "labels: {a: b}",
        "workdir: /w",
        "secrets: [KEY]",
        "gang: {nodes: 2}",
        "network: egress",
        "notify: [{when: [failed], to: 'https://example.org'}]",
        "retry: {when: [gpu_error]}",
        "retry: {exit_codes: [33]}",
        "placement: {carbon: prefer_low}",
        "placement: {countries: ['!DE']}",
        "verify: {mode: replicate}",
        "limits: {deadline: '2026-01-02T03:04:05Z'}",
        "outputs: [{from: /out, encrypt: requester}]",
        "outputs: [{from: /out, to: none}]",
        f"inputs: [{{from: 'ipfs://{CID}', to: /in, mode: stream}}]",
        "split: {by: index, items: 4, size: 1, max_parallel: 2}",
        "split: {by: index, items: 4, size: 1, allow_failed: 1%}",
    ],
)
def test_a_field_that_is_not_carried_out_is_refused_by_name(extra: str) -> None:
    job = read(MINIMAL + extra + "\n")
    (mistake,) = find_unsupported(job)
    assert mistake.code == "GM-1140"
    assert mistake.line == 7
    assert "not supported yet" in mistake.text
    with pytest.raises(InvalidJobFile):
        resolve_job(job, make_contents())


@pytest.mark.parametrize("image", ["acme/embed:2.1", f"registry.example/embed@{DIGEST}"])
def test_an_image_in_a_registry_is_refused_with_advice(image: str) -> None:
    job = read(MINIMAL.replace(f"ipfs://{CID}", image))
    (mistake,) = find_unsupported(job)
    assert mistake.code == "GM-1130"
    assert "docker save" in mistake.text


def test_an_image_by_cid_needs_its_digest() -> None:
    job = read(MINIMAL.replace(f"image_digest: {DIGEST}\n", ""))
    assert [each.code for each in find_contradictions(job)] == ["GM-1131"]


# ---- comparisons ---------------------------------------------------------------------------


def read_rule(text: str) -> Comparison:
    job = read(MINIMAL + TEXTS + f"verify: {{mode: full, compare: {text}}}\n")
    return resolve_job(job, make_contents()).verify.comparison


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("bytes", BytesRule()),
        ("{files: '*'}", BytesRule()),
        ("{as: npy}", NpyRule(calibration=CALIBRATIONS["npy"])),
        ("{as: npy, base: texts}", NpyRule(base="texts", calibration=CALIBRATIONS["npy"])),
        (
            "{as: llm, command: [replay], exact_in_class: false}",
            LlmRule(command=("replay",), exact_in_class=False, calibration=CALIBRATIONS["llm"]),
        ),
        (f"{{as: npy, calibration: 'ipfs://{CID}'}}", NpyRule(calibration=CID)),
        ("{as: npy, files: '*.npy', rtol: 0.001}", NpyRule(rtol="0.001")),
        ("{as: npy, rtol: 1e-3, max_mismatch: 0}", NpyRule(rtol="0.001", max_mismatch="0")),
        (
            "{as: safetensors, base: texts, tau: '1e-5'}",
            SafetensorsRule(base="texts", tau="0.00001"),
        ),
        ("{as: json, atol: 1.0e-9}", JsonRule(atol="0.000000001")),
        ("{as: image, files: '*.jpg', ssim_min: 0.9}", ImageRule(files="*.jpg", ssim_min="0.9")),
        ("{as: program, command: [python3, same.py]}", ProgramRule(command=("python3", "same.py"))),
        (
            "{as: llm, command: [replay], margin_max: 1e-2, exact_in_class: false}",
            LlmRule(command=("replay",), margin_max="0.01", exact_in_class=False),
        ),
        # The published measurement is of the projection.
        (
            "{as: llm, command: [replay], fingerprint: toploc}",
            LlmRule(command=("replay",), fingerprint="toploc"),
        ),
        (
            "{as: llm, command: [replay], fingerprint: toploc, mantissa_max: 2}",
            LlmRule(command=("replay",), fingerprint="toploc", mantissa_max="2"),
        ),
        (f"{{as: json, calibration: 'ipfs://{CID}'}}", JsonRule(calibration=CID)),
    ],
)
def test_a_rule_arrives_with_its_published_defaults(text: str, rule: Comparison) -> None:
    assert read_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{as: json, tau: 0.1}", "as: npy or safetensors"),
        ("{as: bytes, rtol: 0.1}", "rtol needs"),
        ("{as: program}", "needs a command"),
        ("{as: llm}", "as: llm needs a command"),
        ("{as: llm, command: [x], mantissa_max: 1}", "mantissa_max needs  fingerprint: toploc"),
        ("{as: npy, command: [x]}", "command needs  as: program"),
        ("{as: npy, base: nothing}", "names 'nothing', but the inputs are: texts"),
        ("{as: npy, rtol: 1.0e-40}", "rtol"),
        (f"{{as: program, command: [{'x' * 201}]}}", "length <= 200"),
    ],
)
def test_a_rule_that_does_not_fit_is_refused_with_what_would(text: str, words: str) -> None:
    (mistake,) = find_contradictions(
        read(MINIMAL + TEXTS + f"verify: {{mode: full, compare: {text}}}\n")
    )
    assert words in mistake.text


@pytest.mark.parametrize(
    "text",
    ["{as: jsonl}", "{as: npy, rtol: -1}", "{as: npy, cosine: 0.9}", "{as: llm, fingerprint: x}"],
)
def test_a_rule_that_does_not_exist_is_refused(text: str) -> None:
    assert check_job_text(MINIMAL + f"verify: {{mode: full, compare: {text}}}\n", "job.yaml")


def test_a_comparators_own_places_are_free_of_inputs() -> None:
    text = MINIMAL + TEXTS.replace("to: /in", "to: /theirs")
    text += "verify: {mode: full, compare: {as: program, command: [x]}}\n"
    (mistake,) = find_contradictions(read(text))
    assert mistake.code == "GM-1106"


def test_every_rule_is_told_in_words() -> None:
    program = ProgramRule(command=("same", "-v"))
    rules: tuple[Comparison, ...] = (
        *(BytesRule(), NpyRule(base="start"), SafetensorsRule(), JsonRule(), ImageRule()),
        *(LlmRule(command=("replay",)), LlmRule(command=("replay",), fingerprint="toploc")),
        program,
    )
    texts = [format_rule(rule) for rule in rules]
    assert {type(rule) for rule in rules} == {*RULES.values()}
    assert len({*texts}) == len(rules)
    assert "0.0001 of the change from 'start'" in texts[1]
    assert texts[-1].endswith("same -v")
