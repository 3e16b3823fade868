"""One training with transformers' Trainer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from electra_kernels import masked_bce_with_logits
from electra_kernels.finetuning.encoded import Encoded
from electra_kernels.finetuning.layers import make_optimizer
from electra_kernels.finetuning.pieces import IGNORED
from electra_kernels.finetuning.settings import WARMUP, WEIGHT_DECAY, Settings
from electra_kernels.finetuning.task import Task
from electra_kernels.models.precision import has_native_bfloat16

EVALUATION_ROWS = 64
_TRAINER_FIGURES = {"loss", "runtime", "samples_per_second", "steps_per_second", "epoch"}

# Called with the fraction of the training that is done and, after an epoch, its figures.
Report = Callable[[float, Mapping[str, float] | None], None]


@dataclass(frozen=True)
class Epoch:
    """An epoch's mean training loss, and the figures on the held-out examples after it."""

    loss: float
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Fitted:
    """A trained model, with the weights of its best epoch, in evaluation mode."""

    model: PreTrainedModel
    epochs: list[Epoch]
    steps: int
    seconds: float

    def best_epoch(self, figure: str) -> int:
        """The first epoch with the best figure, from 1; its weights are those of the model."""
        values = [epoch.figures[figure] for epoch in self.epochs]
        return values.index(max(values)) + 1


def fit(
    make_model: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    train: Encoded,
    held_out: Encoded,
    settings: Settings,
    *,
    seed: int,
    scratch: Path,
    report: Report = lambda fraction, figures: None,
) -> Fitted:
    """Train until the last epoch, or until ``settings.patience`` epochs bring no better score on ``held_out``.

    Args:
        make_model: called once the seed is set, because it draws the weights of the head.
        tokenizer: gives the padding.
        train, held_out: labelled rows.
        settings: hyperparameters.
        seed: of the head, the order of the rows and dropout.
        scratch: folder for the weights of the best epoch so far.
        report: called after every step and every epoch.
    """
    set_seed(seed)
    model, task = make_model(), train.task
    history = _History(report)
    is_binary = task.is_binary
    trainer = Trainer(
        model,
        _training_arguments(task, settings, seed, scratch),
        train_dataset=train.rows(),
        eval_dataset=held_out.rows(),
        data_collator=collator(task, tokenizer),
        compute_loss_func=binary_loss(task.positive_weight) if is_binary else None,
        compute_metrics=lambda prediction: _figures(held_out, prediction),
        callbacks=[EarlyStoppingCallback(settings.patience), history],
        optimizers=(
            make_optimizer(
                model,
                learning_rate=settings.learning_rate,
                layer_decay=settings.layer_decay,
                weight_decay=WEIGHT_DECAY,
            ),
            None,
        ),
    )
    trainer.remove_callback(PrinterCallback)
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    return Fitted(model.eval(), history.epochs, trainer.state.global_step, seconds)


def collator(task: Task, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[dict[str, Any]]], Any]:
    """Pads rows to the longest one; labels of tokens with `IGNORED`."""
    kind = DataCollatorWithPadding if task.task == "sequence" else DataCollatorForTokenClassification
    return kind(tokenizer)


def binary_loss(positive_weight: float) -> Callable[..., Tensor]:
    """The loss of one logit per token, in which a positive token counts ``positive_weight`` times."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: int | Tensor | None = None) -> Tensor:
        logits = outputs.logits.squeeze(-1)
        return masked_bce_with_logits(
            logits, labels, labels != IGNORED, pos_weight=positive_weight, normalizer=num_items_in_batch
        )

    return loss


def _training_arguments(task: Task, settings: Settings, seed: int, scratch: Path) -> TrainingArguments:
    has_gpu = torch.cuda.is_available()
    devices = max(1, torch.cuda.device_count())
    return TrainingArguments(
        str(scratch),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=max(1, settings.batch_size // devices),
        per_device_eval_batch_size=EVALUATION_ROWS,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,  # below 1 it is a share of the steps
        max_grad_norm=1.0,
        # "group_by_length" would save padding, but it reorders the evaluation's rows, too.
        train_sampling_strategy="random",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model=task.main_figure,
        greater_is_better=True,
        logging_strategy="epoch",
        remove_unused_columns=False,
        label_names=["labels"],
        bf16=has_gpu and has_native_bfloat16(torch.device("cuda")),
        dataloader_pin_memory=has_gpu,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        seed=seed,
    )


def _figures(held_out: Encoded, prediction: EvalPrediction) -> dict[str, float]:
    logits: Any = prediction.predictions
    figures = held_out.score(held_out.probabilities(logits)).figures
    if held_out.task.is_binary:  # the threshold is chosen after the training
        return {name: figures[name] for name in ("auc", "average_precision")}
    return figures


class _History(TrainerCallback):
    """Keeps the figures of each epoch and reports them."""

    def __init__(self, report: Report) -> None:
        self.report, self.loss = report, float("nan")
        self.epochs: list[Epoch] = []

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.report(state.global_step / state.max_steps, None)

    def on_log(self, args: Any, state: Any, control: Any, **event: Any) -> None:
        self.loss = event["logs"].get("loss", self.loss)

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **event: Any) -> None:
        metrics = {name.removeprefix("eval_"): value for name, value in event["metrics"].items()}
        figures = {name: value for name, value in metrics.items() if name not in _TRAINER_FIGURES}
        self.epochs.append(Epoch(self.loss, figures))
        self.report(state.global_step / state.max_steps, {"loss": self.loss, **figures})
