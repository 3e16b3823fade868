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
_BASES = {"electra": ("electra.", "ElectraModel"), "modernbert": ("model.", "ModernBertModel")}


def save_parts(model: Part, folder: Path, tokenizer: Tokenizer, state: Mapping[str, Tensor]) -> None:
    """Write ``discriminator/`` and ``generator/``, or ``encoder/`` for a model without a discriminator.

    Args:
        model: gives the shape.
        folder: an existing folder.
        tokenizer: written with every model.
        state: the whole tensors of ``model.state_dict()``; the model itself may be sharded.
    """
    if isinstance(model, Electra):
        save_transformers(_filled(model.config, state), folder, tokenizer=tokenizer)
        return
    checkpoint = _encoder_checkpoint(model, state, tokenizer)
    write_checkpoint(checkpoint, folder / "encoder")
    save_tokenizer(tokenizer, folder / "encoder", max_length=checkpoint.config["max_position_embeddings"])


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


def _encoder_checkpoint(
    model: Generator | Encoder, state: Mapping[str, Tensor], tokenizer: Tokenizer
) -> Checkpoint:
    """A masked language model, or the base model of an encoder, for transformers."""
    ids = special_ids(tokenizer)
    if isinstance(model, Generator):
        own = {f"generator.{name}": value for name, value in state.items()}
        config = ElectraConfig(model.encoder.config, None, ids.mask, tie="all")
        checkpoint = to_transformers(_filled(config, own))["generator"]
    else:
        own = {f"discriminator.encoder.{name}": value for name, value in state.items()}
        config = ElectraConfig(model.config, None, ids.mask, tie="all")
        whole = to_transformers(_filled(config, own))["discriminator"]
        prefix, name = _BASES[whole.config["model_type"]]
        base = {key.removeprefix(prefix): whole.state[key] for key in whole.state if key.startswith(prefix)}
        checkpoint = Checkpoint({**whole.config, "architectures": [name]}, base)
    return checkpoint._replace(config={**checkpoint.config, "pad_token_id": ids.pad})


def _filled(config: ElectraConfig, state: Mapping[str, Tensor]) -> Electra:
    """A model with these tensors, which are not copied. Weights that ``state`` lacks have no memory."""
    with torch.device("meta"):
        counts = torch.ones(config.discriminator.vocab_size) if config.generator_kind == "unigram" else None
        model = Electra(config, counts)
    model.load_state_dict(dict(state), strict=False, assign=True)
    return model


def _new_generator(encoder: EncoderConfig) -> Checkpoint:
    """A generator with new weights, in the place of one that is not there."""
    return to_transformers(Electra(ElectraConfig(encoder, None, 0, tie="all")))["generator"]
