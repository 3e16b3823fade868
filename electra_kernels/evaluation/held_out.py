"""Metrics of a model on held-out text. Nothing here disturbs a training in progress."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from electra_kernels import masked_bce_with_logits
from electra_kernels.data.rows import Rows
from electra_kernels.metrics import area_under_curve
from electra_kernels.models import Electra
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.objectives import Objective, token_batch
from electra_kernels.training.objectives.corrupted import corrupt

BATCH_ROWS = 64
EVALUATION_SEED = 20_260  # a seed that hardly any run has

# (input_ids int64 [B, T], attention_mask bool [B, T]) → a value per token [B, T, ...] or per row [B, ...]
Score = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def isolated(module: nn.Module, seed: int = EVALUATION_SEED) -> Iterator[None]:
    """Evaluation mode without gradients, with random numbers from ``seed``.

    Afterwards the mode of the module and torch's global random state are as they were before.
    """
    training = module.training
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        module.eval()
        try:
            yield
        finally:
            module.train(training)


def slices(rows: Rows) -> Iterator[slice]:
    """The batches of an evaluation: consecutive slices of up to `BATCH_ROWS` rows."""
    count = rows.input_ids.shape[0]
    return (slice(start, start + BATCH_ROWS) for start in range(0, count, BATCH_ROWS))


class FixedCorruption:
    """Held-out rows with some tokens replaced by draws from the word frequencies, always by the same draws.

    Args:
        rows: held-out rows, M of them.
        counts: [V], token counts of the training text, the frequencies of the replacements.
        share_of_rows: probability that a row is corrupted at all.

    Attributes:
        input_ids: int64 [M, T], after the replacement.
        is_replaced, attention_mask, maskable: bool [M, T].
    """

    def __init__(self, rows: Rows, counts: Tensor, *, share_of_rows: float = 1.0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(EVALUATION_SEED)
            replaced = corrupt(rows.input_ids, rows.maskable, Unigram(counts), share_of_rows=share_of_rows)
        self.rows, self.counts = rows, counts
        self.input_ids, self.is_replaced = replaced
        self.attention_mask, self.maskable = rows.attention_mask, rows.maskable

    def scores(self, score: Score, device: torch.device) -> Tensor:
        """The scores of all rows, computed on ``device``: float32 [M, T] or [M], on the CPU."""
        parts = [
            score(self.input_ids[s].to(device), self.attention_mask[s].to(device)).float().cpu()
            for s in slices(self.rows)
        ]
        return torch.cat(parts)

    def token_auc(self, scores: Tensor) -> float:
        """AUC of scores [M, T] at telling replaced from original tokens, over the tokens that could be replaced."""
        return area_under_curve(scores[self.maskable], self.is_replaced[self.maskable])

    def row_auc(self, scores: Tensor) -> float:
        """AUC of scores [M] at telling rows with a replaced token from rows without one."""
        return area_under_curve(scores, self.is_replaced.any(-1))


def evaluate_electra(model: Electra, fixed: FixedCorruption) -> dict[str, float]:
    """Metrics of generator and discriminator on the rows of ``fixed``.

    Returns:
        ``auc_random``: AUC on the fixed corruption. With a trained generator also ``mlm_loss`` (nats per masked
        token) and ``mlm_accuracy``, and on the samples of the generator, over the tokens that could be replaced:
        ``auc_samples``, ``auc_samples_frequency`` (AUC of the rarity of the token alone), ``rtd_loss``,
        ``base_rate_entropy`` (nats, the loss of always predicting the share of replaced tokens), ``recall`` at
        probability 0.5 and ``replaced``, the share of replaced tokens.
    """
    device = next(model.parameters()).device
    with isolated(model):
        figures = {"auc_random": fixed.token_auc(fixed.scores(model.discriminator.logits, device))}
        if model.generator is not None:
            figures |= _evaluate_samples(model, fixed, device)
    return figures


def _evaluate_samples(model: Electra, fixed: FixedCorruption, device: torch.device) -> dict[str, float]:
    index = torch.arange(len(fixed.rows.input_ids))
    parts = [token_batch(fixed.rows, index[s], device) for s in slices(fixed.rows)]
    outputs = [model(part.input_ids, part.attention_mask, part.maskable) for part in parts]
    predicted = torch.stack([(output.masked.targets >= 0).sum() for output in outputs]).double()
    mlm_losses = torch.stack([output.mlm.loss for output in outputs]).double()
    correct = torch.stack([output.mlm.is_top1.sum() for output in outputs]).double()
    logits = torch.cat([output.rtd.logits[part.maskable] for output, part in zip(outputs, parts)])
    labels = torch.cat([output.replaced.is_replaced[part.maskable] for output, part in zip(outputs, parts)])
    ids = torch.cat([output.replaced.input_ids[part.maskable] for output, part in zip(outputs, parts)])
    share = float(labels.double().mean())
    return {
        "mlm_loss": float((mlm_losses * predicted).sum() / predicted.sum()),
        "mlm_accuracy": float(correct.sum() / predicted.sum()),
        "auc_samples": area_under_curve(logits, labels),
        "auc_samples_frequency": area_under_curve(rarity(ids.cpu(), fixed.counts), labels.cpu()),
        "rtd_loss": float(masked_bce_with_logits(logits, labels)),
        "base_rate_entropy": binary_entropy(share),
        "recall": float((logits[labels] > 0).double().mean()) if labels.any() else math.nan,
        "replaced": share,
    }


def evaluate_objective(objective: Objective, rows: Rows) -> dict[str, float]:
    """The objective's own metrics on ``rows``, as at the end of a run: means over batches of rows in random order."""
    device = next(objective.parameters()).device
    sums = dict.fromkeys(objective.metrics, 0.0)
    with isolated(objective):
        for index in torch.randperm(len(rows.input_ids)).split(BATCH_ROWS):
            _, metrics = objective(objective.batch(token_batch(rows, index, device)), 1.0)
            for name in sums:
                sums[name] += float(metrics[name]) * len(index)
    return {name: total / len(rows.input_ids) for name, total in sums.items()}


def binary_entropy(share: float) -> float:
    """-p ln p - (1 - p) ln(1 - p), in nats."""
    p = torch.tensor([share, 1 - share], dtype=torch.float64)
    return float(-torch.xlogy(p, p).sum())


def rarity(input_ids: Tensor, counts: Tensor) -> Tensor:
    """The baseline that knows words but no context: -log frequency of each token.

    Args:
        input_ids: int64 [...].
        counts: [V], token counts of the training text; each is raised by 1.

    Returns:
        float64 [...].
    """
    frequency = (counts.double() + 1) / (counts.sum() + counts.numel())
    return -frequency.log()[input_ids]


def unigram_entropy(rows: Rows, counts: Tensor) -> float:
    """Nats per token of predicting held-out tokens by their frequency alone: a generator has to get below it."""
    return float(rarity(rows.input_ids[rows.maskable], counts).mean())


def standard_error(positives: int, negatives: int) -> float:
    """Standard error of an area under the curve near 1/2: sqrt((n + m + 1) / (12 n m)) (Mann and Whitney 1947)."""
    if not positives or not negatives:
        return math.nan
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
