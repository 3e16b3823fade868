"""The eager recipes that the ops are measured against: what a careful user of PyTorch writes."""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

MASK, VOCAB_SIZE = 103, 30_522


def gumbel_max(logits: Tensor) -> Tensor:
    """Tokens [...] drawn from softmax(logits [..., V]); the noise is float32 whatever the logits are."""
    noise = -torch.log(-torch.log(torch.rand(logits.shape, device=logits.device).clamp_(min=1e-20)))
    return (logits + noise).argmax(-1)


def exponential_race(logits: Tensor) -> Tensor:
    probabilities = logits.softmax(-1, dtype=torch.float32)
    return probabilities.div_(torch.empty_like(probabilities).exponential_()).argmax(-1)


def multinomial(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(-1, dtype=torch.float32), 1)


def mask(input_ids: Tensor, maskable: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Masked ids [B, T], positions and targets [B, K]: random keys for all B x T tokens, top-k, gather, scatter."""
    keys = torch.rand(input_ids.shape, device=input_ids.device).masked_fill_(~maskable, -1)
    positions = keys.topk(slots).indices
    targets = input_ids.gather(1, positions)
    written = targets.where(torch.rand(targets.shape, device=targets.device) >= 0.85, MASK)
    return input_ids.scatter(1, positions, written), positions, targets


def replace(input_ids: Tensor, positions: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Replaced ids and what changed, both [B, T]."""
    replaced = input_ids.scatter(1, positions, tokens)
    return replaced, replaced != input_ids


def masked_bce(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    losses = binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    return (losses * mask).sum() / mask.sum()
