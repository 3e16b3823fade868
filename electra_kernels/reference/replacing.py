"""Replacing in plain PyTorch: the specification of the ops in `electra_kernels.ops.replacing`."""

import torch
from torch import Tensor

from electra_kernels.reference.sampling import sample_tokens


def replace_tokens(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Write tokens [B, K] at positions [B, K] of input_ids [B, T] and label what changed.

    A negative token keeps the original. A token equal to the original is labelled original.
    """
    length = input_ids.shape[1]
    # Slots that write nothing go to an extra column, which is cut off afterwards.
    columns = positions.where(tokens >= 0, length)
    extended = torch.cat([input_ids, input_ids.new_zeros(input_ids.shape[0], 1)], dim=1)
    replaced = extended.scatter(1, columns, tokens)[:, :length].contiguous()
    return replaced, (replaced != input_ids).contiguous()


def sample_replacements(
    logits: Tensor,
    input_ids: Tensor,
    positions: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor]:
    """`sample_tokens` at logits [B, K, V], then `replace_tokens`; a negative target means no draw."""
    _, tokens, _ = sample_tokens(logits, targets if ban_original else None, uniforms, temperature)
    return replace_tokens(input_ids, positions, tokens.where(targets >= 0, -1))
