"""Scores against counts by hand, scikit-learn and the package's own AUC."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import fbeta_score

from electra_kernels.finetuning.scores import (
    best_threshold,
    entities,
    score_binary,
    score_entities,
    score_labels,
)
from electra_kernels.metrics import area_under_curve


def test_entity_f1_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER"]]
    predicted = [["B-PER", "I-PER", "O", "B-PER"], ["O", "B-PER"]]
    scores = score_entities(gold, predicted)  # 3 gold, 3 predicted, 2 right
    assert scores.figures["precision"] == scores.figures["recall"] == pytest.approx(2 / 3)
    assert scores.figures["f1"] == pytest.approx(2 / 3)
    assert scores.figures["accuracy"] == pytest.approx(5 / 6)
    person = scores.labels["PER"]
    assert (person.precision, person.recall, person.count) == (pytest.approx(2 / 3), 1.0, 2)
    assert scores.labels["LOC"].f1 == 0.0


def test_a_wrong_end_is_a_wrong_entity():
    figures = score_entities([["B-X", "I-X", "O"]], [["B-X", "O", "O"]]).figures
    assert figures["f1"] == 0.0


def test_inside_without_begin_is_no_entity():
    assert entities([["O", "I-X", "B-X", "I-X"]])[0].to_tuple()[1:] == ("X", 2, 4)
    assert score_entities([["O", "B-X"]], [["I-X", "B-X"]]).figures["f1"] == 1.0


def test_no_entities_at_all_score_zero():
    assert score_entities([["O", "O"]], [["O", "O"]]).figures["f1"] == 0.0


def test_macro_f1_counts_each_label_once():
    scores = score_labels(["a", "a", "a", "b"], ["a", "a", "a", "a"])
    assert scores.figures == {"accuracy": 0.75, "macro_f1": pytest.approx((6 / 7) / 2)}
    assert scores.labels["b"].count == 1


@pytest.fixture
def ranking():
    draw = np.random.default_rng(0)
    gold = draw.random(500) < 0.1
    return gold, np.round(1 / (1 + np.exp(-(draw.normal(size=500) + 1.5 * gold))), 2)


def test_a_binary_ranking_agrees_with_the_auc_of_the_package(ranking):
    gold, probabilities = ranking
    scores = score_binary(gold, probabilities, 0.5, ("ok", "wrong"))
    assert scores.figures["auc"] == pytest.approx(
        area_under_curve(torch.tensor(probabilities), torch.tensor(gold))
    )
    assert scores.labels["wrong"].precision == pytest.approx(scores.figures["precision"])


def test_no_threshold_has_a_better_f_half(ranking):
    gold, probabilities = ranking
    chosen = best_threshold(gold, probabilities)
    best = fbeta_score(gold, probabilities >= chosen, beta=0.5)
    others = [fbeta_score(gold, probabilities >= t, beta=0.5) for t in np.unique(probabilities)]
    assert best == pytest.approx(max(others))
    assert chosen not in probabilities, "it lies between two probabilities"


def test_one_class_has_no_auc():
    figures = score_binary([False, False], [0.1, 0.2], 0.5, ("ok", "wrong")).figures
    assert math.isnan(figures["auc"])
    assert math.isnan(figures["average_precision"])
    assert best_threshold([False, False], [0.1, 0.2]) == 0.5
