"""
The rule `image`: the same picture, judged where it differs most.

A similarity of the whole picture hides a replaced part: with one patch of 64 x 64 pixels exchanged
in a megapixel it is as high as with rounding noise. So the mean structural similarity (SSIM, Wang
et al. 2004, with a uniform window) is taken over every 64 x 64 place, and the worst one counts.

Pillow decodes, but only the two formats whose size can be read before any pixel is, and only one
still picture: WebP allocates its canvas when it is opened, animations hide frames.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from gpumarket.protocol.comparison import ImageRule
from gpumarket.protocol.errors import RemoteProtocolError

FORMATS: Final = ("PNG", "JPEG")
MODES: Final = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA"})
"""Eight bits a channel or fewer; deeper pictures are better written as .npy."""
IMAGE_BYTES_MAX: Final = 64 * 2**20
PIXELS_MAX: Final = 2**24
SIDE_MAX: Final = 2**14
SCANS_MAX: Final = 100
"""Passes over a JPEG's pixels; a progressive one has about ten, a bomb has thousands."""
PARTS_MAX: Final = 20_000
"""PNG chunks, or JPEG segments before the first scan: each costs the decoder, however small."""
TILE: Final = 64
WINDOW: Final = 7
STRIP_ROWS: Final = 128
"""Rows whose tiles are looked at together."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_ORIENTATION = 0x0112
_JPEG_SCAN = b"\xff\xda"
Channel = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels as height x width x channels of 0 to 255, and what else says how they look."""

    pixels: npt.NDArray[np.uint8]
    mode: str
    profile: tuple[object, ...]
    """Color profile, gamma and orientation."""


def decode_image_untrusted(data: bytes) -> Picture:
    """Read one still PNG or JPEG, or raise `RemoteProtocolError` before it costs much."""
    if len(data) > IMAGE_BYTES_MAX:
        raise RemoteProtocolError(f"an image file of {len(data)} bytes")
    if data.startswith(b"\x89PNG"):
        _check_png_chunks(data)
    else:
        _check_jpeg_segments(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_bounds(image)
            image.load()
            profile = (
                image.info.get("icc_profile"),
                image.info.get("gamma"),
                image.getexif().get(_ORIENTATION, 1),
            )
            mode = image.mode
            wanted = "L" if mode in ("1", "L") else "RGB" if mode == "RGB" else "RGBA"
            if "transparency" in image.info:
                wanted = "RGBA"
            pixels = np.asarray(image.convert(wanted), dtype=np.uint8)
    except (
        *(UnidentifiedImageError, Image.DecompressionBombError, Warning),
        *(OSError, ValueError, TypeError, SyntaxError, KeyError, IndexError, EOFError),
        *(ArithmeticError, AttributeError, MemoryError, NotImplementedError),
        *(struct.error, zlib.error),
    ) as error:
        # Pillow's readers raise what their parts raise; all of it means a malformed file.
        raise RemoteProtocolError(f"not a readable PNG or JPEG: {str(error)[:80]}") from error
    height, width = pixels.shape[:2]
    return Picture(pixels.reshape(height, width, -1), mode, profile)


def compare_images(
    own: Picture,
    theirs: Picture,
    rule: ImageRule,
    *,
    base: None,  # a picture has none
) -> tuple[bool, str]:
    """Compare two pictures; return whether they are the same and the numbers that say so."""
    a, b = own.pixels, theirs.pixels
    if (own.mode, a.shape) != (theirs.mode, b.shape):
        return False, f"{own.mode} {_size(own)} here, {theirs.mode} {_size(theirs)} there"
    if own.profile != theirs.profile:
        return False, "color profile, gamma or orientation differ"
    mismatch = compute_mismatch(a, b, float(rule.atol))
    if mismatch > float(rule.max_mismatch):
        return False, f"{mismatch:.3g} of the values differ by more than {rule.atol} levels"
    similarity = compute_worst_ssim(a, b)
    text = f"SSIM of the worst {TILE} x {TILE} pixels is {similarity:.4f}"
    if similarity < float(rule.ssim_min):
        return False, f"{text}, under {rule.ssim_min}"
    return True, text


def compute_mismatch(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], levels: float) -> float:
    """Return the share of channel values that differ by more than so many levels."""
    outside = sum(
        int(np.count_nonzero(np.maximum(x, y) - np.minimum(x, y) > levels))
        for x, y in zip(a, b, strict=True)
    )
    return outside / a.size


def compute_worst_ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Return the lowest mean SSIM of any 64 x 64 place in any channel, -1 to 1."""
    worst = 1.0
    for channel in range(a.shape[2]):
        for x, y in _cut_strips(a[:, :, channel], b[:, :, channel]):
            if not np.array_equal(x, y):
                worst = min(worst, _compute_worst_of_strip(x, y))
    return worst


def _compute_worst_of_strip(a: Channel, b: Channel) -> float:
    ssim = compute_ssim_map(a, b)
    rows, columns = (min(TILE - WINDOW + 1, side) for side in ssim.shape)
    return float(np.min(_mean_boxes(ssim, rows, columns)))


def compute_ssim_map(a: Channel, b: Channel) -> Channel:
    """Return the SSIM of each 7 x 7 window that lies wholly inside, for levels of 0 to 255."""
    rows, columns = (min(WINDOW, side) for side in a.shape)
    mean_a, mean_b = _mean_boxes(a, rows, columns), _mean_boxes(b, rows, columns)
    # Never below zero: what rounding leaves of a flat window is no variance.
    var_a = np.maximum(_mean_boxes(a * a, rows, columns) - mean_a * mean_a, 0.0)
    var_b = np.maximum(_mean_boxes(b * b, rows, columns) - mean_b * mean_b, 0.0)
    covariance = _mean_boxes(a * b, rows, columns) - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * covariance + _C2)
    bottom = (mean_a * mean_a + mean_b * mean_b + _C1) * (var_a + var_b + _C2)
    return np.asarray(top / bottom)


def _mean_boxes(values: Channel, rows: int, columns: int) -> Channel:
    """Return the mean of every box of this size, by running sums."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    np.cumsum(values, axis=0, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    boxes = sums[rows:, columns:] - sums[:-rows, columns:]
    boxes -= sums[rows:, :-columns] - sums[:-rows, :-columns]
    return np.asarray(boxes / (rows * columns))


def _cut_strips(
    a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]
) -> Iterator[tuple[Channel, Channel]]:
    """Give strips that overlap so far that every 64 x 64 place lies wholly in one of them."""
    for top in range(0, max(1, a.shape[0] - TILE + 1), STRIP_ROWS):
        rows = slice(top, top + STRIP_ROWS + TILE - 1)
        yield a[rows].astype(np.float64), b[rows].astype(np.float64)


def _check_bounds(image: Image.Image) -> None:
    width, height = image.size
    if max(width, height) > SIDE_MAX or width * height > PIXELS_MAX:
        raise RemoteProtocolError(f"an image of {width} x {height} pixels")
    if image.mode not in MODES:
        raise RemoteProtocolError(f"an image of the mode {image.mode}")
    if getattr(image, "n_frames", 1) != 1:
        raise RemoteProtocolError("an image of more than one frame")


def _check_png_chunks(data: bytes) -> None:
    at = 8
    for _ in range(PARTS_MAX):
        if at + 8 > len(data):
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise RemoteProtocolError(f"a PNG of more than {PARTS_MAX} chunks")


def _check_jpeg_segments(data: bytes) -> None:
    if data.count(_JPEG_SCAN) > SCANS_MAX:
        raise RemoteProtocolError(f"a JPEG of more than {SCANS_MAX} scans")
    at = 2
    for _ in range(PARTS_MAX):
        marker = data[at : at + 2]
        if marker == _JPEG_SCAN:
            return
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] < 0xC0 or marker[1] == 0xFF:
            raise RemoteProtocolError("not a readable PNG or JPEG")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise RemoteProtocolError(f"a JPEG of more than {PARTS_MAX} segments")


def _size(picture: Picture) -> str:
    height, width, _ = picture.pixels.shape
    return f"{width} x {height}"
