"""The truth in float64, and how far from it an op may be."""

import torch
import torch.nn.functional as F
from torch import Tensor

FACTOR = 2.0  # an element may have twice the error of eager torch in the same dtype ...
FLOOR_ULPS = 8.0  # ... plus this many units in the last place of the magnitudes that were added up to it
CDF_TOLERANCE = 1e-6
IGNORED = -100


def assert_accurate(
    name: str,
    ours: Tensor,
    truth: Tensor,
    eager: Tensor | None = None,
    *,
    scale: Tensor | None = None,
    precision: torch.dtype | None = None,
) -> None:
    """Element by element, |ours - truth| ≤ FACTOR |eager - truth| + FLOOR_ULPS ulp(scale).

    Args:
        eager: what eager torch gives in the same dtype; None allows the floor alone.
        scale: magnitude of the terms whose sum an element is, by default the element itself.
        precision: the dtype that the computation may round to, by default the one of ``ours``.
    """
    assert ours.shape == truth.shape, f"{name} has shape {list(ours.shape)}, should be {list(truth.shape)}"
    ours, truth = ours.detach().double().cpu(), truth.detach().double().cpu()
    limits = torch.finfo(precision or torch.float32)
    scale = truth.abs() if scale is None else scale.detach().double().cpu().expand_as(truth)
    # The instruction of AVX-512 that rounds to bfloat16 makes zeros of numbers below the smallest normal one.
    flushed = limits.smallest_normal * (1 if precision == torch.bfloat16 else 2 * limits.eps)
    bound = FLOOR_ULPS * limits.eps * scale + flushed
    if eager is not None:
        bound = bound + FACTOR * (eager.detach().double().cpu() - truth).abs()
    same = (ours == truth) | (ours.isnan() & truth.isnan())
    excess = torch.where(same, 0.0, ((ours - truth).abs() / bound).nan_to_num(nan=torch.inf))
    if excess.numel() == 0 or excess.max() <= 1:
        return
    worst = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    raise AssertionError(
        f"{name}: worst at {list(worst)}: {ours[worst]:.9g} for {truth[worst]:.9g}, "
        f"{excess[worst]:.3g} times the bound {bound[worst]:.3g}"
    )


def exponent_ulps(dtype: torch.dtype) -> float:
    """Units in the last place of ``dtype`` by which an exponent of 1, rounded in float32, moves its exponential."""
    return torch.finfo(torch.float32).eps / torch.finfo(dtype).eps


def assert_drawn(
    tokens: Tensor,
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    tolerance: float = CDF_TOLERANCE,
) -> None:
    """CDF(k - 1) - tolerance ≤ u < CDF(k) + tolerance in float64 for each row's token k, never one of probability 0."""
    x = logits.detach().double().cpu().reshape(-1, logits.shape[-1]) / temperature
    tokens, u = tokens.cpu().reshape(-1, 1), uniforms.cpu().reshape(-1, 1)
    if banned is not None:
        banned = banned.cpu().reshape(-1, 1)
        columns = torch.arange(x.shape[-1])
        x = x.masked_fill(columns == banned, -torch.inf)
    assert int(tokens.min()) >= 0, f"row {int(tokens.argmin())} drew {int(tokens.min())}"
    assert int(tokens.max()) < x.shape[-1]
    probability = (x - x.amax(-1, keepdim=True)).exp()
    probability /= probability.sum(-1, keepdim=True)
    above = probability.cumsum(-1).gather(-1, tokens)
    drawn = probability.gather(-1, tokens)
    assert bool((drawn > 0).all()), f"row {int(drawn.argmin())} drew a token of probability 0"
    wrong = ((u < above - drawn - tolerance) | (u >= above + tolerance)).squeeze(-1)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        low, high = float(above[row] - drawn[row]), float(above[row])
        raise AssertionError(
            f"row {row}: u = {float(u[row])!r} drew {int(tokens[row])} of [{low!r}, {high!r})"
        )


def chi_square(observed: Tensor, expected: Tensor | None = None) -> float:
    """p-value of Pearson's test of counts, by default for equal shares; scipy is not on every machine with a GPU."""
    observed = observed.double()
    expected = observed.mean().expand_as(observed) if expected is None else expected
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2))


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    """F.cross_entropy of [..., V], in the dtype of the logits."""
    flat = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), reduction="none")
    losses = flat.reshape(targets.shape)
    return reduce(losses, (targets != IGNORED).to(losses.dtype), reduction)


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    pos_weight: Tensor | float | None = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """F.binary_cross_entropy_with_logits with a mask, in the dtype of the logits."""
    weight = torch.ones_like(logits) if mask is None else mask.to(logits.dtype).expand_as(logits)
    if not labels.is_floating_point():
        weight = weight * (labels != IGNORED)
    y = labels.to(logits.dtype).where(weight != 0, 0) * (1 - label_smoothing) + label_smoothing / 2
    if pos_weight is not None:
        pos_weight = torch.as_tensor(pos_weight, device=logits.device).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, y, weight, pos_weight=pos_weight, reduction="none")
    return reduce(losses, weight, reduction)


def reduce(losses: Tensor, weight: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / weight.sum()
