"""Joins what was compiled, counted and predicted; finds what is wrong."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import triton
from torch import Tensor

from benchmarks.audit import assembly, compilation, gpus
from benchmarks.audit.cases import Case
from benchmarks.audit.gpus import GPUS, Gpu
from benchmarks.audit.launches import Launch, launches_of
from electra_kernels.triton.rows import TILE

Record = dict[str, Any]

# Elements that a thread takes in one turn of its hottest loop, or in all where there is no loop: of the logits, the
# hidden states, the tokens. A kernel that is not here joins a few numbers of each program.
_ELEMENTS = {
    "sample_rows": lambda c, lanes: TILE.value * c["WARPS"] / lanes,
    "cross_entropy_rows": lambda c, lanes: TILE.value * c["WARPS"] / lanes,
    "cross_entropy_rows_": lambda c, lanes: TILE.value * c["WARPS"] * c["ROUNDS"] / lanes,
    "softmax_rows": lambda c, lanes: c["BLOCK"] / lanes,
    "scale_rows_": lambda c, lanes: c["BLOCK"] / lanes,
    "bce_forward": lambda c, lanes: c["BLOCK"] / lanes,
    "bce_backward": lambda c, lanes: c["BLOCK"] / lanes,
    "head_forward": lambda c, lanes: c["ROWS"] * c["PIECES"] * c["WIDTH"] / lanes,
    "head_backward": lambda c, lanes: c["ROWS"] * c["PIECES"] * c["WIDTH"] / lanes,
    "mask_rows": lambda c, lanes: c["TOKENS"] / lanes,
    "replace_rows": lambda c, lanes: c["BLOCK"] / lanes,
}


_AMD = 304, 4 << 20  # multiprocessors and level 2 cache of an MI300X, with gfx942


def natural_width(tensor: Tensor) -> int:
    """Bytes, up to 16, of the widest vectors that all its rows consist of."""
    if tensor.stride(-1) != 1:
        return tensor.itemsize
    return math.gcd(16, *(stride * tensor.itemsize for n, stride in zip(tensor.shape, tensor.stride()[:-1])))


class Audit:
    """Compiles each kernel once per architecture and kind of arguments, whoever launches it."""

    def __init__(self, architectures: Sequence[int | str]) -> None:
        self.architectures = architectures
        self.kernels: dict[Any, Record] = {}

    def op(self, case: Case) -> Record:
        """The record of an op: its launches on each GPU, and the time predicted for them."""
        sizes = {"least_bytes": case.least, "again_bytes": case.again}
        record: Record = {"op": case.op, "sizes": case.sizes, "dtype": case.dtype_name, **sizes, "gpus": {}}
        for gpu in GPUS:
            if gpu.capability in self.architectures:
                record["gpus"][gpu.name] = self._on(gpu, case)
        if compilation.AMD_ARCHITECTURE in self.architectures:
            launches = launches_of(case.run, *_AMD)
            kernels = [self._kernel(launch, compilation.AMD_ARCHITECTURE, case) for launch in launches]
            record["gfx942"] = _named(kernels)
        return record

    def _on(self, gpu: Gpu, case: Case) -> Record:
        launches = launches_of(case.run, gpu.multiprocessors, gpu.cache)
        kernels = [self._kernel(launch, gpu.capability, case) for launch in launches]
        instructions = {
            pipe: sum(_executed(kernel, launch, pipe, case) for kernel, launch in zip(kernels, launches))
            for pipe in ("issue", "special", "double")
        }
        under_way = max(_under_way(gpu, kernel, launch, case) for kernel, launch in zip(kernels, launches))
        size = case.least + (case.again if under_way > gpu.cache else 0)
        bounds = gpus.seconds(gpu, size, instructions)
        bound = max(bounds, key=lambda name: bounds[name])
        return {
            "launches": _named(kernels),
            "under_way_bytes": under_way,
            "memory_bytes": size,
            "predicted_microseconds": round(bounds[bound] * 1e6, 2),
            "bound_by": bound,
            "times_memory": round(bounds[bound] / bounds["memory"], 3),
        }

    def _kernel(self, launch: Launch, architecture: int | str, case: Case) -> Record:
        target = compilation.target_of(architecture)
        _, _, key = compilation.bind(launch, target)
        if key not in self.kernels:
            compiled = compilation.compile_launch(launch, target)
            read = _read_amd if isinstance(architecture, str) else _read_cuda
            number = sum(one["kernel"] == launch.name for one in self.kernels.values()) + 1
            self.kernels[key] = {
                "kernel": launch.name,
                "id": f"{launch.name}/{architecture}/{number}",
                "first_case": case.name,
                "architecture": architecture,
                "warps": launch.num_warps,
                "shared": compiled.metadata.shared,
                **read(launch, compiled, case),
            }
        return self.kernels[key]


def _under_way(gpu: Gpu, kernel: Record, launch: Launch, case: Case) -> int:
    """Bytes of streamed tensors that belong to the programs that run at once."""
    tensors = launch.tensors
    size = sum(tensors[name].numel() * tensors[name].itemsize for name in case.streamed if name in tensors)
    return round(size * min(1.0, kernel["programs_at_once"] * gpu.multiprocessors / launch.programs))


def _named(kernels: Iterable[Record]) -> dict[str, int]:
    """How often each was launched."""
    names = [kernel["id"] for kernel in kernels]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def _read_cuda(launch: Launch, compiled: Any, case: Case) -> Record:
    sass, usage = assembly.disassemble(compiled.asm["cubin"])
    everything = assembly.instructions(sass)
    loop = assembly.hot_loops(everything)
    per_thread = _elements_per_thread(launch, 32 * launch.num_warps)
    counted = assembly.by_pipe(loop or everything)
    gpu = next(one for one in GPUS if one.capability == compiled.metadata.target.arch)
    at_once = gpus.programs_at_once(gpu, usage["REG"], compiled.metadata.shared, launch.num_warps)
    return {
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"],
        "spill_stores": sum(one.name.startswith("STL") for one in everything),
        "spill_loads": sum(one.name.startswith("LDL") for one in everything),
        "programs_at_once": at_once,
        "occupancy": round(gpus.occupancy(at_once, launch.num_warps), 3),
        "loads": assembly.count_widths(everything, "LDG"),
        "stores": assembly.count_widths(everything, "STG"),
        "arguments": _widths(launch, compiled.asm["ptx"], case),
        "instructions": assembly.by_pipe(everything),
        "loop_instructions": assembly.by_pipe(loop),
        "elements_per_thread": per_thread,
        "instructions_per_element": round(counted["issue"] / per_thread, 2) if per_thread else None,
    }


def _elements_per_thread(launch: Launch, lanes: int) -> float | None:
    elements = _ELEMENTS.get(launch.name)
    return elements(launch.constants, lanes) if elements and launch.constants.get("VISITS", True) else None


def _widths(launch: Launch, ptx: str, case: Case) -> Record:
    """Of the streamed arguments: bytes of a thread's loads and stores, those that depend on the thread, and how many
    bytes they could be."""
    pointers = list(launch.tensors)
    found: Record = {}
    for access in assembly.accesses(ptx):
        # Behind the arguments are two pointers to scratch memory.
        if access.argument is None or access.argument >= len(pointers) or not access.is_streamed:
            continue
        name = pointers[access.argument]
        if name not in case.streamed:
            continue
        entry = found.setdefault(
            name, {"could_be": natural_width(launch.tensors[name]), "loads": {}, "stores": {}}
        )
        counts = entry["loads" if access.is_load else "stores"]
        counts[access.size] = counts.get(access.size, 0) + 1
    return found


def _read_amd(launch: Launch, compiled: Any, case: Case) -> Record:
    """No widths by argument, since its addresses are not followed; no occupancy and no times."""
    elements = _elements_per_thread(launch, 64 * launch.num_warps)
    return {"elements_per_thread": elements, **assembly.amd_resources(compiled.asm["amdgcn"])}


def _executed(kernel: Record, launch: Launch, pipe: str, case: Case) -> float:
    """Instructions of all threads of a launch: the loop as often as its elements need, the rest once."""
    once = kernel["instructions"][pipe] - kernel["loop_instructions"][pipe]
    threads = launch.programs * 32 * launch.num_warps
    turns = 0.0
    if kernel["elements_per_thread"] is not None:
        turns = launch.elements(case.streamed) / kernel["elements_per_thread"]
    return once * threads + kernel["loop_instructions"][pipe] * turns


def faults(record: Mapping[str, Any]) -> list[str]:
    """What must not be: spills, loads and stores narrower than the data allows, bytes beyond the formula."""
    found = []
    for kernel in record["kernels"]:
        where = f"{kernel['id']} ({kernel['first_case']})"
        spills = [kernel.get(name, 0) for name in ("spill_stores", "spill_loads", "vgpr_spill_count")]
        if any(spills):
            found.append(f"{where} spills: {spills[0]} stores, {spills[1]} loads, {spills[2]} AMD registers")
        for name, widths in kernel.get("arguments", {}).items():
            narrow = _narrow(widths)
            if narrow:
                found.append(
                    f"{where} moves {name} by {min(narrow)} bytes a thread, could be {widths['could_be']}"
                )
    for counted in record["traffic"]:
        if counted["asked_bytes"] > counted["allowed_bytes"]:
            sizes = " ".join(f"{symbol}={size}" for symbol, size in counted["sizes"].items())
            found.append(
                f"{counted['op']} {sizes} {counted['dtype']} asks for {counted['asked_bytes']} bytes, "
                f"should be at most {counted['allowed_bytes']:.0f}"
            )
    return found


def _narrow(widths: Record) -> list[int]:
    """Loads and stores of which a thread has so many that they would have filled a wider one."""
    could_be = widths["could_be"]
    return [
        size
        for counts in (widths["loads"], widths["stores"])
        for size, number in counts.items()
        if size < could_be <= size * number
    ]


def joined(audit: Audit, ops: Sequence[Record], traffic: Sequence[Record]) -> Record:
    return {
        "triton": triton.__version__,
        "gpus": [vars(gpu) for gpu in GPUS],
        "kernels": list(audit.kernels.values()),
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
