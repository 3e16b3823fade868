"""Finds faults in the records of compiled kernels, and prints them as a table."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.codegen.compilation import AMD_ARCHITECTURE, CUDA_CAPABILITIES
from csrc.build import GENERATIONS

Record = Mapping[str, Any]

HEADER = """\
# Compiled GPU kernels

Written by `make audit` from the compilers' output; nothing here has run on a GPU. A kernel has one variant per Triton
specialisation or C++ template instantiation. Registers (per thread, on gfx942 vector registers), spills (loads and
stores of local memory) and shared memory (bytes per block) are maxima over the variants; slashes separate figures of
different architectures. The host functions of the CUDA kernels add dynamic shared memory, which is not included. The
widest load and store of global memory, in bytes per thread, are minima over the variants on CUDA architectures."""


def faults(records: Iterable[Record]) -> list[str]:
    """Spills, and loads and stores that are narrower than the layout of the data allows."""
    found = []
    for record in records:
        variant = f" <{record['variant']}>" if record["variant"] else ""
        where = f"{record['backend']} {record['kernel']}{variant} on {_named(record['architecture'])}"
        stores, loads, amd = (record.get(name, 0) for name in _SPILLS)
        if stores or loads or amd:
            found.append(f"{where} spills: {stores} stores, {loads} loads, {amd} AMD registers")
        found += [f"{where} {words}" for words in _narrow(record)]
    return found


_KINDS = {"LDG": "loads", "LDGSTS": "copies", "STG": "stores"}
_SPILLS = ("spill_stores", "spill_loads", "vgpr_spill_count")


def _narrow(record: Record) -> Iterator[str]:
    if record["backend"] == "triton":
        for name, widths in record["arguments"].items():
            yield from _narrow_argument(name, widths)
        return
    if record["streams"] is None:
        yield "is not listed in cuda_kernels.STREAMS"
        return
    for access in record["streams"]:
        if 16 not in record[_KINDS[access]]:
            yield f"has no {access} of 16 bytes"


def _narrow_argument(name: str, widths: Record) -> Iterator[str]:
    """Narrow accesses that together would fill a wider one, unless wide accesses move as much.

    The last block of tokens may be partial, so a kernel may have a second, narrow path for it.
    """
    natural = widths["natural"]
    for counts in (widths["loads"], widths["stores"]):
        narrow = {size: size * number for size, number in counts.items() if size < natural <= size * number}
        wide = sum(size * number for size, number in counts.items() if size >= natural)
        if sum(narrow.values()) > wide:
            yield f"moves {name} by {min(narrow)} bytes a thread, could be {natural}"


def table(records: Iterable[Record]) -> str:
    """One Markdown line per kernel; figures of several architectures are separated by slashes."""
    kernels = defaultdict[tuple[str, str], list[Record]](list)
    for record in records:
        kernels[record["backend"], record["kernel"]].append(record)
    columns = ["kernel", "variants", "registers", "spills", "shared bytes", "widest load", "widest store"]
    architectures = ", ".join(map(_named, GENERATIONS))
    triton = ", ".join(_named(one) for one in (*CUDA_CAPABILITIES, AMD_ARCHITECTURE))
    lines = [
        f"Architectures: {architectures} for CUDA C++; {triton} for Triton.",
        "",
        _line(columns),
        "|---" * len(columns) + "|",
    ]
    return "\n".join([*lines, *(_row(*name, variants) for name, variants in sorted(kernels.items()))])


def _row(backend: str, kernel: str, variants: Sequence[Record]) -> str:
    by_architecture = defaultdict[Any, list[Record]](list)
    for record in variants:
        by_architecture[record["architecture"]].append(record)
    groups = [by_architecture[one] for one in (*GENERATIONS, AMD_ARCHITECTURE) if one in by_architecture]
    on_cuda = [record for record in variants if record["architecture"] in GENERATIONS]
    return _line(
        [
            f"{backend} `{kernel}`",
            _joined(len(group) for group in groups),
            _joined(max(record["registers"] for record in group) for group in groups),
            _joined(
                max(sum(record.get(name, 0) for name in _SPILLS) for record in group) for group in groups
            ),
            _joined(max(record["shared"] for record in group) for group in groups),
            *(str(min(max(record[kind], default=0) for record in on_cuda)) for kind in ("loads", "stores")),
        ]
    )


def _joined(values: Iterable[int]) -> str:
    texts = list(map(str, values))
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _named(architecture: int | str) -> str:
    return architecture if isinstance(architecture, str) else f"sm_{architecture}"
