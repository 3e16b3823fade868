"""AdamW as google-research/electra sets it up (optimization.py), and beside it Muon where a recipe wants it."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from electra_kernels.models.encoder import Layer
from electra_kernels.training.muon import Muon
from electra_kernels.training.recipe import Recipe


def make_optimizers(module: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """AdamW for every parameter that is trained; with ``muon_learning_rate`` Muon for the matrices of the layers."""
    if recipe.muon_learning_rate is None:
        matrices = []
    else:
        layers = [part for part in module.modules() if isinstance(part, Layer)]
        matrices = [p for layer in layers for p in layer.parameters() if p.requires_grad and p.dim() == 2]
    taken = set(matrices)
    rest = [parameter for parameter in module.parameters() if parameter not in taken]
    adamw = make_adamw(
        rest, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay, beta2=recipe.beta2
    )
    if recipe.muon_learning_rate is None:
        return [adamw]
    return [adamw, Muon(matrices, recipe.muon_learning_rate, weight_decay=recipe.weight_decay)]


def make_adamw(
    parameters: Iterable[Tensor], *, learning_rate: float, weight_decay: float, beta2: float = 0.999
) -> torch.optim.AdamW:
    """Every parameter that is trained; those of one dimension (biases, norms) without weight decay."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), eps=1e-6, fused=True)


def scale_learning_rate(optimizer: torch.optim.Optimizer, scale: float) -> None:
    """``scale`` times the rate that it was made with."""
    for group in optimizer.param_groups:
        group["lr"] = scale * optimizer.defaults["lr"]
