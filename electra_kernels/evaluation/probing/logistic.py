"""Logistic regression, fitted to convergence."""

from collections.abc import Callable

import torch
from torch import Tensor

from electra_kernels import masked_bce_with_logits

MAX_ITERATIONS = 200


def logistic_regression(
    score: Callable[[Tensor], Tensor], size: int, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Fit ``score(weight) + bias`` to the labels.

    Minimises the sum of the binary cross-entropies + |weight|² / 2, by L-BFGS from 0. The second term, a prior of
    variance 1, gives a minimum where the labels are separable; elsewhere it hardly matters.

    Args:
        score: weight float32 [size] → logits [n], linear in the weight.
        size: length of the weight.
        labels: bool [n].

    Returns:
        weight [size], bias [1], on the device of ``labels``.
    """
    weight = torch.zeros(size, device=labels.device, requires_grad=True)
    bias = torch.zeros(1, device=labels.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = masked_bce_with_logits(score(weight) + bias, labels) + weight.square().sum() / (
            2 * len(labels)
        )
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach(), bias.detach()
