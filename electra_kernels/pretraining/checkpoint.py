"""A trained model as a folder: config.json, model.safetensors and the vocabulary, complete or not there at all."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer

from electra_kernels.models import Electra, ElectraConfig
from electra_kernels.pretraining.errors import UserError
from electra_kernels.pretraining.recipe import Recipe
from electra_kernels.pretraining.vocabulary import load_vocabulary, save_vocabulary


@dataclass
class Checkpoint:
    """A model in evaluation mode, its tokenizer, and the recipe that trained it."""

    model: Electra
    tokenizer: Tokenizer
    recipe: Recipe


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Write into a folder beside ``directory`` and put it in its place only when it is whole."""
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = {"model": checkpoint.model.config.to_dict(), "recipe": checkpoint.recipe.to_dict()}
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_model(checkpoint.model, str(partial / "model.safetensors"))
    save_vocabulary(checkpoint.tokenizer, partial)
    previous = directory.with_name(f"{directory.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if directory.exists():
        os.replace(directory, previous)
    os.replace(partial, directory)
    shutil.rmtree(previous, ignore_errors=True)


def load_checkpoint(directory: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read what `save_checkpoint` wrote.

    Raises:
        UserError: a file is missing, is not readable, or has weights of another shape than config.json says.
    """
    config, recipe = _read_config(directory)
    weights = directory / "model.safetensors"
    if not weights.exists():
        raise UserError(_missing(weights))
    tokenizer = load_vocabulary(directory / "tokenizer.json")
    entries, expected = tokenizer.get_vocab_size(), config.discriminator.vocab_size
    if entries != expected:
        raise UserError(f"{directory}/tokenizer.json has {entries} entries, config.json says {expected}")
    try:
        with safe_open(str(weights), framework="pt") as file:
            has_unigram = "unigram.cumulative" in set(file.keys())
        counts = torch.ones(entries) if has_unigram and config.generator_kind != "uniform" else None
        model = Electra(config, counts)
        load_model(model, str(weights), device=str(device))
    except (RuntimeError, TypeError, SafetensorError) as error:
        line = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{weights} does not fit {directory}/config.json: {line}") from error
    return Checkpoint(model.to(device).eval(), tokenizer, recipe)


def _read_config(directory: Path) -> tuple[ElectraConfig, Recipe]:
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return ElectraConfig.from_dict(config["model"]), Recipe(**config["recipe"])
    except FileNotFoundError:
        raise UserError(_missing(path)) from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no configuration of electra-kernels pretrain: {error}") from error


def _missing(path: Path) -> str:
    return f"{path} is missing: {path.parent} is no checkpoint of electra-kernels pretrain"
