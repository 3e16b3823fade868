"""The models of a folder in the names of transformers: an `Electra`, a masked language model or an encoder alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.vocabulary import special_ids
from electra_kernels.models import (
    Checkpoint,
    Discriminator,
    Electra,
    ElectraConfig,
    Encoder,
    EncoderConfig,
    Generator,
    from_transformers,
    read_checkpoint,
    save_transformers,
    to_transformers,
)
from electra_kernels.models.transformers_config import encoder_config_from_transformers
from electra_kernels.models.transformers_files import write_checkpoint
from electra_kernels.tokenizer_files import save_tokenizer

Part: TypeAlias = Electra | Generator | Encoder


def save_parts(model: Part, folder: Path, tokenizer: Tokenizer, state: Mapping[str, Tensor]) -> None:
    """Write ``discriminator/`` and ``generator/``, or ``encoder/`` for a model without a discriminator.

    Args:
        model: gives the shape.
        folder: an existing folder.
        tokenizer: written with every model.
        state: the whole tensors of ``model.state_dict()``; the model itself may be sharded.
    """
    if not isinstance(model, Generator):
        save_transformers(model, folder, tokenizer=tokenizer, state=state)
        return
    config = ElectraConfig(model.encoder.config, None, special_ids(tokenizer).mask, tie="all")
    own = {f"generator.{name}": value for name, value in state.items()}
    with torch.device("meta"):
        shape = Electra(config)
    write_checkpoint(to_transformers(shape, tokenizer, state=own)["generator"], folder / "encoder")
    save_tokenizer(
        tokenizer,
        folder / "encoder",
        max_length=config.discriminator.max_position_embeddings,
        has_token_types=config.discriminator.family == "electra",
    )


def load_parts(folder: Path, config: ElectraConfig) -> Electra:
    """The two models of a folder; a new generator where there is none.

    Raises:
        FileNotFoundError, ValueError: as `read_checkpoint` and `from_transformers`.
    """
    discriminator = read_checkpoint(folder / "discriminator")
    if config.generator_kind == "model":
        generator = read_checkpoint(folder / "generator")
    else:
        generator = _new_generator(config.discriminator)
    return from_transformers(discriminator, generator, mask_token_id=config.mask_token_id)


def load_discriminator(folder: Path) -> Discriminator:
    """The discriminator of a folder of transformers.

    Raises:
        FileNotFoundError, ValueError: as `load_parts`; or the head is that of another task.
    """
    checkpoint = read_checkpoint(folder)
    generator = _new_generator(encoder_config_from_transformers(checkpoint.config))
    return from_transformers(checkpoint, generator, mask_token_id=0).discriminator


def read_config(folder: Path, options: Mapping[str, object]) -> ElectraConfig:
    """The configuration of the two models of a folder, with the ``options`` that config.json does not hold."""
    has_generator = options.get("generator_kind", "model") == "model" and options.get("tie") != "all"
    names = ("discriminator", "generator") if has_generator else ("discriminator",)
    encoders = {
        name: encoder_config_from_transformers(read_checkpoint(folder / name).config) for name in names
    }
    return ElectraConfig(encoders["discriminator"], encoders.get("generator"), **options)  # type: ignore[arg-type]


def _new_generator(encoder: EncoderConfig) -> Checkpoint:
    """A generator with new weights, in the place of one that is not there."""
    return to_transformers(Electra(ElectraConfig(encoder, None, 0, tie="all")))["generator"]
