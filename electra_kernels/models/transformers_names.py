"""Which modules of transformers hold the weights of ours, for each family.

A pair is our module, and the modules of transformers that are stacked, row below row, in ours.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from electra_kernels.models.config import EncoderConfig

Pairs = tuple[tuple[str, tuple[str, ...]], ...]
ModuleNames = Iterator[tuple[str, tuple[str, ...]]]


class Names(NamedTuple):
    """One family in transformers: prefix of the base model, classes, modules."""

    prefix: str
    layers: str
    architectures: dict[str, str]
    output_weight: str
    word_embedding: str
    encoder: Pairs
    layer: Pairs
    heads: dict[str, Pairs]


NAMES = {
    "electra": Names(
        prefix="electra.",
        layers="encoder.layer",
        architectures={
            "discriminator": "ElectraForPreTraining",
            "generator": "ElectraForMaskedLM",
            "encoder": "ElectraModel",
        },
        output_weight="generator_lm_head.weight",
        word_embedding="electra.embeddings.word_embeddings.weight",
        encoder=(
            ("embeddings.word", ("embeddings.word_embeddings",)),
            ("embeddings.position", ("embeddings.position_embeddings",)),
            ("embeddings.token_type", ("embeddings.token_type_embeddings",)),
            ("embeddings.norm", ("embeddings.LayerNorm",)),
            ("projection", ("embeddings_project",)),
        ),
        layer=(
            ("attention.qkv", ("attention.self.query", "attention.self.key", "attention.self.value")),
            ("attention.output", ("attention.output.dense",)),
            ("attention_norm", ("attention.output.LayerNorm",)),
            ("intermediate", ("intermediate.dense",)),
            ("output", ("output.dense",)),
            ("output_norm", ("output.LayerNorm",)),
        ),
        heads={
            "discriminator": (
                ("transform.0", ("discriminator_predictions.dense",)),
                ("head", ("discriminator_predictions.dense_prediction",)),
            ),
            "generator": (
                ("transform.0", ("generator_predictions.dense",)),
                ("transform.2", ("generator_predictions.LayerNorm",)),
                ("head", ("generator_lm_head",)),
            ),
        },
    ),
    "modern": Names(
        prefix="model.",
        layers="layers",
        architectures={
            "discriminator": "ModernBertForTokenClassification",
            "generator": "ModernBertForMaskedLM",
            "encoder": "ModernBertModel",
        },
        output_weight="decoder.weight",
        word_embedding="model.embeddings.tok_embeddings.weight",
        encoder=(
            ("embeddings.word", ("embeddings.tok_embeddings",)),
            ("embeddings.norm", ("embeddings.norm",)),
            ("final_norm", ("final_norm",)),
        ),
        layer=(
            ("attention_norm", ("attn_norm",)),
            ("attention.qkv", ("attn.Wqkv",)),
            ("attention.output", ("attn.Wo",)),
            ("feed_forward_norm", ("mlp_norm",)),
            ("feed_forward.input", ("mlp.Wi",)),
            ("feed_forward.output", ("mlp.Wo",)),
        ),
        heads={
            "discriminator": (
                ("transform.0", ("head.dense",)),
                ("transform.2", ("head.norm",)),
                ("head", ("classifier",)),
            ),
            "generator": (
                ("transform.0", ("head.dense",)),
                ("transform.2", ("head.norm",)),
                ("head", ("decoder",)),
            ),
        },
    ),
}


def encoder_names(config: EncoderConfig, ours: str = "", theirs: str = "") -> ModuleNames:
    """The modules of an encoder; some of them may be absent, such as the projection."""
    names = NAMES[config.family]
    yield from _prefixed(names.encoder, ours, theirs)
    for layer in range(config.num_hidden_layers):
        yield from _prefixed(names.layer, f"{ours}layers.{layer}.", f"{theirs}{names.layers}.{layer}.")


def part_names(part: str, config: EncoderConfig) -> ModuleNames:
    """The modules of a "discriminator", a "generator" or a bare "encoder"."""
    names = NAMES[config.family]
    if part == "encoder":
        yield from encoder_names(config)
    else:
        yield from encoder_names(config, "encoder.", names.prefix)
        yield from names.heads[part]


def _prefixed(pairs: Iterable[tuple[str, tuple[str, ...]]], ours: str, theirs: str) -> ModuleNames:
    for name, sources in pairs:
        yield ours + name, tuple(theirs + source for source in sources)
