"""masked_bce_with_logits, forward and backward, against the eager loss with its masked mean."""

from collections.abc import Iterator

import torch
from torch import Tensor

import electra_kernels
from benchmarks import baselines, variants
from benchmarks.harness import Case, Size
from benchmarks.timers import Run


def cases(size: Size) -> Iterator[Case]:
    if size != "full":
        yield _case(256, 512) if size == "quick" else _case(2, 16, is_main=True)
        return
    yield _case(256, 512, is_main=True)
    yield _case(1024, 512)
    for dtype in (torch.bfloat16, torch.float16):
        yield _case(256, 512, dtype)


def forward(size: Size, device: torch.device) -> Run:
    """A run of the forward alone."""
    shape = (2, 16) if size == "tiny" else (256, 512)
    logits, labels, mask = torch.randn(shape, device=device), *(torch.rand(2, *shape, device=device) < 0.5)
    return lambda: electra_kernels.masked_bce_with_logits(logits, labels, mask)


def _case(batch: int, length: int, dtype: torch.dtype = torch.float32, is_main: bool = False) -> Case:
    logits = torch.randn(batch, length, dtype=dtype, requires_grad=True)
    labels = torch.rand(batch, length) < 0.1
    mask = torch.rand(batch, length) < 0.9
    arguments = (logits, labels, mask)

    def differentiate(loss: Tensor) -> object:
        return torch.autograd.grad(loss, logits)

    def ours() -> object:
        return differentiate(electra_kernels.masked_bce_with_logits(*arguments))

    runs, absent = variants.collect(
        lambda: differentiate(baselines.masked_bce(*arguments)),
        baselines.compiled(baselines.masked_bce, arguments, differentiate) if is_main else None,
        variants.ours("masked_bce_with_logits", ours, everywhere=is_main),
    )
    tokens, size = batch * length, dtype.itemsize
    return Case(
        "masked_bce_with_logits f+b",
        {"B": batch, "T": length},
        runs,
        # both passes read logits, labels and mask
        bytes_read=2 * tokens * (size + 1 + 1),
        bytes_written=tokens * size,
        gradient_bytes=tokens * size,
        dtype=dtype,
        absent=absent,
        is_main=is_main,
    )
