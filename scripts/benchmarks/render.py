"""
The rule `image` on frames of examples/render: honest machines of other classes against cheats.

Every variant renders the same frames, spread over the whole animation, in the example's image and
with the job's size. Classes are emulated by environments. What is measured is what the rule bounds:
the share of values that differ by more than its levels, and the SSIM of the worst 64 x 64 pixels.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import yaml

from gpumarket.comparing.image import (
    Picture,
    compare_images,
    compute_mismatch,
    compute_ssim_map,
    compute_worst_ssim,
    decode_image_untrusted,
)
from gpumarket.protocol.comparison import ImageRule
from gpumarket.testing.machine_classes import SSE, TWO_THREADS
from scripts.benchmarks import Figures
from scripts.benchmarks.figures import compute_quantile
from scripts.images.built import find_image, load_image

ROOT: Final = Path(__file__).resolve().parents[2]
EXAMPLE: Final = ROOT / "examples/render"
SECONDS_MAX: Final = 1800
RULE: Final = ImageRule()
LOOSE: Final = ImageRule(max_mismatch="0.005")
"""For two threads, which never leave the same bytes."""
SQUARES: Final = (2, 4, 6, 8, 12, 16, 24, 32)
NO_FMA: Final = {"GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA"}
"""glibc then takes the sine, power and so on of processors without fused multiplication."""
CLASSES: Final[Mapping[str, Mapping[str, str]]] = {
    "honest, same class": {},
    "honest, SSE, libm without FMA": {**SSE, **NO_FMA},
    "honest, 2 threads": TWO_THREADS,
}
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Cheat:
    """Work that is saved: a text of the program or the scene that is replaced."""

    file: str
    text: str
    """A regular expression."""
    instead: str = ""


CHEATS: Final[Mapping[str, Cheat]] = {
    "a quarter of the radiosity's rays": Cheat("scene.pov", "count 80", "count 20"),
    "no radiosity": Cheat("scene.pov", r"(?s)radiosity \{.*?\n  \}"),
    "no soft shadows": Cheat("scene.pov", r"area_light .*"),
    "no smooth edges": Cheat("render.py", r'"\+A0\.2", "\+AM1", "\+R2", "-J"', '"-A",'),
}
FORGERIES: Final[Mapping[str, Callable[[list[Pixels]], list[Pixels]]]] = {
    "half the size, enlarged": lambda frames: [
        frame[::2, ::2].repeat(2, axis=0).repeat(2, axis=1) for frame in frames
    ],
    "the next frame": lambda frames: frames[1:] + frames[:1],
    "12 x 12 pixels of another place": lambda frames: [move_patch(frame, 12) for frame in frames],
    "2 x 3 pixels inverted": lambda frames: [invert_spot(frame) for frame in frames],
    "4 levels brighter": lambda frames: [brighten(frame, 4) for frame in frames],
    "5 levels brighter": lambda frames: [brighten(frame, 5) for frame in frames],
}


def run(rounds: int) -> Figures:
    """Render so many frames in each way; print and return how far they are from the first."""
    image = find_image("render")
    if image is None:
        raise SystemExit("the image is not built: scripts/build-image --render")
    job = yaml.safe_load((EXAMPLE / "render.yaml").read_text())
    found: dict[str, Mapping[str, float | int]] = {}
    print(f"{rounds} frames of {job['command'][-3]}. Columns, each least and most of a frame:")
    print(f"pixels that differ, share of values over {RULE.atol} levels, SSIM of the worst place;")
    print("then SSIM of the whole (median), and the part of the frames that passes the default")
    print(f"rule, and with max_mismatch {LOOSE.max_mismatch}")
    own: list[Pixels] = []
    for name, frames in render_all(load_image(image), job["command"], rounds):
        own = own or frames
        found[name] = row = measure(own, frames)
        print(f"{name:<34} " + " ".join(f"{value:>9.4g}" for value in row.values()), flush=True)
    for name, each in (("default", RULE), ("loose", LOOSE)):
        sides = [side for frame in own for side in find_largest_squares(frame, each)]
        row = {"least": min(sides), "median": compute_quantile(sides, 0.5), "most": max(sides)}
        found[f"flat square, {name} rule"] = row
        print(f"side of the largest flat square that passes, {name} rule: {row}")
    return found


def render_all(image: str, command: list[str], rounds: int) -> Iterator[tuple[str, list[Pixels]]]:
    """Give the frames of each variant, those of the first class first."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        native: list[Pixels] = render(folder, image, command, rounds, env={}, cheat=None)
        for kind, env in CLASSES.items():
            yield kind, render(folder, image, command, rounds, env=env, cheat=None)
        for kind, cheat in CHEATS.items():
            yield kind, render(folder, image, command, rounds, env={}, cheat=cheat)
        for kind, forge in FORGERIES.items():
            yield kind, forge(native)


def render(
    folder: Path,
    image: str,
    command: list[str],
    rounds: int,
    *,
    env: Mapping[str, str],
    cheat: Cheat | None,
) -> list[Pixels]:
    """Run the job's command in its image for so many frames; return their pixels."""
    place = folder / str(len(list(folder.iterdir())))
    out = place / "out"
    out.mkdir(parents=True)
    out.chmod(0o777)
    flags = [f"--env={key}={value}" for key, value in env.items()]
    for name in ("render.py", "scene.pov"):
        text = (EXAMPLE / name).read_text()
        if cheat is not None and cheat.file == name:
            text, count = re.subn(cheat.text, cheat.instead, text)
            assert count == 1, cheat
        (place / name).write_text(text)
        flags.append(f"--volume={place / name}:/in/{name}:ro")
    words = list(command)
    words[words.index("--frames") + 1] = str(rounds)
    subprocess.run(
        [
            *("docker", "run", "--rm", "--network=none", "--read-only", *flags),
            *(f"--user={os.getuid()}", f"--volume={out}:/out", image, *words),
        ],
        check=True,
        capture_output=True,
        timeout=SECONDS_MAX,
    )
    return [decode_image_untrusted(path.read_bytes()).pixels for path in sorted(out.iterdir())]


def measure(own: list[Pixels], theirs: list[Pixels]) -> dict[str, float | int]:
    """Compare frame by frame; return the quantities in the order of the columns."""
    pairs = list(zip(own, theirs, strict=True))
    differing = [int((a != b).any(axis=2).sum()) for a, b in pairs]
    shares = [compute_mismatch(a, b, float(RULE.atol)) for a, b in pairs]
    worst = [compute_worst_ssim(a, b) for a, b in pairs]
    whole = [compute_whole_ssim(a, b) for a, b in pairs]
    return {
        "pixels_least": min(differing),
        "pixels_most": max(differing),
        "share_least": min(shares),
        "share_most": max(shares),
        "worst_ssim_least": min(worst),
        "worst_ssim_most": max(worst),
        "whole_ssim_median": compute_quantile(whole, 0.5),
        "passing": sum(is_same(a, b, RULE) for a, b in pairs) / len(pairs),
        "passing_loose": sum(is_same(a, b, LOOSE) for a, b in pairs) / len(pairs),
    }


def is_same(a: Pixels, b: Pixels, rule: ImageRule) -> bool:
    """Ask the comparator itself."""
    return compare_images(Picture(a, "RGB", ()), Picture(b, "RGB", ()), rule, base=None)[0]


def compute_whole_ssim(a: Pixels, b: Pixels) -> float:
    """Return the mean SSIM of the whole picture, which the rule does not look at."""
    channels = [(a[:, :, c].astype(float), b[:, :, c].astype(float)) for c in range(3)]
    return float(np.mean([compute_ssim_map(x, y) for x, y in channels]))


def brighten(frame: Pixels, levels: int) -> Pixels:
    """Add levels to every value, up to white."""
    brighter: Pixels = np.minimum(frame.astype(int) + levels, 255).astype(np.uint8)
    return brighter


def move_patch(frame: Pixels, side: int) -> Pixels:
    """Put a square of the table over one of the lamp."""
    forged, (height, width) = frame.copy(), frame.shape[:2]
    y, x = height // 3, width // 2
    source = frame[height - side - 4 : height - 4, width // 8 : width // 8 + side]
    forged[y : y + side, x : x + side] = source
    return forged


def invert_spot(frame: Pixels) -> Pixels:
    """Make six neighbors in the middle, where the gears are, as unlike as can be."""
    forged = frame.copy()
    place = (slice(frame.shape[0] // 2, None), slice(frame.shape[1] // 2, None))
    spot = forged[place][:2, :3]
    spot[:] = np.where(spot < 128, 255, 0)
    return forged


def find_largest_squares(frame: Pixels, rule: ImageRule) -> Iterator[int]:
    """Give the side of the largest flat square that passes, at places all over the frame."""
    height, width = frame.shape[:2]
    for y in range(height // 8, height - max(SQUARES), height // 4):
        for x in range(width // 8, width - max(SQUARES), width // 4):
            largest = 0
            for side in SQUARES:
                forged, place = frame.copy(), (slice(y, y + side), slice(x, x + side))
                forged[place] = frame[place].mean(axis=(0, 1)).astype(np.uint8)
                if not is_same(frame, forged, rule):
                    break
                largest = side
            yield largest
