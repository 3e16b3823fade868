"""Metrics of a ranking."""

import torch
from torch import Tensor


def area_under_curve(scores: Tensor, labels: Tensor) -> float:
    """Area under the receiver operating characteristic (AUC): P(score of a positive > score of a negative).

    Computed in the Mann-Whitney form, U / (positives · negatives). Equal scores share their mean rank, so a constant
    score gives 0.5 (Hanley and McNeil 1982, section II).

    Args:
        scores: any shape, float or int; a higher score means more likely positive.
        labels: same shape, bool or 0/1.

    Returns:
        The area, or nan if it is undefined because there is only one class or a score is nan.

    Raises:
        ValueError: scores and labels have different shapes.
    """
    if scores.shape != labels.shape:
        raise ValueError(
            f"labels: shape {tuple(labels.shape)} should be that of scores, {tuple(scores.shape)}"
        )
    scores, positive = scores.flatten().double(), labels.flatten().bool()
    positives = int(positive.sum())
    negatives = positive.numel() - positives
    if not positives or not negatives or bool(scores.isnan().any()):
        return float("nan")
    _, group, ties = torch.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = ties.cumsum(0).double() - (ties - 1).double() / 2
    u = mean_rank[group[positive]].sum().item() - positives * (positives + 1) / 2
    return u / (positives * negatives)
