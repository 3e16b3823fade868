"""Host helpers of all kernels: where Triton can run, how a kernel is launched, how rows lie in memory.

Every launch goes through `run`. A tool that replaces `run` (the audit of the compiled kernels) sees each kernel with
the arguments that an op gives it, for tensors of any device, meta included.
"""

import math
import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class NotAvailableError(Exception):
    """Triton cannot run here; the message says why."""


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which also takes CPU tensors. Fixed when triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def devices() -> tuple[str, ...]:
    """The types of device whose tensors the kernels accept here.

    Raises:
        NotAvailableError: there is no such device.
    """
    if is_interpreted():
        return ("cpu", "cuda")
    # torch.cuda.is_available() would start CUDA in this process, which then could no longer fork.
    if torch.cuda.device_count() == 0:
        raise NotAvailableError("there is no GPU, and TRITON_INTERPRET is not 1")
    return ("cuda",)


def run(kernel: Any, programs: int, *arguments: object, num_warps: int, **constants: object) -> None:
    """Launch a kernel on the current stream of its first tensor's device.

    The grid has one dimension, since the other two end at 65,535. Triton's fusion of multiply and add is off: its
    default differs between versions. Kernels call `tl.fma` where they want one.

    Args:
        kernel: a function compiled by `triton.jit`.
        programs: size of the grid, at least 1.
        arguments: the kernel's runtime arguments, in its order.
        num_warps: warps of a program.
        constants: the kernel's constexpr arguments by name, and further options of Triton.
    """
    with torch.cuda.device_of(next(a for a in arguments if isinstance(a, Tensor))):
        kernel[(programs,)](*arguments, num_warps=num_warps, enable_fp_fusion=False, **constants)


def register_cap(registers: int) -> dict[str, int]:
    """The option of `run` that limits the registers of a thread; AMD's compiler has no such option.

    A cap *above* what a kernel needs prevents spills: without one, ptxas spills in order to raise occupancy.
    """
    return {"maxnreg": registers} if torch.version.hip is None else {}


@dataclass(frozen=True)
class Rows:
    """A tensor [..., V] of any strides, seen as rows. A kernel finds row i at ``offsets[i]``, or at i x stride.

    Attributes:
        tensor: the tensor itself, for its pointer.
        count: number of rows.
        size: V.
        offsets: [count] int64, elements from the pointer to each row, or None if ``stride`` is enough.
        stride: elements from row to row.
        step: elements from column to column.
        vector: elements of the widest aligned load, up to 16 bytes, that divides every row; 0 if columns are not
            adjacent in memory.
    """

    tensor: Tensor
    count: int
    size: int
    offsets: Tensor | None
    stride: int
    step: int
    vector: int

    @property
    def ends_in_padding(self) -> bool:
        """Whether the last vector of a row reaches into the padding behind it."""
        return self.vector > 1 and self.size % self.vector != 0


def rows_of(tensor: Tensor, *, owns_padding: bool = False) -> Rows:
    """View a tensor [..., V] as rows, without a copy.

    Leading dimensions that do not collapse into one stride get a table of offsets.

    Args:
        tensor: the tensor; its strides may be any.
        owns_padding: whether a kernel may read and write the columns behind a row, up to the next multiple of 16
            bytes.
    """
    size, step = tensor.shape[-1], tensor.stride(-1)
    leading = [(n, stride) for n, stride in zip(tensor.shape[:-1], tensor.stride()) if n != 1]
    vector = _vector_size(tensor, [stride for _, stride in leading], owns_padding)
    collapsed = leading[-1] if leading else (1, 0)
    offsets = None
    for n, stride in reversed(leading[:-1]):
        inner, inner_stride = collapsed
        if stride != inner * inner_stride:
            offsets, collapsed = _row_offsets(leading, tensor.device), (0, 0)
            break
        collapsed = (n * inner, inner_stride)
    return Rows(tensor, tensor.numel() // size, size, offsets, collapsed[1], step, vector)


def _vector_size(tensor: Tensor, strides: list[int], owns_padding: bool) -> int:
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        return 0
    vector = 16 // tensor.element_size()
    # Triton specializes on a pointer that is a multiple of 16 bytes, and on no smaller alignment.
    if tensor.data_ptr() % 16 != 0:
        return 1
    sizes = strides if owns_padding else [*strides, tensor.shape[-1]]
    return math.gcd(vector, *sizes)


def _row_offsets(leading: list[tuple[int, int]], device: torch.device) -> Tensor:
    offsets = torch.zeros((), dtype=torch.int64, device=device)
    for n, stride in leading:
        offsets = offsets[..., None] + torch.arange(n, device=device) * stride
    return offsets.reshape(-1)


def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors. The interpreter has none; the answer 2 stands for a small GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


class RowPass(NamedTuple):
    """One launch of a kernel that scans rows and then draws from them.

    Attributes:
        parts: programs that share the scan of a row.
        scans: whether this launch computes the statistics of a row's tiles.
        draws: whether this launch draws from a row, with these statistics.
    """

    parts: int
    scans: bool
    draws: bool


def row_passes(count: int, most_parts: int, device: torch.device) -> list[RowPass]:
    """The launches that scan ``count`` rows and then draw from them.

    One launch does both if there are enough rows to fill the GPU. Otherwise a first launch scans each row in up to
    ``most_parts`` parts, and a second launch draws.
    """
    wanted = 2 * multiprocessors(device)
    if count >= wanted or most_parts == 1:
        return [RowPass(1, scans=True, draws=True)]
    parts = min(-(-2 * wanted // count), most_parts)
    return [RowPass(parts, scans=True, draws=False), RowPass(1, scans=False, draws=True)]
