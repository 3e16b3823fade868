"""Masking in plain PyTorch: the specification of the op in `electra_kernels.ops.masking`."""

import torch
from torch import Tensor

from electra_kernels.reference.common import as_flags

IGNORED = -100  # target of an unused slot, as in torch.nn.functional.cross_entropy


def mask_tokens(
    input_ids: Tensor,
    maskable: Tensor,
    uniforms: Tensor,
    mask_token_id: int,
    vocab_size: int,
    probability: float,
    mask_fraction: float,
    random_fraction: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, maskable (bool) [B, T], uniforms [B, K, 2] → masked ids [B, T], positions, targets [B, K].

    Slot j of a row with n maskable tokens takes the ``floor(u * (n - j))``-th of the tokens that are still left, in
    the order of the sequence. k = min(K, max(1, floor(p * n + 0.5))) slots are used, and none if n = 0
    (create_masked_lm_predictions of google-research/bert, without its shuffle).
    """
    maskable = as_flags(maskable)
    length, slots = input_ids.shape[1], uniforms.shape[1]
    available = maskable.sum(-1)
    wanted = (probability * available.double() + 0.5).floor().long().clamp(min=1)
    used = torch.arange(slots, device=input_ids.device) < torch.minimum(wanted, available)[:, None]
    if length == 0:
        return input_ids.clone(), input_ids.new_zeros(used.shape), input_ids.new_full(used.shape, IGNORED)

    positions = _pick_without_replacement(maskable, uniforms[..., 0]).where(used, 0)
    original = input_ids.gather(1, positions)
    action = uniforms[..., 1]
    written = original.where(action >= mask_fraction, mask_token_id)
    if random_fraction > 0:
        remainder = (action - (1.0 - random_fraction)) / random_fraction
        random_ids = (remainder * vocab_size).long().clamp(0, vocab_size - 1)
        written = written.where((remainder < 0) | (action < mask_fraction), random_ids)

    # Unused slots write to an extra column, which is cut off afterwards.
    extended = torch.cat([input_ids, input_ids.new_zeros(input_ids.shape[0], 1)], dim=1)
    masked = extended.scatter(1, positions.where(used, length), written)[:, :length].contiguous()
    return masked, positions, original.where(used, IGNORED)


def _pick_without_replacement(maskable: Tensor, uniforms: Tensor) -> Tensor:
    """[B, T] bool and [B, K] → [B, K] positions; a row without tokens left repeats a position."""
    left = maskable.clone()
    count = left.sum(-1)
    positions = []
    for slot in range(uniforms.shape[1]):
        remaining = (count - slot).clamp(min=1)
        rank = (uniforms[:, slot] * remaining).long().clamp(max=remaining - 1)
        position = torch.searchsorted(left.cumsum(-1), rank[:, None], right=True)
        position.clamp_(max=maskable.shape[1] - 1)
        left.scatter_(1, position, False)
        positions.append(position)
    return torch.cat(positions, dim=1) if positions else maskable.new_zeros(uniforms.shape, dtype=torch.long)
