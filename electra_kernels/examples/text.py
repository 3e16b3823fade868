"""What the examples have in common: their options, and text as the rows that transformers trains on."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, TrainingArguments

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.rows import encode_rows, spread
from electra_kernels.data.text import Corpus, Document, read_documents, split_held_out

Rows = list[dict[str, Any]]
_NAMES = ("pad", "unk", "cls", "sep", "mask")


def parser(description: str | None, *, steps: int, batch_size: int = 32) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument(
        "--text", type=Path, nargs="+", default=[], help="files, by default documentation from pip"
    )
    options.add_argument("--steps", type=int, default=steps, help="optimiser steps (default: %(default)s)")
    options.add_argument(
        "--batch-size", type=int, default=batch_size, help="rows a step (default: %(default)s)"
    )
    options.add_argument("--output", type=Path, default=Path("example"), help="folder (default: %(default)s)")
    return options


def read_corpus(paths: Sequence[Path]) -> Corpus:
    return split_held_out(read_documents(paths) if paths else documentation_text(print))


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers wants it."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": f"[{name.upper()}]" for name in _NAMES}
    )


def rows_of(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, *, most: int | None = None
) -> Rows:
    """Rows of at most ``length`` tokens; of many, ``most`` that are spread evenly."""
    rows = encode_rows(documents, tokenizer, length)
    if most is not None:
        rows = spread(rows, most)
    return [{"input_ids": ids[ids != rows.special_ids.pad].tolist()} for ids in rows.input_ids]


def training_arguments(options: argparse.Namespace, learning_rate: float) -> TrainingArguments:
    return TrainingArguments(
        str(options.output),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=max(1, options.steps // 10),
        weight_decay=0.01,
        logging_steps=50,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
    )
