"""Reads every CUDA kernel from the object files that nvcc has compiled, for each GPU generation."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import triton

from benchmarks.codegen import assembly
from benchmarks.codegen.compilation import CannotCompileError
from csrc import build

ROOT = Path(__file__).parents[2]
_USAGE = re.compile(r" Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_KERNEL = re.compile(r"\(anonymous namespace\)::(\w+)(?:<(.*?)>)?\(")
# The static shared memory of a block includes 1 KB for CUDA itself, from this generation on.
_SYSTEM_SHARED, _SINCE = 1024, 90

LOADS, COPIES, STORES = "LDG", "LDGSTS", "STG"  # from global memory, from it to shared memory, to it
# Source file → kernel → which of its accesses stream contiguous data and must have 16-byte instructions. Such a kernel
# also has narrower instructions, for rows of any layout. A kernel that is not listed is a fault.
STREAMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "bce": {"forward": (LOADS, STORES), "backward": (LOADS, STORES), "join": ()},
    "rtd_head": {
        "forward_held": (LOADS,),
        "scan_any": (LOADS,),
        "backward": (LOADS, STORES),
        "join": (),
    },
    "sampling": {"sample_row": (COPIES,)},
    "vocab_parallel": {"slice_sums": (COPIES,)},
    "replacing": {"replace_row": ()},  # 8-byte ids in rows of any stride
    "mlm_head": {"cross_entropy_row": (COPIES,), "cross_entropy_row_": (COPIES, STORES), "prepare": ()},
    "gradients": {"gradient_row": (LOADS, STORES), "scale_row": (LOADS, STORES)},
    "masking": {"mask_row": ()},  # 8-byte ids in rows of any stride
}


@dataclass(frozen=True)
class CudaKernel:
    """A kernel as compiled for one generation.

    Attributes:
        file: stem of the source file.
        name: as in the source.
        template: its template arguments; empty if it has none.
        capability: compute capability times ten.
        registers: per thread.
        stack: bytes per thread; spills are there.
        shared: static bytes per block.
        instructions: names in SASS.
    """

    file: str
    name: str
    template: str
    capability: int
    registers: int
    stack: int
    shared: int
    instructions: tuple[str, ...]


@cache
def objects() -> list[Path]:
    """Object files of all CUDA sources, compiled if they have changed.

    Raises:
        CannotCompileError: there is no nvcc, or it fails.
    """
    try:
        commands = [command for command in build.cuda_commands() if command[1][-1].endswith(".cu")]
        return build.build_objects(build.OBJECTS, commands, build.cuda_compiler())
    except build.BuildError as error:
        raise CannotCompileError(f"the CUDA kernels cannot be compiled: {error}") from error


def kernels(paths: Iterable[Path]) -> list[CudaKernel]:
    """All kernels in these object files, one entry per template instantiation and generation."""
    return [kernel for path in paths for kernel in _of_object(path)]


def records(found: Iterable[CudaKernel] | None = None) -> list[dict[str, Any]]:
    """Kernels as `report` takes them; by default, all kernels of the package."""
    return [_record(kernel) for kernel in (kernels(objects()) if found is None else found)]


def _record(kernel: CudaKernel) -> dict[str, Any]:
    stores, loads = assembly.spills(kernel.instructions)
    return {
        "backend": "cuda",
        "kernel": f"{kernel.file}.{kernel.name}",
        "variant": kernel.template,
        "architecture": kernel.capability,
        "registers": kernel.registers,
        "shared": kernel.shared,
        "stack_bytes": kernel.stack,
        "spill_stores": stores,
        "spill_loads": loads,
        "loads": assembly.widths(kernel.instructions, LOADS),  # those to shared memory too
        "copies": assembly.widths(kernel.instructions, COPIES),
        "stores": assembly.widths(kernel.instructions, STORES),
        "streams": STREAMS.get(kernel.file, {}).get(kernel.name),
    }


def _of_object(path: Path) -> Iterator[CudaKernel]:
    tools = triton.knobs.nvidia
    file = path.name.split(".")[0].removeprefix("cuda_")
    with tempfile.TemporaryDirectory() as folder:
        command = [tools.cuobjdump.path, "-xelf", "all", path.absolute()]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        for cubin in sorted(Path(folder).iterdir()):
            capability = int(cubin.suffixes[-2].removeprefix(".sm_"))
            usage = assembly.output(tools.cuobjdump.path, "-res-usage", str(cubin))
            found = {symbol: [int(n) for n in numbers] for symbol, *numbers in _USAGE.findall(usage)}
            names = _demangled(found)
            for symbol, sass in _functions(assembly.output(tools.nvdisasm.path, "-c", str(cubin))):
                registers, stack, shared = found[symbol]
                shared = max(0, shared - (_SYSTEM_SHARED if capability >= _SINCE else 0))
                instructions = tuple(assembly.instructions(sass))
                yield CudaKernel(file, *names[symbol], capability, registers, stack, shared, instructions)


def _functions(sass: str) -> Iterator[tuple[str, str]]:
    """Symbol and code of each function in a listing."""
    for part in re.split(r"^\.text\.", sass, flags=re.MULTILINE)[1:]:
        symbol, _, code = part.partition(":")
        yield symbol, code


def _demangled(symbols: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Symbol → name and template arguments."""
    symbols = list(symbols)
    lines = assembly.output("c++filt", *symbols).splitlines()
    found = {symbol: _KERNEL.search(line) for symbol, line in zip(symbols, lines)}
    missing = [symbol for symbol, kernel in found.items() if kernel is None]
    if missing:
        raise ValueError(f"these kernels should be in an anonymous namespace: {missing}")
    return {
        symbol: (kernel[1], (kernel[2] or "").replace("electra_kernels::", ""))
        for symbol, kernel in found.items()
        if kernel is not None
    }
