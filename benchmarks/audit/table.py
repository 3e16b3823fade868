"""The record of an audit in Markdown, at the main sizes; the file has all."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.audit.gpus import GPUS

Record = dict[str, Any]

_MAIN = {"N": (2560,), "V": (30_522,), "B": (128, 256)}
LEGEND = """\
Registers, spills (loads and stores of local memory), shared memory (KB of a block), occupancy and instructions: of the
kernel that streams the data, compiled for sm_80 / sm_90 / sm_100, one figure where all are the same. Bytes a load: of
the loads and stores of a thread that move most of that data. Instructions per element: those of the cheapest route
through SASS that does the work on it, without what a thread does once. *Predicted*: the larger of bytes / bandwidth and
instructions / rate for the slowest unit (named where it is not memory); no launches, no latency, no idle
multiprocessors. What is read a second time comes from the cache if all that is under way fits into it."""


def table(record: Mapping[str, Any]) -> str:
    """Two lines an op: Triton, then CUDA C++."""
    names = [gpu.name for gpu in GPUS]
    columns = [
        *("op", "sizes", "MB", "kernel", "registers", "spills", "shared", "occupancy", "bytes a load"),
        *("instructions per element", *(f"{name}, µs *predicted*" for name in names)),
    ]
    kernels = {kernel["id"]: kernel for kernel in record["kernels"]}
    rows = [cells for op in record["ops"] if _is_main(op) for cells in _lines(op, kernels)]
    return "\n".join(_line(cells) for cells in [columns, ["---"] * len(columns), *rows])


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _is_main(op: Record) -> bool:
    return op["dtype"] != "float32" and all(
        op["sizes"].get(name, some[0]) in some for name, some in _MAIN.items()
    )


def _lines(op: Record, kernels: Mapping[str, Record]) -> Iterator[list[str]]:
    sizes = ", ".join(f"{symbol} = {size:,}" for symbol, size in op["sizes"].items())
    first = [f"`{op['op']}`", sizes, f"{op['least_bytes'] / 1e6:.1f}"]
    for backend in op["backends"].values():
        yield first + _cells(backend, kernels)
        first = ["", "", ""]


def _cells(backend: Record, kernels: Mapping[str, Record]) -> list[str]:
    gpus = backend["gpus"].values()
    streaming = [_streaming([kernels[name] for name in gpu["launches"]]) for gpu in gpus]
    names = dict.fromkeys(f"{kernel['backend']} `{kernel['kernel']}`" for kernel in streaming)
    return [
        " / ".join(names),
        _listed(kernel["registers"] for kernel in streaming),
        _listed(kernel["spill_stores"] + kernel["spill_loads"] for kernel in streaming),
        _listed(f"{kernel['shared'] / 1024:.0f}" for kernel in streaming),
        _listed(f"{kernel['occupancy']:.0%}" for kernel in streaming),
        _listed(_usual_width(kernel) for kernel in streaming),
        _listed(f"{_per_element(kernel):.1f}" for kernel in streaming),
        *(_time(gpu) for gpu in gpus),
    ]


def _streaming(launched: Sequence[Record]) -> Record:
    """The first that has phases."""
    return next(kernel for kernel in launched if kernel["phases"])


def _per_element(kernel: Record) -> float:
    """Of the main phases."""
    main = kernel["phases"][0]["of"]
    return float(sum(phase["issue"] / phase["elements"] for phase in kernel["phases"] if phase["of"] == main))


def _usual_width(kernel: Record) -> int:
    """The width by which most is moved: of the streamed arguments, or in the first phase where these are not known."""
    arguments = kernel.get("arguments", {}).values()
    counts = [counted for used in arguments for counted in (used["loads"], used["stores"])]
    if not counts:
        first = kernel["phases"][0]
        if 2 * first["wide"] > first["load"] + first["store"]:
            return 16
        counts = [kernel["loads"], kernel["stores"]]
    widths = [(int(size), number) for counted in counts for size, number in counted.items()]
    return max(widths, key=lambda width: width[0] * width[1])[0]


def _listed(values: Iterable[object]) -> str:
    texts = [str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _time(predicted: Record) -> str:
    bound = "" if predicted["bound_by"] == "memory" else f" ({predicted['bound_by']})"
    return f"{predicted['predicted_microseconds']:.1f}{bound}"
