"""Runs the parts of ``make test`` (``test.py test``) or ``make prove`` (``test.py prove``) and prints their seconds."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

# Two workers with one thread each: on two cores that is faster than one worker with two threads.
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
BUILDS = ("test_build.py", "test_install.py")
CODEGEN = ("triton/test_codegen.py", "benchmarks/codegen")
GPU_CHECK = ("benchmarks/gpu",)
COMPILED = ("integrations/test_compile.py",)
# Tests that are not in the part "package".
APART = ("conformance", "triton", "survival", *BUILDS, *CODEGEN, *GPU_CHECK, *COMPILED)


def inductor_cache() -> str:
    """A folder for each version of the ops: inductor's cache identifies an op by its name only, not by its outputs."""
    sources = [*sorted(Path("electra_kernels/ops").glob("*.py")), Path("electra_kernels/backends/table.py")]
    state = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return str(Path("build/inductor", state).resolve())


def tests(names: tuple[str, ...]) -> list[str]:
    return [*PYTEST, *(f"tests/{name}" for name in names)]


PARTS = {
    "test": {
        "lint": ["make", "--no-print-directory", "lint"],
        "conformance": [*PYTEST, "tests/conformance"],
        "interpreter": [*PYTEST, "tests/conformance", "tests/triton", "-k", "triton"],
        "fibers": [sys.executable, "tests/cuda_on_cpu", "suite"],
        "package": [*PYTEST, "tests", *(f"--ignore=tests/{name}" for name in APART)],
    },
    "prove": {
        "builds": tests(BUILDS),
        "codegen": tests(CODEGEN),
        "gpu-check": tests(GPU_CHECK),
        "compiled": tests(COMPILED),
        "survival": tests(("survival",)),
        "mutants": [sys.executable, "tests/cuda_on_cpu", "mutants"],
        "sanitizers": [sys.executable, ".ci/sanitize.py", "memory"],
        "benchmarks": [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2"],
    },
}
# Triton's interpreter is chosen for a whole process, which cannot compile Triton kernels then.
VARIABLES = {"interpreter": {"TRITON_INTERPRET": "1"}}


def main() -> int:
    parts = PARTS[sys.argv[1]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["TORCHINDUCTOR_CACHE_DIR"] = inductor_cache()
    seconds, failed = {}, []
    for name, command in parts.items():
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        if subprocess.run(command, env=environment | VARIABLES.get(name, {})).returncode != 0:
            failed.append(name)
        seconds[name] = time.monotonic() - start
    print("\n" + "\n".join(f"{name:12} {value:6.0f} s" for name, value in seconds.items()))
    print(f"{'together':12} {sum(seconds.values()):6.0f} s")
    print(f"failed parts: {', '.join(failed)}" if failed else "every part passed")
    print(f"{len(parts) - len(failed)} passed, {len(failed)} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
