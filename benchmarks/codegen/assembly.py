"""Parses what compilers emit: registers, spills, and the width of loads and stores.

PTX shows which kernel argument an address comes from. SASS shows the instructions that run. One vector access in PTX is
one instruction in SASS.
"""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import triton

_REGISTER = re.compile(r"%[a-z]+\d+|%tid\.x")
_PARAMETER = re.compile(r"\.param \.u64 \.ptr \.global[^,\n]* (\w+)")
_ACCESS = re.compile(r"\b(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bsuf](\d+)\s+(.*)")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)")
_WIDTH = re.compile(r"\.(?:[US])?(8|16|64|128|256)\b")


@dataclass(frozen=True)
class Access:
    """A load from or store to global memory in PTX.

    Attributes:
        argument: index among the kernel's pointers; None if the address came from memory or from another thread.
        is_load: load or store.
        size: bytes per thread.
        is_streamed: the address depends on the thread index and on no loaded data. Uniform and scattered accesses
            are not streamed.
    """

    argument: int | None
    is_load: bool
    size: int
    is_streamed: bool


def accesses(ptx: str) -> list[Access]:
    """All loads from and stores to global memory, anywhere in the kernel.

    Raises:
        ValueError: an access has no address, or its address comes from several arguments.
    """
    parameters = _PARAMETER.findall(ptx)
    sources = _definitions(ptx)
    found = []
    for line in ptx.splitlines():
        access = _ACCESS.search(line)
        if access is None:
            continue
        kind, vector, bits, rest = access.groups()
        address = re.search(r"\[\s*(%\w+)", rest)
        if address is None:
            raise ValueError(f"no address in this line of PTX: {line.strip()}")
        origins = _origins(address[1], sources)
        arguments = [parameters.index(name) for name in origins if name in parameters]
        if len(arguments) > 1:
            raise ValueError(f"an address of several arguments in this line of PTX: {line.strip()}")
        size = int(vector or 1) * int(bits) // 8
        argument = arguments[0] if arguments else None
        found.append(Access(argument, kind == "ld", size, argument is not None and "%tid.x" in origins))
    return found


def _definitions(ptx: str) -> dict[str, set[str]]:
    """Register → the registers it is computed from; empty for values from memory or from other threads."""
    sources: dict[str, set[str]] = defaultdict(set)
    for line in ptx.splitlines():
        words = re.sub(r"^\s*(@!?%p\d+\s+)?", "", line)
        operation, _, operands = words.partition(" ")
        if not operands and "\t" in words:
            operation, _, operands = words.partition("\t")
        operands = operands.replace("\t", " ")
        target = _REGISTER.match(operands.strip().lstrip("{ "))
        if target is None or operation.startswith(("st.", "bar", "bra")):
            continue
        if operation.startswith("ld.param"):
            sources[target[0]].update(re.findall(r"\[(\w+)", operands))
        elif not operation.startswith(("ld.", "shfl", "redux", "vote", "atom")):
            sources[target[0]].update(_REGISTER.findall(operands)[1:])
    return sources


def _origins(register: str, sources: Mapping[str, set[str]]) -> set[str]:
    """Everything that a register is computed from, directly or not."""
    seen, waiting = {register}, [register]
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


def instructions(sass: str) -> list[str]:
    """Names of a kernel's instructions, with their suffixes; without padding and slow arithmetic behind its end."""
    own, _, _ = sass.partition("\n$__internal")
    names = [found[1] for line in own.splitlines() if (found := _INSTRUCTION.search(line))]
    return [name for name in names if not name.startswith("NOP")]


def spills(names: Iterable[str]) -> tuple[int, int]:
    """Stores to and loads from local memory."""
    counts = Counter(name[:3] for name in names)
    return counts["STL"], counts["LDL"]


def widths(names: Iterable[str], prefix: str) -> dict[int, int]:
    """Bytes per thread → number of the instructions that begin with ``prefix``, as LDG or STG."""
    return dict(sorted(Counter(_width(name) for name in names if name.startswith(prefix)).items()))


def _width(name: str) -> int:
    """Bytes per thread that a load or store moves; 4 where its name has no width."""
    found = _WIDTH.search(name)
    return int(found[1]) // 8 if found else 4


def disassemble(cubin: bytes) -> tuple[str, dict[str, int]]:
    """SASS, and the registers (REG) and stack bytes (STACK) that cuobjdump reports; spills are on the stack."""
    tools = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = output(tools.nvdisasm.path, "-c", file.name)
        usage = output(tools.cuobjdump.path, "-res-usage", file.name)
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    return sass, found


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def amd_resources(text: str) -> dict[str, Any]:
    """Registers, spills and widths from AMD's assembly and the metadata at its end.

    Raises:
        ValueError: the metadata lacks one of the counts.
    """
    names = ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count")
    found = {name: re.search(rf"\.{name}:\s+(\d+)", text) for name in names}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(f"AMD's assembly does not give {missing}")
    sizes = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "ubyte": 1, "sbyte": 1, "byte": 1}
    counts: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for kind, name in re.findall(r"\b(?:global|buffer|flat)_(load|store)_(\w+)", text):
        counts[kind][sizes.get(name.split("_")[0], 2)] += 1
    return {name: int(value[1]) for name, value in found.items() if value} | {
        f"{kind}s": dict(sorted(counted.items())) for kind, counted in counts.items()
    }
