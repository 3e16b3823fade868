"""The results file: the machine, and every case and variant with all figures, in seconds and bytes."""

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Case, Measurement
from benchmarks.memory import can_measure
from electra_kernels import __version__, backends
from electra_kernels.models.precision import has_native_bfloat16

FOLDER = Path(__file__).parent / "results"
CPU = torch.device("cpu")


def machine(device: torch.device = CPU) -> dict[str, Any]:
    """The facts that the figures depend on, without a date; ``name`` names the results file."""
    table = backends()
    capability = torch.backends.cpu.get_cpu_capability()
    facts = {
        "device": device.type,
        "processor": _processor(),
        "capability": capability,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "native_bfloat16": has_native_bfloat16(device),
        "torch": torch.__version__,
        "electra_kernels": __version__,
        "serving": {op: name for (op, kind), name in table.serving.items() if kind == device.type},
        "levels": {name: list(levels) for name, levels in table.levels.items()},
        "measures_memory": device.type == "cuda" or can_measure(),
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        return {
            "name": _slug(gpu.name),
            **facts,
            "gpu": gpu.name,
            "gpu_capability": f"{gpu.major}.{gpu.minor}",
        }
    return {"name": _slug(f"cpu-{capability}-{torch.get_num_threads()}-threads"), **facts}


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _processor() -> str:
    """The processor's name from Linux, or else its architecture."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def record(case: Case, measured: Sequence[Measurement]) -> dict[str, Any]:
    """A case and its measurements as they stand in the results file."""
    first = measured[0]
    return {
        "op": case.op,
        "sizes": dict(case.sizes),
        "dtype": str(case.dtype).removeprefix("torch."),
        "is_main": case.is_main,
        "baseline": first.variant,
        "adds_to_baseline": case.adds_to_baseline,
        "rounds": len(first.seconds),
        "bytes_read": case.bytes_read,
        "bytes_written": case.bytes_written,
        "gradient_bytes": case.gradient_bytes,
        "reading_seconds": _significant(first.reading),
        "traffic_seconds": _significant(first.traffic),
        "variants": {one.variant: _figures(one) for one in measured},
        "absent": dict(case.absent),
    }


def _figures(one: Measurement) -> dict[str, Any]:
    return {
        "median_seconds": _round(one.median),
        "interquartile_seconds": _round(one.spread),
        "speedup": _round(one.speedup),
        "times_reading": _round(one.times_reading),
        "times_traffic": _round(one.times_traffic),
        "peak_extra_bytes": one.peak_extra_bytes,
        "seconds": _significant(one.seconds),
    }


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _significant(values: Sequence[float]) -> list[float]:
    return [_round(value) for value in values]


def write(path: Path, cases: Sequence[dict[str, Any]]) -> None:
    """Write the results of this machine."""
    _write(path, {"machine": machine(), "cases": list(cases)})


def _write(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=1)
    # Put each list of numbers on one line.
    text = re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Atomically, so that an interrupted run leaves a whole file.
    unfinished = path.with_suffix(".part")
    unfinished.write_text(text + "\n")
    unfinished.replace(path)


def merge(
    path: Path,
    here: Mapping[str, Any],
    section: str,
    facts: Mapping[str, Any],
    cases: Sequence[Mapping[str, Any]] | None,
) -> None:
    """Replace one section in a results file and keep the other sections.

    Args:
        path: the file; it is begun anew if it does not exist or is of another machine or version of torch.
        here: the result of `machine`.
        section: its name, which is also written into each of its cases.
        facts: about the section, added to the known ones if ``cases`` is None.
        cases: results of `record`; None keeps the known ones.
    """
    values: dict[str, Any] = {"machine": here, "sections": {}, "cases": []}
    there = read(path) if path.exists() else values
    if all(there["machine"][fact] == here[fact] for fact in ("name", "torch")):
        values = {**there, "machine": here}
    known = values["sections"].get(section, {}) if cases is None else {}
    values["sections"][section] = {**known, **facts}
    if cases is not None:
        kept = [case for case in values["cases"] if case["section"] != section]
        values["cases"] = kept + [{**case, "section": section} for case in cases]
    _write(path, values)


def read(path: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads(path.read_text())
    return results
