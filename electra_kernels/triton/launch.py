"""What the host side of every kernel shares: where Triton can run, how it is launched, how rows lie in memory.

Every launch goes through `run`, with constants and warps as keywords: who replaces it (the audit of the compiled
kernels) sees each kernel with its arguments as an op gives them, on any device, CPU and meta included.
"""

import math
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class NotAvailableError(Exception):
    """The message says why Triton cannot run here."""


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, which also takes CPU tensors; fixed when triton is imported."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def devices() -> tuple[str, ...]:
    """The types of device whose tensors the kernels take here.

    Raises:
        NotAvailableError: there is none.
    """
    if is_interpreted():
        return ("cpu", "cuda")
    # Not is_available(): it would start CUDA in this process, which then could no longer fork.
    if torch.cuda.device_count() == 0:
        raise NotAvailableError("there is no GPU, and TRITON_INTERPRET is not 1")
    return ("cuda",)


def run(kernel: Any, programs: int, *arguments: object, num_warps: int, **constants: object) -> None:
    """Launch ``programs`` programs of a kernel, at least one, on the current stream of its first tensor's device.

    The grid has one dimension, since the others end at 65,535. ``constants``: the kernel's constexprs by name, and
    what else Triton takes for an option. What is not written as a fused multiply-add is none: Triton's default
    differs between its versions.
    """
    with torch.cuda.device_of(next(a for a in arguments if isinstance(a, Tensor))):
        kernel[(programs,)](*arguments, num_warps=num_warps, enable_fp_fusion=False, **constants)


def most_registers(count: int) -> dict[str, int]:
    """The option of `run` that limits the registers of a thread. AMD's compiler has none."""
    return {"maxnreg": count} if torch.version.hip is None else {}


@dataclass(frozen=True)
class Rows:
    """A tensor [..., V] of any strides as rows; a kernel finds row i at ``offsets[i]``, or at i x stride.

    Attributes:
        tensor: the tensor itself, for its pointer.
        number: how many rows.
        size: V.
        offsets: [number] int64 elements from the pointer, or None where ``stride`` says it all.
        stride: elements from row to row.
        step: elements from column to column.
        vector: elements in the widest load, up to 16 bytes, that every row consists of; 0 if columns are no neighbours.
    """

    tensor: Tensor
    number: int
    size: int
    offsets: Tensor | None
    stride: int
    step: int
    vector: int

    @property
    def pads(self) -> bool:
        """Whether the last vector of a row ends in the padding."""
        return self.vector > 1 and self.size % self.vector != 0


def rows_of(tensor: Tensor, *, owns_padding: bool = False) -> Rows:
    """Nothing is copied: leading dimensions that do not collapse into one stride get a table of offsets.

    ``owns_padding``: the columns between the rows, up to the next multiple of 16 bytes, may be read and written.
    """
    size, step = tensor.shape[-1], tensor.stride(-1)
    leading = [(n, stride) for n, stride in zip(tensor.shape[:-1], tensor.stride()) if n != 1]
    vector = _vector(tensor, [stride for _, stride in leading], owns_padding)
    collapsed = leading[-1] if leading else (1, 0)
    offsets = None
    for n, stride in reversed(leading[:-1]):
        inner, inner_stride = collapsed
        if stride != inner * inner_stride:
            offsets, collapsed = _offsets(leading, tensor.device), (0, 0)
            break
        collapsed = (n * inner, inner_stride)
    return Rows(tensor, tensor.numel() // size, size, offsets, collapsed[1], step, vector)


def _vector(tensor: Tensor, strides: list[int], owns_padding: bool) -> int:
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        return 0
    vector = 16 // tensor.element_size()
    # Triton knows of a pointer that it is a multiple of 16 bytes, or nothing.
    if tensor.data_ptr() % 16 != 0:
        return 1
    sizes = strides if owns_padding else [*strides, tensor.shape[-1]]
    return math.gcd(vector, *sizes)


def _offsets(leading: list[tuple[int, int]], device: torch.device) -> Tensor:
    offsets = torch.zeros((), dtype=torch.int64, device=device)
    for n, stride in leading:
        offsets = offsets[..., None] + torch.arange(n, device=device) * stride
    return offsets.reshape(-1)


def bias_vector(bias: Tensor | None) -> int:
    """Elements of a float32 bias that are loaded at once; nothing lies behind its end."""
    return 1 if bias is None else rows_of(bias).vector


def multiprocessors(device: torch.device) -> int:
    """How many programs of many warps run at once; in the interpreter none do, and two stand for a small GPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def halves(count: int, most: int, device: torch.device) -> list[tuple[int, bool, bool]]:
    """The launches of a kernel that visits ``count`` rows and then draws from them: parts of a row, visits, draws.

    One, or where there are too few rows for every multiprocessor one that visits each row in up to ``most`` parts, and
    one that draws.
    """
    wanted = 2 * multiprocessors(device)
    if count >= wanted or most == 1:
        return [(1, True, True)]
    return [(min(-(-2 * wanted // count), most), True, False), (1, False, True)]
