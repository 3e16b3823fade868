"""The sections that build the kernels and run them under compute-sanitizer."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.gpu.context import SectionContext
from benchmarks.gpu.plan import FOLDER, ROOT
from electra_kernels import backends

# Back end → parts of its kernels' names: the namespace of the CUDA sources, and the name of each Triton kernel.
KERNELS = {
    "cuda": ("electra_kernels",),
    "triton": (
        "bce_forward",
        "bce_join",
        "bce_backward",
        "mask_rows",
        "cross_entropy_rows",
        "reduce_losses",
        "scale_rows_",
        "head_join",
        "head_forward",
        "head_backward",
        "sample_rows",
        "replace_rows",
        "softmax_rows",
        "slice_sums",
    ),
}
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
_FAULT = 9


def build(context: SectionContext) -> bool:
    """Build in place, for this GPU only. A failed build is reported, and the other sections go on without it."""
    where, environment = ["--build-lib", str(FOLDER / "lib")], dict(os.environ)
    if not context.dry_run:
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        where, environment["TORCH_CUDA_ARCH_LIST"] = ["--inplace"], capability
        context.facts["architecture"] = capability
    log = FOLDER / "build-setup.log"
    with log.open("w") as output:
        status = subprocess.run(
            [sys.executable, "setup.py", "build_ext", *where],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
        ).returncode
    folder = (FOLDER / "lib" if context.dry_run else ROOT) / "electra_kernels"
    reasons = {"all": f"see {log}"}
    if status == 0:
        reasons = json.loads((folder / "_build.json").read_text())["missing"]
    context.facts["missing"] = reasons
    print(
        "\n".join(f"not built: {name}: {reason}" for name, reason in reasons.items()) or "everything is built"
    )
    return not reasons


def sanitizer(context: SectionContext) -> bool:
    """Run every tool on each back end of the device, all at the same time."""
    context.facts["found"] = {}
    program = None if context.dry_run else _compute_sanitizer()
    if program is None:
        context.facts["note"] = (
            "without compute-sanitizer, which needs a GPU" if context.dry_run else "there is none"
        )
        print(context.facts["note"])
    backs = [name for name in KERNELS if context.device.type in backends().available.get(name, ())]
    jobs = [(tool, backend) for tool in (TOOLS if program else ("no tool",)) for backend in backs]
    passed = bool(jobs) and (program is not None or context.dry_run)
    with ThreadPoolExecutor(max(1, len(jobs))) as threads:
        futures = {threads.submit(_every_op, context, program, *job): job for job in jobs}
        for future in as_completed(futures):
            is_good, words = future.result()
            context.facts["found"][" of ".join(futures[future])] = words
            print(f"{futures[future]}: {words}")
            passed &= is_good
            context.write()
    return passed


def _compute_sanitizer() -> str | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(home / "bin"))


def checked(program: str, tool: str, backend: str) -> list[str]:
    """compute-sanitizer and its options.

    All tools but one instrument our kernels only. initcheck must see the writes of torch's kernels too, or all memory
    that they wrote would count as uninitialised; `verdict` then looks for our kernels in its report.
    """
    options = ["--tool", tool, "--target-processes", "application-only", "--show-backtrace", "no"]
    if tool == "initcheck":
        return [program, *options, "--print-limit", "10000"]
    names = [option for name in KERNELS[backend] for option in ("--kernel-name", f"kns={name}")]
    return [program, *options, "--error-exitcode", str(_FAULT), *names]


def _every_op(context: SectionContext, program: str | None, tool: str, backend: str) -> tuple[bool, str]:
    """Run the program under one tool; returns whether no fault was found, and a summary."""
    wrapper = checked(program, tool, backend) if program else []
    vocabularies = ["301"] if context.dry_run else ["301", "30522"]
    command = [sys.executable, "-m", "benchmarks.gpu.every_op", backend, context.device.type, *vocabularies]
    # Each tensor gets an allocation of its own, so that an access beyond its end is seen.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    log = FOLDER / f"sanitizer-{tool}-{backend}.log"
    with log.open("w") as output:
        status = subprocess.run(
            [*wrapper, *command], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        ).returncode
    return verdict(log.read_text(errors="replace"), status, tool, backend)


def verdict(text: str, status: int, tool: str, backend: str) -> tuple[bool, str]:
    """Whether all calls were made and no report names a kernel of ours; and a summary of the output."""
    lines = text.splitlines() or ["no output"]
    words = next((line for line in lines if "SUMMARY" in line), lines[-1])
    if tool == "initcheck":
        reports = list(_reports(lines))
        own = [report for report in reports if _names_ours(report, KERNELS[backend])]
        words = f"{len(own)} of {len(reports)} reports are about our kernels; {words}"
        words = f"{words}; the first: {own[0][0].strip('= ')}" if own else words
        status = status or len(own)
    was_completed = any(line.startswith(f"{backend} on ") for line in lines)
    return status == 0 and was_completed, words if was_completed else f"not all calls were made; {words}"


def _reports(lines: Sequence[str]) -> Iterator[list[str]]:
    """The reports of compute-sanitizer: a heading after "========= ", followed by indented lines."""
    report: list[str] = []
    for line in lines:
        if not (found := re.match("=========( *)(.*)", line)):
            continue
        if len(found[1]) > 1:
            report.append(line)
            continue
        if len(report) > 1:
            yield report
        report = [line]
    if len(report) > 1:
        yield report


def _names_ours(report: Sequence[str], names: Sequence[str]) -> bool:
    return any(name in line for line in report for name in names)
