"""Sampling for replacement: one exact categorical draw per row of logits, and the labels of what changed."""

from typing import Any

import torch
from torch import Tensor

from electra_kernels.ops._checks import (
    check_dim,
    check_flag,
    check_int64,
    check_row_logits,
    check_temperature,
    check_tensor,
    check_uniforms,
)
from electra_kernels.ops._library import call, define, differentiable, option, refuse_double_backward
from electra_kernels.ops._results import ReplacedTokens
from electra_kernels.reference._values import accumulation_dtype
from electra_kernels.uniforms import draw_uniforms


def _fake_sample(
    logits: Tensor, banned: Tensor | None, uniforms: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    shape = logits.shape[:-1]
    dtype = accumulation_dtype(logits.dtype)
    logsumexp, parts = logits.new_empty(shape, dtype=dtype), logits.new_empty((*shape, 2), dtype=dtype)
    return logsumexp, logits.new_empty(shape, dtype=torch.int64), parts


def _save_sample(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, tokens, logsumexp_parts = output
    ctx.mark_non_differentiable(tokens, logsumexp_parts)
    ctx.save_for_backward(inputs[0], logsumexp_parts)


def _sample_backward(ctx: Any, grad_logsumexp: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    grad = call("sample_tokens_backward", grad_logsumexp, *ctx.saved_tensors)
    return grad, None, None, None


define(
    "sample_tokens(Tensor logits, Tensor? banned, Tensor uniforms, float temperature) "
    "-> (Tensor logsumexp, Tensor tokens, Tensor logsumexp_parts)",
    _fake_sample,
)
define(
    "sample_tokens_backward(Tensor grad_logsumexp, Tensor logits, Tensor logsumexp_parts) -> Tensor",
    lambda grad_logsumexp, logits, logsumexp_parts: logits.new_empty(logits.shape),
)
differentiable("sample_tokens", save=_save_sample, backward=_sample_backward)
refuse_double_backward("sample_tokens_backward")


def sample_tokens(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token per row from softmax(logits / temperature), and return the row's log-sum-exp with it.

    One uniform number per row inverts the CDF, first over the sums of tiles of the vocabulary, then inside
    the chosen tile. The tile sums are those of the log-sum-exp, so the sample costs no second pass and no
    noise tensor.

    Args:
        logits: [..., V] float32, bfloat16 or float16.
        temperature: above 0; it applies to the draw only.
        banned: [...] int64, a token per row that is not to be drawn; negative bans nothing.
        uniforms: [...] float64 in [0, 1), by default from `draw_uniforms`.
        generator: for the draw of ``uniforms``; not under ``torch.compile``.

    Returns:
        tokens: [...] int64; -1 where the row has NaN or +inf, no finite logit, or nothing left to draw.
        logsumexp: [...] float32, of the raw logits at temperature 1; differentiable.

    Raises:
        TypeError, ValueError: an argument of another dtype, shape, device or range.
    """
    check_row_logits(logits)
    check_temperature(temperature)
    shape = logits.shape[:-1]
    if banned is not None:
        check_int64("banned", banned, shape, "logits.shape[:-1]", logits.device)
    if uniforms is None:
        uniforms = draw_uniforms(shape, generator=generator, device=logits.device)
    check_uniforms(uniforms, shape, "logits.shape[:-1]", logits.device)
    arguments = (logits, banned, uniforms, option(temperature, 1.0))
    logsumexp, tokens, _ = call("sample_tokens", *arguments)
    return tokens, logsumexp


def _fake_replace(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    return input_ids.new_empty(input_ids.shape), input_ids.new_empty(input_ids.shape, dtype=torch.bool)


define(
    "replace_tokens(Tensor input_ids, Tensor positions, Tensor tokens) "
    "-> (Tensor input_ids, Tensor is_replaced)",
    _fake_replace,
)


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> ReplacedTokens:
    """Write tokens at positions and label what changed: the discriminator's input and its labels.

    A token that equals the original is labelled *original* (ELECTRA, section 2); a negative token keeps the
    original, whatever its position.

    Args:
        input_ids: [B, T] int64, the *original* ids, not the masked ones.
        positions: [B, K] int64 in [0, T), no two the same in a row where tokens are not negative.
        tokens: [B, K] int64.

    Returns:
        ``input_ids`` [B, T] int64 and ``is_replaced`` [B, T] bool.

    Raises:
        TypeError, ValueError: an argument of another dtype, shape or device; on the CPU (elsewhere with
            ELECTRA_KERNELS_DEBUG=1) also a position out of range or used twice.
    """
    _check_slots(input_ids, positions, None)
    check_int64("tokens", tokens, positions.shape, "positions.shape", input_ids.device)
    return ReplacedTokens(*call("replace_tokens", input_ids, positions, tokens))


def _check_slots(input_ids: Tensor, positions: Tensor, device: torch.device | None) -> None:
    check_tensor("input_ids", input_ids, (torch.int64,), device)
    check_dim("input_ids", input_ids, 2, "[B, T]")
    check_tensor("positions", positions, (torch.int64,), input_ids.device)
    check_dim("positions", positions, 2, "[B, K]")
    if positions.shape[0] != input_ids.shape[0]:
        raise ValueError(
            f"positions has shape {list(positions.shape)}, should be [B, K] with B = {input_ids.shape[0]}"
        )


def _fake_sample_replacements(
    logits: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor]:
    return _fake_replace(input_ids, positions, targets)


define(
    "sample_replacements(Tensor logits, Tensor input_ids, Tensor positions, Tensor targets, Tensor uniforms, "
    "float temperature, bool ban_original) -> (Tensor input_ids, Tensor is_replaced)",
    _fake_sample_replacements,
)


def sample_replacements(
    logits: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    ban_original: bool = False,
    uniforms: Tensor | None = None,
) -> ReplacedTokens:
    """`sample_tokens` and `replace_tokens` in one op, without a gradient.

    Args:
        logits: [B, K, V], one row per slot.
        input_ids: [B, T] int64, the original ids.
        positions: [B, K] int64.
        targets: [B, K] int64, the original token of each slot; negative: the slot is unused.
        temperature: above 0.
        ban_original: never draw the slot's original token.
        uniforms: [B, K] float64 in [0, 1), by default from `draw_uniforms`.

    Returns and raises: as `replace_tokens`.
    """
    check_row_logits(logits)
    check_temperature(temperature)
    check_flag("ban_original", ban_original)
    _check_slots(input_ids, positions, logits.device)
    check_int64("targets", targets, positions.shape, "positions.shape", logits.device)
    if logits.shape[:-1] != positions.shape:
        raise ValueError(f"logits has shape {list(logits.shape)}, should be {[*positions.shape, 'V']}")
    if uniforms is None:
        uniforms = draw_uniforms(positions.shape, device=logits.device)
    check_uniforms(uniforms, positions.shape, "positions.shape", logits.device)
    arguments = (
        logits.detach(),
        input_ids,
        positions,
        targets,
        uniforms,
        option(temperature, 1.0),
        ban_original,
    )
    return ReplacedTokens(*call("sample_replacements", *arguments))
