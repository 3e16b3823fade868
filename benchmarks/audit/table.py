"""The record of an audit in Markdown: the kernels as compiled, the ops as predicted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.audit.compilation import AMD_ARCHITECTURE
from benchmarks.audit.gpus import GPUS

Record = dict[str, Any]


def tables(record: Mapping[str, Any]) -> str:
    return "\n\n".join([_kernel_table(record["kernels"]), _op_table(record["ops"])])


def _kernel_table(kernels: Sequence[Record]) -> str:
    """A line per kernel and first use; the figures of sm_80 / sm_90 / sm_100, else of one."""
    lines = [
        "| kernel | first used by | registers sm_80 / 90 / 100 | spills | occupancy | shared bytes "
        "| bytes a load, a store | instructions per element | gfx942 registers, spills |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], dict[int | str, Record]] = {}
    for kernel in kernels:
        groups.setdefault((kernel["kernel"], kernel["first_case"]), {})[kernel["architecture"]] = kernel
    for (name, case), by_architecture in groups.items():
        cuda = [one for key, one in by_architecture.items() if isinstance(key, int)]
        amd = by_architecture.get(AMD_ARCHITECTURE)
        cells = [
            f"`{name}`",
            case,
            _listed(one["registers"] for one in cuda),
            _listed(one["spill_stores"] + one["spill_loads"] for one in cuda),
            _listed(f"{one['occupancy']:.0%}" for one in cuda),
            _listed(one["shared"] for one in cuda),
            _width_cell(cuda),
            _listed(_or_dash(one["instructions_per_element"]) for one in cuda),
            f"{amd['vgpr_count']}, {amd['vgpr_spill_count']}" if amd else "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _width_cell(cuda: Sequence[Record]) -> str:
    """Narrowest per streamed argument, of all architectures, and what it could be."""
    cells = {
        f"{name} {min(min([*widths['loads'], *widths['stores']]) for widths in _of(cuda, name))} "
        f"of {_of(cuda, name)[0]['could_be']}"
        for one in cuda
        for name in one["arguments"]
    }
    return ", ".join(sorted(cells)) or "–"


def _of(cuda: Sequence[Record], name: str) -> list[Record]:
    return [one["arguments"][name] for one in cuda if name in one["arguments"]]


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _listed(values: Iterable[object]) -> str:
    """One where all are the same."""
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _op_table(ops: Sequence[Record]) -> str:
    names = [gpu.name for gpu in GPUS]
    lines = [
        f"| op | sizes | dtype | MB | {' | '.join(f'{name}, µs *predicted*' for name in names)} |",
        "|---|---|---|---|" + "---|" * len(names),
    ]
    for op in ops:
        sizes = ", ".join(f"{symbol} = {size:,}" for symbol, size in op["sizes"].items())
        times = [_time_cell(op["gpus"].get(name)) for name in names]
        cells = [f"`{op['op']}`", sizes, op["dtype"], f"{op['least_bytes'] / 1e6:.1f}", *times]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _time_cell(prediction: Record | None) -> str:
    if prediction is None:
        return "–"
    bound = "" if prediction["bound_by"] == "memory" else f" ({prediction['bound_by']})"
    return f"{prediction['predicted_microseconds']:.1f}{bound}"
