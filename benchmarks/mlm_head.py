"""The generator's loss and sample, forward and backward, from logits and from hidden states."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

import electra_kernels
from benchmarks.harness import Case

VOCAB_SIZE, WIDTH = 30_522, 128


def cases(quick: bool) -> Iterator[Case]:
    for rows in [128] if quick else [160, 1024]:
        yield _from_logits(rows)
        yield _from_hidden(rows)


def _gumbel(logits: Tensor) -> Tensor:
    noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(min=1e-20)))
    return (logits + noise).argmax(-1)


def _from_logits(rows: int) -> Case:
    logits = torch.randn(rows, VOCAB_SIZE, requires_grad=True)
    targets = torch.randint(VOCAB_SIZE, (rows,))

    def eager() -> object:
        loss = cross_entropy(logits, targets)
        return torch.autograd.grad(loss, logits), _gumbel(logits.detach())

    def ours() -> object:
        return torch.autograd.grad(electra_kernels.cross_entropy_sample(logits, targets).loss, logits)

    memory = logits.detach().clone()
    uniforms = electra_kernels.draw_uniforms((rows,))

    def ours_in_place() -> object:
        # The op below inplace_backward=True: whose memory the logits are does not change what it costs.
        return torch.ops.electra_kernels.cross_entropy_sample_(
            memory, targets, uniforms, None, -100, "mean", 1.0, False
        )

    contenders = {"eager + Gumbel-max": eager, "ours": ours, "ours in place": ours_in_place}
    return Case(f"cross_entropy_sample f+b N={rows} V={VOCAB_SIZE}", contenders, 2 * 4 * rows * VOCAB_SIZE)


def _from_hidden(rows: int) -> Case:
    hidden = torch.randn(rows, WIDTH, requires_grad=True)
    weight = (0.02 * torch.randn(VOCAB_SIZE, WIDTH)).requires_grad_()
    bias = torch.zeros(VOCAB_SIZE, requires_grad=True)
    targets = torch.randint(VOCAB_SIZE, (rows,))

    def eager() -> object:
        logits = linear(hidden, weight, bias)
        tokens = _gumbel(logits.detach())
        return torch.autograd.grad(cross_entropy(logits, targets), (hidden, weight, bias)), tokens

    def ours() -> object:
        loss = electra_kernels.linear_cross_entropy_sample(hidden, weight, bias, targets).loss
        return torch.autograd.grad(loss, (hidden, weight, bias))

    # the weight is read and its gradient written; the logits need not reach memory
    bytes_moved = 2 * 4 * VOCAB_SIZE * WIDTH
    name = f"linear_cross_entropy_sample f+b N={rows} V={VOCAB_SIZE} E={WIDTH}"
    return Case(name, {"eager + Gumbel-max": eager, "ours": ours}, bytes_moved)
