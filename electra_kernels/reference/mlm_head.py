"""The generator's loss and sample in plain PyTorch: the specification of `electra_kernels.ops.mlm_head`.

    loss   = logsumexp(x) - x[target]             at temperature 1
    d/dx   = softmax(x) - one_hot(target)

Every gradient buffer holds this unnormalised difference. The factor upstream / denominator is applied afterwards in
float32, because multiplying by 1 / N first flushes most of a float16 gradient to zero.
"""

import torch
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype, reduce_losses, safe_reciprocal
from electra_kernels.reference.sampling import draw_tokens, log_sum_exp, soft_max


def row_statistics(
    x: Tensor, targets: Tensor, uniforms: Tensor, ignore_index: int, temperature: float, ban_original: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [N, V] float32 or float64 → losses, tokens and is_top1, each [N], and the log-sum-exp in two parts [N, 2].

    A row with NaN or +inf, or with no finite logit, has a NaN log-sum-exp and so a NaN loss and gradient. An ignored
    row has loss 0, token -1 and is_top1 False for any logits.
    """
    counted = targets != ignore_index
    safe_targets = targets.where(counted, 0)
    maximum = x.amax(-1)
    parts = log_sum_exp(x).where(maximum.isfinite()[:, None], torch.nan)
    target_logits = x.gather(-1, safe_targets[:, None]).squeeze(-1)
    losses = ((parts[:, 0] - target_logits) + parts[:, 1]).where(counted, 0)
    tokens = draw_tokens(x, safe_targets if ban_original else None, uniforms, temperature).where(counted, -1)
    return losses, tokens, (target_logits == maximum) & counted, parts


def row_gradients(x: Tensor, targets: Tensor, logsumexp_parts: Tensor, ignore_index: int) -> Tensor:
    """softmax(x) - one_hot(target) and zero in ignored rows, [N, V] in the accumulation dtype of x."""
    ignored = (targets == ignore_index)[:, None]
    gradient = soft_max(x.to(accumulation_dtype(x.dtype)), logsumexp_parts)
    gradient.scatter_add_(1, targets[:, None].masked_fill(ignored, 0), gradient.new_full(ignored.shape, -1.0))
    return gradient.masked_fill_(ignored, 0)


def cross_entropy_rows_(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    temperature: float,
    ban_original: bool,
    writes_gradient: bool,
    *results: Tensor,
) -> None:
    """`row_statistics` of logits + bias into the results, and with ``writes_gradient`` the gradient into the logits."""
    x = _biased(logits, bias)
    statistics = row_statistics(x, targets, uniforms, ignore_index, temperature, ban_original)
    for result, values in zip(results, statistics):
        result.copy_(values)
    if writes_gradient:
        logits.copy_(row_gradients(x, targets, statistics[3], ignore_index))


def cross_entropy_rows_backward_(
    logits: Tensor, bias: Tensor | None, targets: Tensor, logsumexp_parts: Tensor, ignore_index: int
) -> None:
    """The gradient of logits + bias in place of the logits, from the saved log-sum-exp."""
    logits.copy_(row_gradients(_biased(logits, bias), targets, logsumexp_parts, ignore_index))


def cross_entropy_rows_loss(
    losses: Tensor, targets: Tensor, normalizer: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """`reduce_losses` of the rows that are not ignored, for the reductions "mean" and "sum"."""
    return reduce_losses(losses, targets != ignore_index, normalizer, reduction)


def _biased(logits: Tensor, bias: Tensor | None) -> Tensor:
    x = logits.to(accumulation_dtype(logits.dtype))
    return x if bias is None else x + bias


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logits [..., V] → loss, tokens [...], is_top1 [...], logsumexp_parts [..., 2], denominator []."""
    rows = logits.reshape(-1, logits.shape[-1]).to(accumulation_dtype(logits.dtype))
    flat = (targets.reshape(-1), uniforms.reshape(-1))
    statistics = row_statistics(rows, *flat, ignore_index, temperature, ban_original)
    losses, tokens, is_top1 = (value.reshape(targets.shape) for value in statistics[:3])
    logsumexp_parts = statistics[3].reshape(*targets.shape, 2)
    loss, denominator = reduce_losses(losses, targets != ignore_index, normalizer, reduction)
    return loss, tokens, is_top1, logsumexp_parts, denominator


def cross_entropy_sample_backward(
    grad_loss: Tensor,
    logits: Tensor,
    targets: Tensor,
    logsumexp_parts: Tensor,
    denominator: Tensor,
    ignore_index: int,
) -> Tensor:
    """Gradient of logits [..., V]; grad_loss is [] or, for reduction "none", [...]."""
    rows = logits.reshape(-1, logits.shape[-1])
    gradient = row_gradients(rows, targets.reshape(-1), logsumexp_parts.reshape(-1, 2), ignore_index)
    scale = upstream_scale(grad_loss, denominator, targets, ignore_index, gradient.dtype)
    return gradient.mul_(scale.reshape(-1, 1)).to(logits.dtype).reshape(logits.shape).contiguous()


def upstream_scale(
    grad_loss: Tensor, denominator: Tensor, targets: Tensor, ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """upstream / denominator per row, [...]; 0 in ignored rows for any upstream gradient."""
    scale = (grad_loss * safe_reciprocal(denominator)).to(dtype)
    return scale.expand(targets.shape).masked_fill(targets == ignore_index, 0)


def cross_entropy_sample_(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`cross_entropy_sample` whose gradient overwrites ``logits``.

    Returns:
        loss, tokens, is_top1, and the factor [] by which the backward multiplies the gradient besides upstream: 1, or
        1 / denominator in float16, where multiplying by it first would flush the gradient to zero.
    """
    loss, tokens, is_top1, logsumexp_parts, denominator = cross_entropy_sample(
        logits, targets, uniforms, normalizer, ignore_index, reduction, temperature, ban_original
    )
    scale = safe_reciprocal(denominator).to(accumulation_dtype(logits.dtype))
    rows = logits.reshape(-1, logits.shape[-1])
    gradient = row_gradients(rows, targets.reshape(-1), logsumexp_parts.reshape(-1, 2), ignore_index)
    if logits.dtype == torch.float16:
        logits.copy_(gradient.reshape(logits.shape))
        return loss, tokens, is_top1, scale
    logits.copy_(gradient.mul_(scale).reshape(logits.shape))
    return loss, tokens, is_top1, torch.ones_like(scale)


def scale_gradient_(gradient: Tensor, scale: Tensor) -> None:
    """Multiply gradient [..., V] by scale, [] or [...], in float32 at least."""
    if gradient.device.type == "cpu" and bool((scale == 1).all()):
        return
    gradient.copy_(gradient * scale.to(accumulation_dtype(gradient.dtype))[..., None])
