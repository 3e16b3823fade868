"""Muon: momentum whose matrix is made orthogonal, for the weight matrices inside a Transformer."""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor

from electra_kernels.models.precision import has_native_bfloat16

# Coefficients of Jordan et al. 2024: the singular values do not converge to 1, they end between 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """p ← (1 - lr · decay) p - lr · 0.2 sqrt(max(rows, columns)) · orthogonal(g + m · momentum), Nesterov momentum m.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the factor, which gives the update the size of one of
    AdamW, and the decay are those of Liu et al. 2025 (arXiv 2502.16982, section 2.2). ``torch.optim.Muon`` is the same
    and iterates in bfloat16 everywhere, which is slow on a CPU without bfloat16 products (benchmarks/FINDINGS.md).

    Args:
        parameters: matrices [rows, columns].
        lr: learning rate, at the scale of AdamW's.
        momentum: in [0, 1).
        weight_decay: decoupled, at least 0.

    Raises:
        ValueError: a parameter that is no matrix.
    """

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, *, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.dim() != 2:
                raise ValueError(f"parameters has one of shape {list(parameter.shape)}, should be matrices")

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient, which ``closure`` may compute; its loss comes back."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for parameters in shapes.values():
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, float]) -> None:
        """Matrices of one shape are one product each iteration, not one per matrix."""
        directions = torch.stack([self._direction(parameter, group["momentum"]) for parameter in parameters])
        size = 0.2 * max(directions.shape[-2:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, list(orthogonalize(directions)), alpha=-group["lr"] * size)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        mean = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(mean, momentum)


def orthogonalize(matrices: Tensor) -> Tensor:
    """[..., rows, columns] → about U Vᵀ of each one's U S Vᵀ, by five Newton-Schulz iterations; 0 stays 0."""
    a, b, c = _QUINTIC
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    if has_native_bfloat16(x.device):
        x = x.bfloat16()
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    x = x.to(matrices.dtype)
    return x.mT if is_tall else x
