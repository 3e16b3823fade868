"""``python -m benchmarks.gpu.check``: everything that needs a GPU: conformance, compute-sanitizer and benchmarks.

Each section runs in a process of its own with a time limit, and writes its results into benchmarks/results/DEVICE.json
at once. The check uses the Python that runs it and needs no network. All sections take 22 minutes at most. If a machine
limits a command to 10 minutes, make one call per group:

    make gpu-check ONLY=proofs      # build, conformance, offsets beyond 32 bits
    make gpu-check ONLY=ops         # build, sanitizer, each op against eager
    make gpu-check ONLY=steps       # build, linear head, training steps

ONLY also takes sections, several in quotes. If OUT is set, the results and an archive of the logs are copied to that
folder after each section, for remote runners that return one folder. Put DEVICE.json back into benchmarks/results
before the next call: a section replaces only its own part. DRY_RUN=1 prints the time limit of each section, then runs
the sections on a CPU with tiny sizes. Exits with 1 if a section did not pass, 2 if nothing could be tried. A missed
target is only printed. A section that needs more GPU memory than is free is skipped.
"""

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.gpu import plan, scheduler
from benchmarks.gpu.plan import CONCLUSION, CONCLUSION_SECONDS, FOLDER, GROUPS, RESULTS, SECTIONS
from benchmarks.gpu.scheduler import Job

# Factor for the time limits of a dry run: its machine may have other work.
_DRY_PATIENCE = 5
NEEDS = {
    "triton": "no Triton kernels",
    "setuptools": "no compiled kernels",
    "pybind11": "no compiled kernels",
    "pytest": "no conformance",
    "xdist": "conformance in one process, which will not end in its time",
    "hypothesis": "no tests of properties",
    "scipy": "no tests of masking and sampling",
    "transformers": "no eager step to compare with",
    "matplotlib": "no picture",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", choices=[*GROUPS, *SECTIONS], action="append", default=[], help="may be repeated"
    )
    parser.add_argument("--dry-run", action="store_true", help="the same on a CPU, with tiny sizes")
    parser.add_argument("--section", choices=[*SECTIONS, CONCLUSION], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        # Imported here, because only the process of a section needs the benchmarks.
        from benchmarks.gpu import sections

        return sections.run(arguments.section, arguments.dry_run)
    out = Path(os.environ["OUT"]) if os.environ.get("OUT") else None
    reason = _obstacle(arguments.dry_run, out)
    if reason is not None:
        print(f"gpu-check: {reason}", file=sys.stderr)
        return 2
    if arguments.dry_run:
        print(plan.arithmetic(), flush=True)
    return _run_all(plan.select(arguments.only), arguments.dry_run, out)


def _obstacle(dry_run: bool, out: Path | None) -> str | None:
    """The reason why nothing can be measured here; None if it can."""
    if out is not None and out.exists() and not out.is_dir():
        return f"OUT is {str(out)!r}, should be a folder"
    if importlib.util.find_spec("torch") is None:
        return f"{sys.executable} has no torch; say which Python has: make gpu-check PYTHON=..."
    if dry_run:
        return None
    import torch

    if torch.cuda.device_count() == 0:
        return f"torch {torch.__version__} finds no GPU here; DRY_RUN=1 tries the same on the CPU"
    return None


def _run_all(sections: Iterable[str], dry_run: bool, out: Path | None) -> int:
    lacking = [f"{name} ({result})" for name, result in NEEDS.items() if not importlib.util.find_spec(name)]
    if lacking:
        print(f"missing here: {', '.join(lacking)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    # On SIGTERM, end the running section as on SIGINT.
    signal.signal(signal.SIGTERM, _exit)
    began = time.time() - 0.1  # the clock of a file system may be behind

    def copy_results() -> None:
        if out is not None:
            scheduler.copy_results(out, (FOLDER, RESULTS), began)

    def job(name: str, seconds: float) -> Job:
        command = [sys.executable, "-m", "benchmarks.gpu.check", "--section", name]
        command += ["--dry-run"] if dry_run else []
        return Job(name, command, seconds * (_DRY_PATIENCE if dry_run else 1))

    jobs = [job(section, SECTIONS[section].budget) for section in sections]
    outcomes = scheduler.run_all(
        [*jobs, job(CONCLUSION, CONCLUSION_SECONDS)], FOLDER, _environment(dry_run), copy_results
    )
    bad = [f"{name} ({words})" for name, words in outcomes.items() if words not in ("passed", "skipped")]
    print(f"\n{len(outcomes) - len(bad)} of {len(outcomes)} sections passed or were skipped")
    if bad:
        print(f"did not pass: {', '.join(bad)}")
    return bool(bad)


def _exit(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _environment(dry_run: bool) -> Mapping[str, str]:
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    return environment | {"TRITON_INTERPRET": "1"} if dry_run else environment


if __name__ == "__main__":
    sys.exit(main())
