"""The losses of the objectives that predict words, against plain torch in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from electra_kernels import mask_tokens
from electra_kernels.training.objectives import (
    AllTokensMLM,
    MaskedLanguageModel,
    ReplaceMLM,
    masked_batch,
    means,
)
from electra_kernels.training.objectives.masked_lm import copy_loss

from .float64 import assert_same_loss_and_gradients, log_probabilities, mlm_loss, picked


def test_masked_lm_is_the_cross_entropy_at_the_masks(electra_config, facts, short_and_long_rows):
    tokens, objective = short_and_long_rows, MaskedLanguageModel(electra_config, facts)
    batch = objective.batch(tokens, seed=0)
    masked = batch.masked
    loss, sums = objective(batch, 1.0)
    log_p = log_probabilities(objective.model, masked.input_ids, tokens.attention_mask)
    chosen = log_p.gather(1, masked.positions[..., None].expand(-1, -1, log_p.shape[-1]))
    used = masked.targets >= 0
    assert (used.sum(-1) == (0.15 * tokens.maskable.sum(-1) + 0.5).floor().clamp(min=1)).all()
    assert_same_loss_and_gradients(objective, loss, F.nll_loss(chosen[used], masked.targets[used]))
    right = chosen[used].argmax(-1) == masked.targets[used]
    assert means(sums)["mlm_accuracy"] == pytest.approx(right.float().mean().item())


def test_masks_and_samples_have_numbers_of_their_own(short_and_long_rows):
    tokens, given = short_and_long_rows, []

    def mask(input_ids, maskable, *, uniforms):
        given.append(uniforms)
        return mask_tokens(input_ids, maskable, mask_token_id=4, vocab_size=150, uniforms=uniforms)

    batch = masked_batch(mask, tokens, 0.15, seed=0)
    assert batch.sampling_uniforms.shape == batch.masked.targets.shape
    assert given[0].shape == (*batch.masked.targets.shape, 2)
    assert not torch.isin(batch.sampling_uniforms, given[0]).any()


def test_replace_mlm_predicts_the_original_behind_the_samples(
    electra_config, facts, short_and_long_rows, proposals
):
    tokens, objective = short_and_long_rows, ReplaceMLM(electra_config, facts)
    loss, sums = objective(objective.batch(tokens, seed=0), 1.0)
    metrics = means(sums)
    (proposal,) = proposals
    log_p = log_probabilities(objective.model, proposal.replaced.input_ids, tokens.attention_mask)
    classified = picked(proposal)
    expected = F.nll_loss(log_p[classified], tokens.input_ids[classified])
    generator_loss = mlm_loss(proposal, objective.proposer.generator, tokens)
    assert_same_loss_and_gradients(objective, loss, generator_loss + expected)
    right = log_p[classified].argmax(-1) == tokens.input_ids[classified]
    assert metrics["restoration_accuracy"] == pytest.approx(right.float().mean().item())


def test_all_tokens_mlm_is_the_mixture_of_copying_and_predicting(
    electra_config, facts, short_and_long_rows, proposals
):
    tokens, objective = short_and_long_rows, AllTokensMLM(electra_config, facts)
    loss, sums = objective(objective.batch(tokens, seed=0), 1.0)
    metrics = means(sums)
    (proposal,) = proposals
    inputs, mask = proposal.replaced.input_ids, tokens.attention_mask
    predicted = log_probabilities(objective.model, inputs, mask).exp()
    copied = objective.copy(objective.model.encoder(inputs, mask)).double().sigmoid()
    # The whole output distribution as in the paper: D on the input, 1 - D on the soft-max.
    distribution = copied * F.one_hot(inputs, predicted.shape[-1]) + (1 - copied) * predicted
    torch.testing.assert_close(distribution.sum(-1), torch.ones_like(distribution[..., 0]))
    every = F.nll_loss(distribution[mask].log(), tokens.input_ids[mask])
    expected = mlm_loss(proposal, objective.proposer.generator, tokens) + every / 0.15
    assert_same_loss_and_gradients(objective, loss, expected)
    assert metrics["copied"] == pytest.approx(copied[mask].mean().item(), rel=1e-5)
    assert metrics["restoration_loss"] == pytest.approx(every.item(), rel=1e-5)


def test_the_copy_mechanism_is_exact_where_probabilities_underflow():
    copy = torch.tensor([200.0, 200.0, -200.0, -200.0], requires_grad=True)
    word = torch.tensor([300.0, 300.0, 300.0, 300.0], requires_grad=True)
    losses = copy_loss(copy, word, torch.tensor([False, True, False, True]))
    assert losses.tolist() == pytest.approx([0.0, 500.0, 200.0, 300.0])
    losses.sum().backward()
    assert copy.grad.tolist() == pytest.approx([0.0, 1.0, -1.0, 0.0])
    assert word.grad.tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0])
    even = copy_loss(torch.zeros(1), torch.tensor([math.log(4.0)]), torch.tensor([False]))
    assert even.item() == pytest.approx(-math.log(0.5 + 0.5 / 4))
