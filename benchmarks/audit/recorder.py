"""What the host functions of the CUDA kernels launch: they run, on a CUDA runtime that only records
(`recorder.cpp`), with tensors of real size that nobody touches.

The ops are those of `torch.ops.electra_kernels_recorded`, which also take meta tensors.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.audit.cuda_kernels import ROOT, builder, objects
from benchmarks.audit.gpus import Gpu
from electra_kernels import compiled

_FOLDER = ROOT / "build" / "recorder"
_NAMESPACE = "electra_kernels_recorded"


@dataclass(frozen=True)
class CudaLaunch:
    """
    Attributes:
        symbol: of the kernel, in the objects.
        threads: of a block.
        shared: dynamic bytes of a block.
        cluster: blocks of a cluster; 1: there are none.
    """

    symbol: str
    blocks: int
    threads: int
    shared: int
    cluster: int


@cache
def _library() -> ctypes.CDLL:
    """Build it, load it and register its ops for meta tensors."""
    tools = builder()
    options = ["-DEK_RECORDED", f"-Delectra_kernels_cuda={_NAMESPACE}"]
    commands = [
        (name, [*options, *arguments])
        for name, arguments in tools.cuda_commands()
        if arguments[-1].endswith(".cpp")
    ]
    source = str(Path(__file__).with_suffix(".cpp").relative_to(ROOT))
    commands.append(("recorder", [*tools.CUDA_FLAGS, "-c", source]))
    target = _FOLDER / "_recorder.so"
    host = tools.build_objects(_FOLDER / "objects", commands, tools.cuda_compiler())
    tools.link_kernels([*host, *objects()], target)
    torch.ops.load_library(str(target))
    library = ctypes.CDLL(str(target))
    library.launches.restype = ctypes.c_char_p
    _take_meta_tensors()
    return library


def _take_meta_tensors() -> None:
    library = torch.library.Library(_NAMESPACE, "IMPL", "Meta")
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith(f"{_NAMESPACE}::"):
            op = getattr(getattr(torch.ops, _NAMESPACE), name.partition("::")[2])
            library.impl(op.default, _on_cpu(op.default))
    _kept.append(library)


_kept: list[torch.library.Library] = []  # its registrations end with it


def _on_cpu(op: Any) -> Callable[..., object]:
    def run(*arguments: object) -> object:
        results = op(*(_untouched(one) if isinstance(one, Tensor) else one for one in arguments))
        if isinstance(results, tuple):
            return tuple(one.to("meta") for one in results)
        return results if results is None else results.to("meta")

    return run


def _untouched(tensor: Tensor) -> Tensor:
    """On the CPU; its pages are never written, so there is no memory behind them."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def implementations() -> dict[str, Callable[..., object]]:
    """The ops as `electra_kernels.compiled` serves them.

    Raises:
        builder().BuildError: there is no nvcc, or a compiler fails.
    """
    _library()
    return compiled.serving(getattr(torch.ops, _NAMESPACE))


@contextmanager
def recording(gpu: Gpu) -> Iterator[list[CudaLaunch]]:
    """Fills the list, at the end, with what the ops have launched as on this GPU."""
    library = _library()
    library.begin_recording(gpu.capability, gpu.multiprocessors, gpu.shared_memory_of_a_program)
    found: list[CudaLaunch] = []
    yield found
    for line in library.launches().decode().splitlines():
        symbol, *numbers = line.split()
        found.append(CudaLaunch(symbol, *map(int, numbers)))
