"""Fit a linear head to a task, on a frozen encoder or together with a copy of it, and measure it."""

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from electra_kernels import linear_masked_bce
from electra_kernels.evaluation.held_out import Score, isolated
from electra_kernels.evaluation.probing.logistic import logistic_regression
from electra_kernels.evaluation.probing.task import Examples, Task
from electra_kernels.training.hardware import forked_random_state
from electra_kernels.training.optimizers import make_adamw, scale_learning_rate
from electra_kernels.training.schedule import learning_rate_scale

# The budget is the same for every encoder and task. The rate is the better of two on a briefly trained encoder: with
# 5e-4 three tasks were lower by 0.015 to 0.018, real-word errors higher by 0.022 (1.7 standard errors).
STEPS, BATCH_ROWS = 150, 32
LEARNING_RATE, WARMUP, WEIGHT_DECAY, CLIP = 2e-3, 0.1, 0.01, 1.0
_SMALLEST_SCALE = 1e-6


class Head(NamedTuple):
    """A linear head with weight [F] and bias [1]: its scores are features @ weight + bias."""

    weight: Tensor
    bias: Tensor


def probe(encoder: nn.Module, task: Task, *, frozen: bool, seed: int) -> float:
    """The metric that a linear head reaches on the test examples of a task.

    Frozen: logistic regression to convergence on the states of the encoder, scaled to variance 1. Fine-tuned: starting
    from that head, the head and a copy of the encoder are trained together for 150 steps of 32 rows (first the head
    alone, then both: Kumar et al. 2022, arXiv 2202.10054). The features of a token are its state. The features of a
    row are the state of [CLS] and the mean state, side by side, since an objective per token never trains [CLS].

    The encoder and torch's global generator are left as they were.

    Args:
        encoder: (input_ids [M, T], attention_mask [M, T]) → [M, T, H].
        task: a task from `tasks`, in the vocabulary of the encoder.
        frozen: whether the encoder stays as it is.
        seed: seed of batches and dropout; a frozen probe has neither.
    """
    head = _fit(encoder, task)
    if frozen:
        return _measure(encoder, head, task)
    return _measure(*_fine_tune(encoder, head, task, seed), task)


def features(encoder: nn.Module, per: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The inputs of the head: [B, T, H] per token, [B, 2 H] per row."""
    hidden: Tensor = encoder(input_ids, attention_mask)
    if per == "token":
        return hidden
    weight = attention_mask.to(hidden.dtype)[..., None]
    mean = (hidden * weight).sum(1) / weight.sum(1)
    return torch.cat([hidden[:, 0], mean], dim=-1)


def _fit(encoder: nn.Module, task: Task) -> Head:
    with isolated(encoder):
        states = task.train.values(_on_device(encoder, lambda *row: features(encoder, task.per, *row)))
        mean, scale = states.mean(0), states.std(0).clamp(min=_SMALLEST_SCALE)
        scaled = (states - mean) / scale
    weight, bias = logistic_regression(lambda weight: scaled @ weight, scaled.shape[-1], task.train.answers())
    return Head(weight / scale, bias - (weight * mean / scale).sum())


def _measure(encoder: nn.Module, head: Head, task: Task) -> float:
    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        inputs = features(encoder, task.per, input_ids, attention_mask)
        return inputs @ head.weight.to(inputs.device) + head.bias.to(inputs.device)

    with isolated(encoder):
        return task.measure(_on_device(encoder, score))


def _fine_tune(encoder: nn.Module, head: Head, task: Task, seed: int) -> tuple[nn.Module, Head]:
    device = _device(encoder)
    model = copy.deepcopy(encoder).requires_grad_(True).train()
    head = Head(*(nn.Parameter(part.to(device, copy=True)) for part in head))
    trained = nn.ParameterList([*model.parameters(), *head])
    optimizer = make_adamw(trained, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    with torch.enable_grad(), forked_random_state():
        torch.manual_seed(seed)
        for step, batch in enumerate(_batches(task.train)):
            scale_learning_rate(optimizer, learning_rate_scale((step + 0.5) / STEPS, WARMUP))
            inputs = features(model, task.per, batch.input_ids.to(device), batch.attention_mask.to(device))
            labels, asked = batch.labels.to(device), batch.asked.to(device)
            optimizer.zero_grad(set_to_none=True)
            linear_masked_bce(inputs, *head, labels, asked).loss.backward()
            nn.utils.clip_grad_norm_(trained, CLIP)
            optimizer.step()
    return model, Head(*(part.detach() for part in head))


def _batches(examples: Examples) -> list[Examples]:
    """STEPS batches of random rows; no row is used again before all have been used."""
    count = len(examples.input_ids)
    epochs = math.ceil(STEPS * BATCH_ROWS / count)
    order = torch.cat([torch.randperm(count) for _ in range(epochs)])
    return [examples.select(index) for index in order[: STEPS * BATCH_ROWS].split(BATCH_ROWS)]


def _on_device(encoder: nn.Module, score: Score) -> Score:
    """``score`` computed on the device of the encoder, with its result on the CPU."""
    device = _device(encoder)
    return lambda input_ids, attention_mask: (
        score(input_ids.to(device), attention_mask.to(device)).float().cpu()
    )


def _device(encoder: nn.Module) -> torch.device:
    return next(encoder.parameters()).device
