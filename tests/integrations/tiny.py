"""Tiny models of ten architectures, a batch with padding, and the joint step in plain torch and transformers."""

import torch
import transformers
from torch.nn import functional as F

from electra_kernels import mask_tokens, replace_tokens, sample_tokens
from electra_kernels.integrations import ReplacedTokenDetection

V, MASK, SPECIAL = 90, 4, [0, 1, 2, 3, 4]
SIZE = {
    "vocab_size": V,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
MODERNBERT = {
    "global_attn_every_n_layers": 2,
    "local_attention": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
# Prefix of the class names → options in addition to SIZE. DistilBERT's configuration translates its own option names.
ARCHITECTURES = {
    "Electra": {"embedding_size": 16},
    "Bert": {},
    "Roberta": {},
    "XLMRoberta": {},
    "Deberta": DEBERTA,
    "DebertaV2": DEBERTA,
    "ModernBert": MODERNBERT,
    "DistilBert": {"hidden_dim": 48},
    "Albert": {"embedding_size": 16},
    "MPNet": {},
}
DISCRIMINATORS = {"Electra": "ElectraForPreTraining"}


def pair(architecture, seed=0, **options):
    """Generator and discriminator with weights large enough that no output is near zero."""
    torch.manual_seed(seed)
    settings = SIZE | ARCHITECTURES[architecture] | options
    config = getattr(transformers, f"{architecture}Config")
    kind = DISCRIMINATORS.get(architecture, f"{architecture}ForTokenClassification")
    generator = getattr(transformers, f"{architecture}ForMaskedLM")(config(**settings))
    discriminator = getattr(transformers, kind)(config(**settings, num_labels=1))
    for parameter in (*generator.parameters(), *discriminator.parameters()):
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return generator.eval(), discriminator.eval()


def model(architecture="Electra", seed=0, **options):
    options = {"mask_token_id": MASK, "special_token_ids": SPECIAL} | options
    return ReplacedTokenDetection(*pair(architecture, seed), **options).eval()


def batch(rows=4, length=24, seed=1):
    """Row r ends with r tokens of padding; the first and the last real token of each row are special (1 and 2)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, V, (rows, length), generator=generator)
    attention_mask = torch.ones_like(ids)
    for row in range(rows):
        attention_mask[row, length - row :] = 0
        ids[row, length - row - 1] = 2
    ids[:, 0] = 1
    return ids.where(attention_mask == 1, 0), attention_mask


def uniforms(rows=4, length=24, seed=7):
    slots = max(1, int(0.15 * length + 0.5))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(rows, slots, 3, dtype=torch.float64, generator=generator)
    return {"masking_uniforms": drawn[..., :2], "sampling_uniforms": drawn[..., 2]}


def plain_step(generator, discriminator, ids, attention_mask, masking_uniforms, sampling_uniforms):
    """Joint loss, MLM loss, RTD loss, logits and is_replaced, with transformers' own heads at every position."""
    masked = mask_tokens(
        ids,
        ids >= 5,
        mask_token_id=MASK,
        vocab_size=V,
        max_predictions=masking_uniforms.shape[1],
        uniforms=masking_uniforms,
    )
    labels = torch.full_like(ids, -100)
    used = masked.targets >= 0
    rows = torch.arange(len(ids))[:, None].expand_as(used)
    labels[rows[used], masked.positions[used]] = masked.targets[used]
    output = generator(masked.input_ids, attention_mask=attention_mask)
    mlm = F.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    with torch.no_grad():
        tokens, _ = sample_tokens(output.logits[rows, masked.positions], uniforms=sampling_uniforms)
    replaced = replace_tokens(ids, masked.positions, tokens.where(used, -1))
    logits = discriminator(replaced.input_ids, attention_mask=attention_mask).logits.reshape(ids.shape)
    real = attention_mask.bool()
    rtd = F.binary_cross_entropy_with_logits(logits[real], replaced.is_replaced[real].float())
    return mlm + 50 * rtd, mlm, rtd, logits, replaced.is_replaced
