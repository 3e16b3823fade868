"""The command-line options, the text and the training arguments that the examples share."""

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
_SPECIAL = ("pad", "unk", "cls", "sep", "mask")


def add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        help="text files (default: documentation from the package index)",
    )


def argument_parser(description: str | None, *, steps: int, batch_size: int = 32) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    add_text(parser)
    parser.add_argument("--steps", type=int, default=steps, help="optimiser steps (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=batch_size, help="rows per step (default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("example"), help="output folder (default: %(default)s)"
    )
    return parser


def read_corpus(paths: Sequence[Path]) -> Corpus:
    return split_held_out(read_documents(paths) if paths else documentation_text(print))


def transformers_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap a tokenizer for transformers."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": f"[{name.upper()}]" for name in _SPECIAL}
    )


def token_rows(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, *, limit: int | None = None
) -> Rows:
    """Rows of at most ``length`` token ids: all of them, or ``limit`` that are evenly spread."""
    rows = encode_rows(documents, tokenizer, length)
    if limit is not None:
        rows = spread(rows, limit)
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
