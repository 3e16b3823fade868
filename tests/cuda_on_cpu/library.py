"""Builds the CUDA kernels as a library for the CPU.

The sources are the same. The threads of a block are fibers (`fibers.h`), and the code has AddressSanitizer in it.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from csrc import build  # noqa: E402

FOLDER = ROOT / "build" / "fibers"
LIBRARY = FOLDER / "_cuda.so"
HERE = "tests/cuda_on_cpu"
SANITIZE = (
    "-fsanitize=address",
    "-fsanitize-recover=address",
    "-fno-omit-frame-pointer",
    "-fno-strict-aliasing",
)
# No contraction, as with nvcc. g++ does not know the file ending .cu.
FLAGS = ["-ffp-contract=off", "-DEK_FIBERS", f"-I{HERE}", "-Icsrc/cuda", "-O1", "-g", "-x", "c++"]


def build_library() -> Path:
    """Compile the sources that have changed, and link the library."""
    folders = (ROOT / "csrc" / "cuda", ROOT / HERE)
    sources = sorted(path for folder in folders for path in (*folder.glob("*.cu"), *folder.glob("*.cpp")))
    commands = []
    for source in sources:
        flags = [*build.FLAGS, *SANITIZE, *FLAGS, *(build.torch_flags() if source.suffix == ".cpp" else [])]
        commands.append((source.name, [*flags, "-c", str(source.relative_to(ROOT))]))
    build.link_kernels(build.build_objects(FOLDER / "objects", commands), LIBRARY, SANITIZE)
    return LIBRARY


def environment() -> dict[str, str]:
    """Environment of a process that loads the library: AddressSanitizer comes first and fills new memory with NaN."""
    names = ("libasan.so", "libstdc++.so.6")
    found = [
        subprocess.check_output([*build.host_compiler(), f"-print-file-name={name}"], text=True).strip()
        for name in names
    ]
    options = {
        "detect_leaks": 0,
        # The launch turns a report into an exception.
        "halt_on_error": 0,
        "suppress_equal_pcs": 0,
        "max_malloc_fill_size": 1 << 30,
        "malloc_fill_byte": 255,
    }
    return os.environ | {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
        "PYTHONPATH": str(ROOT / HERE),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",  # the real CUDA library has ops of the same names
    }
