"""Corruption without a generator: tokens replaced by draws from the word frequencies of the text."""

from torch import Tensor

from electra_kernels import ReplacedTokens, draw_uniforms, mask_tokens, replace_tokens
from electra_kernels.models.unigram import Unigram


def corrupt(
    input_ids: Tensor,
    maskable: Tensor,
    unigram: Unigram,
    *,
    probability: float = 0.15,
    share_of_rows: float = 1.0,
) -> ReplacedTokens:
    """Replace a share of the tokens of each picked row by draws from the word frequencies.

    A draw that equals the original is labelled original. The random numbers come from torch's global generator.

    Args:
        input_ids, maskable: [B, T].
        unigram: the distribution of the replacements.
        probability: share of the maskable tokens that is replaced, exactly, in each picked row.
        share_of_rows: probability with which a row is picked.
    """
    vocab_size = unigram.cumulative.shape[0]
    slots = mask_tokens(
        input_ids,
        maskable,
        mask_token_id=0,
        vocab_size=vocab_size,
        probability=probability,
        mask_fraction=0.0,
    )
    picked = draw_uniforms(slots.targets.shape[:1], device=input_ids.device) < share_of_rows
    targets = slots.targets.where(picked[:, None], -100)
    tokens = unigram(targets, uniforms=draw_uniforms(targets.shape, device=targets.device))
    return replace_tokens(input_ids, slots.positions, tokens)
