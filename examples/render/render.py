"""
Render frames of an animation with POV-Ray and write them as PNG.

One task of the job: frames [GPUMARKET_SPLIT_START, GPUMARKET_SPLIT_END), each at the clock
frame / frames. With one thread the bytes depend on the scene and the frame alone. The PNG files
are our own, since POV-Ray writes the time and the platform into its own.
"""

from __future__ import annotations

import argparse
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

SECONDS_MAX = 600
ROW_ABOVE = b"\2"
"""The PNG filter by which a row is stored as its difference to the one above."""


def trace(scene: Path, clock: float, width: int, height: int) -> bytes:
    """Let POV-Ray trace one frame; return its sRGB pixels, row by row, three bytes each."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    command = [
        *("povray", f"+I{scene}", f"+W{width}", f"+H{height}", f"+K{clock:.6f}"),
        *("+O-", "+FP8"),  # a PPM of 8 bits a channel, to stdout
        *("+A0.2", "+AM1", "+R2", "-J"),  # smooth edges, the same ones each time
        *(f"+WT{threads}", "-D", "-V"),  # no window, no progress
    ]
    traced = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS_MAX)
    pixels = traced.stdout[-3 * width * height :]  # its header has comments with the time
    if traced.returncode != 0 or len(pixels) != 3 * width * height:
        sys.exit(traced.stderr.decode(errors="replace")[-2000:])
    return pixels


def encode_png(pixels: bytes, width: int, height: int) -> bytes:
    """Encode sRGB pixels as a PNG (ISO/IEC 15948) that holds nothing but the picture."""
    stride = 3 * width
    rows, above = [], bytes(stride)
    for start in range(0, stride * height, stride):
        row = pixels[start : start + stride]
        rows.append(ROW_ABOVE + bytes((a - b) & 0xFF for a, b in zip(row, above, strict=True)))
        above = row
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"sRGB": b"\0",
        b"IDAT": zlib.compress(b"".join(rows), 9),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def main() -> None:
    """Render this task's frames, and write each as `frame-NNNN.png` to the output folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", type=Path, required=True)
    parser.add_argument("--frames", type=int, required=True, help="in the whole animation")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))

    start = int(os.environ.get("GPUMARKET_SPLIT_START", "0"))
    end = min(int(os.environ.get("GPUMARKET_SPLIT_END", arguments.frames)), arguments.frames)
    for frame in range(start, end):
        pixels = trace(arguments.scene, frame / arguments.frames, width, height)
        path = arguments.out / f"frame-{frame:04d}.png"
        path.write_bytes(encode_png(pixels, width, height))
        print(f"progress {frame + 1 - start}/{end - start}", flush=True)


if __name__ == "__main__":
    main()
