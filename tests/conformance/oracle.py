"""The true results in float64, and the tolerances around them."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

# An element may have FACTOR times the error of eager torch in the same dtype, plus FLOOR_ULPS units in the last place
# of the magnitudes whose sum it is.
FACTOR = 2.0
FLOOR_ULPS = 8.0
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
    """Asserts |ours - truth| ≤ FACTOR |eager - truth| + FLOOR_ULPS ulp(scale) for every element.

    Args:
        eager: the result of eager torch in the same dtype; None allows the floor only.
        scale: magnitude of the terms whose sum an element is; by default the magnitude of the element itself.
        precision: the dtype that the computation may round to; float32 by default.
    """
    assert ours.shape == truth.shape, f"{name} has shape {list(ours.shape)}, should be {list(truth.shape)}"
    ours, truth = ours.detach().double().cpu(), truth.detach().double().cpu()
    limits = torch.finfo(precision or torch.float32)
    scale = truth.abs() if scale is None else scale.detach().double().cpu().expand_as(truth)
    # The AVX-512 instruction that rounds to bfloat16 flushes subnormal numbers to zero.
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


def assert_logsumexp(logsumexp: Tensor, logits: Tensor) -> None:
    """Asserts that ``logsumexp [...]`` is accurate for finite or -inf ``logits [..., V]``."""
    truth = logits.detach().double().logsumexp(-1)
    assert_accurate("logsumexp", logsumexp, truth, scale=1 + truth.abs())


def assert_equal(ours: Iterable[Tensor], expected: Iterable[Tensor]) -> None:
    """Asserts that two sequences of tensors are equal, bit for bit except for the sign of zero."""
    for index, (one, other) in enumerate(zip(ours, expected, strict=True)):
        assert torch.equal(one, other), f"tensor {index} differs"


def float32_ulps(dtype: torch.dtype) -> float:
    """One float32 unit in the last place in units of ``dtype``.

    An exponent x that was rounded in float32 moves exp(x) by up to |x| times as many units.
    """
    return torch.finfo(torch.float32).eps / torch.finfo(dtype).eps


def upstream_gradient(upstream: float, losses: Tensor, reduction: str) -> Tensor:
    """The upstream gradient of a loss: a scalar, or for reduction "none" another value of either sign per element."""
    factor = torch.tensor(upstream, device=losses.device)
    if reduction != "none":
        return factor
    return factor * torch.linspace(-1, 2, losses.numel(), device=losses.device).reshape(losses.shape)


def confusion_counts(predicted: Tensor, actual: Tensor, counted: Tensor | bool = True) -> list[int]:
    """The true positives, false positives, false negatives and true negatives among the counted elements."""
    cells = (predicted & actual, predicted & ~actual, ~predicted & actual, ~predicted & ~actual)
    return [int((cell & counted).sum()) for cell in cells]


def assert_drawn(
    tokens: Tensor,
    logits: Tensor,
    uniforms: Tensor,
    *,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    tolerance: float = CDF_TOLERANCE,
) -> None:
    """Asserts CDF(k - 1) - tolerance ≤ u < CDF(k) + tolerance in float64 and P(k) > 0 for each row's token k."""
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
    """p-value of Pearson's chi-square test, by default against equal counts. Machines with a GPU may lack scipy."""
    observed = observed.double()
    expected = observed.mean().expand_as(observed) if expected is None else expected
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, statistic / 2))


def cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    """F.cross_entropy for logits [..., V] and targets [...], in the dtype of the logits."""
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
    """The losses themselves, their sum, or their sum over the sum of the weights."""
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / weight.sum()
