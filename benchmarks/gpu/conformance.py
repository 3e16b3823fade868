"""The sections that run tests/conformance: one pytest run each, on all cores if xdist is installed."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import outcomes
from benchmarks.gpu.context import SectionContext
from benchmarks.gpu.plan import FOLDER, ROOT
from electra_kernels import backends

TESTS = ROOT / "tests" / "conformance"
OFFSETS = TESTS / "test_offsets.py"
# Few examples per property, because each new size may need a compilation; the same ones in each run.
_EXAMPLES, _SEED = 5, 0
_SHOWN = 20
_POLL = 2.0
# Free GPU memory for each worker, for its context and its tests.
_BYTES_PER_WORKER = 5 * 2**28


def conformance(backend: str) -> Callable[[SectionContext], bool]:
    """All of tests/conformance for one back end, except the tests that need most of the GPU's memory."""

    def run(context: SectionContext) -> bool:
        if not _is_here(context, backend):
            return context.dry_run and backend == "cuda"  # a dry run passes: the CUDA kernels need a GPU
        if context.dry_run:
            selection = f"{backend}-cpu and not compiled and not bfloat16 and not float16"
            return _pytest(context, ["-k", selection, *_workers(1), str(TESTS / "test_replacing.py")])
        selected = ["-k", f"{backend}-cuda", f"--ignore={OFFSETS}", str(TESTS)]
        return _pytest(context, [*_properties(), *_workers(_most_workers()), *selected])

    return run


def offsets(context: SectionContext) -> bool:
    """Offsets beyond 32 bits, one test at a time: each takes up to half of the memory of a large GPU."""
    if context.dry_run:
        context.facts["note"] = "tensors of that size need a GPU"
        print(context.facts["note"])
        return True
    selected = " or ".join(f"{backend}-cuda" for backend in ("triton", "cuda") if _is_here(context, backend))
    return bool(selected) and _pytest(context, ["-k", selected, str(OFFSETS)])


def _is_here(context: SectionContext, backend: str) -> bool:
    table = backends()
    if context.device.type in table.available.get(backend, ()):
        return True
    context.facts["reason"] = table.unavailable.get(backend, f"it does not run on {context.device.type}")
    print(f"{backend} is not available: {context.facts['reason']}")
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


def _pytest(context: SectionContext, arguments: Sequence[str]) -> bool:
    """Run pytest, and update the results while it runs; returns whether all tests passed."""
    file = FOLDER / f"{context.section}.jsonl"
    file.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.gpu.outcomes",
    ]
    # A test file whose import fails counts as one failure and does not stop the others.
    command += [f"--outcomes={file}", "--continue-on-collection-errors", *arguments]
    log = FOLDER / f"{context.section}-pytest.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, env=_environment())
        while _is_running(process):
            _note(context, file)
    found = _note(context, file)
    # 5: no test was selected
    if process.returncode not in (0, 1, 5) and not found["failed"]:
        found["failed"], found["failures"] = 1, [f"pytest ended with {process.returncode}, see {log}"]
        context.facts |= found
    print(", ".join(f"{found[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped")), f"({log})")
    print("\n".join(found["failures"]))
    return found["passed"] > 0 and found["failed"] == 0


def _is_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_POLL)
    except subprocess.TimeoutExpired:
        return True
    return False


def _note(context: SectionContext, file: Path) -> dict[str, Any]:
    found = outcomes.summary(file, _SHOWN)
    context.facts |= found
    context.write()
    return found


def _environment() -> dict[str, str]:
    # Each worker has one core.
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
