"""Sampling: one exact categorical draw per row of logits, and the row's log-sum-exp."""

from typing import Any

import torch
from torch import Tensor

from electra_kernels.ops._autograd import needs_autograd, register_gradient, same_backend, save_backend
from electra_kernels.ops._checks import (
    check_int64,
    check_row_logits,
    check_temperature,
    check_uniforms,
)
from electra_kernels.ops._library import define, options, overload
from electra_kernels.reference.common import accumulation_dtype
from electra_kernels.uniforms import draw_uniforms


def _fake_sample(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    shape = logits.shape[:-1]
    dtype = accumulation_dtype(logits.dtype)
    logsumexp, parts = logits.new_empty(shape, dtype=dtype), logits.new_empty((*shape, 2), dtype=dtype)
    return logsumexp, logits.new_empty(shape, dtype=torch.int64), parts


define("sample_tokens", _fake_sample)
define(
    "sample_tokens_backward",
    lambda grad_logsumexp, logits, logsumexp_parts: logits.new_empty(logits.shape),
)


class _SampleTokens(torch.autograd.Function):
    """d logsumexp / d logits = softmax(logits)."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        output = overload("sample_tokens", arguments[-1])(*arguments)
        _SampleTokens.save(ctx, arguments, output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        save_backend(ctx)
        _, tokens, logsumexp_parts = output
        ctx.mark_non_differentiable(tokens, logsumexp_parts)
        ctx.save_for_backward(inputs[0], logsumexp_parts)

    @staticmethod
    def backward(ctx: Any, grad_logsumexp: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_logsumexp is None:
            return (None,) * 4
        with same_backend(ctx, grad_logsumexp):
            grad = torch.ops.electra_kernels.sample_tokens_backward(grad_logsumexp, *ctx.saved_tensors)
        return grad, None, None, None


register_gradient("sample_tokens", _SampleTokens)


def sample_tokens(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row from softmax(logits / temperature), and return the row's log-sum-exp with it.

    One uniform per row inverts the CDF, first over the sums of tiles of the vocabulary and then inside the chosen
    tile. The log-sum-exp needs these tile sums anyway, so the sample costs no second pass and no noise tensor.

    Args:
        logits: [..., V] float32, bfloat16 or float16.
        temperature: above 0; it applies to the draw only.
        banned: [...] int64, a token per row that is never drawn; negative bans nothing.
        uniforms: [...] float64 in [0, 1), by default from `draw_uniforms`.
        generator: draws ``uniforms``; not under ``torch.compile``.

    Returns:
        tokens: [...] int64; -1 where the row has NaN or +inf, no finite logit, or nothing left to draw.
        logsumexp: [...] float32, of the raw logits at temperature 1; differentiable.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape, device or range.
    """
    check_row_logits(logits)
    check_temperature(temperature)
    shape = logits.shape[:-1]
    if banned is not None:
        check_int64("banned", banned, shape, "logits.shape[:-1]", logits.device)
    if uniforms is None:
        uniforms = draw_uniforms(shape, generator=generator, device=logits.device)
    check_uniforms(uniforms, shape, "logits.shape[:-1]", logits.device)
    (temperature,) = options((temperature,), (1.0,))
    sample = _SampleTokens.apply if needs_autograd(logits) else overload("sample_tokens", temperature)
    logsumexp, tokens, _ = sample(logits, banned, uniforms, temperature)
    return tokens, logsumexp
