"""Records what the Triton back end would launch: every launch goes through `electra_kernels.triton.launch.run`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from electra_kernels.backends import linear_head
from electra_kernels.triton import launch


@dataclass(frozen=True)
class Launch:
    """The arguments of one call of `launch.run`."""

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
        """The arguments that are tensors, by the kernel's own names."""
        named = zip(self.kernel.arg_names, self.arguments)
        return {name: value for name, value in named if isinstance(value, Tensor)}


@contextmanager
def _chunks_as_on_gpu(multiprocessors: int, cache: int) -> Iterator[None]:
    """The linear head cuts its rows into chunks as on a GPU of this size."""
    properties = SimpleNamespace(multi_processor_count=multiprocessors, L2_cache_size=cache)
    gpu, chunk_rows = torch.device("cuda"), linear_head.chunk_rows

    def chunk_rows_there(vocab_size: int, width: int, dtype: torch.dtype, device: torch.device) -> int:
        with mock.patch.object(torch.cuda, "get_device_properties", return_value=properties):
            return chunk_rows(vocab_size, width, dtype, gpu)

    with mock.patch.object(linear_head, "chunk_rows", chunk_rows_there):
        yield


def launches_of(run: Callable[[], object], multiprocessors: int, cache: int) -> list[Launch]:
    """The kernels that ``run`` would launch on a GPU; nothing is launched, and its results are empty.

    Args:
        run: calls an op of the Triton back end.
        multiprocessors: their number on the GPU.
        cache: bytes of its level 2 cache.
    """
    launches: list[Launch] = []

    def record(kernel: Any, programs: int, *arguments: object, num_warps: int, **constants: object) -> None:
        launches.append(Launch(kernel, programs, arguments, num_warps, constants))

    with (
        mock.patch.object(launch, "run", record),
        mock.patch.object(launch, "multiprocessors", return_value=multiprocessors),
        _chunks_as_on_gpu(multiprocessors, cache),
    ):
        run()
    return launches
