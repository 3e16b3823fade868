"""The CUDA kernels as nvcc compiles them: what each is made of, by the symbol that it has in the objects."""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import triton

from benchmarks.audit import assembly
from benchmarks.audit.assembly import Instruction
from csrc import build

ROOT = Path(__file__).parents[2]
_USAGE = re.compile(r" Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)")
_KERNEL = re.compile(r"\(anonymous namespace\)::(\w+)(?:<(.*?)>)?\(")
# Of the generations that have it, a block's own bytes are counted with its variables.
_SYSTEM_SHARED, _SINCE = 1024, 90


@dataclass(frozen=True)
class CudaKernel:
    """A kernel as compiled for one generation.

    Attributes:
        name: as its source has it.
        template: its template arguments, without what they are declared in; empty if it has none.
        file: stem of the source.
        capability: of the generation.
        stack: bytes of a thread, where spills go.
        shared: static bytes.
    """

    name: str
    template: str
    file: str
    capability: int
    registers: int
    stack: int
    shared: int
    sass: str

    @cached_property
    def instructions(self) -> list[Instruction]:
        return assembly.instructions(self.sass)

    @property
    def spills(self) -> tuple[int, int]:
        """Stores to and loads from local memory."""
        names = [one.name for one in self.instructions]
        return sum(name.startswith("STL") for name in names), sum(name.startswith("LDL") for name in names)


def builder() -> Any:
    """The module that knows the sources and the compilers' options."""
    return build


@cache
def objects() -> list[Path]:
    """Of the kernels, compiled if they have changed.

    Raises:
        builder().BuildError: there is no nvcc, or it fails.
    """
    commands = [command for command in builder().cuda_commands() if command[1][-1].endswith(".cu")]
    built: list[Path] = builder().build_objects(builder().OBJECTS, commands, builder().cuda_compiler())
    return built


def kernels(paths: Iterable[Path]) -> dict[tuple[str, int], CudaKernel]:
    """All kernels of object files by symbol and generation."""
    return {key: kernel for path in paths for key, kernel in _of_object(path)}


def _of_object(path: Path) -> Iterator[tuple[tuple[str, int], CudaKernel]]:
    tools = triton.knobs.nvidia
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [tools.cuobjdump.path, "-xelf", "all", path.absolute()],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        for cubin in sorted(Path(folder).iterdir()):
            capability = int(cubin.suffixes[-2].removeprefix(".sm_"))
            usage = assembly.output(tools.cuobjdump.path, "-res-usage", str(cubin))
            found = {symbol: [int(n) for n in numbers] for symbol, *numbers in _USAGE.findall(usage)}
            names = _demangled(found)
            for symbol, sass in _functions(assembly.output(tools.nvdisasm.path, "-c", str(cubin))):
                registers, stack, shared = found[symbol]
                name, template = names[symbol]
                yield (
                    (symbol, capability),
                    CudaKernel(
                        name,
                        template,
                        path.name.split(".")[0].removeprefix("cuda_"),
                        capability,
                        registers,
                        stack,
                        max(0, shared - (_SYSTEM_SHARED if capability >= _SINCE else 0)),
                        sass,
                    ),
                )


def _functions(sass: str) -> Iterator[tuple[str, str]]:
    """Symbol and code of each function of a listing."""
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
        raise ValueError(f"these kernels should stand in an anonymous namespace: {missing}")
    return {
        symbol: (kernel[1], (kernel[2] or "").replace("electra_kernels::", ""))
        for symbol, kernel in found.items()
        if kernel is not None
    }
