"""Open an encoder of transformers for fine-tuning: which folder, which head, which limit."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from electra_kernels.errors import UserError
from electra_kernels.finetuning.task import Task

LONGEST_DEFAULT = 512  # tokens
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_PARTS = ("discriminator", "encoder")  # of a folder OUTPUT/model of pretrain
_HEADS = {"tokens": AutoModelForTokenClassification, "sequence": AutoModelForSequenceClassification}


def encoder_folder(folder: Path) -> Path:
    """The folder with config.json: ``folder`` itself, or the part of a pretrain run's model that reads text.

    Raises:
        UserError: there is no model of transformers, or its weights are not in safetensors files.
    """
    candidates = [folder, *(folder / part for part in _PARTS), *(folder / "model" / part for part in _PARTS)]
    candidates = [path for path in candidates if _is_model(path)]
    if not folder.is_dir() or not candidates:
        what = "no such folder" if not folder.exists() else "no model of transformers in it"
        raise UserError(
            f"--model {folder}: {what}, should be a folder with config.json and a tokenizer, or OUTPUT/model of a "
            "pretrain run"
        )
    found = candidates[0]
    if not has_weights(found) and any(found.glob("*.bin")):
        raise UserError(f"--model {found}: has weights in a pickle, should have model.safetensors")
    return found


def has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for name in _WEIGHTS)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The folder's tokenizer.

    Raises:
        UserError: there is none, it cannot say which word a piece belongs to, or it has no padding token.
    """
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # each kind of tokenizer has errors of its own
        raise UserError(f"--model {folder}: the tokenizer cannot be loaded: {first_line(error)}") from error
    if not tokenizer.is_fast:
        raise UserError(
            f"--model {folder}: {type(tokenizer).__name__} should be a fast tokenizer (tokenizer.json)"
        )
    if tokenizer.pad_token is None:
        raise UserError(f"--model {folder}: the tokenizer has no padding token, should have pad_token")
    return tokenizer


def load_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(f"--model {folder}: config.json cannot be read: {first_line(error)}") from error


def load_model(folder: Path, task: Task, *, complete: bool = False) -> PreTrainedModel:
    """The encoder with a head for the task, in float32; random weights if the folder has none.

    A head of another size is replaced. A head of the same size is kept: for two tags, that of a ModernBERT
    discriminator of this package, which has one logit per token as well.

    Args:
        folder: has config.json.
        task: says which head, and names its outputs.
        complete: require weights for every parameter, the head's too.

    Raises:
        UserError: transformers has no head of this kind for the model, or the weights cannot be read.
    """
    names = dict(enumerate(task.outputs))
    options = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    auto = _HEADS[task.task]
    if complete and not has_weights(folder):
        raise UserError(f"--model {folder}: model.safetensors is missing")
    try:
        if not has_weights(folder):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, **options)
            model: PreTrainedModel = auto.from_config(config, dtype=torch.float32)
            return model
        model, found = auto.from_pretrained(
            folder,
            output_loading_info=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=not complete,
            use_safetensors=True,
            local_files_only=True,
            **options,
        )
    except Exception as error:  # safetensors, json and every model raise errors of their own
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            raise
        raise UserError(
            f"--model {folder}: cannot be loaded as {auto.__name__}: {first_line(error)}"
        ) from error
    missing = [
        name for name in found["missing_keys"] if complete or name.startswith(model.base_model_prefix + ".")
    ]
    if missing:
        raise UserError(
            f"--model {folder}: model.safetensors has no {missing[0]}, should hold the whole encoder"
        )
    return model


def length_limit(model: PreTrainedModel) -> int | None:
    """The largest number of tokens that the model accepts; None if it has no such limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    for name, module in model.named_modules():
        # RoBERTa and its kin number positions from the padding index + 1.
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return positions - int(module.padding_idx) - 1
    return positions


def row_length(folder: Path, tokenizer: PreTrainedTokenizerFast, wanted: int | None) -> int:
    """Tokens of a row: ``wanted``, or the limit of the model but at most `LONGEST_DEFAULT`.

    Raises:
        UserError: the model accepts fewer tokens than wanted, or the special tokens leave no room.
    """
    with torch.device("meta"):
        model = AutoModel.from_config(load_config(folder))
    limits = [limit for limit in (length_limit(model), tokenizer.model_max_length) if limit is not None]
    limit = min(limits)
    special = tokenizer.num_special_tokens_to_add(pair=False)
    if wanted is None:
        wanted = min(limit, LONGEST_DEFAULT)
    elif wanted > limit:
        raise UserError(f"--length {wanted} is more than the {limit} tokens that the model accepts")
    if wanted < special + 4:
        raise UserError(
            f"--length {wanted} should be at least {special + 4}: {special} special tokens and 4 others"
        )
    return wanted


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_model(folder: Path) -> bool:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and "model_type" in values
