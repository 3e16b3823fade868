"""A trained model as a folder: config.json, model.safetensors and the vocabulary, complete or not there at all.

A checkpoint holds an `Electra` or, if the objective trains none, the encoder alone. `load_encoder` reads both.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import SHORTEST_ROW
from electra_kernels.data.vocabulary import load_vocabulary, save_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.files import replace_folder, replace_whole, write_whole
from electra_kernels.models import Electra, ElectraConfig, Encoder, EncoderConfig
from electra_kernels.training.objectives import Objective
from electra_kernels.training.recipe import Recipe

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


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
) -> None:
    """`save_checkpoint` for the model of an objective, or its encoder if it trains no `Electra`.

    Args:
        directory: the folder to write.
        objective: in training, maybe with sharded weights.
        tokenizer, recipe: written with the model.
        state: the whole tensors of ``objective.state_dict()``.
    """
    kept: Electra | Encoder = objective.model if isinstance(objective.model, Electra) else objective.encoder
    prefix = next(name for name, module in objective.named_modules() if module is kept) + "."
    own = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
    _save(directory, kept, tokenizer, recipe, objective.name, own)


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
        try:
            save_file(kept, str(unfinished), metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error

    replace_whole(path, write)


def is_configuration(path: Path) -> bool:
    """Whether `save_checkpoint` or `save_objective`, of this version or another, wrote the config.json at ``path``."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "recipe" in values and ("model" in values or "encoder" in values)


def _save(
    directory: Path,
    model: Electra | Encoder,
    tokenizer: Tokenizer,
    recipe: Recipe,
    objective: str,
    state: Mapping[str, Tensor],
) -> None:
    sizes = (
        {"model": model.config.to_dict()} if isinstance(model, Electra) else {"encoder": asdict(model.config)}
    )
    config = {**sizes, "recipe": recipe.to_dict(), "objective": objective}

    def write(folder: Path) -> None:
        write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
        save_weights(model, folder / "model.safetensors", state)
        save_vocabulary(tokenizer, folder)

    replace_folder(directory, write)


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint of `save_checkpoint`.

    Raises:
        UserError: a file is missing or not readable, the weights do not fit config.json, or the folder holds an
            encoder alone.
    """
    model, tokenizer, recipe, objective = _load(directory, device)
    if not isinstance(model, Electra):
        raise UserError(
            f"{directory} holds the encoder that {objective} trained, without a discriminator; it should "
            "come from replaced_tokens or another objective that trains one"
        )
    return Checkpoint(model, tokenizer, recipe, objective)


def load_encoder(directory: Path, device: torch.device | str = "cpu") -> EncoderCheckpoint:
    """Read the encoder that `save_objective` wrote, or that of the discriminator in a whole checkpoint.

    Raises:
        UserError: a file is missing or not readable, or the weights do not fit config.json.
    """
    model, tokenizer, recipe, objective = _load(directory, device)
    encoder = model.discriminator.encoder if isinstance(model, Electra) else model
    return EncoderCheckpoint(encoder, tokenizer, recipe, objective)


def _load(directory: Path, device: torch.device | str) -> tuple[Electra | Encoder, Tokenizer, Recipe, str]:
    config, recipe, objective = _read_config(directory)
    weights = directory / "model.safetensors"
    if not weights.exists():
        raise UserError(_missing(weights))
    tokenizer = load_vocabulary(directory / "tokenizer.json")
    encoder = config.discriminator if isinstance(config, ElectraConfig) else config
    entries, expected = tokenizer.get_vocab_size(), encoder.vocab_size
    if entries != expected:
        raise UserError(f"{directory}/tokenizer.json has {entries} entries, config.json says {expected}")
    try:
        model = _model(config, weights, tokenizer)
        load_model(model, str(weights), device=str(device))
    except (RuntimeError, TypeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{weights} does not fit {directory}/config.json: {line}") from error
    return model.to(device).eval(), tokenizer, recipe, objective


def _model(config: ElectraConfig | EncoderConfig, weights: Path, tokenizer: Tokenizer) -> Electra | Encoder:
    """A model of the shape of ``weights``."""
    if isinstance(config, EncoderConfig):
        return Encoder(config)
    with safe_open(str(weights), framework="pt") as file:
        has_unigram = "unigram.cumulative" in set(file.keys())
    placeholder = torch.ones(config.discriminator.vocab_size)
    has_counts = has_unigram and config.generator_kind != "uniform"
    starts_word = text_facts(tokenizer, placeholder).starts_word
    return Electra(config, placeholder if has_counts else None, starts_word=starts_word)


def _read_config(directory: Path) -> tuple[ElectraConfig | EncoderConfig, Recipe, str]:
    path = directory / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        recipe, objective = Recipe(**values["recipe"]), values.get("objective", "replaced_tokens")
        if not isinstance(recipe.length, int) or not SHORTEST_ROW + 2 <= recipe.length < 2**31:
            raise ValueError(
                f"length is {recipe.length}, should be a whole number of at least {SHORTEST_ROW + 2}"
            )
        if "encoder" in values:
            return EncoderConfig(**values["encoder"]), recipe, objective
        return ElectraConfig.from_dict(values["model"]), recipe, objective
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of electra-kernels pretrain: {error}") from error


def _missing(path: Path) -> str:
    return f"{path} is missing: {path.parent} is no checkpoint of electra-kernels pretrain"
