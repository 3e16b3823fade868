"""What Trainer needs beside the model: batches with labels, and metrics."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedTokenizerBase

from electra_kernels.metrics import area_under_curve

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class DataCollatorForReplacedTokens:
    """Pads, and gives the original ids as labels, -100 at padding. Masking is the model's, on its device.

    Without labels Trainer counts nothing, so that accumulated steps do not add up, and evaluates no metric.

    Args:
        tokenizer: pads.
        pad_to_multiple_of: length of the batch, by default that of its longest row.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows with input_ids → input_ids, attention_mask, labels [B, T] (and token_type_ids); the rest is dropped."""
        rows = [{name: row[name] for name in _INPUTS if name in row} for row in features]
        padded = self.tokenizer.pad(
            rows, pad_to_multiple_of=self.pad_to_multiple_of, return_attention_mask=True, return_tensors="pt"
        )
        batch: dict[str, Tensor] = {name: padded[name] for name in _INPUTS if name in padded}
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """For ``Trainer(compute_metrics=)`` with a `ReplacedTokenDetection`.

    Returns:
        ``auc``, ``precision`` and ``recall`` of the discriminator at finding replaced tokens (at logit 0; nan where
        there is nothing to divide by), over all tokens with a label; ``masked_accuracy`` and ``sampled_accuracy``:
        how often the original has the generator's highest logit, and is drawn, at the masked tokens.
    """
    logits, is_replaced, generator_counts = map(torch.as_tensor, prediction.predictions)
    judged = torch.as_tensor(prediction.label_ids) != -100
    logits, replaced = logits[judged], is_replaced[judged] == 1
    found = logits > 0
    true_positives = int((found & replaced).sum())
    masked, top, drawn = generator_counts.sum(0).tolist()
    return {
        "auc": area_under_curve(logits, replaced),
        "precision": _ratio(true_positives, int(found.sum())),
        "recall": _ratio(true_positives, int(replaced.sum())),
        "masked_accuracy": _ratio(top, masked),
        "sampled_accuracy": _ratio(drawn, masked),
    }


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
