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
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_WIDTH = re.compile(r"\.(?:[US])?(8|16|64|128|256)\b")
# What the two slow units do: elementary functions and conversions from and to 64 bits; arithmetic of float64.
_SPECIAL = re.compile(r"MUFU|(?:I2F|F2F|F2I).*64")
_DOUBLE = ("DADD", "DMUL", "DFMA", "DSETP", "DMNMX")


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
    """Of SASS.

    Attributes:
        name: with all that stands behind its dots.
        jumps_to: the addresses to which it may go.
        goes_on: whether what follows it may run next.
    """

    address: int
    name: str
    jumps_to: tuple[int, ...] = ()
    goes_on: bool = True

    @property
    def operation(self) -> str:
        return self.name.partition(".")[0]


def instructions(sass: str) -> list[Instruction]:
    """Without the padding behind the kernel's end, nor the slow paths of arithmetic that stand there."""
    labels, pending, lines = {}, [], []
    for line in sass.splitlines():
        if line.startswith("$__internal"):
            break
        label = _LABEL.match(line.strip())
        found = _INSTRUCTION.search(line)
        if label is not None:
            pending.append(label[1])
        elif found is not None:
            address, predicate, name, operands = int(found[1], 16), *found.groups()[1:]
            labels.update(dict.fromkeys(pending, address))
            pending = []
            lines.append((address, name, operands, _always_jumps(name, predicate, operands)))
    made = []
    for address, name, operands, jumps in lines:
        targets = re.findall(r"\.L_x_\d+", operands) if name.startswith(("BRA", "BRX")) else []
        addresses = tuple(labels[target] for target in targets if target in labels)
        if not name.startswith("NOP") and addresses != (address,):
            made.append(Instruction(address, name, addresses, not jumps))
    return made


def _always_jumps(name: str, predicate: str | None, operands: str) -> bool:
    """Whether what follows the instruction never runs next. A branch has its condition before it or first in it."""
    if name.startswith(("BRA.DIV", "BRA.CONV")) or predicate is not None:
        return False
    return name.startswith(("EXIT", "RET", "BRX")) or (
        name.startswith("BRA") and re.match(r"\s*!?U?P\d", operands) is None
    )


def width_of(name: str) -> int:
    """Bytes of a thread that a load or store of SASS moves; 4 where its name has no width."""
    found = _WIDTH.search(name)
    return int(found[1]) // 8 if found else 4


def by_pipe(some: Iterable[Instruction]) -> dict[str, int]:
    """Instructions in all, and those of the two slow units."""
    some = list(some)
    return {
        "issue": len(some),
        "special": sum(_SPECIAL.match(one.name) is not None for one in some),
        "double": sum(one.operation in _DOUBLE for one in some),
    }


def count_widths(some: Iterable[Instruction], prefix: str) -> dict[int, int]:
    return dict(sorted(Counter(width_of(one.name) for one in some if one.name.startswith(prefix)).items()))


def disassemble(cubin: bytes) -> tuple[str, dict[str, int]]:
    """SASS, and what cuobjdump says of registers and of the stack, which is where spills go."""
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
