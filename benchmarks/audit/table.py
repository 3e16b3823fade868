"""The record of an audit in Markdown, at the main sizes; the file has all."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.audit.gpus import GPUS

Record = dict[str, Any]

_MAIN = {"N": (2560,), "V": (30_522,), "B": (128, 256)}
LEGEND = """\
Registers, spills (loads and stores of local memory), occupancy and instructions: of the kernel that streams the data,
compiled for sm_80 / sm_90 / sm_100, one figure where all are the same. Bytes a load: of the loads and stores of a
thread that move most of that data, of those that its alignment allows. Instructions per element: SASS in the loops
that stream, in the whole kernel where none does, over the elements of a thread. *Predicted*: the larger of bytes /
bandwidth, and instructions / rate for the slowest unit (named where it is not memory); no launches, no latency, no
idle multiprocessors. What is read a second time comes from the cache if all that is under way fits into it."""


def table(record: Mapping[str, Any]) -> str:
    names = [gpu.name for gpu in GPUS]
    columns = [
        *(
            "op",
            "sizes",
            "kernel",
            "registers",
            "spills",
            "occupancy",
            "bytes a load",
            "instructions per element",
        ),
        *("gfx942 registers", "MB", *(f"{name}, µs *predicted*" for name in names)),
    ]
    kernels = {kernel["id"]: kernel for kernel in record["kernels"]}
    rows = [_cells(op, kernels) for op in record["ops"] if _is_main(op)]
    return "\n".join(_line(cells) for cells in [columns, ["---"] * len(columns), *rows])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _is_main(op: Record) -> bool:
    return op["dtype"] != "float32" and all(
        op["sizes"].get(name, some[0]) in some for name, some in _MAIN.items()
    )


def _cells(op: Record, kernels: Mapping[str, Record]) -> list[str]:
    streaming = [_streaming([kernels[name] for name in gpu["launches"]]) for gpu in op["gpus"].values()]
    amd = _streaming([kernels[name] for name in op["gfx942"]])
    widths = [(name, used) for kernel in streaming for name, used in kernel["arguments"].items()]
    return [
        f"`{op['op']}`",
        ", ".join(f"{symbol} = {size:,}" for symbol, size in op["sizes"].items()),
        f"`{streaming[0]['kernel']}`",
        _listed(kernel["registers"] for kernel in streaming),
        _listed(kernel["spill_stores"] + kernel["spill_loads"] for kernel in streaming),
        _listed(f"{kernel['occupancy']:.0%}" for kernel in streaming),
        ", ".join(dict.fromkeys(f"{name} {_usual(used)} of {used['could_be']}" for name, used in widths)),
        _listed(f"{kernel['instructions_per_element']:.1f}" for kernel in streaming),
        f"{amd['vgpr_count']}" + (f", {amd['vgpr_spill_count']} spilt" if amd["vgpr_spill_count"] else ""),
        f"{op['least_bytes'] / 1e6:.1f}",
        *(_time(gpu) for gpu in op["gpus"].values()),
    ]


def _streaming(launched: Sequence[Record]) -> Record:
    """The first of the largest."""
    return max(launched, key=lambda kernel: kernel["elements_per_thread"] or 0)


def _usual(used: Record) -> int:
    """The width by which most is moved."""
    widths = [
        (int(size), number) for counts in (used["loads"], used["stores"]) for size, number in counts.items()
    ]
    return max(widths, key=lambda width: width[0] * width[1])[0]


def _listed(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _time(predicted: Record) -> str:
    bound = "" if predicted["bound_by"] == "memory" else f" ({predicted['bound_by']})"
    return f"{predicted['predicted_microseconds']:.1f}{bound}"
