"""The sections of `gpu_check`: each takes its place and says whether it passed. Here are those that measure."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch

from benchmarks import (
    bce,
    contenders,
    gpu_proofs,
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
from benchmarks.gpu_check import ROOT, SECTIONS
from benchmarks.gpu_place import Place, first_line, path
from benchmarks.harness import Case, Size, measure
from benchmarks.meters import StreamMeter

# Seconds for the rounds of one case.
_BUDGET = 1.0
_COPIED_BYTES = 1 << 30


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


Cases = Callable[[Size], Iterator[Case]]


def _benchmark(*ideas: Cases) -> Callable[[Place], bool]:
    return lambda place: _measure_all(place, ideas)[1]


def _measure_all(place: Place, ideas: Iterable[Cases]) -> tuple[list[dict[str, Any]], bool]:
    """Records of all cases, written one by one, and whether all of ours ran."""
    records: list[dict[str, Any]] = []
    meter, passed = StreamMeter(place.device), True
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
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
        except Exception as error:  # whatever it is, the others go on
            absent[name] = f"{type(error).__name__}: {first_line(str(error))}"
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
    "build": gpu_proofs.build,
    "conformance_triton": gpu_proofs.conformance("triton"),
    "conformance_cuda": gpu_proofs.conformance("cuda"),
    "sanitizer": gpu_proofs.sanitizer,
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
