"""The sections of `gpu_check`: each takes a place to write to and says whether it passed."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from benchmarks import (
    bce,
    contenders,
    gpu_targets,
    masking,
    mlm_head,
    results,
    rtd_head,
    sampling,
    step,
    training_step,
)
from benchmarks.__main__ import COLUMNS, show
from benchmarks.gpu_check import FOLDER, ROOT, SECTIONS
from benchmarks.harness import Case, Size, measure
from benchmarks.meters import StreamMeter
from electra_kernels import backends

# Seconds for the rounds of one case.
_BUDGET = 1.0
_COPIED_BYTES = 1 << 30
_SHOWN_FAILURES = 20


@dataclass
class Place:
    """Where a section runs and writes.

    Attributes:
        section: its name.
        dry_run: on the CPU, with tiny sizes.
        facts: of the section, as they stand in the file.
    """

    section: str
    dry_run: bool
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.dry_run else "cuda")

    @property
    def size(self) -> Size:
        return "tiny" if self.dry_run else "full"

    def write(self, cases: list[dict[str, Any]] | None = None) -> None:
        machine = results.machine(self.device)
        results.merge(path(self.dry_run), machine, self.section, self.facts, cases)


def path(dry_run: bool) -> Path:
    if dry_run:
        return FOLDER / "dry-run.json"
    return results.FOLDER / f"{results.machine(torch.device('cuda'))['name']}.json"


def run(section: str, dry_run: bool) -> int:
    """Exit status of a section."""
    contenders.compiler = "aot_eager" if dry_run else "inductor"
    torch.manual_seed(0)
    place = Place(section, dry_run, {"commit": _commit()})
    place.write([])
    start = time.monotonic()
    passed = _RUN[section](place)
    place.facts["seconds"] = round(time.monotonic() - start, 1)
    place.write()
    return not passed


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def conclude(outcomes: Mapping[str, str], dry_run: bool) -> None:
    """The outcomes into the file, the picture beside it, the targets on the screen."""
    for section, outcome in outcomes.items():
        Place(section, dry_run, {"outcome": outcome}).write()
    file = path(dry_run)
    print(f"\nresults: {file}\n\n{gpu_targets.table(results.read(file))}")
    if any(case["is_main"] for case in results.read(file)["cases"]):
        subprocess.run(
            [sys.executable, "-m", "benchmarks.plot", str(file)], cwd=ROOT, stdout=subprocess.DEVNULL
        )


def _build(place: Place) -> bool:
    """In place; what is not built is said, and the other sections go on without it."""
    where = ["--build-lib", str(FOLDER / "lib")] if place.dry_run else ["--inplace"]
    log = FOLDER / "build.log"
    with log.open("w") as output:
        status = subprocess.run(
            [sys.executable, "setup.py", "build_ext", *where], cwd=ROOT, stdout=output, stderr=output
        ).returncode
    folder = (FOLDER / "lib" if place.dry_run else ROOT) / "electra_kernels"
    record = json.loads((folder / "_build.json").read_text()) if status == 0 else {"missing": {}}
    reasons = record["missing"] | (
        {} if record.get("built") else {"_C": record.get("reason") or f"see {log}"}
    )
    place.facts["missing"] = reasons
    print(
        "\n".join(f"not built: {name}: {reason}" for name, reason in reasons.items()) or "everything is built"
    )
    return not reasons


def _conformance(backend: str) -> Callable[[Place], bool]:
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
            f"{file.stem}::{test.get('name')}: {_first_line(fault.get('message'))}" for fault in faults[:1]
        ]
    if status not in (0, 1, 5) and not failures:  # 5: the file has no test of this back end
        counts["failed"] += 1
        failures.append(f"{file.stem}: pytest ended with {status}, see {report.with_suffix('.log')}")
    return counts, failures


def _first_line(text: str | None) -> str:
    return next(iter((text or "").splitlines()), "")[:200]


def _sanitizer(place: Place) -> bool:
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


Cases = Callable[[Size], Iterator[Case]]


def _benchmark(*ideas: Cases) -> Callable[[Place], bool]:
    return lambda place: _measure_all(place, ideas)[1]


def _measure_all(
    place: Place, ideas: Iterable[Cases], records: list[dict[str, Any]] | None = None
) -> tuple[list[dict[str, Any]], bool]:
    """Records of all cases, written one by one, and whether all of ours ran."""
    meter, records, passed = StreamMeter(place.device), [] if records is None else records, True
    copied = meter.copied_per_second(1 << 20 if place.dry_run else _COPIED_BYTES)
    place.facts["copied_bytes_per_second"] = float(f"{copied:.4g}")
    print(f"a copy moves {copied / 1e9:.0f} GB/s\n{COLUMNS}")
    for idea in ideas:
        for built in _built(idea(place.size), place.device):
            case = _usable(built)
            passed &= not any(name.startswith("ours") for name in case.absent)
            if case.contenders:
                measured = measure(case, budget=_BUDGET, rounds=2 if place.dry_run else None, meter=meter)
                show(case, measured)
                records.append(results.record(case, measured))
                place.write(records)
    return records, passed and bool(records)


def _built(cases: Iterator[Case], device: torch.device) -> Iterator[Case]:
    """The device is the default one only while a case is built: it costs every call of torch microseconds."""
    while True:
        with nullcontext() if device.type == "cpu" else device:
            case = next(cases, None)
        if case is None:
            return
        yield case


def _usable(case: Case) -> Case:
    """The case without the contenders that fail here, and why; those that are left have been run and compiled."""
    absent = dict(case.absent)
    for name, run in case.contenders.items():
        try:
            run()
            torch.accelerator.synchronize() if torch.accelerator.is_available() else None
        except Exception as error:  # whatever it is, the others go on
            absent[name] = f"{type(error).__name__}: {_first_line(str(error))}"
    contenders = {name: run for name, run in case.contenders.items() if name not in absent}
    return replace(case, contenders=contenders, absent=absent)


def _bce(place: Place) -> bool:
    _, passed = _measure_all(place, [bce.cases])
    place.facts["forward_launches"] = _launches(bce.forward(place.size, place.device))
    return passed


def _launches(run: Callable[[], object]) -> int | None:
    """What a run starts on the device, copies included; None where the profiler sees none."""
    run()
    with torch.profiler.profile() as profiler:
        run()
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(on_device) or None


def _training_step(name: str, *before: Cases) -> Callable[[Place], bool]:
    def run(place: Place) -> bool:
        records, passed = _measure_all(place, [*before, lambda size: training_step.cases(name, size)])
        gpu = "" if place.dry_run else torch.cuda.get_device_name()
        for record in records:
            if "training" in record["op"]:
                record["step"] = training_step.figures(record, step.config(name, place.size), gpu)
                print(*(f"{who}: {what}" for who, what in record["step"]["contenders"].items()), sep="\n")
        place.write(records)
        return passed

    return run


_RUN: dict[str, Callable[[Place], bool]] = {
    "build": _build,
    "conformance_triton": _conformance("triton"),
    "conformance_cuda": _conformance("cuda"),
    "sanitizer": _sanitizer,
    "bench_masking": _benchmark(masking.cases),
    "bench_sampling": _benchmark(sampling.cases),
    "bench_mlm_head": _benchmark(mlm_head.cases),
    "bench_bce": _bce,
    "bench_rtd_head": _benchmark(rtd_head.cases),
    "linear_head": _benchmark(mlm_head.on_gpu),
    "step_small": _training_step("small", step.on_gpu),
    "step_base": _training_step("base"),
}
assert _RUN.keys() == SECTIONS.keys()
