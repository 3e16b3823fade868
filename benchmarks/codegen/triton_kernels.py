"""Compiles what the Triton back end launches for each case, and reads registers, spills and access widths."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from benchmarks.codegen import assembly, compilation
from benchmarks.codegen.cases import Case
from benchmarks.codegen.launches import Launch, launches_of
from electra_kernels.backends.implementations import from_package

Record = dict[str, Any]

# Architecture → multiprocessors and bytes of level 2 cache of A100, H100, B200 and MI300X. They decide how a batch is
# split into programs and chunks, and so which variants of a kernel are launched.
GPUS: Mapping[int | str, tuple[int, int]] = {
    80: (108, 40 << 20),
    90: (132, 50 << 20),
    100: (148, 126 << 20),
    compilation.AMD_ARCHITECTURE: (304, 4 << 20),
}


class TritonKernels:
    """Compiles each kernel once per architecture and kind of arguments.

    Attributes:
        records: what was compiled, by Triton's own key.
    """

    def __init__(
        self,
        architectures: Sequence[int | str],
        implementations: Mapping[str, Callable[..., object]] | None = None,
    ) -> None:
        self.architectures = architectures
        self.implementations = from_package("triton") if implementations is None else implementations
        self.records: dict[Any, Record] = {}

    def add(self, case: Case) -> None:
        """Compile what one call of an op launches."""
        for architecture in self.architectures:
            for launch in launches_of(lambda: case.run(self.implementations), *GPUS[architecture]):
                self._add(launch, architecture, case)

    def _add(self, launch: Launch, architecture: int | str, case: Case) -> None:
        target = compilation.target_of(architecture)
        _, _, key = compilation.bind(launch, target)
        if key in self.records:
            return
        compiled = compilation.compile_launch(launch, target)
        read = _read_amd if isinstance(architecture, str) else _read_cuda
        self.records[key] = {
            "backend": "triton",
            "kernel": launch.name,
            "variant": case.name,
            "architecture": architecture,
            "shared": compiled.metadata.shared,
            **read(launch, compiled, case),
        }


def _read_cuda(launch: Launch, compiled: Any, case: Case) -> Record:
    sass, usage = assembly.disassemble(compiled.asm["cubin"])
    names = assembly.instructions(sass)
    stores, loads = assembly.spills(names)
    return {
        "registers": usage["REG"],
        "stack_bytes": usage["STACK"],
        "spill_stores": stores,
        "spill_loads": loads,
        "loads": assembly.widths(names, "LDG"),
        "stores": assembly.widths(names, "STG"),
        "arguments": _argument_widths(launch, compiled.asm["ptx"], case),
    }


def _argument_widths(launch: Launch, ptx: str, case: Case) -> Record:
    """Streamed argument → widths of its loads and stores (bytes → number), and the widest that its layout allows."""
    pointers = list(launch.tensors)
    found: Record = {}
    for access in assembly.accesses(ptx):
        # Behind the arguments, Triton passes two pointers to scratch memory.
        if access.argument is None or access.argument >= len(pointers) or not access.is_streamed:
            continue
        name = pointers[access.argument]
        if name not in case.streamed:
            continue
        entry = found.setdefault(
            name, {"natural": natural_width(launch.tensors[name]), "loads": {}, "stores": {}}
        )
        counts = entry["loads" if access.is_load else "stores"]
        counts[access.size] = counts.get(access.size, 0) + 1
    return found


def natural_width(tensor: Tensor) -> int:
    """Bytes of the widest vectors, up to 16, that all rows of a tensor consist of."""
    if tensor.stride(-1) != 1:
        return tensor.itemsize
    return math.gcd(16, *(stride * tensor.itemsize for n, stride in zip(tensor.shape, tensor.stride()[:-1])))


def _read_amd(launch: Launch, compiled: Any, case: Case) -> Record:
    """AMD's addresses are not followed, so there are no widths by argument."""
    found = assembly.amd_resources(compiled.asm["amdgcn"])
    return {"registers": found["vgpr_count"], "arguments": {}, **found}
