"""What a compiled kernel is made of: registers, spills, and the width of its loads and stores by argument.

Widths are read from PTX, in which an address can be followed back to the argument that it came from; what the machine
runs is counted in SASS. A vector load of PTX is one instruction of SASS.
"""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import triton

_REGISTER = re.compile(r"%[a-z]+\d+|%tid\.x")
_PARAMETER = re.compile(r"\.param \.u64 \.ptr \.global[^,\n]* (\w+)")
_ACCESS = re.compile(r"\b(ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bsuf](\d+)\s+(.*)")
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_WIDTH = re.compile(r"\.(?:[US])?(8|16|64|128|256)\b")


@dataclass(frozen=True)
class Access:
    """A load or store of PTX.

    Attributes:
        argument: index among the kernel's pointers; None where the address came through memory or other threads.
        size: bytes of a thread.
        is_streamed: the address is the thread's own by arithmetic alone, not one for all and not data.
    """

    argument: int | None
    is_load: bool
    size: int
    is_streamed: bool


def accesses(ptx: str) -> list[Access]:
    """All loads from and stores to global memory, wherever they are in the kernel."""
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
    """Register → what it is computed from; nothing for what comes from memory or from other threads."""
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


def _origins(register: str, sources: dict[str, set[str]]) -> set[str]:
    seen, waiting = {register}, [register]
    while waiting:
        for source in sources.get(waiting.pop(), ()):
            if source not in seen:
                seen.add(source)
                waiting.append(source)
    return seen


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    jumps_to: int | None


def instructions(sass: str) -> list[Instruction]:
    """Without the padding behind the kernel's end, nor the slow path of a division that stands there."""
    labels, pending, lines = {}, [], []
    for line in sass.splitlines():
        if line.startswith("$__internal"):
            break
        label = _LABEL.match(line.strip())
        found = _INSTRUCTION.search(line)
        if label is not None:
            pending.append(label[1])
        elif found is not None:
            address = int(found[1], 16)
            labels.update(dict.fromkeys(pending, address))
            pending = []
            target = re.search(r"\.L_x_\d+", found[3]) if found[2].startswith("BRA") else None
            lines.append((address, found[2], target[0] if target else None))
    made = [Instruction(a, name, labels.get(label) if label else None) for a, name, label in lines]
    return [one for one in made if not one.name.startswith("NOP") and one.jumps_to != one.address]


def hot_loops(everything: list[Instruction]) -> list[Instruction]:
    """The innermost loops with the widest loads that any loop has: those that stream the data."""
    spans = [
        (end.jumps_to, end.address)
        for end in everything
        if end.jumps_to is not None and end.jumps_to < end.address
    ]
    widest = {span: _widest(_inside(everything, span)) for span in spans}
    hot = [span for span in spans if widest[span] == max(widest.values()) > 0]
    innermost = [
        one
        for one in hot
        if not any(one[0] <= other[0] and other[1] < one[1] for other in hot if other != one)
    ]
    return [instruction for span in innermost for instruction in _inside(everything, span)]


def _inside(everything: list[Instruction], span: tuple[int, int]) -> list[Instruction]:
    return [one for one in everything if span[0] <= one.address <= span[1]]


def _widest(loop: Iterable[Instruction]) -> int:
    return max((width_of(one.name) for one in loop if one.name.startswith("LDG")), default=0)


def width_of(name: str) -> int:
    """Bytes of a thread that a load or store of SASS moves; 4 where its name has no width."""
    found = _WIDTH.search(name)
    return int(found[1]) // 8 if found else 4


def by_pipe(some: Iterable[Instruction]) -> dict[str, int]:
    """Instructions in all, and those of the two slow units."""
    names = [one.name.split(".")[0] for one in some]
    return {
        "issue": len(names),
        "special": sum(name == "MUFU" for name in names),
        "double": sum(name in ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX") for name in names),
    }


def count_widths(some: Iterable[Instruction], prefix: str) -> dict[int, int]:
    return dict(sorted(Counter(width_of(one.name) for one in some if one.name.startswith(prefix)).items()))


def disassemble(cubin: bytes) -> tuple[str, dict[str, int]]:
    """SASS, and what cuobjdump says of registers and of the stack, which is where spills go."""
    tools = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass = _output(tools.nvdisasm.path, "-c", file.name)
        usage = _output(tools.cuobjdump.path, "-res-usage", file.name)
    found = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    return sass, found


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def amd_resources(text: str) -> dict[str, Any]:
    """From the metadata at the end of AMD's assembly."""
    names = ("vgpr_count", "agpr_count", "sgpr_count", "vgpr_spill_count", "sgpr_spill_count")
    found = {name: re.search(rf"\.{name}:\s+(\d+)", text) for name in names}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(f"the assembly of AMD's compiler says nothing of {missing}")
    loads = re.findall(r"\b(?:global|buffer|flat)_(load|store)_(\w+)", text)
    sizes = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "ubyte": 1, "sbyte": 1, "byte": 1}
    widths: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for kind, name in loads:
        widths[kind][sizes.get(name.split("_")[0], 2)] += 1
    return {name: int(value[1]) for name, value in found.items() if value} | {
        f"{kind}s": dict(sorted(counted.items())) for kind, counted in widths.items()
    }
