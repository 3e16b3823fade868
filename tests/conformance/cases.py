"""A small call of every op, by name, for the tests that treat all ops alike (memory, arguments, compilation, ...)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import electra_kernels as ek
from electra_kernels.triton.launch import is_interpreted

VOCABULARY = 37
LENGTH = 20
WIDTH = 6
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def workload(usual: int, interpreted: int) -> int:
    """A size for a test: a smaller one in Triton's interpreter, which takes 10 ms for a row."""
    return interpreted if is_interpreted() else usual


def skip_unless_values_are_checked(device: torch.device) -> None:
    """Skip a test of invalid values on a device where the ops do not look at them."""
    if device.type != "cpu":
        pytest.skip("values are checked on the CPU only: reading them from a GPU would synchronise")


def as_list(result: Any) -> list[Tensor]:
    """The outputs of an op, which returns one tensor or a tuple of tensors."""
    return [result] if isinstance(result, Tensor) else list(result)


def differentiable_outputs(outputs: Sequence[Tensor]) -> Tensor:
    """The outputs that have a gradient, as one vector."""
    return torch.cat([output.reshape(-1) for output in outputs if output.requires_grad])


@dataclass(frozen=True)
class Case:
    """The call ``function(**tensors, **options)``, with gradients for the tensors named in ``differentiable``."""

    function: Callable[..., Any]
    tensors: dict[str, Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    differentiable: tuple[str, ...] = ()

    def __call__(self, **changes: Any) -> Any:
        return self.function(**{**self.tensors, **self.options, **changes})

    def outputs(self, **changes: Any) -> list[Tensor]:
        return as_list(self(**changes))

    def leaves(self) -> dict[str, Tensor]:
        """Fresh copies of the differentiable tensors that require grad."""
        return {name: self.tensors[name].detach().clone().requires_grad_() for name in self.differentiable}

    def outputs_and_gradients(self, **changes: Any) -> list[Tensor]:
        """All outputs, then the gradients of the differentiable tensors for an upstream gradient of 1."""
        tensors = {**self.tensors, **changes}
        leaves = {name: tensors[name].detach().requires_grad_() for name in self.differentiable}
        outputs = self.outputs(**{**changes, **leaves})
        results = [output.detach() for output in outputs]
        if not leaves:
            return results
        return [*results, *torch.autograd.grad(differentiable_outputs(outputs).sum(), list(leaves.values()))]


def _targets(shape: tuple[int, ...], device: torch.device) -> Tensor:
    targets = torch.randint(0, VOCABULARY, shape, device=device)
    return targets.masked_fill(torch.rand(shape, device=device) < 0.2, -100)


def _positions(batch: int, slots: int, device: torch.device) -> Tensor:
    return torch.rand(batch, LENGTH, device=device).argsort(-1)[:, :slots].contiguous()


def mask_tokens(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "input_ids": torch.randint(5, VOCABULARY, (batch, LENGTH), device=device),
        "maskable": torch.rand(batch, LENGTH, device=device) < 0.8,
        "uniforms": ek.draw_uniforms((batch, slots, 2), device=device),
    }
    options = {"mask_token_id": 3, "vocab_size": VOCABULARY, "max_predictions": slots, "random_fraction": 0.1}
    return Case(ek.mask_tokens, tensors, options)


def gather_rows(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    hidden = torch.randn(batch, LENGTH, WIDTH, device=device).to(dtype)
    tensors = {"hidden": hidden, "positions": _positions(batch, slots, device)}
    return Case(ek.gather_rows, tensors, differentiable=("hidden",))


def sample_tokens(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "logits": torch.randn(batch, slots, VOCABULARY, device=device).to(dtype),
        "banned": torch.randint(-1, VOCABULARY, (batch, slots), device=device),
        "uniforms": ek.draw_uniforms((batch, slots), device=device),
    }
    return Case(ek.sample_tokens, tensors, {"temperature": 0.7}, ("logits",))


def replace_tokens(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "input_ids": torch.randint(5, VOCABULARY, (batch, LENGTH), device=device),
        "positions": _positions(batch, slots, device),
        "tokens": torch.randint(-1, VOCABULARY, (batch, slots), device=device),
    }
    return Case(ek.replace_tokens, tensors)


def sample_replacements(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "logits": torch.randn(batch, slots, VOCABULARY, device=device).to(dtype),
        "input_ids": torch.randint(5, VOCABULARY, (batch, LENGTH), device=device),
        "positions": _positions(batch, slots, device),
        "targets": _targets((batch, slots), device),
        "uniforms": ek.draw_uniforms((batch, slots), device=device),
    }
    return Case(ek.sample_replacements, tensors, {"ban_original": True})


def cross_entropy_sample(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "logits": torch.randn(batch, slots, VOCABULARY, device=device).to(dtype),
        "targets": _targets((batch, slots), device),
        "uniforms": ek.draw_uniforms((batch, slots), device=device),
    }
    return Case(ek.cross_entropy_sample, tensors, {"z_loss": 0.01, "ban_original": True}, ("logits",))


def linear_cross_entropy_sample(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "hidden": torch.randn(batch, slots, WIDTH, device=device).to(dtype),
        "weight": (torch.randn(VOCABULARY, WIDTH, device=device) / 2).to(dtype),
        "bias": torch.randn(VOCABULARY, device=device).to(dtype),
        "targets": _targets((batch, slots), device),
        "uniforms": ek.draw_uniforms((batch, slots), device=device),
    }
    return Case(
        ek.linear_cross_entropy_sample, tensors, {"z_loss": 0.01}, differentiable=("hidden", "weight", "bias")
    )


def masked_bce_with_logits(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "logits": torch.randn(batch, slots, device=device).to(dtype),
        "labels": torch.randint(0, 2, (batch, slots), device=device),
        "mask": torch.rand(batch, slots, device=device),
        "pos_weight": torch.rand(batch, slots, device=device) + 0.5,
    }
    return Case(ek.masked_bce_with_logits, tensors, {"label_smoothing": 0.1}, ("logits",))


def linear_masked_bce(device: torch.device, dtype: torch.dtype, batch: int, slots: int) -> Case:
    tensors = {
        "hidden": torch.randn(batch, slots, WIDTH, device=device).to(dtype),
        "weight": torch.randn(WIDTH, device=device).to(dtype),
        "bias": torch.randn(1, device=device).to(dtype),
        "labels": torch.rand(batch, slots, device=device) < 0.5,
        "mask": torch.randint(0, 2, (batch, slots), device=device),
        "pos_weight": torch.rand(batch, slots, device=device) + 0.5,
    }
    return Case(ek.linear_masked_bce, tensors, {"label_smoothing": 0.1}, ("hidden", "weight", "bias"))


CASES = {
    builder.__name__: builder
    for builder in (
        mask_tokens,
        gather_rows,
        sample_tokens,
        replace_tokens,
        sample_replacements,
        cross_entropy_sample,
        linear_cross_entropy_sample,
        masked_bce_with_logits,
        linear_masked_bce,
    )
}
DIFFERENTIABLE = tuple(
    name for name in CASES if name not in {"mask_tokens", "replace_tokens", "sample_replacements"}
)
# gather_rows is plain PyTorch; the others are custom ops.
CUSTOM_OPS = tuple(name for name in CASES if name != "gather_rows")
DIFFERENTIABLE_CUSTOM_OPS = tuple(name for name in DIFFERENTIABLE if name != "gather_rows")
SAMPLERS = ("sample_tokens", "sample_replacements", "cross_entropy_sample", "linear_cross_entropy_sample")
LOSSES = (
    "cross_entropy_sample",
    "linear_cross_entropy_sample",
    "masked_bce_with_logits",
    "linear_masked_bce",
)


def build(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch: int = workload(3, interpreted=2),
    slots: int = 4,
) -> Case:
    """The case of the op ``name`` with ``batch`` rows of ``slots`` predictions."""
    return CASES[name](torch.device(device), dtype, batch, slots)


def tensor_arguments() -> Iterator[tuple[str, str]]:
    """Yields (op, argument) for every tensor argument of every op."""
    for name in CASES:
        for argument in build(name).tensors:
            yield name, argument
