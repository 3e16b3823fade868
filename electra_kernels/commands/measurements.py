"""Measurements of a pre-training run on held-out text: during the training, and for the report after it."""

from typing import Any, TypeGuard

from torch import Tensor, nn

from electra_kernels.data.prepared import PreparedText
from electra_kernels.data.rows import spread
from electra_kernels.errors import UserError
from electra_kernels.evaluation.colouring import ScoredToken, score_rows
from electra_kernels.evaluation.held_out import (
    FixedCorruption,
    evaluate_electra,
    evaluate_objective,
    isolated,
    rarity,
    unigram_entropy,
)
from electra_kernels.evaluation.real_word_errors import (
    ErrorPairs,
    count_words,
    evaluate_real_word_errors,
    real_word_errors,
)
from electra_kernels.models import Electra
from electra_kernels.training.objectives import Objective

FINAL_ROWS = 1_024  # held-out rows of the measurements after the training
SAMPLES = 8  # rows in the report


def has_trained_generator(model: nn.Module) -> TypeGuard[Electra]:
    """Whether the model is an `Electra` whose generator is a model too; only such a run has a report."""
    return isinstance(model, Electra) and model.generator is not None


def evaluate_held_out(objective: Objective, fixed: FixedCorruption) -> dict[str, float]:
    """The metrics of an `Electra`; without a trained generator also those of the objective itself."""
    model = objective.model
    metrics = evaluate_electra(model, fixed) if isinstance(model, Electra) else {}
    if has_trained_generator(model):
        return metrics
    return metrics | evaluate_objective(objective, fixed.rows)


def measure_electra(
    model: Electra, text: PreparedText, length: int, error_pairs: ErrorPairs | str
) -> dict[str, Any]:
    """The measurements of a trained ELECTRA for its report.

    Args:
        model: has a trained generator.
        text: text of the run.
        length: tokens per row, T.
        error_pairs: words that people confuse, or the reason why they are not available.
    """
    rows = spread(text.held_out, FINAL_ROWS)
    fixed = FixedCorruption(rows, text.counts)
    return {
        "final": evaluate_electra(model, fixed),
        "baselines": {
            "auc_frequency": fixed.token_auc(rarity(fixed.input_ids, text.counts)),
            "unigram_entropy": unigram_entropy(rows, text.counts),
        },
        "real_word_errors": _measure_real_word_errors(model, text, length, error_pairs),
        "pair": None,
    }


def _measure_real_word_errors(
    model: Electra, text: PreparedText, length: int, error_pairs: ErrorPairs | str
) -> dict[str, Any]:
    if isinstance(error_pairs, str):
        return {"reason": error_pairs}
    device = next(model.parameters()).device
    word_counts = count_words(text.corpus.train)

    def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return model.discriminator.logits(input_ids.to(device), attention_mask.to(device)).cpu()

    items = real_word_errors(text.corpus.held_out, word_counts, error_pairs)
    try:
        with isolated(model):
            return evaluate_real_word_errors(items, text.tokenizer, score, word_counts, length)
    except UserError as error:  # no held-out sentence can be given an error
        return {"reason": str(error)}


def coloured_samples(model: Electra, text: PreparedText) -> list[list[ScoredToken]]:
    """Held-out rows with the generator's replacements, scored by the discriminator."""
    rows = spread(text.held_out, SAMPLES)
    device = next(model.parameters()).device
    with isolated(model):
        ids, mask, maskable = (
            part.to(device) for part in (rows.input_ids, rows.attention_mask, rows.maskable)
        )
        replaced = model(ids, mask, maskable).replaced
        return score_rows(model.discriminator, text.tokenizer, replaced.input_ids, mask, ids)
