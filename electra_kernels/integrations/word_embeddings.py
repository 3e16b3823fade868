"""The word embedding of a Hugging Face model, and how a generator and a discriminator start from the same one."""

from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel


def word_embedding(model: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, model.get_input_embeddings())


def word_embedding_name(model: PreTrainedModel) -> str:
    """The name of the word embedding's weight among the parameters of the model."""
    embedding = word_embedding(model)
    return next(f"{name}.weight" for name, module in model.named_modules() if module is embedding)


@torch.no_grad()
def start_from_one_embedding(
    generator: PreTrainedModel, discriminator: PreTrainedModel, embeddings: str
) -> None:
    """Copy the discriminator's word embedding into the generator, unless embeddings is "separate".

    With "gradient_disentangled" the discriminator's matrix becomes 0: it is then the difference to the generator's.

    Args:
        generator, discriminator: both are changed in place.
        embeddings: as in `ReplacedTokenDetectionConfig`.

    Raises:
        ValueError: the two embeddings have different shapes.
    """
    if embeddings == "separate":
        return
    source, target = (word_embedding(part).weight for part in (discriminator, generator))
    if source.shape != target.shape:
        raise ValueError(
            f"the word embedding of generator has shape {list(target.shape)}, should be {list(source.shape)} as the "
            f"discriminator's with embeddings={embeddings!r} (or embeddings='separate')"
        )
    target.copy_(source)
    if embeddings == "gradient_disentangled":
        source.zero_()
