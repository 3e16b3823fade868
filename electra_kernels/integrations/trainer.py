"""The data collator and the metrics that `transformers.Trainer` needs beside a `ReplacedTokenDetection`."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedTokenizerBase

from electra_kernels.metrics import area_under_curve

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass
class DataCollatorForReplacedTokens:
    """Pads rows, and gives the original ids as labels, -100 at padding. The model itself masks, on its device.

    Trainer needs the labels: without them it does not count the tokens, so that accumulated steps do not add up, and
    it computes no metrics.

    Args:
        tokenizer: pads the rows.
        pad_to_multiple_of: the padded length is a multiple of it; by default it is the length of the longest row.
    """

    tokenizer: PreTrainedTokenizerBase
    pad_to_multiple_of: int | None = None

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate rows with input_ids.

        Returns:
            input_ids, attention_mask and labels [B, T] int64, and token_type_ids if the rows have them. Other columns
            are dropped.
        """
        rows = [{name: row[name] for name in _INPUTS if name in row} for row in features]
        padded = self.tokenizer.pad(
            rows, pad_to_multiple_of=self.pad_to_multiple_of, return_attention_mask=True, return_tensors="pt"
        )
        batch: dict[str, Tensor] = {name: padded[name] for name in _INPUTS if name in padded}
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return batch


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Metrics of a `ReplacedTokenDetection`, for ``Trainer(compute_metrics=)``.

    Returns:
        ``auc``, ``precision`` and ``recall``: how well the discriminator finds replaced tokens among all tokens with a
        label (precision and recall at logit 0; nan where the denominator is 0).
        ``masked_accuracy`` and ``sampled_accuracy``: how often, at the masked tokens, the original has the generator's
        highest logit, and how often it is drawn.
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
