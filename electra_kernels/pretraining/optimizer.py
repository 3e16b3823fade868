"""AdamW as google-research/electra sets it up (optimization.py): no weight decay on biases and norms."""

import torch
from torch import nn


def make_optimizer(module: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Every parameter that is trained, each once; those of one dimension (biases, norms) without decay."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, eps=1e-6, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
