"""Joins what was compiled, counted and predicted; finds what is wrong."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import triton

from benchmarks.audit.cases import Case
from benchmarks.audit.gpus import GPUS
from benchmarks.audit.prediction import Record

# Kernels of 8-byte ids and flags in rows of any stride: a thread has one of them at a time.
_NUMBER_BY_NUMBER = ("mask_row", "replace_row")


class Audit(Protocol):
    """Of a back end."""

    kernels: dict[Any, Record]

    def op(self, case: Case) -> Record: ...


def op(case: Case, audits: Mapping[str, Audit]) -> Record:
    """One call by each back end."""
    return {
        "op": case.op,
        "sizes": case.sizes,
        "dtype": case.dtype_name,
        "least_bytes": case.least,
        "again_bytes": case.again,
        "backends": {name: audit.op(case) for name, audit in audits.items()},
    }


def faults(record: Mapping[str, Any]) -> list[str]:
    """What must not be: spills, loads and stores narrower than the data allows, bytes beyond the formula."""
    found = []
    for kernel in record["kernels"]:
        where = f"{kernel['id']} ({kernel['first_case']})"
        spills = [kernel.get(name, 0) for name in ("spill_stores", "spill_loads", "vgpr_spill_count")]
        if any(spills):
            found.append(f"{where} spills: {spills[0]} stores, {spills[1]} loads, {spills[2]} AMD registers")
        found += [f"{where} {words}" for words in _narrow(kernel)]
    for counted in record["traffic"]:
        if counted["asked_bytes"] > counted["allowed_bytes"]:
            sizes = " ".join(f"{symbol}={size}" for symbol, size in counted["sizes"].items())
            found.append(
                f"{counted['op']} {sizes} {counted['dtype']} asks for {counted['asked_bytes']} bytes, "
                f"should be at most {counted['allowed_bytes']:.0f}"
            )
    return found


def _narrow(kernel: Record) -> Iterator[str]:
    """Of Triton's kernels, the streamed arguments of which a thread has so many loads or stores that they would have
    filled a wider one, unless its wide ones move as much: the last block of tokens, which may end early, has a way
    of its own. Of the CUDA kernels, which read rows of any alignment by vectors, the phases that do not."""
    for name, widths in kernel.get("arguments", {}).items():
        could_be = widths["could_be"]
        for counts in (widths["loads"], widths["stores"]):
            narrow = {
                size: size * number for size, number in counts.items() if size < could_be <= size * number
            }
            wide = sum(size * number for size, number in counts.items() if size >= could_be)
            if sum(narrow.values()) > wide:
                yield f"moves {name} by {min(narrow)} bytes a thread, could be {could_be}"
    if kernel["backend"] == "cuda" and kernel["kernel"] not in _NUMBER_BY_NUMBER:
        for phase in kernel["phases"]:
            if phase["of"] in ("logits", "hidden") and 2 * phase["wide"] < phase["load"] + phase["store"]:
                yield f"moves its {phase['of']} by less than 16 bytes a thread"


def joined(audits: Mapping[str, Audit], ops: Sequence[Record], traffic: Sequence[Record]) -> Record:
    return {
        "triton": triton.__version__,
        "gpus": [vars(gpu) for gpu in GPUS],
        "kernels": [kernel for audit in audits.values() for kernel in audit.kernels.values()],
        "ops": list(ops),
        "traffic": list(traffic),
    }


def write(path: Path, record: Record) -> None:
    """One kernel or op a line."""
    lines = []
    for name, value in record.items():
        if isinstance(value, list):
            entries = ",\n  ".join(json.dumps(entry) for entry in value)
            lines.append(f' "{name}": [\n  {entries}\n ]')
        else:
            lines.append(f' "{name}": {json.dumps(value)}')
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
