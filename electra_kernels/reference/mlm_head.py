"""The generator's loss and sample in plain PyTorch: the specification of `electra_kernels.ops.mlm_head`.

    loss   = l - x[target] + z l²                 with l = logsumexp(x), at temperature 1
    d/dx   = softmax(x) (1 + 2 z l) - one_hot(target)

z is the weight of the z-loss (PaLM, Chowdhery et al. 2022, section 5). Every gradient buffer holds this unnormalised
difference. The factor upstream / denominator is applied afterwards in
float32, because multiplying by 1 / N first flushes most of a float16 gradient to zero.
"""

import torch
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype, reduce_losses, safe_reciprocal
from electra_kernels.reference.sampling import draw_tokens, log_sum_exp, soft_max


def row_statistics(
    x: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x [N, V] float32 or float64 → losses, tokens, is_top1, logsumexp, each [N], and the last in two parts [N, 2].

    A row with NaN or +inf, or with no finite logit, has a NaN log-sum-exp and so a NaN loss and gradient. An ignored
    row has loss and log-sum-exp 0, token -1 and is_top1 False for any logits. A target outside of [0, V) belongs to
    another slice of the vocabulary.
    """
    counted = targets != ignore_index
    maximum = x.amax(-1)
    parts = log_sum_exp(x).where(maximum.isfinite()[:, None], torch.nan).where(counted[:, None], 0)
    target_logits = target_logits_of(x, targets)
    losses = (parts[:, 0] - target_logits) + parts[:, 1]
    logsumexp = parts.sum(-1)
    losses = (losses + (z_loss * logsumexp) * logsumexp).where(counted, 0)
    tokens = draw_tokens(x, targets if ban_original else None, uniforms, temperature).where(counted, -1)
    return losses, tokens, (target_logits == maximum) & counted, logsumexp, parts


def row_gradients(
    x: Tensor, targets: Tensor, logsumexp_parts: Tensor, ignore_index: int, z_loss: float
) -> Tensor:
    """softmax(x) (1 + 2 z l) - one_hot(target) and zero in ignored rows, [N, V] in the accumulation dtype of x.

    A target outside of [0, V) has no one-hot.
    """
    columns = targets[:, None]
    is_here = _is_column(x, columns)
    gradient = soft_max(x.to(accumulation_dtype(x.dtype)), logsumexp_parts)
    gradient.mul_(1 + 2 * z_loss * logsumexp_parts.sum(-1, keepdim=True))
    gradient.scatter_add_(1, columns.where(is_here, 0), -is_here.to(gradient.dtype))
    return gradient.masked_fill_(columns == ignore_index, 0)


def _is_column(x: Tensor, index: Tensor) -> Tensor:
    return (index >= 0) & (index < x.shape[-1])


def target_logits_of(x: Tensor, targets: Tensor) -> Tensor:
    """x [N, V], targets [N] → [N], -inf where the target is outside of [0, V)."""
    is_here = _is_column(x, targets)
    return x.gather(-1, targets.where(is_here, 0)[:, None]).squeeze(-1).where(is_here, -torch.inf)


def cross_entropy_rows_(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    ignore_index: int,
    z_loss: float,
    temperature: float,
    ban_original: bool,
    writes_gradient: bool,
    *results: Tensor,
) -> None:
    """`row_statistics` of logits + bias into the results, and with ``writes_gradient`` the gradient into the logits."""
    x = biased(logits, bias)
    statistics = row_statistics(x, targets, uniforms, ignore_index, z_loss, temperature, ban_original)
    for result, values in zip(results, statistics):
        result.copy_(values)
    if writes_gradient:
        logits.copy_(row_gradients(x, targets, statistics[-1], ignore_index, z_loss))


def cross_entropy_rows_backward_(
    logits: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logsumexp_parts: Tensor,
    ignore_index: int,
    z_loss: float,
) -> None:
    """The gradient of logits + bias in place of the logits, from the saved log-sum-exp."""
    logits.copy_(row_gradients(biased(logits, bias), targets, logsumexp_parts, ignore_index, z_loss))


def cross_entropy_rows_loss(
    losses: Tensor, targets: Tensor, normalizer: Tensor | None, ignore_index: int, reduction: str
) -> tuple[Tensor, Tensor]:
    """`reduce_losses` of the rows that are not ignored, for the reductions "mean" and "sum"."""
    return reduce_losses(losses, targets != ignore_index, normalizer, reduction)


def biased(logits: Tensor, bias: Tensor | None) -> Tensor:
    x = logits.to(accumulation_dtype(logits.dtype))
    return x if bias is None else x + bias


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """logits [..., V] → loss, tokens, is_top1 and logsumexp, each [...], logsumexp_parts [..., 2], denominator []."""
    rows = logits.reshape(-1, logits.shape[-1]).to(accumulation_dtype(logits.dtype))
    flat = (targets.reshape(-1), uniforms.reshape(-1))
    statistics = row_statistics(rows, *flat, ignore_index, z_loss, temperature, ban_original)
    losses, tokens, is_top1, logsumexp = (value.reshape(targets.shape) for value in statistics[:4])
    logsumexp_parts = statistics[4].reshape(*targets.shape, 2)
    loss, denominator = reduce_losses(losses, targets != ignore_index, normalizer, reduction)
    return loss, tokens, is_top1, logsumexp, logsumexp_parts, denominator


def cross_entropy_sample_backward(
    grad_loss: Tensor,
    grad_logsumexp: Tensor | None,
    logits: Tensor,
    targets: Tensor,
    logsumexp_parts: Tensor,
    denominator: Tensor,
    ignore_index: int,
    z_loss: float,
) -> Tensor:
    """Gradient of logits [..., V]; grad_loss is [] or, for reduction "none", [...]; grad_logsumexp is [...]."""
    rows, parts = logits.reshape(-1, logits.shape[-1]), logsumexp_parts.reshape(-1, 2)
    gradient = row_gradients(rows, targets.reshape(-1), parts, ignore_index, z_loss)
    scale = upstream_scale(grad_loss, denominator, targets, ignore_index, gradient.dtype)
    gradient.mul_(scale.reshape(-1, 1))
    if grad_logsumexp is not None:
        soft_maxes = soft_max(rows.to(gradient.dtype), parts).mul_(grad_logsumexp.reshape(-1, 1))
        gradient.add_(soft_maxes.masked_fill_((targets == ignore_index).reshape(-1, 1), 0))
    return gradient.to(logits.dtype).reshape(logits.shape).contiguous()


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
    z_loss: float,
    temperature: float,
    ban_original: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`cross_entropy_sample` whose gradient overwrites ``logits``.

    Returns:
        loss, tokens, is_top1, logsumexp, and the factor [] by which the backward multiplies the gradient besides
        upstream: 1, or 1 / denominator in float16, where multiplying by it first would flush the gradient to zero.
    """
    loss, tokens, is_top1, logsumexp, logsumexp_parts, denominator = cross_entropy_sample(
        logits, targets, uniforms, normalizer, ignore_index, reduction, z_loss, temperature, ban_original
    )
    scale = safe_reciprocal(denominator).to(accumulation_dtype(logits.dtype))
    rows = logits.reshape(-1, logits.shape[-1])
    gradient = row_gradients(rows, targets.reshape(-1), logsumexp_parts.reshape(-1, 2), ignore_index, z_loss)
    if logits.dtype == torch.float16:
        logits.copy_(gradient.reshape(logits.shape))
        return loss, tokens, is_top1, logsumexp, scale
    logits.copy_(gradient.mul_(scale).reshape(logits.shape))
    return loss, tokens, is_top1, logsumexp, torch.ones_like(scale)


def scale_gradient_(gradient: Tensor, scale: Tensor) -> None:
    """Multiply gradient [..., V] by scale, [] or [...], in float32 at least."""
    if gradient.device.type == "cpu" and bool((scale == 1).all()):
        return
    gradient.copy_(gradient * scale.to(accumulation_dtype(gradient.dtype))[..., None])
