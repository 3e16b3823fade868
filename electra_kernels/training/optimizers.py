"""The optimizers of a training: AdamW as google-research/electra sets it up (optimization.py), and Muon beside it."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate

from electra_kernels.models.layers import StackedLinear
from electra_kernels.models.precision import has_native_bfloat16
from electra_kernels.training.objectives import Objective
from electra_kernels.training.recipe import Recipe

# Coefficients of Jordan et al. 2024. With them the singular values do not converge to 1: they end between 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_EPS = 1e-7


def make_optimizers(objective: Objective, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for every trained parameter; with ``muon_learning_rate``, Muon for the matrices of the layers instead."""
    matrices = {} if recipe.muon_learning_rate is None else _matrices(objective)
    rest = [parameter for parameter in objective.parameters() if parameter not in matrices]
    adamw = make_adamw(
        rest, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, beta2=recipe.beta2
    )
    if recipe.muon_learning_rate is None:
        return [adamw]
    groups = [
        {"params": [p for p, stacked in matrices.items() if stacked == count], "stacked": count}
        for count in sorted(set(matrices.values()))
    ]
    return [adamw, Muon(groups, recipe.muon_learning_rate, weight_decay=recipe.weight_decay)]


def _matrices(objective: Objective) -> dict[Tensor, int]:
    """Each trained matrix of the layers → the number of matrices that are stacked in it."""
    found: dict[Tensor, int] = {}
    for module in (module for layer in objective.layers() for module in layer.modules()):
        count = module.count if isinstance(module, StackedLinear) else 1
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad and parameter.dim() == 2:
                found[parameter] = count
    return found


def make_adamw(
    parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float, beta2: float = 0.999
) -> torch.optim.AdamW:
    """AdamW for every trained parameter; parameters of one dimension (biases, norms) do not decay."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), eps=1e-6, fused=True)


def scale_learning_rate(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """Set every group's learning rate to ``scale`` times the one that the optimizer was made with."""
    for group in optimizer.param_groups:
        group["lr"] = scale * optimizer.defaults["lr"]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose matrix is made orthogonal, for the weight matrices inside a Transformer.

    p ← (1 - lr · decay) p - lr · 0.2 sqrt(max(rows, columns)) · orthogonal(g + m · momentum), with the momentum m.

    Jordan et al. 2024 (kellerjordan.github.io/posts/muon). The decay, and the factor that makes an update as large as
    AdamW's, are from Liu et al. 2025 (arXiv 2502.16982, section 2.2). ``torch.optim.Muon`` is the same optimizer, but
    iterates in bfloat16 everywhere, which is slow on a CPU without bfloat16 products (benchmarks/FINDINGS.md).

    Matrices that are stacked in one parameter are made orthogonal one by one. Otherwise the matrices with the largest
    gradient would take most of the update: at the start of a training, the values from the queries and keys.

    Args:
        parameters: matrices [rows, columns], or groups of them, whose "stacked" is the number of matrices of equal size
            that stand one below the other in each parameter; by default 1.
        lr: learning rate, on the scale of AdamW's.
        momentum: in [0, 1).
        weight_decay: decoupled, at least 0.

    Raises:
        ValueError: a parameter is not a matrix, or its rows cannot be divided among the stacked matrices.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "stacked": 1}
        )
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() != 2 or len(parameter) % group["stacked"]:
                    shape, count = list(parameter.shape), group["stacked"]
                    raise ValueError(
                        f"parameters has one of shape {shape}, should be [rows, columns], rows a multiple of {count}"
                    )

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; returns the loss of ``closure``, which may compute gradients."""
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

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of one shape, with one batched product for all of their matrices in each iteration."""
        directions = torch.stack([self._direction(parameter, group["momentum"]) for parameter in parameters])
        matrices = directions.unflatten(1, (group["stacked"], -1))
        updates = orthogonalize(matrices).flatten(1, 2)
        size = 0.2 * max(matrices.shape[-2:]) ** 0.5
        for parameter, update in zip(parameters, updates):
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(_part_of(update, parameter), alpha=-group["lr"] * size)

    def _direction(self, parameter: Tensor, momentum: float) -> Tensor:
        assert parameter.grad is not None
        mean = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        mean.lerp_(parameter.grad, 1 - momentum)
        direction = parameter.grad.lerp(mean, momentum)
        return direction.full_tensor() if isinstance(direction, DTensor) else direction


def _part_of(update: Tensor, parameter: Tensor) -> Tensor:
    """The part of a whole update [rows, columns] that this rank holds of a sharded parameter."""
    if not isinstance(parameter, DTensor):
        return update
    mesh = parameter.device_mesh
    whole = DTensor.from_local(update, mesh, [Replicate()] * mesh.ndim)
    return whole.redistribute(mesh, parameter.placements)


def orthogonalize(matrices: Tensor) -> Tensor:
    """About U Vᵀ of each matrix U S Vᵀ of [..., rows, columns], by five Newton-Schulz iterations; 0 stays 0."""
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
