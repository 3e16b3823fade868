"""Fine-tune a pre-trained discriminator on labels per token, and compare it with the same model from scratch.

The labels come from the text itself. The model sees the words in lower case and without commas, and predicts for each
word whether it was capitalised and whether a comma followed.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from electra_kernels import masked_bce_with_logits
from electra_kernels.data.text import Document
from electra_kernels.examples.common import Rows, argument_parser, read_corpus, training_arguments
from electra_kernels.metrics import area_under_curve

LABELS = ("capitalised", "comma")
LENGTH = 128


def labelled_rows(documents: Sequence[Document], tokenizer: PreTrainedTokenizerBase, limit: int) -> Rows:
    """One row per paragraph: input_ids, and labels [T, 2] at the first token of each word, -100 at other tokens."""
    rows = []
    for paragraph in (paragraph for document in documents for paragraph in document.paragraphs):
        words = [word for word in paragraph.split() if any(map(str.isalpha, word))]
        if len(words) < 8:
            continue
        plain = [word.lower().replace(",", "") for word in words]
        encoded = tokenizer(plain, is_split_into_words=True, truncation=True, max_length=LENGTH)
        word_labels = [[int(word[0].isupper()), int(word.endswith(","))] for word in words]
        word_of_token = [None, *encoded.word_ids()]  # None at special tokens
        labels = [
            [-100, -100] if word is None or word == previous else word_labels[word]
            for previous, word in pairwise(word_of_token)
        ]
        rows.append({"input_ids": encoded["input_ids"], "labels": labels})
    step = max(1, len(rows) // limit)
    return rows[::step][:limit]


def collate(tokenizer: PreTrainedTokenizerBase) -> Callable[[Rows], dict[str, Tensor]]:
    def pad(rows: Rows) -> dict[str, Tensor]:
        batch = tokenizer.pad([{"input_ids": row["input_ids"]} for row in rows], return_tensors="pt")
        labels = torch.full((*batch["input_ids"].shape, len(LABELS)), -100)
        for index, row in enumerate(rows):
            labels[index, : len(row["labels"])] = torch.tensor(row["labels"])
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    return pad


def loss(outputs: Any, labels: Tensor, num_items_in_batch: int | Tensor | None = None) -> Tensor:
    return masked_bce_with_logits(outputs.logits, labels, labels != -100, normalizer=num_items_in_batch)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = torch.as_tensor(prediction.predictions), torch.as_tensor(prediction.label_ids)
    labelled = labels[..., 0] != -100
    return {
        f"auc_{name}": area_under_curve(logits[labelled][:, index], labels[labelled][:, index])
        for index, name in enumerate(LABELS)
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argument_parser(__doc__, steps=300)
    parser.add_argument("--model", type=Path, required=True, help="output folder of trainer_from_scratch")
    options = parser.parse_args(arguments)
    folder, names = options.model / "discriminator", dict(enumerate(LABELS))
    corpus, tokenizer = read_corpus(options.text), AutoTokenizer.from_pretrained(folder)
    train, held_out = (
        labelled_rows(corpus.train, tokenizer, 4_000),
        labelled_rows(corpus.held_out, tokenizer, 400),
    )

    def pretrained() -> PreTrainedModel:
        return AutoModelForTokenClassification.from_pretrained(
            folder, id2label=names, ignore_mismatched_sizes=True
        )

    def from_scratch() -> PreTrainedModel:
        return AutoModelForTokenClassification.from_config(AutoConfig.from_pretrained(folder, id2label=names))

    for name, make in (("pre-trained", pretrained), ("from scratch", from_scratch)):
        set_seed(0)
        trainer = Trainer(
            make(),
            training_arguments(options, learning_rate=3e-4),
            train_dataset=train,
            eval_dataset=held_out,
            data_collator=collate(tokenizer),
            compute_loss_func=loss,
            compute_metrics=compute_metrics,
        )
        trainer.train()
        metrics = trainer.evaluate()
        print(f"{name}: " + ", ".join(f"{label} AUC {metrics[f'eval_auc_{label}']:.3f}" for label in LABELS))


if __name__ == "__main__":
    main()
