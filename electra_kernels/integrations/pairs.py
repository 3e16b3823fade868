"""What makes two Hugging Face models a pair: a vocabulary, a mask token, word embeddings that begin alike."""

from typing import Any, cast

import torch
import transformers
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from electra_kernels.integrations.configuration import ReplacedTokenDetectionConfig


def config_of(
    generator: PreTrainedModel,
    discriminator: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase | None,
    options: dict[str, Any],
) -> ReplacedTokenDetectionConfig:
    """The configuration of a pair, with what the tokenizer says of the ids that the options leave out.

    Raises:
        TypeError, ValueError: no two models of transformers, of different vocabularies, or no mask token.
    """
    for name, model in (("generator", generator), ("discriminator", discriminator)):
        if not isinstance(model, PreTrainedModel):
            raise TypeError(f"{name} is {type(model).__name__}, should be a transformers.PreTrainedModel")
        model.config.architectures = [type(model).__name__]
    assert discriminator is not None
    if tokenizer is not None:
        options.setdefault("mask_token_id", tokenizer.mask_token_id)
        options.setdefault("special_token_ids", tokenizer.all_special_ids)
    if options.get("mask_token_id") is None:
        raise ValueError("mask_token_id is None, should be an id: give it, or a tokenizer that has one")
    sizes = [model.config.vocab_size for model in (generator, discriminator)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"discriminator has a vocabulary of {sizes[1]}, should be {sizes[0]} as the generator's"
        )
    return ReplacedTokenDetectionConfig(generator.config, discriminator.config, **options)


def build(config: PreTrainedConfig) -> PreTrainedModel:
    """A new model of the class that its configuration names.

    Raises:
        ValueError: transformers has no such class.
    """
    name = (config.architectures or ["none"])[0]
    if not hasattr(transformers, name):
        raise ValueError(
            f"architectures of the {config.model_type} is {name}, should be a class of transformers"
        )
    model: PreTrainedModel = getattr(transformers, name)(config)
    return model


def embedding_of(model: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, model.get_input_embeddings())


def embedding_name(model: PreTrainedModel) -> str:
    """Of its word embedding's weight, among its parameters."""
    embedding = embedding_of(model)
    return next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)


@torch.no_grad()
def start_alike(generator: PreTrainedModel, discriminator: PreTrainedModel, embeddings: str) -> None:
    """Give both models the discriminator's word embedding, as `ReplacedTokenDetectionConfig.embeddings` says.

    Raises:
        ValueError: theirs have different shapes.
    """
    if embeddings == "separate":
        return
    ours, theirs = (embedding_of(part).weight for part in (discriminator, generator))
    if ours.shape != theirs.shape:
        raise ValueError(
            f"the word embedding of generator has shape {list(theirs.shape)}, should be {list(ours.shape)} as the "
            f"discriminator's with embeddings={embeddings!r} (or embeddings='separate')"
        )
    theirs.copy_(ours)
    if embeddings == "gradient_disentangled":
        ours.zero_()
