"""Masking of whole words and of spans of consecutive words, in plain PyTorch."""

import math
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional as F

from electra_kernels.ops import MaskedTokens, mask_tokens
from electra_kernels.row_uniforms import row_uniforms
from electra_kernels.uniforms import draw_uniforms

# Passes over the spans that are left. Each one but the first fills what a span that did not fit has left free.
_PASSES = 3


def mask_units(
    input_ids: Tensor,
    maskable: Tensor,
    starts_word: Tensor | None,
    *,
    mask_token_id: int,
    vocab_size: int,
    probability: float = 0.15,
    mask_fraction: float = 0.85,
    random_fraction: float = 0.0,
    max_ngram: int = 1,
    uniforms: Tensor | None = None,
) -> MaskedTokens:
    """Mask tokens as `electra_kernels.mask_tokens` does, but whole words or spans of them at a time.

    A word is a run of maskable tokens of which only the first starts a word (whole word masking of
    google-research/bert, create_pretraining_data.py). A token that is not maskable ends the word, so no unit has a
    special token in it or reaches into another piece of a packed row.

    With ``max_ngram`` = n, the words of a row are cut into spans of 1 to n words, whose lengths are drawn with weights
    proportional to 1 / length (ALBERT, Lan et al. 2020, arXiv 1909.11942, section 4.1). A token that is not maskable
    cuts a span in two.

    All spans of a row are equally likely to come first, second, and so on. In this order they are masked whole, and
    those that do not fit any more into the ``k = min(K, max(1, floor(probability * n + 0.5)))`` tokens of a row with n
    maskable ones are skipped. So a row has at most k targets, and fewer than k by less than the length of one span. If
    every span is longer than k, then the first k tokens of the first span are masked, so that no row is left out.

    Args:
        input_ids, maskable, mask_token_id, vocab_size, probability: as in `electra_kernels.mask_tokens`.
        starts_word: [V] bool, True at the tokens that start a word; None if every token is a word.
        mask_fraction, random_fraction: as in `electra_kernels.mask_tokens`: each token of a span is masked, kept or
            replaced by itself.
        max_ngram: the largest number of words in a span.
        uniforms: [B, K, 2] float64 in [0, 1), by default from `draw_uniforms`, with the K of
            `electra_kernels.mask_tokens`. The 53 bits of the first number of a row decide the lengths and the order of
            its spans (as the row's number in `row_uniforms`). The first number of a slot picks one of the chosen
            tokens for it, and the second one is used as in `electra_kernels.mask_tokens`.

    Returns:
        As `electra_kernels.mask_tokens`. Masked tokens are in no particular order.

    Raises:
        TypeError, ValueError: as `electra_kernels.mask_tokens`; starts_word is not [V] bool, or max_ngram is less
            than 1.
    """
    _check(input_ids, maskable, starts_word, vocab_size, probability, max_ngram)
    batch, length = input_ids.shape
    slots = min(length, max(1, math.floor((probability + 0.005) * length)))
    if uniforms is None:
        uniforms = draw_uniforms((batch, slots, 2), device=input_ids.device)
    chosen = maskable != 0
    if slots > 0 and uniforms.shape == (batch, slots, 2):  # mask_tokens refuses any other shape
        numbers = row_uniforms((uniforms[:, 0, 0] * 2.0**53).long(), 2 * length, seed=0)
        keys, lengths = numbers.split(length, dim=1)
        starts = _word_starts(chosen, None if starts_word is None else starts_word[input_ids])
        if max_ngram > 1:
            starts = _span_starts(chosen, starts, _ngram_lengths(lengths, max_ngram))
        count = chosen.sum(-1, keepdim=True)
        wanted = (probability * count.double() + 0.5).floor().long().clamp(1, slots).minimum(count)
        chosen = _choose_spans(chosen, starts, keys, wanted)
    return mask_tokens(
        input_ids,
        chosen,
        mask_token_id=mask_token_id,
        vocab_size=vocab_size,
        probability=1.0,
        mask_fraction=mask_fraction,
        random_fraction=random_fraction,
        max_predictions=slots or None,
        uniforms=uniforms,
    )


def _word_starts(maskable: Tensor, starts_word: Tensor | None) -> Tensor:
    """Bool [B, T], True at the first token of each word; a word is maskable throughout."""
    if starts_word is None:
        return maskable
    return maskable & (starts_word | ~_shifted(maskable, False))


def _ngram_lengths(uniforms: Tensor, largest: int) -> Tensor:
    """Int64 like ``uniforms``: 1 to ``largest`` with weights proportional to 1 / length."""
    weights = [1 / length for length in range(1, largest + 1)]
    bounds = [total / sum(weights) for total in accumulate(weights)]
    return torch.stack([uniforms >= bound for bound in [0.0, *bounds[:-1]]]).sum(0)


def _span_starts(maskable: Tensor, word_starts: Tensor, lengths: Tensor) -> Tensor:
    """Cut the words of each row into spans of ``lengths`` [B, T] words: bool [B, T], True where a span starts."""
    word = word_starts.cumsum(-1) - 1
    span = torch.searchsorted(lengths.cumsum(-1), word, right=True)
    return word_starts & ((span != _shifted(span, -1)) | ~_shifted(maskable, False))


def _choose_spans(maskable: Tensor, starts: Tensor, keys: Tensor, wanted: Tensor) -> Tensor:
    """Bool [B, T], True at the tokens of the chosen spans.

    Args:
        maskable, starts: [B, T] bool. A span reaches from its start to the next one or to the next token that is not
            maskable.
        keys: [B, T]; spans are taken in the order of the keys at their starts.
        wanted: [B, 1] int64, the number of tokens.
    """
    column = torch.arange(maskable.shape[1], device=maskable.device)
    start = (column * starts).cummax(-1).values
    sizes = torch.zeros_like(start).scatter_add(1, start, maskable.long())
    # Columns are spans from here on; those that stand for no span have size 0 and come last.
    order = keys.masked_fill(~starts, 2.0).argsort(-1)
    sizes = sizes.gather(1, order)
    taken, left = torch.zeros_like(maskable), wanted
    for _ in range(_PASSES):
        fitting = sizes.masked_fill(taken | (sizes > left), 0)
        taken = taken | ((fitting > 0) & (fitting.cumsum(-1) <= left))
        left = wanted - (sizes * taken).sum(-1, keepdim=True)
    taken = taken | ((left == wanted) & (column == 0))
    chosen = torch.zeros_like(taken).scatter(1, order, taken).gather(1, start) & maskable
    return chosen & (chosen.cumsum(-1) <= wanted)


def _shifted(values: Tensor, first: float) -> Tensor:
    """[B, T]: the value of the token before, ``first`` for the first token."""
    return F.pad(values[:, :-1], (1, 0), value=first)


def _check(
    input_ids: Tensor,
    maskable: Tensor,
    starts_word: Tensor | None,
    vocab_size: int,
    probability: float,
    max_ngram: int,
) -> None:
    """Check what is used before mask_tokens checks its arguments."""
    if input_ids.dim() != 2:
        raise ValueError(f"input_ids has shape {list(input_ids.shape)}, should be [B, T]")
    if maskable.shape != input_ids.shape:
        raise ValueError(f"maskable has shape {list(maskable.shape)}, should be {list(input_ids.shape)}")
    if starts_word is not None:
        if starts_word.dtype != torch.bool:
            raise TypeError(f"starts_word.dtype is {starts_word.dtype}, should be torch.bool")
        if starts_word.shape != (vocab_size,):
            raise ValueError(
                f"starts_word has shape {list(starts_word.shape)}, should be [V] = [{vocab_size}]"
            )
    if not 0 < probability <= 1:
        raise ValueError(f"probability is {probability}, should be in (0, 1]")
    if max_ngram < 1:
        raise ValueError(f"max_ngram is {max_ngram}, should be at least 1")
