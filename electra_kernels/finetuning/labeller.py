"""Label new words or texts with a fine-tuned model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from electra_kernels.errors import UserError
from electra_kernels.finetuning.encoded import Array, encode, text_labels, word_tags
from electra_kernels.finetuning.labelled import Example
from electra_kernels.finetuning.model import load_model, load_tokenizer
from electra_kernels.finetuning.task import FILE, Task, load_task

ROWS = 64  # of a batch


@dataclass(frozen=True)
class Labeller:
    """A fine-tuned model with what it needs to label examples."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    task: Task

    @torch.inference_mode()
    def probabilities(self, examples: Sequence[Example]) -> list[Array]:
        """The probabilities of each example, [words, C] of tags or [C] of a text; C = 1 for a pair of tags."""
        encoded = encode(self.task, examples, self.tokenizer)
        rows = [window.input_ids for window in encoded.windows]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))  # little padding
        logits: list[np.ndarray] = [np.empty(0)] * len(rows)
        device = self.model.device
        for start in range(0, len(rows), ROWS):
            chosen = order[start : start + ROWS]
            batch = self.tokenizer.pad([{"input_ids": rows[index]} for index in chosen], return_tensors="pt")
            output = self.model(
                input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
            )
            for index, row in zip(chosen, output.logits.float().cpu().numpy()):
                logits[index] = row[: len(rows[index])] if self.task.task == "tokens" else row
        return encoded.probabilities(logits)

    def tags(self, probabilities: Sequence[Array]) -> list[list[str]]:
        return word_tags(self.task, probabilities)

    def labels(self, probabilities: Sequence[Array]) -> list[str]:
        return text_labels(self.task, probabilities)

    def save(self, folder: Path) -> None:
        """Write a plain transformers folder, and finetuning.json beside it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.task.save(folder)


def load_labeller(folder: Path) -> Labeller:
    """Open what ``electra-kernels finetune`` wrote: its --output, or the folder model in it.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(f"--model {folder}: no such folder")
    inside = folder / "model"
    folder = inside if not (folder / FILE).exists() and (inside / FILE).exists() else folder
    task = load_task(folder)
    if not (folder / "config.json").exists():
        raise UserError(f"--model {folder}: config.json is missing")
    model = load_model(folder, task, complete=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Labeller(model.eval().to(device), load_tokenizer(folder), task)
