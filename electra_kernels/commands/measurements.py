"""Measurements of a pre-training run on held-out text: during the training, and for the report after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from electra_kernels.data.rows import encode_rows, spread
from electra_kernels.data.text import Document
from electra_kernels.data.token_cache import TokenCache
from electra_kernels.errors import UserError
from electra_kernels.evaluation.colouring import ScoredToken, score_rows
from electra_kernels.evaluation.held_out import (
    FixedCorruption,
    Share,
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
from electra_kernels.training.world import World

CURVE_ROWS = 192  # held-out rows of the measurements during the training
FINAL_ROWS = 1_024  # held-out rows of the measurements after it
SAMPLES = 8  # rows in the report
SAMPLE_TOKENS = 4_000_000  # of the training text, for the counts of words


def has_trained_generator(model: nn.Module) -> TypeGuard[Electra]:
    """Whether the model is an `Electra` whose generator is a model too; only such a run has all measurements."""
    return isinstance(model, Electra) and model.generator is not None


class Measurements:
    """The held-out text of a run as rows, and the measurements on them.

    Args:
        cache: the prepared text.
        length: tokens per row, T.

    Raises:
        UserError: the held-out text has no row.
    """

    def __init__(self, cache: TokenCache, length: int) -> None:
        self.cache, self.length = cache, length
        self.held_out = cache.held_out
        self.rows = encode_rows(self.held_out, cache.tokenizer, length)
        if not self.rows.maskable.any():
            raise UserError("too little held-out text: no document has enough known words for a row")
        self.fixed = FixedCorruption(spread(self.rows, CURVE_ROWS), cache.counts)
        self.plateau = unigram_entropy(self.rows, cache.counts)

    def baselines(self) -> dict[str, float]:
        """What a model without context reaches on the rows of the learning curves."""
        fixed = self.fixed
        return {
            "auc_frequency": fixed.token_auc(rarity(fixed.input_ids, self.cache.counts)),
            "unigram_entropy": self.plateau,
        }

    def evaluate(self, objective: Objective, world: World) -> dict[str, float]:
        """The figures of the learning curves; the ranks share the rows, and get the same figures.

        An `Electra` has the metrics of `evaluate_electra`, another objective its own.
        """
        share = Share(world.rank, world.size, world.concatenate)
        model = objective.model
        with _whole(objective):
            metrics = evaluate_electra(model, self.fixed, share) if isinstance(model, Electra) else {}
            if has_trained_generator(model):
                return metrics
            return metrics | evaluate_objective(objective, self.fixed.rows, share)

    def of_electra(self, model: Electra, error_pairs: ErrorPairs | str) -> dict[str, Any]:
        """The measurements of a trained ELECTRA for its report.

        Args:
            model: has a trained generator.
            error_pairs: words that people confuse, or the reason why they are not available.
        """
        rows = spread(self.rows, FINAL_ROWS)
        fixed = FixedCorruption(rows, self.cache.counts)
        return {
            "final": evaluate_electra(model, fixed),
            "baselines": {
                "auc_frequency": fixed.token_auc(rarity(fixed.input_ids, self.cache.counts)),
                "unigram_entropy": unigram_entropy(rows, self.cache.counts),
            },
            "real_word_errors": self._real_word_errors(model, error_pairs),
            "pair": None,
        }

    def _real_word_errors(self, model: Electra, error_pairs: ErrorPairs | str) -> dict[str, Any]:
        if isinstance(error_pairs, str):
            return {"reason": error_pairs}
        device = next(model.parameters()).device
        word_counts = count_words(self.training_sample())

        def score(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return model.discriminator.logits(input_ids.to(device), attention_mask.to(device)).cpu()

        items = real_word_errors(self.held_out, word_counts, error_pairs)
        try:
            with isolated(model):
                return evaluate_real_word_errors(items, self.cache.tokenizer, score, word_counts, self.length)
        except UserError as error:  # no held-out sentence can be given an error
            return {"reason": str(error)}

    def training_sample(self) -> list[Document]:
        """Training documents as text, of up to `SAMPLE_TOKENS` tokens, as the vocabulary writes them."""
        return list(self.cache.documents(SAMPLE_TOKENS))

    def samples(self, model: Electra) -> list[list[ScoredToken]]:
        """Held-out rows with the generator's replacements, scored by the discriminator."""
        rows = spread(self.rows, SAMPLES)
        device = next(model.parameters()).device
        with isolated(model):
            ids, mask, maskable = (
                part.to(device) for part in (rows.input_ids, rows.attention_mask, rows.maskable)
            )
            replaced = model(ids, mask, maskable).replaced
            return score_rows(model.discriminator, self.cache.tokenizer, replaced.input_ids, mask, ids)


@contextmanager
def _whole(objective: Objective) -> Iterator[None]:
    """Within the block every rank has the weights of a sharded objective that lie outside its layers.

    The layers gather their own weights when they run, also if the objective's forward is not called.
    """
    if not isinstance(objective, FSDPModule):
        yield
        return
    objective.unshard()
    try:
        yield
    finally:
        objective.reshard()
