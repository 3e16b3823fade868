"""What Triton compiles at the sizes of the cases, and the times predicted for it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from benchmarks.audit import assembly, compilation, gpus, phases, prediction
from benchmarks.audit.cases import Case
from benchmarks.audit.gpus import GPUS, Gpu
from benchmarks.audit.launches import Launch, launches_of
from benchmarks.audit.prediction import Launched, Record
from benchmarks.audit.routes import Routes
from electra_kernels import triton

_AMD = 304, 4 << 20  # multiprocessors and level 2 cache of an MI300X, with gfx942


class TritonAudit:
    """Compiles each kernel once per architecture and kind of arguments, whoever launches it."""

    def __init__(
        self,
        architectures: Sequence[int | str],
        implementations: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:
        self.architectures = architectures
        self.implementations = triton.implementations() if implementations is None else implementations
        self.kernels: dict[Any, Record] = {}

    def op(self, case: Case) -> Record:
        """The record of an op: its launches on each GPU, and the time predicted for them."""
        record: Record = {"gpus": {}}
        for gpu in GPUS:
            if gpu.capability in self.architectures:
                record["gpus"][gpu.name] = self._on(gpu, case)
        if compilation.AMD_ARCHITECTURE in self.architectures:
            launches = launches_of(lambda: case.run(self.implementations), *_AMD)
            kernels = [self._kernel(launch, compilation.AMD_ARCHITECTURE, case) for launch in launches]
            record["gfx942"] = prediction.named(kernels)
        return record

    def _on(self, gpu: Gpu, case: Case) -> Record:
        launches = launches_of(lambda: case.run(self.implementations), gpu.multiprocessors, gpu.cache)
        launched = [
            Launched(self._kernel(launch, gpu.capability, case), launch.programs, 32 * launch.num_warps)
            for launch in launches
        ]
        return prediction.predicted(gpu, case, launched, case.again)

    def _kernel(self, launch: Launch, architecture: int | str, case: Case) -> Record:
        target = compilation.target_of(architecture)
        _, _, key = compilation.bind(launch, target)
        if key not in self.kernels:
            compiled = compilation.compile_launch(launch, target)
            read = _read_amd if isinstance(architecture, str) else _read_cuda
            number = sum(one["kernel"] == launch.name for one in self.kernels.values()) + 1
            self.kernels[key] = {
                "backend": "triton",
                "kernel": launch.name,
                "id": f"triton/{launch.name}/{architecture}/{number}",
                "first_case": case.name,
                "architecture": architecture,
                "warps": launch.num_warps,
                "shared": compiled.metadata.shared,
                **read(launch, compiled, case),
            }
        return self.kernels[key]


def natural_width(tensor: Tensor) -> int:
    """Bytes, up to 16, of the widest vectors that all its rows consist of."""
    if tensor.stride(-1) != 1:
        return tensor.itemsize
    return math.gcd(16, *(stride * tensor.itemsize for n, stride in zip(tensor.shape, tensor.stride()[:-1])))


def _read_cuda(launch: Launch, compiled: Any, case: Case) -> Record:
    sass, usage = assembly.disassemble(compiled.asm["cubin"])
    everything = assembly.instructions(sass)
    known = phases.TRITON.get(launch.name)
    own = known(launch.constants, 32 * launch.num_warps, case.dtype.itemsize) if known else []
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
        "instructions": len(everything),
        **phases.record_of(launch.name, Routes(everything), own),
    }


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
    return assembly.amd_resources(compiled.asm["amdgcn"])
