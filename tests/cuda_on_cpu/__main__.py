"""The CUDA kernels on this processor: ``python tests/cuda_on_cpu`` builds them with fibers, runs the conformance
suite against them, then their mutants, each of which the suite has to catch."""

import subprocess
import sys
import time

import library

# Not those of torch.compile: they run no other kernel than the rest, and most of their time is the compiler's.
SELECTION = "(cuda-cpu and not compile and not inductor) or test_fibers or test_kernels"
PYTEST = ["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "fiber_backend"]


def main() -> int:
    start = time.monotonic()
    library.build()
    print(f"built with fibers: {time.monotonic() - start:.0f} s", flush=True)
    environment = library.environment()
    tests = [*PYTEST, "-k", SELECTION, "tests/conformance", library.HERE]
    # A mutant is caught by a test that fails, which says something only where the tests pass without it.
    failed = any(
        subprocess.run([sys.executable, *command], env=environment, cwd=library.ROOT).returncode
        for command in (tests, [f"{library.HERE}/mutants.py"])
    )
    print(f"fibers: {time.monotonic() - start:.0f} s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
