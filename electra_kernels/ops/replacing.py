"""Replacing: reads hidden states at the masked positions, writes sampled tokens there and labels what changed."""

import torch
from torch import Tensor

from electra_kernels.ops._checks import (
    FLOATING,
    check_dim,
    check_flag,
    check_int64,
    check_row_logits,
    check_temperature,
    check_tensor,
    check_uniforms,
)
from electra_kernels.ops._library import define, options, overload
from electra_kernels.ops._results import ReplacedTokens
from electra_kernels.uniforms import draw_uniforms


def _fake_replace(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    return input_ids.new_empty(input_ids.shape), input_ids.new_empty(input_ids.shape, dtype=torch.bool)


define("replace_tokens", _fake_replace)


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> ReplacedTokens:
    """Write tokens at positions and label what changed: the discriminator's input and its labels.

    A token that equals the original is labelled *original* (ELECTRA, section 2). A negative token keeps the
    original, and its position is not used.

    Args:
        input_ids: [B, T] int64, the *original* ids, not the masked ones.
        positions: [B, K] int64 in [0, T), different within a row where tokens are not negative.
        tokens: [B, K] int64.

    Returns:
        ``input_ids`` [B, T] int64 and ``is_replaced`` [B, T] bool.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape or device. A position out of range or used
            twice is found on the CPU, and on other devices with ELECTRA_KERNELS_DEBUG=1.
    """
    _check_slots(input_ids, positions, None)
    check_int64("tokens", tokens, positions.shape, "positions.shape", input_ids.device)
    return ReplacedTokens(*torch.ops.electra_kernels.replace_tokens.default(input_ids, positions, tokens))


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


define("sample_replacements", _fake_sample_replacements)


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
        targets: [B, K] int64, the original token of each slot; negative marks an unused slot.
        temperature: above 0.
        ban_original: never draw the slot's original token.
        uniforms: [B, K] float64 in [0, 1), by default from `draw_uniforms`.

    Returns, raises: as `replace_tokens`.
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
    (temperature,) = options((temperature,), (1.0,))
    sample = overload("sample_replacements", temperature)
    arguments = (input_ids, positions, targets, uniforms, temperature, ban_original)
    return ReplacedTokens(*sample(logits.detach(), *arguments))


def gather_rows(hidden: Tensor, positions: Tensor) -> Tensor:
    """Rows of hidden [B, T, E] at positions [B, K], as [B, K, E]; plain torch, differentiable.

    Raises:
        TypeError, ValueError: ``hidden`` or ``positions`` has a wrong shape, dtype or device.
    """
    check_tensor("hidden", hidden, FLOATING, None)
    check_dim("hidden", hidden, 3, "[B, T, E]")
    check_tensor("positions", positions, (torch.int64,), hidden.device)
    if positions.dim() != 2 or positions.shape[0] != hidden.shape[0]:
        raise ValueError(
            f"positions has shape {list(positions.shape)}, should be [B, K] with B = {hidden.shape[0]}"
        )
    # Indexing has a deterministic gradient on every device; that of torch.gather uses float atomics on CUDA.
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    return hidden[rows, positions]
