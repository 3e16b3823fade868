"""The sections of `gpu_check` that build and prove: the kernels, conformance, the sanitizer."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check import FOLDER, ROOT
from benchmarks.gpu_place import Place, first_line
from electra_kernels import backends

_SHOWN_FAILURES = 20


def build(place: Place) -> bool:
    """In place; what is not built is said, and the other sections go on without it."""
    where = ["--build-lib", str(FOLDER / "lib")] if place.dry_run else ["--inplace"]
    log = FOLDER / "build.log"
    with log.open("w") as output:
        status = subprocess.run(
            [sys.executable, "setup.py", "build_ext", *where], cwd=ROOT, stdout=output, stderr=output
        ).returncode
    folder = (FOLDER / "lib" if place.dry_run else ROOT) / "electra_kernels"
    reasons = {"all": f"see {log}"}
    if status == 0:
        reasons = json.loads((folder / "_build.json").read_text())["missing"]
    place.facts["missing"] = reasons
    print(
        "\n".join(f"not built: {name}: {reason}" for name, reason in reasons.items()) or "everything is built"
    )
    return not reasons


def conformance(backend: str) -> Callable[[Place], bool]:
    return lambda place: _all_conformance_files(place, backend)


def _all_conformance_files(place: Place, backend: str) -> bool:
    """One process per file, side by side: most of the time goes into compiling kernels."""
    if not _is_here(place, backend):
        return place.dry_run and backend == "cuda"  # which no CPU has
    folder = ROOT / "tests" / "conformance"
    files = [folder / "test_inplace.py"] if place.dry_run else sorted(folder.glob("test_*.py"))
    selection = f"{backend}-{place.device.type}" + (
        " and not compiled and not bfloat16 and not float16" if place.dry_run else ""
    )
    counts, failures = dict.fromkeys(("passed", "failed", "skipped"), 0), []
    with ThreadPoolExecutor(min(len(files), os.cpu_count() or 1)) as threads:
        for future in as_completed([threads.submit(_pytest, file, selection) for file in files]):
            found, failed = future.result()
            failures += failed
            for name, number in found.items():
                counts[name] += number
            place.facts |= {**counts, "failures": failures[:_SHOWN_FAILURES]}
            place.write()
    print(", ".join(f"{number} {name}" for name, number in counts.items()), f"(logs: {FOLDER})")
    print("\n".join(failures[:_SHOWN_FAILURES]))
    return counts["passed"] > 0 and not failures


def _is_here(place: Place, backend: str) -> bool:
    table = backends()
    if place.device.type in table.available.get(backend, ()):
        return True
    place.facts["reason"] = table.unavailable.get(backend, f"it does not run on {place.device.type}")
    print(f"{backend} is not available: {place.facts['reason']}")
    return False


def _pytest(file: Path, selection: str) -> tuple[dict[str, int], list[str]]:
    """How many tests passed, failed and were skipped, and a line per failure."""
    report = FOLDER / f"{file.stem}-{selection.split()[0]}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", selection, str(file)]
    with report.with_suffix(".log").open("w") as log:
        status = subprocess.run(
            [*command, f"--junitxml={report}"], cwd=ROOT, stdout=log, stderr=log
        ).returncode
    counts, failures = dict.fromkeys(("passed", "failed", "skipped"), 0), []
    for test in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        faults = [*test.iter("failure"), *test.iter("error")]
        outcome = "failed" if faults else "passed" if test.find("skipped") is None else "skipped"
        counts[outcome] += 1
        failures += [
            f"{file.stem}::{test.get('name')}: {first_line(fault.get('message'))}" for fault in faults[:1]
        ]
    if status not in (0, 1, 5) and not failures:  # 5: the file has no test of this back end
        counts["failed"] += 1
        failures.append(f"{file.stem}: pytest ended with {status}, see {report.with_suffix('.log')}")
    return counts, failures


def sanitizer(place: Place) -> bool:
    """memcheck and racecheck, for each back end of the device, side by side."""
    place.facts["found"] = {}
    program = None if place.dry_run else _compute_sanitizer()
    if program is None:
        place.facts["note"] = (
            "without compute-sanitizer, which needs a GPU" if place.dry_run else "there is none"
        )
        print(place.facts["note"])
    backs = [name for name in ("triton", "cuda") if place.device.type in backends().available.get(name, ())]
    tools = ("memcheck", "racecheck") if program else ("no tool",)
    jobs = [(tool, backend) for tool in tools for backend in backs]
    with ThreadPoolExecutor(max(1, len(jobs))) as threads:
        futures = {threads.submit(_every_op, place, program, *job): job for job in jobs}
        for future in as_completed(futures):
            status, words = future.result()
            place.facts["found"][" of ".join(futures[future])] = words
            print(f"{futures[future]}: {words}")
            place.facts["passed"] = place.facts.get("passed", True) and status == 0
            place.write()
    return bool(place.facts.get("passed")) and (program is not None or place.dry_run)


def _compute_sanitizer() -> str | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(home / "bin"))


def _every_op(place: Place, program: str | None, tool: str, backend: str) -> tuple[int, str]:
    """Exit status, and the summary or the last line."""
    checked = [program, "--tool", tool, "--error-exitcode", "9"] if program else []
    vocabularies = ["301"] if place.dry_run else ["301", "30522"]
    command = [
        *checked,
        sys.executable,
        "-m",
        "benchmarks.every_op",
        backend,
        place.device.type,
        *vocabularies,
    ]
    # Each tensor an allocation of its own, so that what lies beside it is nobody's.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    process = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    (FOLDER / f"sanitizer-{tool}-{backend}.log").write_text(process.stdout)
    lines = process.stdout.splitlines() or ["no output"]
    return process.returncode, next((line for line in lines if "SUMMARY" in line), lines[-1])
