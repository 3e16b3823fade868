"""A tiny pair of Hugging Face models as an objective, its rows and one step of it."""

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AlbertConfig, BertConfig, DebertaV2Config, ElectraConfig, ModernBertConfig

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from tests.integrations.tiny import ARCHITECTURES, SIZE, V

SPECIAL = SpecialIds(pad=0, unk=3, cls=1, sep=2, mask=4)
KINDS = (AlbertConfig, BertConfig, DebertaV2Config, ElectraConfig, ModernBertConfig)
CONFIGS = {kind.__name__.removesuffix("Config"): kind for kind in KINDS}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tokenizer(size=V):
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", *(f"w{index}" for index in range(5, size))]
    return Tokenizer(WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))


def config(architecture="Bert", **options):
    """A configuration of a base model with another vocabulary than that of the text."""
    sizes = {name: value for name, value in SIZE.items() if name not in ("vocab_size", "pad_token_id")}
    extra = {name: value for name, value in ARCHITECTURES[architecture].items() if "token_id" not in name}
    return CONFIGS[architecture](**{**sizes, **extra, **NO_DROPOUT, "initializer_range": 0.1, **options})


def pair(paths, seed=0, **options):
    torch.manual_seed(seed)
    return TransformersPair(*paths, tokenizer(), SPECIAL, **options)


def rows(count=8, length=24, first=0):
    """Rows of one repeated word, which its neighbours give away; row r ends with r % 5 tokens of padding."""
    numbers = first + torch.arange(count)
    ids = (5 + 7 * numbers % (V - 5))[:, None].repeat(1, length)
    for row in range(count):
        ids[row, length - 1 - row % 5] = SPECIAL.sep
        ids[row, length - row % 5 :] = SPECIAL.pad
    ids[:, 0] = SPECIAL.cls
    return TokenBatch(ids, ids != SPECIAL.pad, ids > SPECIAL.mask, torch.zeros_like(numbers), numbers)


def gradients(objective):
    found = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    return found


def step(objective, tokens, counts=None, seed=3):
    loss, metrics = objective(objective.batch(tokens, seed), 0.0, counts)
    loss.backward()
    return loss.detach(), gradients(objective), metrics
