"""A tiny ELECTRA of every kind, a batch with padding, and the joint loss in plain torch for comparison."""

import dataclasses

import torch
from torch.nn import functional as F

from electra_kernels import draw_uniforms, mask_tokens
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig

V, MASK = 90, 4
DISCRIMINATOR = EncoderConfig(V, 16, 32, 2, 4, 64, max_position_embeddings=40)
GENERATOR = dataclasses.replace(DISCRIMINATOR, hidden_size=8, num_attention_heads=2, intermediate_size=32)
CONFIGS = {
    "none": ElectraConfig(DISCRIMINATOR, GENERATOR, MASK, tie="none"),
    "embeddings": ElectraConfig(DISCRIMINATOR, GENERATOR, MASK, tie="embeddings"),
    "all": ElectraConfig(DISCRIMINATOR, None, MASK, tie="all"),
    "uniform": ElectraConfig(DISCRIMINATOR, None, MASK, generator_kind="uniform"),
    "unigram": ElectraConfig(DISCRIMINATOR, None, MASK, generator_kind="unigram"),
}
COUNTS = torch.arange(V).where(torch.arange(V) >= 5, 0)


def model(name, unigram=None, starts_word=None, **changes):
    torch.manual_seed(0)
    if name == "unigram":
        unigram = COUNTS
    config = dataclasses.replace(CONFIGS[name], **changes)
    electra = Electra(config, unigram, starts_word=starts_word).eval()
    for parameter in electra.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return electra


def batch(rows=4, length=24, seed=1):
    """Row r ends with r tokens of padding; the first and the last real token of each row are special (1 and 2)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, V, (rows, length), generator=generator)
    attention_mask = torch.ones_like(ids)
    for row in range(rows):
        attention_mask[row, length - row :] = 0
        ids[row, length - row - 1] = 2
    ids[:, 0] = 1
    ids = ids.where(attention_mask == 1, 0)
    return ids, attention_mask, (ids >= 5).long()


def uniforms(ids, seed=7, probability=0.15):
    generator = torch.Generator().manual_seed(seed)
    slots = mask_tokens(
        ids, ids >= 5, mask_token_id=MASK, vocab_size=V, probability=probability
    ).targets.shape
    return {
        "masking_uniforms": draw_uniforms((*slots, 2), generator=generator),
        "sampling_uniforms": draw_uniforms(slots, generator=generator),
    }


def plain_loss(electra, ids, attention_mask, masked, replaced):
    """MLM loss, RTD loss and joint loss in plain torch, with logits at every position."""
    labels = torch.full_like(ids, -100)
    for row, (positions, targets) in enumerate(zip(masked.positions, masked.targets)):
        labels[row, positions[targets >= 0]] = targets[targets >= 0]
    mlm = F.cross_entropy(
        electra.generator.logits(masked.input_ids, attention_mask).flatten(0, 1), labels.flatten()
    )
    logits = electra.discriminator.logits(replaced.input_ids, attention_mask)
    real = attention_mask.bool()
    rtd = F.binary_cross_entropy_with_logits(logits[real], (replaced.input_ids != ids)[real].float())
    return mlm, rtd, mlm + electra.config.rtd_weight * rtd
