"""Runs one section: a function that takes its `SectionContext` and returns whether it passed."""

import importlib.util
import json
import subprocess
import time
from collections.abc import Callable, Mapping

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
from benchmarks.gpu.context import SectionContext, path
from benchmarks.gpu.measuring import Cases, measure_all
from benchmarks.gpu.plan import CONCLUSION, FOLDER, ROOT, SECTIONS
from benchmarks.gpu.scheduler import SKIPPED


def run(section: str, dry_run: bool) -> int:
    """Run a section; returns its exit status."""
    if section == CONCLUSION:
        conclude(json.loads((FOLDER / "outcomes.json").read_text()), dry_run)
        return 0
    shortage = None if dry_run else lack_of_memory(section, *torch.cuda.mem_get_info())
    if shortage is not None:
        print(f"skipped: {shortage}")
        SectionContext(section, dry_run, {"skipped": shortage}).write()
        return SKIPPED
    baselines.compiler = "aot_eager" if dry_run else "inductor"
    torch.manual_seed(0)
    context = SectionContext(section, dry_run, {"commit": _commit(), "outcome": "did not end"})
    context.write([])
    start = time.monotonic()
    passed = _RUN[section](context)
    context.facts |= {
        "seconds": round(time.monotonic() - start, 1),
        "outcome": "passed" if passed else "failed",
    }
    context.write()
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
        SectionContext(section, dry_run, {"outcome": outcome}).write()
    file = path(dry_run)
    written = results.read(file)
    print(f"\nresults: {file}\n\n{targets.gpu_table(written)}")
    has_ops = any(case["is_main"] and not case["adds_to_baseline"] for case in written["cases"])
    if has_ops and importlib.util.find_spec("matplotlib"):
        from benchmarks import plot

        plot.draw(written, file.with_suffix(".png"))


def _benchmark(*subjects: Cases) -> Callable[[SectionContext], bool]:
    return lambda context: measure_all(context, subjects)[1]


def _bce(context: SectionContext) -> bool:
    _, passed = measure_all(context, [bce.cases])
    context.facts["forward_launches"] = _launches(bce.forward(context.size, context.device))
    return passed


def _launches(run: Callable[[], object]) -> int | None:
    """Number of kernels and copies that a run starts on the device; None if the profiler sees none."""
    run()
    with torch.profiler.profile() as profiler:
        run()
    on_device = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(on_device) or None


def _training_step(name: str, *before: Cases) -> Callable[[SectionContext], bool]:
    def run(context: SectionContext) -> bool:
        records, passed = measure_all(context, [*before, lambda size: training_step.cases(name, size)])
        gpu = "" if context.dry_run else torch.cuda.get_device_name()
        for record in records:
            if "training" in record["op"]:
                record["step"] = throughput.figures(record, joint_step.config(name, context.size), gpu)
                print(
                    *(f"{variant}: {step}" for variant, step in record["step"]["variants"].items()), sep="\n"
                )
        context.write(records)
        return passed

    return run


_RUN: dict[str, Callable[[SectionContext], bool]] = {
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
