"""The sections of `gpu_check` that run tests/conformance: one pytest run each, on all cores where xdist is there."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_outcomes
from benchmarks.gpu_place import Place
from benchmarks.gpu_plan import FOLDER, ROOT
from electra_kernels import backends

TESTS = ROOT / "tests" / "conformance"
OFFSETS = TESTS / "test_offsets.py"
# Examples for each property: every new size may be a new compilation. The same ones in each run.
_EXAMPLES, _SEED = 5, 0
_SHOWN = 20
_POLL = 2.0
# Free GPU memory for each worker, for its context and its tests.
_BYTES_PER_WORKER = 5 * 2**28


def conformance(backend: str) -> Callable[[Place], bool]:
    """All of tests/conformance for one back end, except what needs most of the GPU's memory."""

    def run(place: Place) -> bool:
        if not _is_here(place, backend):
            return place.dry_run and backend == "cuda"  # no CPU has it
        if place.dry_run:
            selection = f"{backend}-cpu and not compiled and not bfloat16 and not float16"
            return _pytest(place, ["-k", selection, *_workers(1), str(TESTS / "test_replacing.py")])
        selected = ["-k", f"{backend}-cuda", f"--ignore={OFFSETS}", str(TESTS)]
        return _pytest(place, [*_properties(), *_workers(_most_workers()), *selected])

    return run


def offsets(place: Place) -> bool:
    """Offsets beyond 32 bits, test after test: each takes up to half of the memory of a large GPU."""
    if place.dry_run:
        place.facts["note"] = "tensors of that size need a GPU"
        print(place.facts["note"])
        return True
    selected = " or ".join(f"{backend}-cuda" for backend in ("triton", "cuda") if _is_here(place, backend))
    return bool(selected) and _pytest(place, ["-k", selected, str(OFFSETS)])


def _is_here(place: Place, backend: str) -> bool:
    table = backends()
    if place.device.type in table.available.get(backend, ()):
        return True
    place.facts["reason"] = table.unavailable.get(backend, f"it does not run on {place.device.type}")
    print(f"{backend} is not available: {place.facts['reason']}")
    return False


def _most_workers() -> int:
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(os.cpu_count() or 1, free // _BYTES_PER_WORKER))


def _workers(count: int) -> list[str]:
    if importlib.util.find_spec("xdist") is None:
        return []
    return ["-n", str(count), "--dist", "worksteal"]


def _properties() -> list[str]:
    if importlib.util.find_spec("hypothesis") is None:
        return []
    return ["--examples", str(_EXAMPLES), "--hypothesis-seed", str(_SEED)]


def _pytest(place: Place, arguments: Sequence[str]) -> bool:
    """Run pytest; what is known goes into the results while it runs."""
    outcomes = FOLDER / f"{place.section}.jsonl"
    outcomes.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.gpu_outcomes",
    ]
    # A file that lacks a module is a failure of its own and does not stop the others.
    command += [f"--outcomes={outcomes}", "--continue-on-collection-errors", *arguments]
    log = FOLDER / f"{place.section}-pytest.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=_environment())
        while _is_running(process):
            _note(place, outcomes)
    found = _note(place, outcomes)
    # 5: nothing was selected in a file that could be collected
    if process.returncode not in (0, 1, 5) and not found["failed"]:
        found["failed"], found["failures"] = 1, [f"pytest ended with {process.returncode}, see {log}"]
        place.facts |= found
    print(", ".join(f"{found[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")), f"({log})")
    print("\n".join(found["failures"]))
    return found["passed"] > 0 and found["failed"] == 0


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL)
    except subprocess.TimeoutExpired:
        return True
    return False


def _note(place: Place, outcomes: Path) -> dict[str, Any]:
    found = gpu_outcomes.summary(outcomes, _SHOWN)
    place.facts |= found
    place.write()
    return found


def _environment() -> dict[str, str]:
    # Each worker has one core.
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
