"""What the host side of every kernel shares: where Triton can run, how it is launched, how rows lie in memory.

Every launch goes through `run`, with constants and warps as keywords: who replaces it (the audit of the compiled
kernels) sees each kernel with its arguments as an op gives them, on any device, CPU and meta included.
"""

import os
from typing import Any, NamedTuple

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
    num_stages. What is not written as a fused multiply-add is none: Triton's default differs between its versions.
    """
    with torch.cuda.device_of(arguments[0]):
        kernel[(programs,)](*arguments, num_warps=num_warps, enable_fp_fusion=False, **constants)


class Rows(NamedTuple):
    """A tensor [..., V] of any strides as N rows; a kernel finds row i at ``offsets[i]``, or at i x stride.

    Attributes:
        tensor: the tensor itself, for its pointer.
        count: N.
        size: V.
        offsets: [N] int64 elements from the pointer, or None where ``stride`` says it all.
        stride: elements from row to row.
        step: elements from column to column.
    """

    tensor: Tensor
    count: int
    size: int
    offsets: Tensor | None
    stride: int
    step: int


def rows_of(tensor: Tensor) -> Rows:
    """Nothing is copied: leading dimensions that do not collapse into one stride get a table of offsets."""
    size, step = tensor.shape[-1], tensor.stride(-1)
    count = tensor.numel() // size
    leading = [(n, stride) for n, stride in zip(tensor.shape[:-1], tensor.stride()) if n != 1]
    collapsed = leading[-1:]
    for n, stride in reversed(leading[:-1]):
        inner, inner_stride = collapsed[0]
        if stride != inner * inner_stride:
            return Rows(tensor, count, size, _offsets(leading, tensor.device), 0, step)
        collapsed = [(n * inner, inner_stride)]
    return Rows(tensor, count, size, None, collapsed[0][1] if collapsed else 0, step)


def _offsets(leading: list[tuple[int, int]], device: torch.device) -> Tensor:
    offsets = torch.zeros((), dtype=torch.int64, device=device)
    for n, stride in leading:
        offsets = offsets[..., None] + torch.arange(n, device=device) * stride
    return offsets.reshape(-1)
