"""Trainer and accelerate: how a batch is cut does not change the gradient, and evaluation has metrics."""

import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from electra_kernels.integrations import DataCollatorForReplacedTokens, compute_metrics

from . import gradients
from .gradients import accelerate_gradients, rows, tokenizer, trainer_gradients
from .parity import relative_difference, two_ranks

TOLERANCE = 2e-6  # relative to the largest entry of the gradient


@pytest.fixture(scope="module")
def big_batch():
    return trainer_gradients(16, 1)


def test_accumulated_micro_batches_of_unequal_padding_give_the_gradient_of_one_batch(big_batch):
    got, loss = trainer_gradients(4, 4)
    assert relative_difference(got, big_batch[0]) < TOLERANCE
    assert loss == pytest.approx(big_batch[1], rel=1e-5)


def test_a_mean_of_means_is_not_the_gradient_of_one_batch(big_batch, monkeypatch):
    """The test above would fail for a model that ignores the count."""
    monkeypatch.setattr(gradients.ReplacedTokenDetection, "accepts_loss_kwargs", False)
    assert relative_difference(trainer_gradients(4, 4)[0], big_batch[0]) > 1e-3


def test_two_ranks_give_the_gradient_of_one_batch(big_batch):
    """Trainer shuffles in the same order for any number of ranks; the accelerate loops do not shuffle."""
    ranks, plain_loop = two_ranks(), accelerate_gradients(16)
    assert relative_difference(ranks["trainer"], big_batch[0]) < TOLERANCE
    assert relative_difference(ranks["accelerate"], plain_loop) < TOLERANCE
    assert relative_difference(ranks["uneven"], plain_loop) < TOLERANCE


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path):
    """The interruption is in the middle of the second of three epochs of two steps."""

    def train(resume):
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_steps=6,
            save_steps=3,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        model = gradients.model(dropout=0.1)
        data = {"train_dataset": rows(), "data_collator": DataCollatorForReplacedTokens(tokenizer())}
        Trainer(model, arguments, **data).train(resume_from_checkpoint=resume)
        return model.state_dict()

    whole = train(resume=None)
    resumed = train(resume=str(tmp_path / "checkpoint-3"))
    assert whole["rows_seen"].tolist() == [48, 0]
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_the_model_compiles_into_one_graph():
    ours = gradients.model().train()
    compiled = torch.compile(gradients.model().train(), backend="aot_eager", fullgraph=True)
    for start in (0, 4):  # the second batch has other uniforms
        batch = DataCollatorForReplacedTokens(tokenizer(), pad_to_multiple_of=32)(rows()[start : start + 4])
        torch.testing.assert_close(compiled(**batch).loss, ours(**batch).loss)


def test_the_collator_labels_everything_except_padding():
    batch = DataCollatorForReplacedTokens(tokenizer(), pad_to_multiple_of=8)(
        [{"input_ids": [2, 7, 3], "words": 1}, {"input_ids": [2, 7, 8, 9, 3], "words": 2}]
    )
    assert batch["input_ids"].tolist() == [[2, 7, 3, 0, 0, 0, 0, 0], [2, 7, 8, 9, 3, 0, 0, 0]]
    assert batch["labels"].tolist() == [[2, 7, 3] + 5 * [-100], [2, 7, 8, 9, 3] + 3 * [-100]]
    assert batch["attention_mask"].sum(1).tolist() == [3, 5]
    assert sorted(batch) == ["attention_mask", "input_ids", "labels"]


def test_evaluation_has_a_loss_and_metrics(tmp_path):
    ours = gradients.model()
    first = DataCollatorForReplacedTokens(tokenizer())(rows())
    with torch.no_grad():  # logits on both sides of 0
        logits = ours.eval()(**first).logits
        ours.discriminator.discriminator_predictions.dense_prediction.bias -= logits.median()
    trainer = Trainer(
        ours,
        TrainingArguments(
            str(tmp_path), per_device_eval_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True
        ),
        eval_dataset=rows(),
        data_collator=DataCollatorForReplacedTokens(tokenizer()),
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    assert metrics == pytest.approx(
        trainer.evaluate() | {name: metrics[name] for name in metrics if "second" in name or "time" in name}
    )
    ours.eval()
    with torch.no_grad():
        outputs = [
            ours(**DataCollatorForReplacedTokens(tokenizer())(rows()[start : start + 4]))
            for start in range(0, 16, 4)
        ]
    true_positives, false_positives, false_negatives, _ = (
        torch.stack([o.counts for o in outputs]).sum(0).tolist()
    )
    masked, top, drawn = torch.cat([o.generator_counts for o in outputs]).sum(0).tolist()
    assert metrics["eval_precision"] == true_positives / (true_positives + false_positives)
    assert metrics["eval_recall"] == true_positives / (true_positives + false_negatives)
    assert metrics["eval_masked_accuracy"] == top / masked
    assert metrics["eval_sampled_accuracy"] == drawn / masked
    assert 0 < metrics["eval_auc"] < 1
    assert metrics["eval_loss"] > 0


def test_metrics_have_the_right_values_for_known_predictions():
    logits = torch.tensor([[3.0, 1.0, -1.0, 9.0], [2.0, -2.0, -3.0, -100.0]])
    is_replaced = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1]])
    labels = torch.tensor([[5, 5, 5, -100], [5, 5, 5, -100]])
    counts = torch.tensor([[4, 2, 1], [4, 0, 1]])
    prediction = EvalPrediction((logits.numpy(), is_replaced.numpy(), counts.numpy()), labels.numpy())
    metrics = compute_metrics(prediction)
    assert metrics["precision"] == pytest.approx(1 / 3)
    assert metrics["recall"] == pytest.approx(1 / 3)
    assert metrics["auc"] == pytest.approx(4 / 9)
    assert (metrics["masked_accuracy"], metrics["sampled_accuracy"]) == (0.25, 0.25)
    nothing = compute_metrics(EvalPrediction((logits, 0 * is_replaced, 0 * counts), labels))
    assert all(nothing[name] != nothing[name] for name in ("auc", "recall", "masked_accuracy"))
