"""masked_bce_with_logits, forward and backward, against the eager recipe with its masked mean."""

from collections.abc import Iterator

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

import electra_kernels
from benchmarks.harness import Case


def cases(quick: bool) -> Iterator[Case]:
    for batch, length in [(256, 512)] if quick else [(16, 128), (256, 512), (1024, 512)]:
        yield _case(batch, length)


def _case(batch: int, length: int) -> Case:
    logits = torch.randn(batch, length, requires_grad=True)
    labels = torch.rand(batch, length) < 0.1
    mask = torch.rand(batch, length) < 0.9

    def eager() -> object:
        losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
        return torch.autograd.grad((losses * mask).sum() / mask.sum(), logits)

    def ours() -> object:
        return torch.autograd.grad(electra_kernels.masked_bce_with_logits(logits, labels, mask), logits)

    # logits, labels and mask are read by the forward and again by the backward, the gradient is written
    bytes_moved = batch * length * (2 * (4 + 1 + 1) + 4)
    return Case(
        f"masked_bce_with_logits f+b B={batch} T={length}", {"eager": eager, "ours": ours}, bytes_moved
    )
