"""What the ops launch: `electra_kernels.triton.launch.run`, through which all of it goes, is replaced."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from electra_kernels.backends import linear_head as chunks
from electra_kernels.triton import launch


@dataclass(frozen=True)
class Launch:
    kernel: Any
    programs: int
    arguments: tuple[object, ...]
    num_warps: int
    constants: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.kernel.fn.__name__)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The kernel's own name of each argument that is a tensor → it."""
        named = zip(self.kernel.arg_names, self.arguments)
        return {name: value for name, value in named if isinstance(value, Tensor)}


@contextmanager
def on_gpu(multiprocessors: int, cache: int) -> Iterator[None]:
    """Chunks of the linear head are as on a GPU of so many multiprocessors and bytes of level 2 cache."""
    properties = SimpleNamespace(multi_processor_count=multiprocessors, L2_cache_size=cache)
    gpu, chunk_rows = torch.device("cuda"), chunks.chunk_rows

    def chunk_rows_there(vocab_size: int, dtype: torch.dtype, device: torch.device) -> int:
        with mock.patch.object(torch.cuda, "get_device_properties", return_value=properties):
            return chunk_rows(vocab_size, dtype, gpu)

    with mock.patch.object(chunks, "chunk_rows", chunk_rows_there):
        yield


@contextmanager
def instead_of_run(handle: Callable[[Launch], None], multiprocessors: int, cache: int) -> Iterator[None]:
    """Give every launch of a Triton kernel to ``handle`` instead, as on such a GPU."""

    def run(kernel: Any, programs: int, *arguments: object, num_warps: int, **constants: object) -> None:
        handle(Launch(kernel, programs, arguments, num_warps, constants))

    with (
        mock.patch.object(launch, "run", run),
        mock.patch.object(launch, "multiprocessors", return_value=multiprocessors),
        on_gpu(multiprocessors, cache),
    ):
        yield


def launches_of(run: Callable[[], object], multiprocessors: int, cache: int) -> list[Launch]:
    """What ``run`` would launch of Triton's kernels; nothing is, and its results are empty."""
    launches: list[Launch] = []
    with instead_of_run(launches.append, multiprocessors, cache):
        run()
    return launches
