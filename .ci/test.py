"""What ``make test`` and ``make prove`` run, part by part, with the seconds of each: ``test.py test`` or ``prove``."""

import os
import subprocess
import sys
import time

# Two workers of one thread each: on two cores that is faster than one worker of two threads.
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
# Parts of their own.
APART = ("conformance", "triton", "test_build.py", "test_install.py", "integrations/test_compile.py")
PARTS = {
    "test": {
        "lint": ["make", "--no-print-directory", "lint"],
        "conformance": [*PYTEST, "tests/conformance"],
        "interpreter": [*PYTEST, "tests/conformance", "tests/triton", "-k", "triton"],
        "fibers": [sys.executable, "tests/cuda_on_cpu", "suite"],
        "package": [*PYTEST, "tests", *(f"--ignore=tests/{name}" for name in APART)],
    },
    "prove": {
        "build": [*PYTEST, "tests/test_build.py", "tests/test_install.py"],
        "codegen": [*PYTEST, "tests/triton/test_codegen.py"],
        "inductor": [*PYTEST, "tests/integrations/test_compile.py"],
        "mutants": [sys.executable, "tests/cuda_on_cpu", "mutants"],
        "sanitizers": [sys.executable, ".ci/sanitize.py", "memory"],
        "benchmarks": [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2"],
    },
}
# Triton's interpreter holds for a whole process, in which Triton cannot compile.
VARIABLES = {"interpreter": {"TRITON_INTERPRET": "1"}}


def main() -> int:
    parts = PARTS[sys.argv[1]]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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
