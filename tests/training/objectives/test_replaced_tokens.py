"""Replaced-token detection: its losses against plain torch in float64, head starts and fixed generators."""

import pytest
import torch
from torch.nn import functional as F

from electra_kernels.training.objectives import (
    OBJECTIVES,
    GeneratorObjective,
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    UniformGenerator,
    UnigramGenerator,
    means,
    token_batch,
)

from .float64 import assert_same_loss_and_gradients, mlm_loss, picked
from .vocabulary import SPECIAL, VOCABULARY

WITH_GENERATOR = [name for name, kind in OBJECTIVES.items() if issubclass(kind, GeneratorObjective)]


def bce(logits, labels):
    return F.binary_cross_entropy_with_logits(logits.double(), labels.double())


def test_every_token_is_classified(electra_config, facts, short_and_long_rows, proposals):
    tokens, objective = short_and_long_rows, ReplacedTokenDetection(electra_config, facts)
    loss, _ = objective(objective.batch(tokens, seed=0), 1.0)
    (proposal,) = proposals
    logits = objective.model.discriminator.logits(proposal.replaced.input_ids, tokens.attention_mask)
    classified, labels = tokens.attention_mask, proposal.replaced.is_replaced
    generator_loss = mlm_loss(proposal, objective.model.generator, tokens)
    expected = generator_loss + electra_config.rtd_weight * bce(logits[classified], labels[classified])
    assert_same_loss_and_gradients(objective, loss, expected)


@pytest.mark.parametrize("replacements", ["generator", "unigram"])
def test_the_masked_variant_classifies_the_masked_tokens_only(
    replacements, electra_config, facts, short_and_long_rows, proposals
):
    tokens = short_and_long_rows
    objective = ReplacedTokenDetectionMasked(
        electra_config, facts, head_start=0.5, head_start_replacements=replacements
    )
    loss, sums = objective(objective.batch(tokens, seed=0), 0.2)
    metrics = means(sums)
    (proposal,) = proposals
    logits = objective.model.discriminator.logits(proposal.replaced.input_ids, tokens.attention_mask)
    classified, labels = picked(proposal), proposal.replaced.is_replaced
    generator_loss = mlm_loss(proposal, objective.model.generator, tokens)
    expected = generator_loss + electra_config.rtd_weight * bce(logits[classified], labels[classified])
    assert_same_loss_and_gradients(objective, loss, expected)
    assert metrics["recall"] == pytest.approx((logits[labels] > 0).float().mean().item())
    assert metrics["replaced"] == pytest.approx(labels[classified].float().mean().item())


@pytest.mark.parametrize("name", WITH_GENERATOR)
def test_a_head_start_trains_both_models_on_unigram_draws_or_the_generator_alone(
    name, rows, electra_config, facts
):
    tokens = token_batch(rows, torch.arange(32), torch.device("cpu"))
    options = {"head_start": 0.5, "head_start_replacements": "unigram"}
    objective = OBJECTIVES[name](electra_config, facts, **options)
    batch = objective.batch(tokens, seed=0)
    early, late = (objective(batch, progress)[1] for progress in (0.1, 0.9))
    assert early.keys() == late.keys() == set(objective.metrics)
    alone = OBJECTIVES[name](electra_config, facts, head_start=0.5)
    assert alone(batch, 0.1)[1].keys() == {"mlm_loss", "mlm_accuracy", "sampled_accuracy"}
    assert alone(batch, 0.5)[1].keys() == set(objective.metrics)


def test_a_share_of_the_rows_keeps_unigram_draws_in_training_only(electra_config, facts, short_and_long_rows):
    """It depends on the number of the row, so no cut of the batch changes it."""
    objective = ReplacedTokenDetection(electra_config, facts, unigram_share=0.25)
    numbers = torch.arange(4_000)
    tokens = short_and_long_rows
    many = tokens._replace(
        **{
            name: part[:1].expand(4_000, *part.shape[1:])
            for name, part in tokens._asdict().items()
            if part is not None
        }
    )._replace(numbers=numbers)
    rows = objective.batch(many, seed=3).unigram_rows
    assert rows.double().mean().item() == pytest.approx(0.25, abs=0.03)
    other = objective.batch(many._replace(numbers=numbers.flip(0)), seed=3).unigram_rows
    assert torch.equal(other, rows.flip(0))
    assert objective.eval().batch(many, seed=3).unigram_rows is None


def test_an_unknown_option_is_refused(electra_config, facts):
    with pytest.raises(TypeError, match="tail_start"):
        ReplacedTokenDetection(electra_config, facts, tail_start=0.5)


def test_fixed_generators_draw_by_their_distribution_and_never_a_special_token(config, text):
    uniform, unigram = (
        kind(config, text).model.unigram.shares() for kind in (UniformGenerator, UnigramGenerator)
    )
    assert uniform[SPECIAL.mask + 1 :].allclose(torch.tensor(1 / (VOCABULARY - 5)).double())
    assert unigram.allclose(text.counts.double() / text.counts.sum())
    assert not uniform[: SPECIAL.mask + 1].any()
