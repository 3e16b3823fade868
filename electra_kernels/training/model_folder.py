"""The folder of a trained model: plain folders of transformers, and beside them what transformers does not store.

    electra_kernels.json    format, objective, recipe, and the options of `ElectraConfig`
    README.md               the model card
    discriminator/          config.json, model.safetensors and the tokenizer, which transformers loads
    generator/              the same, if the generator is a model
    encoder/                in place of both, if the objective trains no discriminator
    unigram.safetensors     the token frequencies, if the model draws replacements by them

The folder is complete or not there at all. `load_encoder` reads every one, `load_checkpoint` one with a discriminator.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels.data.facts import text_facts
from electra_kernels.data.vocabulary import load_vocabulary, save_word_list
from electra_kernels.errors import UserError
from electra_kernels.files import replace_folder, replace_whole
from electra_kernels.models import (
    Discriminator,
    Electra,
    ElectraConfig,
    Encoder,
    Generator,
    encoder_from_transformers,
    read_checkpoint,
)
from electra_kernels.training.model_description import (
    FOLDERS,
    UNIGRAM,
    existing,
    former_layout,
    read_description,
    write_description,
)
from electra_kernels.training.model_parts import Part, load_discriminator, load_parts, read_config, save_parts
from electra_kernels.training.objectives import Objective
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import Recipe

# An embedding may have rows that no token uses: they are often padded to a multiple of 64 or 128.
MOST_PADDING = 127
Finish: TypeAlias = Callable[[Path], object]
_PLAIN_LENGTH = 512  # tokens of a row for a model that does not say how it was trained
_ENCODERS = ("discriminator", "generator")  # fields of ElectraConfig that transformers' config.json holds


@dataclass
class Checkpoint:
    """A model, its tokenizer, the recipe that trained it, and the name of the objective.

    A loaded model is in evaluation mode. The model keeps the tokenizer too, so that
    `electra_kernels.models.save_transformers` writes both.
    """

    model: Electra
    tokenizer: Tokenizer
    recipe: Recipe
    objective: str = "replaced_tokens"

    def __post_init__(self) -> None:
        self.model.tokenizer = self.tokenizer


@dataclass
class EncoderCheckpoint:
    """An encoder alone, with its tokenizer, the recipe that trained it, and the name of the objective."""

    encoder: Encoder
    tokenizer: Tokenizer
    recipe: Recipe
    objective: str


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write a folder beside ``directory`` and move it to ``directory`` when it is complete.

    Raises:
        OSError: a file cannot be written; ``directory`` still holds what it held.
    """
    model = checkpoint.model
    _save(directory, model, checkpoint.tokenizer, checkpoint.recipe, checkpoint.objective, model.state_dict())


def save_objective(
    directory: Path,
    objective: Objective,
    tokenizer: Tokenizer,
    recipe: Recipe,
    state: Mapping[str, Tensor],
    *,
    finish: Finish | None = None,
) -> None:
    """`save_checkpoint` for the model of an objective.

    It is an `Electra`, a masked language model, a pair of transformers, or else the encoder alone.

    Args:
        directory: the folder to write.
        objective: in training, maybe with sharded weights.
        tokenizer, recipe: written with the model.
        state: the whole tensors of ``objective.state_dict()``.
        finish: called with the unfinished folder when it has all models, to add to it.
    """
    if isinstance(objective, TransformersPair):
        _save_pair(directory, objective, recipe, state, finish)
        return
    model = objective.model
    kept = model if isinstance(model, Electra | Generator) else objective.encoder
    prefix = next(name for name, module in objective.named_modules() if module is kept) + "."
    own = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    _save(directory, kept, tokenizer, recipe, objective.name, own, finish)


def _save_pair(
    directory: Path,
    objective: TransformersPair,
    recipe: Recipe,
    state: Mapping[str, Tensor],
    finish: Finish | None,
) -> None:
    def write(folder: Path) -> None:
        write_description(folder, objective.name, recipe, {})
        with _disk_errors(directory):
            objective.save(folder, dict(state))
        if finish is not None:
            finish(folder)

    replace_folder(directory, write)


def save_weights(model: nn.Module, path: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the parameters and buffers of ``model`` as safetensors, whole or not at all; a tied weight once.

    Args:
        model: names the tensors.
        path: the file.
        state: the tensors by their names in ``model.state_dict()``, which is the default.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = model.state_dict() if state is None else state
    distinct = (name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in tensors)
    kept = {name: tensors[name].contiguous() for name in distinct}

    def write(unfinished: Path) -> None:
        with _disk_errors(path):
            save_file(kept, str(unfinished), metadata={"format": "pt"})

    replace_whole(path, write)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Raise the OSError that safetensors has wrapped, and name ``path`` in it."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def _save(
    directory: Path,
    model: Part,
    tokenizer: Tokenizer,
    recipe: Recipe,
    objective: str,
    state: Mapping[str, Tensor],
    finish: Finish | None = None,
) -> None:
    def write(folder: Path) -> None:
        write_description(folder, objective, recipe, _options(model))
        with _disk_errors(directory):
            save_parts(model, folder, tokenizer, state)
        for name in FOLDERS:
            if (folder / name).is_dir():
                save_word_list(tokenizer, folder / name)
        if isinstance(model, Electra) and model.unigram and model.config.generator_kind != "uniform":
            save_weights(model.unigram, folder / UNIGRAM, {"cumulative": state["unigram.cumulative"]})
        if finish is not None:
            finish(folder)

    replace_folder(directory, write)


def _options(model: nn.Module) -> dict[str, Any]:
    """The options of an `Electra` that are not in the config.json of its parts."""
    if not isinstance(model, Electra):
        return {}
    names = (field.name for field in fields(ElectraConfig) if field.name not in _ENCODERS)
    return {name: getattr(model.config, name) for name in names}


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`.

    Raises:
        UserError: a file is missing or not readable, the weights do not fit their config.json, the folder holds no
            discriminator, or an earlier version wrote it.
    """
    recipe, objective, options = read_description(directory)
    if not (directory / "discriminator").is_dir() and (directory / "encoder").is_dir():
        raise UserError(
            f"{directory} holds the encoder that {objective} trained, without a discriminator; it should "
            "come from replaced_tokens or another objective that trains one"
        )
    if objective == TransformersPair.name:
        raise UserError(
            f"{directory} holds a pair of models that only transformers runs: load its folders discriminator and "
            "generator with transformers"
        )
    tokenizer = load_vocabulary(existing(directory / "discriminator" / "tokenizer.json"))
    with _one_line(directory):
        model = _electra(directory, options, tokenizer)
    return Checkpoint(model.to(device).eval(), tokenizer, recipe, objective)


def load_detector(directory: Path) -> tuple[Discriminator, Tokenizer, int]:
    """The discriminator of a checkpoint or of one folder of transformers, its tokenizer, and the length of its rows.

    Raises:
        UserError: as `load_checkpoint`.
    """
    is_plain = (directory / "config.json").exists() and (directory / "tokenizer.json").exists()
    if not is_plain or former_layout(directory):
        checkpoint = load_checkpoint(directory)
        return checkpoint.model.discriminator, checkpoint.tokenizer, checkpoint.recipe.length
    with _one_line(directory):
        discriminator = load_discriminator(directory)
    config = discriminator.encoder.config
    tokenizer = load_vocabulary(directory / "tokenizer.json")
    _check_entries(directory, tokenizer, config.vocab_size)
    return discriminator.eval(), tokenizer, min(_PLAIN_LENGTH, config.max_position_embeddings)


def load_encoder(directory: Path, device: torch.device | str = "cpu") -> EncoderCheckpoint:
    """Read the encoder that `save_objective` wrote, or that of the discriminator in a whole checkpoint.

    Raises:
        UserError: a file is missing or not readable, the weights do not fit their config.json, or an earlier version
            wrote the folder.
    """
    recipe, objective, _ = read_description(directory)
    folder = directory / ("encoder" if (directory / "encoder").is_dir() else "discriminator")
    tokenizer = load_vocabulary(existing(folder / "tokenizer.json"))
    with _one_line(directory):
        encoder = encoder_from_transformers(read_checkpoint(folder))
        _check_entries(folder, tokenizer, encoder.config.vocab_size)
    return EncoderCheckpoint(encoder.to(device), tokenizer, recipe, objective)


def _electra(directory: Path, options: dict[str, Any], tokenizer: Tokenizer) -> Electra:
    """The model whose parts are the folders ``discriminator`` and ``generator``."""
    config = read_config(directory, options)
    size = config.discriminator.vocab_size
    _check_entries(directory / "discriminator", tokenizer, size)
    state = load_parts(directory, config).state_dict()
    counts, has_counts = torch.ones(size), (directory / UNIGRAM).exists()
    starts_word = text_facts(tokenizer, counts).starts_word
    model = Electra(config, counts if has_counts else None, starts_word=starts_word)
    own = model.state_dict()
    model.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    if has_counts and model.unigram is not None:
        model.unigram.load_state_dict(load_file(directory / UNIGRAM))
    return model


def _check_entries(folder: Path, tokenizer: Tokenizer, expected: int) -> None:
    entries = tokenizer.get_vocab_size()
    if not entries <= expected <= entries + MOST_PADDING:
        raise UserError(f"{folder}/tokenizer.json has {entries} entries, config.json says {expected}")


@contextmanager
def _one_line(directory: Path) -> Iterator[None]:
    """Turn the errors of reading a model into one line for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"{error}: {directory} is no checkpoint of electra-kernels pretrain") from error
    except (ValueError, TypeError, RuntimeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{directory} cannot be loaded: {line}") from error
