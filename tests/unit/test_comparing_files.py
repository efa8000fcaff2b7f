"""The rules `json`, `image` and `bytes`, and whole folders by any rule."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gpumarket.adapters.execution import RunResult
from gpumarket.adapters.output_files import read_comparator
from gpumarket.comparing.folder import COMPARATORS, compare_outputs
from gpumarket.comparing.image import (
    IMAGE_BYTES_MAX,
    STRIP_ROWS,
    TILE,
    compute_ssim_map,
    compute_worst_ssim,
)
from gpumarket.comparing.judging import Outcome, judge
from gpumarket.protocol.attestation import Verdict
from gpumarket.protocol.codec import decode_document_untrusted, encode_document
from gpumarket.protocol.comparison import (
    RULES,
    BytesRule,
    Calibration,
    Comparison,
    ImageRule,
    JsonRule,
    LlmRule,
    Noise,
    NpyRule,
    ProgramRule,
    Quantile,
    SafetensorsRule,
)

MATCH, MISMATCH, INCONCLUSIVE = Verdict


def compare_texts(own: str, theirs: str, rule: JsonRule | None = None) -> Verdict:
    files = {"a.json": own.encode()}, {"a.json": theirs.encode()}
    return compare_outputs(*files, rule or JsonRule()).verdict


# ---- json --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "theirs", "verdict"),
    [
        ('{"a": 1, "b": [true, null]}', '{"b":[true,null],"a":1.0}', MATCH),
        ('{"a": 1.0}', '{"a": 1.0000009}', MATCH),
        ('{"a": 1.0}', '{"a": 1.000002}', MISMATCH),
        ('{"a": 1.0}', '{"a": -1.0}', MISMATCH),
        ("[0]", "[-0.0]", MATCH),
        ("[0]", "[1e-12]", MISMATCH),
        ("[1e-400]", "[0]", MATCH),
        ("[12345678901234567890123]", "[1.2345678901234567890124e22]", MATCH),
        ("[1]", "[true]", MISMATCH),
        ("[1]", '["1"]', MISMATCH),
        ('["\\u00e9"]', '["é"]', MATCH),
        ('["\\u00e9"]', '["e\\u0301"]', MISMATCH),
        ('["\\ud83d\\ude00"]', '["😀"]', MATCH),
        ("[1,2]", "[2,1]", MISMATCH),
        ("[1,2]", "[1,2,3]", MISMATCH),
        ('{"a":1}', '{"a":1,"b":2}', MISMATCH),
        ("null", "0", MISMATCH),
        ("{}", "[]", MISMATCH),
        ('["x"]', '["y"]', MISMATCH),
    ],
)
def test_values_are_compared_and_not_their_spelling(
    own: str, theirs: str, verdict: Verdict
) -> None:
    assert compare_texts(own, theirs) is verdict


@pytest.mark.parametrize(
    "hostile",
    [
        '{"a":1,"a":1}',
        '{"a":{"b":1,"b":1}}',
        '{"a":1,"\\u0061":1}',
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "[1e400]",
        "[" + "9" * 310 + "]",
        "[" + "9" * 100_000 + "]",
        "[0." + "1" * 100_000 + "]",
        '["\\ud800"]',
        "[" * 65 + "]" * 65,
        "[" * 100_000,
        '"' + "\\" * 100_001,
        '{"a":' * 70 + "1" + "}" * 70,
        "",
        "[1] [2]",
        "\ufeff[1]",
        "[01]",
        "['a']",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_json_is_a_difference_there_and_decides_nothing_here(hostile: str) -> None:
    assert compare_texts("[1]", hostile) is MISMATCH
    assert compare_texts(hostile, "[1]") is INCONCLUSIVE


def test_brackets_in_text_have_no_depth() -> None:
    text = json.dumps(["[" * 1000 + '\\"{' * 1000 + "\\\\"])
    assert compare_texts(text, " " + text) is MATCH


def test_json_that_is_not_utf8_is_refused() -> None:
    outcome = compare_outputs({"a.json": b'["a"]'}, {"a.json": b'["\xff"]'}, JsonRule())
    assert outcome.verdict is MISMATCH


# ---- images ------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(3)


def a_scene(height: int = 300, width: int = 260) -> Any:
    """Something with shades and edges, as pictures have."""
    y, x = np.mgrid[0:height, 0:width]
    shade = 128 + 60 * np.sin(x / 17) * np.cos(y / 23) + 30 * ((x // 20 + y // 20) % 2)
    return np.stack([shade, np.roll(shade, 7, 0), 255 - shade], axis=2).astype(np.uint8)


def an_image(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def compare_pictures(own: bytes, theirs: bytes, rule: ImageRule | None = None) -> Outcome:
    return compare_outputs({"a.png": own}, {"a.png": theirs}, rule or ImageRule())


def with_noise(pixels: Any, levels: int) -> Any:
    noise = np.random.default_rng(5).integers(-levels, levels + 1, pixels.shape)
    return np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)


SCENE = a_scene()


def test_rounding_noise_is_the_same_picture() -> None:
    assert compare_pictures(an_image(SCENE), an_image(with_noise(SCENE, 1))).verdict is MATCH
    same = an_image(SCENE, compress_level=1)
    assert same != an_image(SCENE)
    assert compare_pictures(an_image(SCENE), same).verdict is MATCH


def test_the_worst_place_decides_wherever_it_is() -> None:
    own = a_scene(512, 640)
    for top, left in ((0, 0), (37, 511), (512 - 64, 640 - 64), (STRIP_ROWS - 30, 5)):
        theirs = own.copy()
        place = theirs[top : top + 64, left : left + 64]
        place[:] = np.roll(place, 11, axis=1)
        loose = ImageRule(max_mismatch="1")
        outcome = compare_pictures(an_image(own), an_image(theirs), loose)
        assert (outcome.verdict, outcome.rule) == (MISMATCH, "image")
        assert "SSIM" in outcome.sentence
        whole = float(np.mean([compute_ssim_map(x, y) for x, y in zip_channels(own, theirs)]))
        assert whole > 0.97  # which the mean of the whole picture would have let pass


def zip_channels(a: Any, b: Any) -> Iterator[tuple[Any, Any]]:
    for channel in range(3):
        yield a[..., channel].astype(float), b[..., channel].astype(float)


def test_few_pixels_that_are_far_off_are_seen_too() -> None:
    theirs = SCENE.copy()
    theirs[10:13, 20:30] ^= 255
    loose = ImageRule(ssim_min="0")
    outcome = compare_pictures(an_image(SCENE), an_image(theirs), loose)
    assert outcome.verdict is MISMATCH
    assert "4 levels" in outcome.sentence
    theirs = SCENE.copy()
    theirs[10, 20:22] ^= 255
    assert compare_pictures(an_image(SCENE), an_image(theirs), loose).verdict is MATCH


@pytest.mark.parametrize(
    "theirs",
    [
        an_image(SCENE[:-1]),
        an_image(SCENE[:, :, 0]),
        an_image(np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])),
        an_image(np.dstack([SCENE, np.full(SCENE.shape[:2], 0, np.uint8)])),
        an_image(SCENE, icc_profile=b"other colors"),
        an_image(np.rot90(SCENE)),
        an_image(255 - SCENE),
        an_image(SCENE)[:-300],
        b"\x89PNG\r\n\x1a\n",
        b"",
        b"GIF89a" + bytes(100),
    ],
    ids="smaller gray alpha clear profile turned negative torn magic empty gif".split(),
)
def test_another_picture_is_a_difference(theirs: bytes) -> None:
    assert compare_pictures(an_image(SCENE), theirs).verdict is MISMATCH


def test_a_picture_of_more_than_one_frame_is_refused() -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(SCENE), Image.fromarray(255 - SCENE)]
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    outcome = compare_pictures(an_image(SCENE), file.getvalue())
    assert (outcome.verdict, "frame" in outcome.sentence) == (MISMATCH, True)


def test_jpeg_is_read_and_its_orientation_counts() -> None:
    own = an_image(SCENE, "JPEG", quality=95)
    near = an_image(with_noise(SCENE, 1), "JPEG", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    rule = ImageRule(atol="8")
    assert compare_pictures(own, near, rule).verdict is MATCH
    turned = an_image(with_noise(SCENE, 1), "JPEG", quality=95, exif=exif)
    assert compare_pictures(own, turned, rule).verdict is MISMATCH


def test_similarity_is_one_for_itself_and_what_the_definition_says() -> None:
    a = RANDOM.integers(0, 256, (TILE, TILE)).astype(np.float64)
    b = RANDOM.integers(0, 256, (TILE, TILE)).astype(np.float64)
    x, y = a[10:17, 20:27], b[10:17, 20:27]
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    expected = (
        (2 * x.mean() * y.mean() + c1)
        * (2 * np.mean((x - x.mean()) * (y - y.mean())) + c2)
        / ((x.mean() ** 2 + y.mean() ** 2 + c1) * (x.var() + y.var() + c2))
    )
    assert compute_ssim_map(a, b)[10, 20] == pytest.approx(expected, abs=1e-9)
    pixels = a.astype(np.uint8)[:, :, None]
    assert compute_worst_ssim(pixels, pixels) == 1.0
    tiny = np.array([[[3]]], np.uint8)
    assert compute_worst_ssim(tiny, tiny + 200) < 0.97


# ---- folders -----------------------------------------------------------------------------------


def test_every_rule_that_looks_at_one_file_at_a_time_has_a_comparator() -> None:
    rules = {*RULES.values()} - {BytesRule, ProgramRule, LlmRule}
    assert set(COMPARATORS) == rules
    for name, kind in RULES.items():
        assert kind.__struct_config__.tag == name


def test_equal_bytes_match_by_every_rule_and_are_never_read() -> None:
    for rule in (BytesRule(), NpyRule(), SafetensorsRule(), JsonRule(), ImageRule()):
        files = {f"a.{end}": b"no such thing" for end in "npy safetensors json png bin".split()}
        assert compare_outputs(files, dict(files), rule).verdict is MATCH


@pytest.mark.parametrize("rule", [BytesRule(), JsonRule()])
def test_a_missing_file_is_a_difference_and_is_named(rule: Comparison) -> None:
    outcome = compare_outputs({"a": b"", "b": b""}, {"a": b""}, rule)
    assert (outcome.verdict, outcome.rule) == (MISMATCH, rule.name)
    assert "'b'" in outcome.sentence


def test_what_the_glob_leaves_out_is_compared_by_bytes() -> None:
    rule = JsonRule(files="numbers/*.json")
    near = {"numbers/a.json": b"[1]", "log.json": b"[1]"}
    outcome = compare_outputs(near, {"numbers/a.json": b"[1.0]", "log.json": b"[1.0]"}, rule)
    assert (outcome.verdict, outcome.rule) == (MISMATCH, "bytes")
    assert "byte 2" in outcome.sentence
    outcome = compare_outputs(near, {"numbers/a.json": b"[1.0]", "log.json": b"[1]"}, rule)
    assert (outcome.verdict, outcome.rule) == (MATCH, "json")


class CountedFiles(dict[str, bytes]):
    """Files that count how often each is read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.reads: list[str] = []

    def __getitem__(self, name: str) -> bytes:
        self.reads.append(name)
        return super().__getitem__(name)


def test_each_file_is_read_once_and_none_after_the_one_that_decides() -> None:
    own = CountedFiles({"a": b"1", "b": b"1", "c": b"1"})
    theirs = CountedFiles({"a": b"1", "b": b"2", "c": b"1"})
    compare_outputs(own, theirs, BytesRule())
    assert own.reads == theirs.reads == ["a", "b"]


def test_a_sentence_stays_short_whatever_names_are_in_it() -> None:
    name = "x" * 5000
    rule = JsonRule(files="*")
    for theirs in (b"[2]", b"[", b'{"' + b"k" * 5000 + b'":1}'):
        outcome = compare_outputs({name: b'{"a":1}'}, {name: theirs}, rule)
        assert outcome.verdict is MISMATCH
        assert len(outcome.sentence) < 300


# ---- what it proves ----------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("is_same_class", [True, False])
def test_only_bytes_lose_their_word_between_classes(
    rule: str, verdict: Verdict, is_same_class: bool
) -> None:
    judged = judge(Outcome(verdict, rule, "so"), is_same_class=is_same_class)
    is_lost = rule == "bytes" and verdict is MISMATCH and not is_same_class
    assert judged.verdict is (INCONCLUSIVE if is_lost else verdict)
    assert judged.sentence.startswith("so")


RAN = RunResult(
    exit_code=0,
    is_timed_out=False,
    is_output_over_limit=False,
    is_oom_killed=False,
    wall_ms=1,
    output_bytes=0,
    skipped_outputs=(),
    stdout_tail=b"first\nall \x1b[31mgood\n",
    stderr_tail=b"",
)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, MATCH),
        ({"exit_code": 1}, MISMATCH),
        ({"exit_code": 2}, INCONCLUSIVE),
        ({"exit_code": 127}, INCONCLUSIVE),
        ({"exit_code": -1}, INCONCLUSIVE),
        ({"exit_code": 1, "is_timed_out": True}, INCONCLUSIVE),
        ({"exit_code": 1, "is_oom_killed": True}, INCONCLUSIVE),
        ({"is_output_over_limit": True}, INCONCLUSIVE),
    ],
)
def test_a_comparator_decides_by_zero_and_one_only(
    changes: dict[str, Any], verdict: Verdict
) -> None:
    outcome = read_comparator(replace(RAN, **changes))
    assert (outcome.verdict, outcome.rule) == (verdict, "program")
    assert outcome.sentence.endswith("all [31mgood")


def test_a_comparator_that_says_nothing_or_too_much_is_quoted_shortly() -> None:
    assert read_comparator(replace(RAN, stdout_tail=b"")).sentence.endswith("it said nothing")
    assert len(read_comparator(replace(RAN, stdout_tail=b"x" * 9_000)).sentence) < 300


def test_a_calibration_is_a_document_that_comes_back() -> None:
    noise = Noise(
        what="honest",
        pair=("AVX2, 1 thread", "SSE, 1 thread"),
        quantity="tau",
        samples=40,
        quantiles=(Quantile(share_ppm=1_000_000, value="0.0000021"),),
    )
    calibration = Calibration(
        rule=SafetensorsRule(base="start"),
        classes=("AVX2, 1 thread", "SSE, 1 thread"),
        noise=(noise,),
        software={"numpy": "2.4.6"},
        digests={"lm.py": b"x" * 32},
    )
    assert decode_document_untrusted(encode_document(calibration), Calibration) == calibration


def test_the_largest_image_file_is_no_larger_than_memory_allows() -> None:
    too_large = b"\x89PNG\r\n\x1a\n" + bytes(IMAGE_BYTES_MAX)
    assert "bytes" in compare_pictures(an_image(SCENE), too_large).sentence
