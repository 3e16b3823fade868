"""Tests of the CUDA kernels on a CPU, in a build with fibers.

``python tests/cuda_on_cpu suite`` runs the conformance suite against them; ``mutants`` runs their mutants, each of
which the suite has to catch.
"""

import subprocess
import sys
import time

import library

# Excludes the tests of torch.compile: they run no kernel that others do not, and mostly spend their time compiling.
SELECTION = "(cuda-cpu and not compile and not inductor) or test_fibers or test_kernels"
PYTEST = ["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "fiber_backend"]


def main() -> int:
    start = time.monotonic()
    library.build_library()
    print(f"built with fibers: {time.monotonic() - start:.0f} s", flush=True)
    environment = library.environment()
    # A mutant is caught by a failing test, which proves something only if the suite passes without the mutant.
    commands = {
        "suite": [*PYTEST, "-k", SELECTION, "tests/conformance", library.HERE],
        "mutants": [f"{library.HERE}/mutants.py"],
    }
    command = [sys.executable, *commands[sys.argv[1]]]
    return subprocess.run(command, env=environment, cwd=library.ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
