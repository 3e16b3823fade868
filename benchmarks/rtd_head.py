"""linear_masked_bce, forward and backward, against a linear layer and the eager loss."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import linear

import electra_kernels
from benchmarks import baselines, variants
from benchmarks.harness import Case, Size


def cases(size: Size) -> Iterator[Case]:
    if size != "full":
        yield _case(64, 128, 256) if size == "quick" else _case(2, 16, 8, is_main=True)
        return
    yield _case(256, 512, 256, is_main=True)
    for dtype in (torch.bfloat16, torch.float16):
        yield _case(256, 512, 256, dtype)


def _eager(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    return baselines.masked_bce(linear(hidden, weight, bias).squeeze(-1), labels, mask)


def _case(
    batch: int, length: int, width: int, dtype: torch.dtype = torch.float32, is_main: bool = False
) -> Case:
    hidden = torch.randn(batch, length, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(1, width, dtype=dtype, requires_grad=True)
    bias = torch.zeros(1, dtype=dtype, requires_grad=True)
    labels = torch.rand(batch, length) < 0.1
    mask = torch.rand(batch, length) < 0.9
    arguments = (hidden, weight, bias, labels, mask)

    def differentiate(loss: Tensor) -> object:
        return torch.autograd.grad(loss, (hidden, weight, bias))

    def ours() -> object:
        return differentiate(electra_kernels.linear_masked_bce(*arguments).loss)

    runs, absent = variants.collect(
        lambda: differentiate(_eager(*arguments)),
        baselines.compiled(_eager, arguments, differentiate) if is_main else None,
        variants.ours("linear_masked_bce", ours, everywhere=is_main),
    )
    hidden_bytes = hidden.numel() * dtype.itemsize
    return Case(
        "linear_masked_bce f+b",
        {"B": batch, "T": length, "H": width},
        runs,
        # reads hidden once, writes its gradient once
        bytes_read=hidden_bytes,
        bytes_written=hidden_bytes,
        gradient_bytes=hidden_bytes,
        dtype=dtype,
        absent=absent,
        is_main=is_main,
    )
