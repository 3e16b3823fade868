"""The controlled pair: same text, same encoder, same corrupted rows, same steps; only the label differs."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from electra_kernels import linear_masked_bce
from electra_kernels.data.rows import Rows, batches, unigram_counts
from electra_kernels.evaluation.held_out import FixedCorruption, isolated, rarity, standard_error
from electra_kernels.models import ElectraConfig, Encoder, EncoderConfig, electra_config
from electra_kernels.training.objectives import CorruptedRows, CorruptedTokens, TextFacts, token_batch
from electra_kernels.training.objectives.detection import CorruptedBatch
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import Trainer

EVALUATIONS = 12
# The rates are from trials; none of four took the side with one label per row off chance (benchmarks/FINDINGS.md).
PER_TOKEN = Recipe(length=32, batch_size=64, learning_rate=2e-3, warmup=0.05, steps=1_500, vocab_size=4_096)
PER_ROW = replace(PER_TOKEN, learning_rate=1e-3)
PROBE_ROWS = 1_024


def pair_encoder(vocab_size: int) -> EncoderConfig:
    """The demo's encoder at half its depth."""
    demo = electra_config("demo", vocab_size=vocab_size, mask_token_id=0).discriminator
    return replace(demo, num_hidden_layers=2)


def train_pair(
    rows: Rows,
    held_out: Rows,
    vocab_size: int,
    budget: Budget,
    *,
    seed: int,
    device: torch.device,
    report: Callable[[int, float, dict[str, float]], None],
) -> dict[str, Any]:
    """Train both sides step by step in turn, on the same batches, from the same initial weights.

    Returns:
        ``curve``: a list of {step, per_token_tokens, per_token_rows, per_row_rows} (AUC on fixed held-out
        corruptions); ``probe``: AUC for tokens of a linear probe on each frozen encoder and on the untrained one;
        ``auc_frequency``: AUC for tokens of their rarity alone; ``standard_error_rows``, ``standard_error_tokens``
        of an AUC near chance; ``steps``.
    """
    counts = unigram_counts(rows, vocab_size)
    no_ends = torch.empty(0, dtype=torch.int64)  # neither side asks about sentences
    per_token, per_row = make_pair(TextFacts(counts, rows.special_ids, no_ends), seed, device)
    untrained = copy.deepcopy(per_token.model.encoder)
    fixed = FixedCorruption(held_out, counts, share_of_rows=0.5)
    trainers = [Trainer(per_token, PER_TOKEN), Trainer(per_row, PER_ROW)]
    curve: list[dict[str, float]] = []
    step, fraction = 0, 0.0
    for index in batches(rows, PER_TOKEN.batch_size, seed):
        batch = per_token.batch(token_batch(rows, index, device))
        rate_at = budget.fraction(step + 0.5)
        for trainer in trainers:
            trainer.step(batch, rate_at)
        step, fraction = step + 1, budget.fraction(step + 1)
        if fraction >= len(curve) / EVALUATIONS or fraction >= 1.0:
            curve.append({"step": step, **_compare(per_token, per_row, fixed, device)})
            report(step, fraction, curve[-1])
        if fraction >= 1.0:
            break
    probed = per_token.batch(token_batch(rows, next(batches(rows, PROBE_ROWS, seed + 1)), device))
    encoders = {
        "per_token": per_token.model.encoder,
        "per_row": per_row.model.encoder,
        "untrained": untrained,
    }
    return {
        "curve": curve,
        "probe": {name: _probe(encoder, probed, fixed) for name, encoder in encoders.items()},
        "auc_frequency": fixed.token_auc(rarity(fixed.input_ids, counts)),
        "standard_error_rows": _standard_error(fixed.is_replaced.any(-1)),
        "standard_error_tokens": _standard_error(fixed.is_replaced[fixed.maskable]),
        "steps": step,
    }


def make_pair(text: TextFacts, seed: int, device: torch.device) -> tuple[CorruptedTokens, CorruptedRows]:
    """Two objectives on the same module with the same weights."""
    torch.manual_seed(seed)
    encoder, mask = pair_encoder(len(text.counts)), text.special_ids.mask
    config = ElectraConfig(encoder, None, mask, generator_kind="unigram")
    per_token, per_row = CorruptedTokens(config, text), CorruptedRows(config, text)
    per_row.model.load_state_dict(per_token.model.state_dict())
    return per_token.to(device), per_row.to(device)


def _standard_error(labels: Tensor) -> float:
    positives = int(labels.sum())
    return standard_error(positives, labels.numel() - positives)


def _compare(
    per_token: CorruptedTokens, per_row: CorruptedRows, fixed: FixedCorruption, device: torch.device
) -> dict[str, float]:
    with isolated(per_token), isolated(per_row):
        return {
            "per_token_tokens": fixed.token_auc(fixed.scores(per_token.token_scores, device)),
            "per_token_rows": fixed.row_auc(fixed.scores(per_token.row_scores, device)),
            "per_row_rows": fixed.row_auc(fixed.scores(per_row.row_scores, device)),
        }


def _probe(encoder: Encoder, batch: CorruptedBatch, fixed: FixedCorruption) -> float:
    """AUC for tokens of a logistic regression on the states of the frozen encoder, fitted to ``batch``."""
    with isolated(encoder):
        hidden = encoder(batch.replaced.input_ids, batch.attention_mask)
    weight = torch.zeros(hidden.shape[-1], device=hidden.device, requires_grad=True)
    bias = torch.zeros(1, device=hidden.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        rtd = linear_masked_bce(hidden, weight, bias, batch.replaced.is_replaced, batch.attention_mask)
        rtd.loss.backward()
        return rtd.loss

    optimizer.step(loss)
    with isolated(encoder):
        return fixed.token_auc(fixed.scores(lambda ids, mask: encoder(ids, mask) @ weight, hidden.device))
