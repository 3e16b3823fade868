"""Runs one section: a function that takes its `Place` and returns whether it passed. The benchmarks are here."""

import importlib.util
import json
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks import (
    baselines,
    bce,
    joint_step,
    masking,
    mlm_head,
    replacing,
    results,
    rtd_head,
    sampling,
    targets,
    training_step,
)
from benchmarks.gpu import conformance, proofs, throughput
from benchmarks.gpu.place import Place, first_line, path
from benchmarks.gpu.plan import CONCLUSION, FOLDER, ROOT, SECTIONS
from benchmarks.gpu.scheduler import SKIPPED
from benchmarks.harness import Case, Size, measure
from benchmarks.printing import COLUMNS, show
from benchmarks.timers import Graph, StreamTimer

# Seconds for all rounds of one group of variants.
_BUDGET = 0.3
_COPIED_BYTES = 1 << 30


def run(section: str, dry_run: bool) -> int:
    """Run a section; returns its exit status."""
    if section == CONCLUSION:
        conclude(json.loads((FOLDER / "outcomes.json").read_text()), dry_run)
        return 0
    lack = None if dry_run else lack_of_memory(section, *torch.cuda.mem_get_info())
    if lack is not None:
        print(f"skipped: {lack}")
        Place(section, dry_run, {"skipped": lack}).write()
        return SKIPPED
    baselines.compiler = "aot_eager" if dry_run else "inductor"
    torch.manual_seed(0)
    place = Place(section, dry_run, {"commit": _commit(), "outcome": "did not end"})
    place.write([])
    start = time.monotonic()
    passed = _RUN[section](place)
    place.facts |= {
        "seconds": round(time.monotonic() - start, 1),
        "outcome": "passed" if passed else "failed",
    }
    place.write()
    return not passed


def lack_of_memory(section: str, free: int, total: int) -> str | None:
    """Why a section cannot run with this much GPU memory, in bytes; None if it can."""
    need = SECTIONS[section].gigabytes
    if free >= need * 1e9:
        return None
    return f"it needs {need} GB of GPU memory, {free / 1e9:.1f} of {total / 1e9:.1f} GB are free"


def _commit() -> str | None:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def conclude(outcomes: Mapping[str, str], dry_run: bool) -> None:
    """Write the outcomes into the results file, draw the plot beside it and print the targets."""
    for section, outcome in outcomes.items():
        Place(section, dry_run, {"outcome": outcome}).write()
    file = path(dry_run)
    written = results.read(file)
    print(f"\nresults: {file}\n\n{targets.gpu_table(written)}")
    has_ops = any(case["is_main"] and not case["adds_to_baseline"] for case in written["cases"])
    if has_ops and importlib.util.find_spec("matplotlib"):
        from benchmarks import plot

        plot.draw(written, file.with_suffix(".png"))


Cases = Callable[[Size], Iterator[Case]]


def _benchmark(*subjects: Cases) -> Callable[[Place], bool]:
    return lambda place: _measure_all(place, subjects)[1]


def _measure_all(place: Place, subjects: Iterable[Cases]) -> tuple[list[dict[str, Any]], bool]:
    """Records of all cases, written group by group, and whether all variants of ours ran.

    The first groups are eager and ours of every case. The other variants follow, each in a group with the baseline.
    A run that is cut off therefore has the most important figures.
    """
    timer = StreamTimer(place.device)
    copied = timer.copied_per_second(1 << 20 if place.dry_run else _COPIED_BYTES)
    place.facts["copied_bytes_per_second"] = float(f"{copied:.4g}")
    print(f"a copy moves {copied / 1e9:.0f} GB/s\n{COLUMNS}")
    found: dict[str, _Found] = {}
    for part in (_first, _others):
        for cases in subjects:
            for case in _built(cases(place.size), place.device):
                so_far = found.setdefault(case.name, _Found(dict(case.absent)))
                for names in part(case):
                    _measure_group(place, so_far, case, names, timer)
                    place.write(_records(found))
    failed = [name for one in found.values() for name in one.absent if name.startswith("ours")]
    return _records(found), bool(_records(found)) and not failed


@dataclass
class _Found:
    """What is known about a case: why variants are absent, and the record of the measured ones."""

    absent: dict[str, str]
    record: dict[str, Any] = field(default_factory=dict)


def _records(found: Mapping[str, _Found]) -> list[dict[str, Any]]:
    return [{**one.record, "absent": one.absent} for one in found.values() if one.record]


def _first(case: Case) -> list[list[str]]:
    """One group: the baseline, eager and ours by default."""
    baseline = next(iter(case.variants))
    return [[name for name in case.variants if name == baseline or re.fullmatch("eager.*|ours[^,]*", name)]]


def _others(case: Case) -> list[list[str]]:
    """A group for each other variant, ours first."""
    (first,) = _first(case)
    others = [name for name in case.variants if name not in first]
    return [[name] for name in sorted(others, key=lambda name: not name.startswith("ours"))]


def _measure_group(place: Place, found: _Found, case: Case, names: Sequence[str], timer: StreamTimer) -> None:
    """Time these variants together with the baseline, which is the first variant of the case that ran."""
    beside = found.record.get("baseline")
    wanted = [*([beside] if beside else []), *names]
    group = _usable(replace(case, variants={name: case.variants[name] for name in wanted}, absent={}))
    if beside is not None and beside in group.absent:
        found.absent |= dict.fromkeys(names, f"beside {beside}: {group.absent[beside]}")
        return
    found.absent |= group.absent
    if set(group.variants) - {beside}:
        measured = measure(group, budget=_BUDGET, rounds=2 if place.dry_run else None, timer=timer)
        show(group, measured)
        record = results.record(group, measured)
        # The baseline keeps its figures from the group with ours.
        known = found.record.get("variants", {})
        found.record = {**record, **found.record, "variants": {**known, **record["variants"], **known}}
    for run in group.variants.values():
        if isinstance(run, Graph):
            run.release()


def _built(cases: Iterator[Case], device: torch.device) -> Iterator[Case]:
    """Builds cases on the device. It is the default device only meanwhile: that costs each torch call microseconds."""
    while True:
        with nullcontext() if device.type == "cpu" else device:
            case = next(cases, None)
        if case is None:
            return
        yield case


def _usable(case: Case) -> Case:
    """The case without the variants that fail here; the remaining ones have run once, and so are compiled."""
    absent = dict(case.absent)
    for name, run in case.variants.items():
        try:
            run()
            if torch.accelerator.is_available():
                torch.accelerator.synchronize()
        except Exception as error:  # whatever fails, the other variants go on
            absent[name] = f"{type(error).__name__}: {first_line(str(error))}"
    working = {name: run for name, run in case.variants.items() if name not in absent}
    return replace(case, variants=working, absent=absent)


def _bce(place: Place) -> bool:
    _, passed = _measure_all(place, [bce.cases])
    place.facts["forward_launches"] = _launches(bce.forward(place.size, place.device))
    return passed


def _launches(run: Callable[[], object]) -> int | None:
    """Number of kernels and copies that a run starts on the device; None if the profiler sees none."""
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
                record["step"] = throughput.figures(record, joint_step.config(name, place.size), gpu)
                print(*(f"{who}: {what}" for who, what in record["step"]["variants"].items()), sep="\n")
        place.write(records)
        return passed

    return run


_RUN: dict[str, Callable[[Place], bool]] = {
    "build": proofs.build,
    "conformance_triton": conformance.conformance("triton"),
    "conformance_cuda": conformance.conformance("cuda"),
    "offsets": conformance.offsets,
    "sanitizer": proofs.sanitizer,
    "bench_masking": _benchmark(masking.cases),
    "bench_sampling": _benchmark(sampling.cases, replacing.cases),
    "bench_mlm_head": _benchmark(mlm_head.cases),
    "bench_bce": _bce,
    "bench_rtd_head": _benchmark(rtd_head.cases),
    "linear_head": _benchmark(mlm_head.on_gpu),
    "step_small": _training_step("small", joint_step.on_gpu),
    "step_base": _training_step("base"),
}
assert _RUN.keys() == SECTIONS.keys()
