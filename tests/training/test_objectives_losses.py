"""The losses of the ablations against plain torch, in float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from electra_kernels import mask_tokens
from electra_kernels.training.objectives import (
    AllTokensMLM,
    MaskedLanguageModel,
    ReplacedTokenDetection,
    ReplacedTokenDetectionMasked,
    ReplaceMLM,
    take,
)
from electra_kernels.training.objectives.all_tokens_mlm import copy_loss


@pytest.fixture
def tokens(rows):
    """Six short rows, which leave slots for masks unused, and six long ones."""
    order = rows.attention_mask.sum(-1).argsort()
    return take(rows, torch.cat([order[:6], order[-6:]]), torch.device("cpu"))


@pytest.fixture
def seen(monkeypatch):
    """The proposals that were made while an objective computed its loss."""
    from electra_kernels.models import Proposer

    proposals, propose = [], Proposer.propose

    def record(*arguments, **options):
        proposals.append(propose(*arguments, **options))
        return proposals[-1]

    monkeypatch.setattr(Proposer, "propose", record)
    return proposals


def log_probabilities(generator, input_ids, attention_mask):
    hidden = generator.transform(generator.encoder(input_ids, attention_mask))
    return (hidden @ generator.head.weight.T + generator.head.bias).double().log_softmax(-1)


def picked(proposal):
    """The picked positions [B, T]; unused slots are at position 0, which is never picked."""
    flags = torch.zeros_like(proposal.masked.input_ids, dtype=torch.bool)
    flags.scatter_(1, proposal.masked.positions, True)
    flags[:, 0] = False
    return flags


def mlm_loss(proposal, generator, tokens):
    chances = log_probabilities(generator, proposal.masked.input_ids, tokens.attention_mask)
    return F.nll_loss(chances[picked(proposal)], tokens.input_ids[picked(proposal)])


def assert_same(objective, loss, expected):
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-6)
    parameters = list(objective.parameters())
    ours = torch.autograd.grad(loss, parameters)
    theirs = torch.autograd.grad(expected, parameters)
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_masked_lm(electra_config, facts, tokens, monkeypatch):
    masked = []

    def record(*arguments, **options):
        masked.append(mask_tokens(*arguments, **options))
        return masked[-1]

    monkeypatch.setattr("electra_kernels.training.objectives.masked_lm.mask_tokens", record)
    objective = MaskedLanguageModel(electra_config, facts)
    loss, metrics = objective(tokens, 1.0)
    chances = log_probabilities(objective.model, masked[0].input_ids, tokens.attention_mask)
    chosen = chances.gather(1, masked[0].positions[..., None].expand(-1, -1, chances.shape[-1]))
    used = masked[0].targets >= 0
    assert (used.sum(-1) == (0.15 * tokens.maskable.sum(-1) + 0.5).floor().clamp(min=1)).all()
    assert_same(objective, loss, F.nll_loss(chosen[used], masked[0].targets[used]))
    right = chosen[used].argmax(-1) == masked[0].targets[used]
    assert metrics["mlm_accuracy"] == pytest.approx(right.float().mean().item())


@pytest.mark.parametrize("replacements", ["generator", "unigram"])
def test_masked_replaced_tokens_are_asked_about_the_masks_alone(
    replacements, electra_config, facts, tokens, seen
):
    objective = ReplacedTokenDetectionMasked(
        electra_config, facts, head_start=0.5, head_start_replacements=replacements
    )
    loss, metrics = objective(tokens, 0.2)
    (proposal,) = seen
    logits = objective.model.discriminator.logits(proposal.replaced.input_ids, tokens.attention_mask)
    asked, labels = picked(proposal), proposal.replaced.is_replaced
    expected = F.binary_cross_entropy_with_logits(logits[asked].double(), labels[asked].double())
    assert_same(
        objective,
        loss,
        mlm_loss(proposal, objective.model.generator, tokens) + electra_config.rtd_weight * expected,
    )
    assert metrics["recall"] == pytest.approx((logits[labels] > 0).float().mean().item())
    assert metrics["replaced"] == pytest.approx(labels[asked].float().mean().item())


def test_replaced_tokens_are_asked_about_every_token(electra_config, facts, tokens, seen):
    objective = ReplacedTokenDetection(electra_config, facts)
    loss, _ = objective(tokens, 1.0)
    (proposal,) = seen
    logits = objective.model.discriminator.logits(proposal.replaced.input_ids, tokens.attention_mask)
    asked, labels = tokens.attention_mask, proposal.replaced.is_replaced
    expected = F.binary_cross_entropy_with_logits(logits[asked].double(), labels[asked].double())
    assert_same(
        objective,
        loss,
        mlm_loss(proposal, objective.model.generator, tokens) + electra_config.rtd_weight * expected,
    )


def test_replace_mlm_predicts_the_original_behind_the_samples(electra_config, facts, tokens, seen):
    objective = ReplaceMLM(electra_config, facts)
    loss, metrics = objective(tokens, 1.0)
    (proposal,) = seen
    chances = log_probabilities(objective.model, proposal.replaced.input_ids, tokens.attention_mask)
    asked = picked(proposal)
    expected = F.nll_loss(chances[asked], tokens.input_ids[asked])
    assert_same(objective, loss, mlm_loss(proposal, objective.proposer.generator, tokens) + expected)
    right = chances[asked].argmax(-1) == tokens.input_ids[asked]
    assert metrics["restoration_accuracy"] == pytest.approx(right.float().mean().item())


def test_all_tokens_mlm_is_the_mixture_of_copying_and_predicting(electra_config, facts, tokens, seen):
    objective = AllTokensMLM(electra_config, facts)
    loss, metrics = objective(tokens, 1.0)
    (proposal,) = seen
    inputs, mask = proposal.replaced.input_ids, tokens.attention_mask
    predicted = log_probabilities(objective.model, inputs, mask).exp()
    copied = objective.copy(objective.model.encoder(inputs, mask)).double().sigmoid()
    # The whole distribution of the model's output, as the paper has it: D on the input, 1 - D on the soft-max.
    distribution = copied * F.one_hot(inputs, predicted.shape[-1]) + (1 - copied) * predicted
    torch.testing.assert_close(distribution.sum(-1), torch.ones_like(distribution[..., 0]))
    every = F.nll_loss(distribution[mask].log(), tokens.input_ids[mask])
    expected = mlm_loss(proposal, objective.proposer.generator, tokens) + every / 0.15
    assert_same(objective, loss, expected)
    assert metrics["copied"] == pytest.approx(copied[mask].mean().item(), rel=1e-5)
    assert metrics["restoration_loss"] == pytest.approx(every.item(), rel=1e-5)


def test_the_copy_mechanism_where_probabilities_underflow():
    copy = torch.tensor([200.0, 200.0, -200.0, -200.0], requires_grad=True)
    word = torch.tensor([300.0, 300.0, 300.0, 300.0], requires_grad=True)
    losses = copy_loss(copy, word, torch.tensor([False, True, False, True]))
    assert losses.tolist() == pytest.approx([0.0, 500.0, 200.0, 300.0])
    losses.sum().backward()
    assert copy.grad.tolist() == pytest.approx([0.0, 1.0, -1.0, 0.0])
    assert word.grad.tolist() == pytest.approx([0.0, 1.0, 0.0, 1.0])
    even = copy_loss(torch.zeros(1), torch.tensor([math.log(4.0)]), torch.tensor([False]))
    assert even.item() == pytest.approx(-math.log(0.5 + 0.5 / 4))
