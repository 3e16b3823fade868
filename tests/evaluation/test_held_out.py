import math

import pytest
import torch

from electra_kernels.evaluation import held_out as module
from electra_kernels.evaluation.held_out import (
    FixedCorruption,
    binary_entropy,
    evaluate_electra,
    isolated,
    rarity,
    standard_error,
    unigram_entropy,
)
from electra_kernels.metrics import area_under_curve

CPU = torch.device("cpu")


def test_isolated_restores_mode_and_random_state():
    module = torch.nn.Dropout()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    with isolated(module):
        torch.rand(100)
        assert not module.training
        assert not torch.is_grad_enabled()
    assert module.training
    assert torch.equal(torch.rand(3), expected)


def test_isolated_draws_the_same_numbers_each_time():
    module = torch.nn.Dropout()
    draws = []
    for _ in range(2):
        with isolated(module):
            draws.append(torch.rand(3))
    assert torch.equal(*draws)


def test_the_corruption_is_fixed_and_restores_the_random_state(held_out, counts):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = FixedCorruption(held_out, counts)
    assert torch.equal(torch.rand(3), expected)
    second = FixedCorruption(held_out, counts)
    assert torch.equal(first.input_ids, second.input_ids)
    assert first.is_replaced.any()
    assert torch.equal(first.is_replaced, first.input_ids != held_out.input_ids)


def test_a_perfect_score_has_an_auc_of_one_and_a_constant_score_of_a_half(held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    assert fixed.token_auc(fixed.is_replaced.float()) == 1
    assert fixed.token_auc(torch.zeros_like(fixed.input_ids)) == 0.5


def test_the_auc_of_rows_separates_rows_with_a_replaced_token(held_out, counts):
    fixed = FixedCorruption(held_out, counts, share_of_rows=0.5)
    assert fixed.row_auc(fixed.is_replaced.sum(-1)) == 1


def test_scores_cover_all_rows_in_order(held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    assert torch.equal(
        fixed.scores(lambda ids, mask: ids * mask, CPU), (fixed.input_ids * fixed.attention_mask).float()
    )


def test_the_metrics_of_a_model_are_repeatable_and_complete(model, held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    figures = evaluate_electra(model, fixed)
    assert figures == evaluate_electra(model, fixed)
    assert figures["mlm_loss"] == pytest.approx(math.log(counts.numel()), rel=0.2), "untrained: near uniform"
    assert 0 <= figures["auc_random"] <= 1
    assert 0 < figures["replaced"] < 0.2
    assert 0 <= figures["auc_samples_frequency"] <= 1
    assert figures["base_rate_entropy"] == pytest.approx(binary_entropy(figures["replaced"]))


def test_the_metrics_do_not_depend_on_the_batch_size(model, held_out, counts, monkeypatch):
    fixed = FixedCorruption(held_out, counts)
    monkeypatch.setattr(module, "BATCH_ROWS", len(held_out.input_ids))
    whole = evaluate_electra(model, fixed)
    monkeypatch.setattr(module, "BATCH_ROWS", 7)
    parts = evaluate_electra(model, fixed)
    assert parts["auc_random"] == pytest.approx(whole["auc_random"], abs=1e-6)
    # The draws of the masks differ, so these agree only as two samples of one model do.
    assert parts["mlm_loss"] == pytest.approx(whole["mlm_loss"], rel=0.05)
    assert parts["rtd_loss"] == pytest.approx(whole["rtd_loss"], rel=0.05)


def test_the_binary_entropy_is_ln_2_at_a_half_and_0_at_the_ends():
    assert binary_entropy(0.5) == pytest.approx(math.log(2))
    assert binary_entropy(0.0) == binary_entropy(1.0) == 0


def test_rarity_is_the_negative_log_frequency():
    counts = torch.tensor([0, 1, 3])
    scores = rarity(torch.tensor([[2, 1, 0]]), counts)
    assert scores[0].tolist() == pytest.approx([-math.log(4 / 7), -math.log(2 / 7), -math.log(1 / 7)])


def test_the_unigram_entropy_is_the_loss_of_predicting_frequencies(rows, counts):
    shares = counts[counts > 0] / counts.sum()
    assert unigram_entropy(rows, counts) == pytest.approx(float(-(shares * shares.log()).sum()), rel=0.02)


def test_the_standard_error_is_that_of_random_scores():
    torch.manual_seed(0)
    labels = torch.arange(100) < 30
    areas = torch.tensor([area_under_curve(torch.rand(100), labels) for _ in range(1_000)])
    assert standard_error(30, 70) == pytest.approx(areas.std().item(), rel=0.1)
    assert math.isnan(standard_error(0, 5))
