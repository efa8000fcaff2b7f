"""
PyTorch for a job image, from Debian: what it takes to train on a processor, and no more.

PyTorch 1.13 with NumPy 1.24, which it was compiled for, and OpenBLAS. What Caffe2 links for video,
pictures and databases stays out: 300 libraries with 400 MB that no trainer calls.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from scripts.images.linking import cut_links

TORCH_PACKAGES = tuple(
    (
        "libcpuinfo0 libdnnl2 libfmt9 libgflags2.2 libgfortran5 libgloo0 libgomp1 "
        "libgoogle-glog0v6 libhiredis0.14 libibverbs1 libnl-3-200 libnl-route-3-200 libnuma1 "
        "libonnx1 libopenblas0-pthread libprotobuf32 libpthreadpool0 libquadmath0 libsleef3 "
        "libtensorpipe0 libtorch1.13 libunwind8 libuv1 libxnnpack0 libzstd1 ocl-icd-libopencl1 "
        "python3-numpy python3-torch python3-typing-extensions"
    ).split()
)
UNUSED_LIBRARIES = re.compile(
    "lib(opencv_|avcodec|avformat|avutil|swscale|swresample|lmdb|leveldb|zmq|snappy)"
)
UNUSED_FUNCTIONS = re.compile(
    "_ZNK?2cv|av_|avcodec_|avformat_|sws_|swr_|mdb_|_ZNK?7leveldb|zmq_|_ZN6snappy"
)
LIBRARIES = "usr/lib/x86_64-linux-gnu"
TORCH_MODULES = "usr/lib/python3/dist-packages"
TORCH_TRIAL = (
    "import torch; layer = torch.nn.Linear(8, 8); layer(torch.ones(4, 8)).sum().backward(); "
    "torch.linalg.inv(torch.eye(4)); assert torch.from_numpy(layer.bias.grad.numpy()).sum() == 32"
)
UNWANTED = (
    *(
        f"{LIBRARIES}/{name}*"
        for name in ("libcaffe2_", "libprotobuf-lite", "openblas-pthread/lib[bl]")
    ),
    *("usr/bin", "usr/include", "usr/lib/libtorch-test", "usr/lib/python3.11", "etc"),
    *(f"{TORCH_MODULES}/{name}" for name in ("caffe2", "functorch", "torchgen", "torch/test")),
    *(
        f"{TORCH_MODULES}/torch/{name}"
        for name in ("bin/*[Tt]est*", "include", "lib/libcaffe2_*", "testing/_internal")
    ),
    *(f"{TORCH_MODULES}/**/{name}" for name in ("tests", "__pycache__", "*.pyi")),
)


def finish_torch(root: Path) -> None:
    """Drop what no trainer reads, choose the library for linear algebra, and cut links."""
    for pattern in UNWANTED:
        for path in list(root.glob(pattern)):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    # What Debian's alternatives would choose when the package is installed.
    for name in ("libblas.so.3", "liblapack.so.3"):
        (root / LIBRARIES / name).symlink_to("openblas-pthread/libopenblas.so.0")
    (library,) = (root / LIBRARIES).glob("libtorch_cpu.so.*.*.*")
    cut_links(library, libraries=UNUSED_LIBRARIES, functions=UNUSED_FUNCTIONS)
