"""Masking: picks the tokens that the generator has to predict, and writes what it sees in their place."""

import math

import torch
from torch import Tensor

from electra_kernels.ops._checks import (
    check_dim,
    check_fraction,
    check_integer,
    check_tensor,
    check_uniforms,
)
from electra_kernels.ops._library import define, options, overload
from electra_kernels.ops._results import MaskedTokens
from electra_kernels.uniforms import draw_uniforms


def _fake(
    input_ids: Tensor,
    maskable: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float,
    mask_fraction: float,
    random_fraction: float,
) -> tuple[Tensor, Tensor, Tensor]:
    slots = uniforms.shape[:2]
    return input_ids.new_empty(input_ids.shape), input_ids.new_empty(slots), input_ids.new_empty(slots)


define("mask_tokens", _fake)


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    *,
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    mask_fraction: float = 0.85,
    random_fraction: float = 0.0,
    max_predictions: int | None = None,
    uniforms: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> MaskedTokens:
    """Pick exactly k positions per row without replacement, and write ``[MASK]`` or another id there.

    A row with n maskable tokens uses ``k = min(K, max(1, floor(probability * n + 0.5)))`` slots, 0 if n = 0.
    A picked position gets ``[MASK]`` with probability ``mask_fraction``, a random id of the vocabulary with
    probability ``random_fraction``, and else keeps the original (ELECTRA, Clark et al. 2020, section 2, and
    google-research/electra, pretrain_helpers.mask, which uses 0.85, 0 and 0.15).

    Args:
        input_ids: [B, T] int64.
        maskable: [B, T] bool or integer, nonzero where a token may be masked: not at special tokens and padding.
        mask_token_id: id of ``[MASK]``.
        vocab_size: V.
        probability: fraction of the maskable tokens that is picked, in (0, 1].
        mask_fraction, random_fraction: in [0, 1], their sum at most 1.
        max_predictions: K, by default ``max(1, floor((probability + 0.005) * T))`` and at most T. The default
            depends on ``probability``, so torch.compile makes a graph for every value of it.
        uniforms: [B, K, 2] float64 in [0, 1), by default from `draw_uniforms`. The first number of slot j picks
            one of the maskable tokens that are left, in the order of the sequence. The second number chooses
            between mask, keep and random, in this order, and the rest of it chooses the random id.
        generator: draws ``uniforms``; not under ``torch.compile``.

    Returns:
        ``input_ids`` [B, T], ``positions`` [B, K] and ``targets`` [B, K] (the originals), all int64. An
        unused slot has position 0 and target -100.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape, device or range.
    """
    check_tensor("input_ids", input_ids, (torch.int64,), None)
    check_dim("input_ids", input_ids, 2, "[B, T]")
    check_tensor("maskable", maskable, (torch.bool, torch.int64, torch.int32, torch.uint8), input_ids.device)
    if maskable.shape != input_ids.shape:
        raise ValueError(f"maskable has shape {list(maskable.shape)}, should be {list(input_ids.shape)}")
    _check_options(mask_token_id, vocab_size, probability, mask_fraction, random_fraction, max_predictions)

    batch, length = input_ids.shape
    slots = max_predictions
    if slots is None:
        slots = default_slots(length, probability)
    if uniforms is None:
        uniforms = draw_uniforms((batch, slots, 2), generator=generator, device=input_ids.device)
    check_uniforms(uniforms, (batch, slots, 2), "[B, K, 2]", input_ids.device)
    fractions = options((probability, mask_fraction, random_fraction), (0.15, 0.85, 0.0))
    if maskable.dtype != torch.bool:
        maskable = maskable != 0
    mask = overload("mask_tokens", fractions[0])
    return MaskedTokens(*mask(input_ids, maskable, uniforms, mask_token_id, vocab_size, *fractions))


def default_slots(length: int, probability: float) -> int:
    """K, the slots of `mask_tokens` for rows of T = ``length`` tokens where ``max_predictions`` is None."""
    return min(length, max(1, math.floor((probability + 0.005) * length)))


def _check_options(
    mask_token_id: int,
    vocab_size: int,
    probability: float,
    mask_fraction: float,
    random_fraction: float,
    max_predictions: int | None,
) -> None:
    check_integer("vocab_size", vocab_size)
    check_integer("mask_token_id", mask_token_id)
    if vocab_size < 1:
        raise ValueError(f"vocab_size is {vocab_size}, should be at least 1")
    if not 0 <= mask_token_id < vocab_size:
        raise ValueError(f"mask_token_id is {mask_token_id}, should be in [0, {vocab_size})")
    check_fraction("probability", probability, zero=False)
    check_fraction("mask_fraction", mask_fraction, zero=True)
    check_fraction("random_fraction", random_fraction, zero=True)
    if mask_fraction + random_fraction > 1 + 1e-12:
        total = mask_fraction + random_fraction
        raise ValueError(f"mask_fraction + random_fraction is {total}, should be at most 1")
    if max_predictions is None:
        return
    check_integer("max_predictions", max_predictions)
    if max_predictions < 1:
        raise ValueError(f"max_predictions is {max_predictions}, should be at least 1 or None")
