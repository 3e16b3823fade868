"""linear_masked_bce, forward and backward, against Linear(H → 1) and the eager loss."""

from collections.abc import Iterator

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

import electra_kernels
from benchmarks.harness import Case


def cases(quick: bool) -> Iterator[Case]:
    for batch, length, width in [(64, 128, 256)] if quick else [(16, 128, 256), (256, 512, 256)]:
        yield _case(batch, length, width)


def _case(batch: int, length: int, width: int) -> Case:
    hidden = torch.randn(batch, length, width, requires_grad=True)
    weight, bias = torch.randn(1, width, requires_grad=True), torch.zeros(1, requires_grad=True)
    labels = torch.rand(batch, length) < 0.1
    mask = torch.rand(batch, length) < 0.9

    def eager() -> object:
        logits = linear(hidden, weight, bias).squeeze(-1)
        losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        return torch.autograd.grad((losses * mask).sum() / mask.sum(), (hidden, weight, bias))

    def ours() -> object:
        loss = electra_kernels.linear_masked_bce(hidden, weight, bias, labels, mask).loss
        return torch.autograd.grad(loss, (hidden, weight, bias))

    # hidden is read once and its gradient written once
    bytes_moved = 2 * 4 * batch * length * width
    name = f"linear_masked_bce f+b B={batch} T={length} H={width}"
    return Case(name, {"eager": eager, "ours": ours}, bytes_moved)
