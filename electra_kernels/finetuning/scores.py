"""Scores of predicted tags and labels: entity F1, accuracy and macro F1, or a ranking with a threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from seqeval.metrics import classification_report as entity_report
from seqeval.scheme import IOB2, Entities, Entity
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    classification_report,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

Tags = Sequence[Sequence[str]]
BETA = 0.5  # a false alarm costs more than a missed error: Ng et al. 2014 (CoNLL-2014 shared task)


@dataclass(frozen=True)
class LabelScores:
    """Scores of one label or entity type; ``count`` is how often it occurs in the gold tags."""

    precision: float
    recall: float
    f1: float
    count: int


@dataclass(frozen=True)
class Scores:
    """Figures over all examples by name, in the order in which they are shown, and the scores of each label."""

    figures: dict[str, float]
    labels: dict[str, LabelScores] = field(default_factory=dict)


def score_entities(gold: Tags, predicted: Tags) -> Scores:
    """Micro-averaged precision, recall and F1 of whole entities, by seqeval in its strict mode for the scheme BIO.

    An entity counts if its type and both of its ends are right. Predicted tags that are no entity in the scheme, such
    as I-X without B-X before it, count as O.
    """
    report: dict[str, dict[str, float]] = {}
    if entities(gold) or entities(predicted):  # seqeval has no report about nothing
        report = entity_report(
            [*map(list, gold)],
            [*map(list, predicted)],
            mode="strict",
            scheme=IOB2,
            output_dict=True,
            zero_division=0,
        )
    total = report.pop("micro avg", {})
    macro = report.pop("macro avg", {})
    report.pop("weighted avg", None)
    figures = {
        "f1": float(total.get("f1-score", 0.0)),
        "precision": float(total.get("precision", 0.0)),
        "recall": float(total.get("recall", 0.0)),
        "macro_f1": float(macro.get("f1-score", 0.0)),
        "accuracy": float(accuracy_score(_flat(gold), _flat(predicted))),
    }
    return Scores(figures, _labels(report))


def entities(tags: Tags) -> list[Entity]:
    """The entities in BIO tags, sentence by sentence: each has sent_id, start, end (exclusive) and tag."""
    return [entity for sentence in Entities([*map(list, tags)], IOB2).entities for entity in sentence]


def score_labels(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
    """Accuracy, and F1 averaged over all labels that occur in gold or predicted."""
    report = classification_report(gold, predicted, output_dict=True, zero_division=0)
    accuracy = float(accuracy_score(gold, predicted))
    macro = float(report["macro avg"]["f1-score"])
    names = sorted({*gold, *predicted})
    return Scores({"accuracy": accuracy, "macro_f1": macro}, _labels({name: report[name] for name in names}))


def score_tags(gold: Tags, predicted: Tags) -> Scores:
    """`score_labels` over all words."""
    return score_labels(_flat(gold), _flat(predicted))


def score_binary(
    positive: Sequence[bool], probabilities: Sequence[float], threshold: float, names: tuple[str, str]
) -> Scores:
    """A ranking's AUC and average precision, and F0.5, precision and recall of the words above a threshold.

    Args:
        positive: whether each word has the positive tag.
        probabilities: of the same words.
        threshold: a word is tagged positive if its probability is at least this.
        names: the negative and the positive tag.
    """
    gold, scores = np.asarray(positive, dtype=bool), np.asarray(probabilities, dtype=np.float64)
    predicted = scores >= threshold
    both = gold.any() and not gold.all()
    options = {"average": "binary", "zero_division": 0}
    precision, recall, f_half, _ = precision_recall_fscore_support(gold, predicted, beta=BETA, **options)
    figures = {
        "auc": float(roc_auc_score(gold, scores)) if both else math.nan,
        "average_precision": float(average_precision_score(gold, scores)) if gold.any() else math.nan,
        "f0.5": float(f_half),
        "precision": float(precision),
        "recall": float(recall),
        "accuracy": float(accuracy_score(gold, predicted)),
    }
    per_label = score_labels([names[int(g)] for g in gold], [names[int(p)] for p in predicted])
    return Scores(figures, per_label.labels)


def best_threshold(positive: Sequence[bool], probabilities: Sequence[float]) -> float:
    """The threshold with the largest F0.5; 0.5 where no word is positive.

    It lies halfway between the lowest probability that is tagged positive and the next lower one.
    """
    gold, scores = np.asarray(positive, dtype=bool), np.asarray(probabilities, dtype=np.float64)
    if not gold.any():
        return 0.5
    precision, recall, thresholds = precision_recall_curve(gold, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point is that of no threshold
    weighted = BETA**2 * precision + recall
    f_half = np.divide(
        (1 + BETA**2) * precision * recall, weighted, out=np.zeros_like(weighted), where=weighted > 0
    )
    best = int(f_half.argmax())
    lower = scores[scores < thresholds[best]]
    below = lower.max() if lower.size else 0.0
    return float((thresholds[best] + below) / 2)


def _flat(tags: Tags) -> list[str]:
    return [tag for sentence in tags for tag in sentence]


def _labels(report: dict[str, dict[str, float]]) -> dict[str, LabelScores]:
    return {
        name: LabelScores(
            float(row["precision"]), float(row["recall"]), float(row["f1-score"]), int(row["support"])
        )
        for name, row in report.items()
    }
