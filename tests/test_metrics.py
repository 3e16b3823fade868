import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from electra_kernels.metrics import area_under_curve

# There are few different scores, so most examples have ties.
scored = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=60)


@given(scored.filter(lambda pairs: 0 < sum(label for _, label in pairs) < len(pairs)))
def test_the_area_is_the_mann_whitney_statistic(pairs):
    positive = [score for score, label in pairs if label]
    negative = [score for score, label in pairs if not label]
    expected = mannwhitneyu(positive, negative).statistic / (len(positive) * len(negative))
    scores, labels = torch.tensor(pairs).unbind(1)
    assert area_under_curve(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_only_the_order_of_the_scores_matters():
    labels = torch.tensor([[0, 1], [0, 1]])
    assert area_under_curve(torch.tensor([[1.0, 3.0], [2.0, 4.0]]), labels) == 1.0
    assert area_under_curve(torch.tensor([[9.0, 3.0], [8.0, -4.0]]), labels) == 0.0
    assert area_under_curve(torch.full((2, 2), -math.inf), labels) == 0.5


def test_the_area_is_exact_where_float32_cannot_count():
    scores = torch.arange(20_000_001, dtype=torch.float64)[-40_000:]
    labels = torch.arange(40_000) % 2
    assert area_under_curve(scores, labels) == pytest.approx(0.5 + 0.5 / 20_000, abs=1e-12)


@pytest.mark.parametrize("labels", [[0, 0], [1, 1]])
def test_a_single_class_gives_nan(labels):
    assert math.isnan(area_under_curve(torch.tensor([0.1, 0.2]), torch.tensor(labels)))


def test_a_nan_score_gives_nan():
    assert math.isnan(area_under_curve(torch.tensor([0.1, math.nan]), torch.tensor([0, 1])))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"labels: shape \(3,\) should be that of scores, \(2,\)"):
        area_under_curve(torch.zeros(2), torch.zeros(3))
