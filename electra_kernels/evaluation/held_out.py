"""Metrics of a model on held-out text. Nothing here disturbs a training in progress.

The random numbers of an evaluation follow from a seed of their own and the number of the row, so the figures do not
depend on the size of a batch, and several processes can share the rows.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from electra_kernels import masked_bce_with_logits
from electra_kernels.data.rows import Rows
from electra_kernels.metrics import area_under_curve
from electra_kernels.models import Electra
from electra_kernels.models.unigram import Unigram
from electra_kernels.training.hardware import forked_random_state
from electra_kernels.training.objectives import (
    Objective,
    joint_step,
    masked_batch,
    means,
    token_batch,
)
from electra_kernels.training.objectives.corrupted import corrupt
from electra_kernels.training.objectives.draws import stream_seed
from electra_kernels.training.objectives.replaced_tokens import proposal_metrics

BATCH_ROWS = 64
EVALUATION_SEED = 20_260
# The seed of the rows' numbers: 64 hashed bits, so that no run's masks or replacements are those of an evaluation.
_ROWS_SEED = stream_seed(EVALUATION_SEED, "evaluation")

# (input_ids int64 [B, T], attention_mask bool [B, T]) → a value per token [B, T, ...] or per row [B, ...]
Score = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def isolated(module: nn.Module, seed: int = EVALUATION_SEED) -> Iterator[None]:
    """Evaluation mode without gradients, with random numbers from ``seed``.

    Afterwards the mode of the module and torch's global random state are as they were before.
    """
    training = module.training
    with torch.no_grad(), forked_random_state():
        torch.manual_seed(seed)
        module.eval()
        try:
            yield
        finally:
            module.train(training)


@dataclass(frozen=True)
class Share:
    """The part of an evaluation's rows that this process computes; by default all of them.

    All processes compute the same number of batches, because a sharded model computes only together. They get the same
    figures.

    Attributes:
        rank, ranks: which of how many processes this is.
        gather: concatenates a tensor of this process with those of the others along the first dimension, in the order
            of the ranks. Their lengths may differ.
    """

    rank: int = 0
    ranks: int = 1
    gather: Callable[[Tensor], Tensor] = lambda part: part

    def batches(self, index: Tensor) -> tuple[Tensor, ...]:
        """This process's part of the rows ``index`` [M], cut into batches of up to `BATCH_ROWS` rows."""
        largest = -(-len(index) // self.ranks)
        return index.tensor_split(self.ranks)[self.rank].tensor_split(max(1, -(-largest // BATCH_ROWS)))

    def total(self, parts: list[Tensor]) -> Tensor:
        """The sum of the tensors of all batches of all processes."""
        return self.gather(torch.stack(parts).sum(0, keepdim=True)).sum(0)

    def join(self, parts: list[Tensor]) -> Tensor:
        """The tensors of all batches of all processes, concatenated in the order of the rows."""
        return self.gather(torch.cat(parts))


_ALL = Share()


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
        index = torch.arange(len(rows))
        tokens = rows.batch(index, index)
        self.rows, self.counts = rows, counts
        self.input_ids, self.is_replaced = corrupt(
            tokens, Unigram(counts), _ROWS_SEED, share_of_rows=share_of_rows
        )
        self.attention_mask, self.maskable = rows.attention_mask, rows.maskable

    def scores(self, score: Score, device: torch.device, share: Share = _ALL) -> Tensor:
        """The scores of all rows, computed on ``device``: float32 [M, T] or [M], on the CPU."""
        parts = [
            score(self.input_ids[index].to(device), self.attention_mask[index].to(device)).float()
            for index in share.batches(torch.arange(len(self.rows)))
        ]
        return share.join(parts).cpu()

    def token_auc(self, scores: Tensor) -> float:
        """AUC of scores [M, T] at telling replaced from original tokens, over the tokens that could be replaced."""
        return area_under_curve(scores[self.maskable], self.is_replaced[self.maskable])

    def row_auc(self, scores: Tensor) -> float:
        """AUC of scores [M] at telling rows with a replaced token from rows without one."""
        return area_under_curve(scores, self.is_replaced.any(-1))


def evaluate_electra(model: Electra, fixed: FixedCorruption, share: Share = _ALL) -> dict[str, float]:
    """Metrics of generator and discriminator on the rows of ``fixed``.

    Returns:
        ``auc_random``: AUC on the fixed corruption. With a trained generator also ``mlm_loss`` (nats per masked
        token), ``mlm_accuracy`` and ``sampled_accuracy`` (share of the masked tokens whose original was drawn), and on
        the samples of the generator, over the tokens that could be replaced: ``auc_samples``,
        ``auc_samples_frequency`` (AUC of the rarity of the token alone), ``rtd_loss``, ``base_rate_entropy`` (nats, the
        loss of always predicting the share of replaced tokens), ``recall`` at probability 0.5 and ``replaced``, the
        share of replaced tokens.
    """
    device = next(model.parameters()).device
    with isolated(model):
        figures = {"auc_random": fixed.token_auc(fixed.scores(model.discriminator.logits, device, share))}
        if model.generator is not None:
            figures |= _evaluate_samples(model, fixed, device, share)
    return figures


def _evaluate_samples(
    model: Electra, fixed: FixedCorruption, device: torch.device, share: Share
) -> dict[str, float]:
    sums, judged = [], []
    names = "mlm_loss", "mlm_accuracy", "sampled_accuracy"
    for index in share.batches(torch.arange(len(fixed.rows))):
        tokens = token_batch(fixed.rows, index, device)
        batch = masked_batch(model.mask, tokens, model.config.mask_probability, _ROWS_SEED)
        output = joint_step(model, batch)
        assert output.rtd is not None
        assert output.replaced is not None
        metrics = proposal_metrics(output, batch, batch.targets)
        sums.append(torch.stack([metrics[name] for name in names]))
        parts = output.rtd.logits, output.replaced.is_replaced, output.replaced.input_ids
        judged.append([part[tokens.maskable] for part in parts])
    logits, labels, ids = (share.join(list(parts)) for parts in zip(*judged))
    replaced = float(labels.double().mean())
    return means(dict(zip(names, share.total(sums)))) | {
        "auc_samples": area_under_curve(logits, labels),
        "auc_samples_frequency": area_under_curve(rarity(ids.cpu(), fixed.counts), labels.cpu()),
        "rtd_loss": float(masked_bce_with_logits(logits, labels)),
        "base_rate_entropy": binary_entropy(replaced),
        "recall": float((logits[labels] > 0).double().mean()),  # the mean of nothing is nan
        "replaced": replaced,
    }


def evaluate_objective(objective: Objective, rows: Rows, share: Share = _ALL) -> dict[str, float]:
    """The objective's own metrics on all ``rows``, as at the end of a run; nan where no row has a label.

    The order of the rows is random, because `NextSentence` finds the second part of a row in the same batch.
    """
    device = next(objective.parameters()).device
    sums = []
    with isolated(objective):
        for index in share.batches(torch.randperm(len(rows))):
            _, metrics = objective(objective.batch(token_batch(rows, index, device), _ROWS_SEED), 1.0)
            sums.append(torch.stack([metrics[name] for name in objective.metrics]))
    return means(dict(zip(objective.metrics, share.total(sums))))


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
