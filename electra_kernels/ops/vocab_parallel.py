"""Loss and sample with a vocabulary that is spread over the ranks of a process group.

The functions run in torch's eager mode: under ``torch.compile`` each is a graph break.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from electra_kernels.backends import vocab_parallel
from electra_kernels.backends.linear_head import RowKernels
from electra_kernels.backends.registry import implementation
from electra_kernels.backends.vocab_parallel import IGNORED, Options, Slice
from electra_kernels.ops._autograd import not_compiled, same_backend, save_backend
from electra_kernels.ops._checks import check_head, check_integer, check_row_logits, check_rows
from electra_kernels.ops._results import SampledLoss


def _row_kernels(like: Tensor) -> RowKernels:
    kernels_for = implementation("row_kernels", like.device.type, like.device.index)
    return cast(RowKernels, kernels_for(like.dtype))


def _slice(group: "dist.ProcessGroup | None", first_token: int, size: int) -> Slice:
    if not dist.is_available() or not dist.is_initialized():
        raise ValueError("group is given before torch.distributed.init_process_group, should be after it")
    if dist.get_rank(group) < 0:
        raise ValueError("group does not have this rank, should be a process group of this rank")
    check_integer("first_token", first_token)
    if not 0 <= first_token < 2**31 - size:
        raise ValueError(f"first_token is {first_token}, should be in [0, 2**31)")
    return Slice(group, first_token, size)


def _require_uniforms(uniforms: Tensor | None, slice_: Slice) -> None:
    if uniforms is None and dist.get_world_size(slice_.group) > 1:
        raise ValueError(
            "uniforms is None, should be the same tensor on every rank: with numbers of its own, each would draw "
            "another token"
        )


# ---- from materialised logits ----------------------------------------------------------------------------


class _CrossEntropySample(torch.autograd.Function):
    """The gradient of a rank's logits needs no other rank."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        save_backend(ctx)
        ctx.z_loss = arguments[3].z_loss
        outputs = vocab_parallel.cross_entropy_sample(_row_kernels(logits), logits, *arguments)
        loss, tokens, is_top1, logsumexp, parts, denominator, targets = outputs
        ctx.mark_non_differentiable(tokens, is_top1)
        ctx.save_for_backward(logits, targets, parts, denominator)
        return loss, tokens, is_top1, logsumexp

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, _: None, __: None, grad_logsumexp: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            if grad_logsumexp is None:
                return (None,) * 6
            grad_loss = grad_logsumexp.new_zeros(())
        with same_backend(ctx, grad_loss, grad_logsumexp):
            gradient = torch.ops.electra_kernels.cross_entropy_sample_backward(
                grad_loss, grad_logsumexp, *ctx.saved_tensors, IGNORED, ctx.z_loss
            )
        return gradient, *[None] * 5


@not_compiled
def vocab_parallel_cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    *,
    group: "dist.ProcessGroup | None",
    first_token: int,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    ban_original: bool = False,
    uniforms: Tensor | None = None,
) -> SampledLoss:
    """`cross_entropy_sample` of logits [..., V] of which each rank of ``group`` has a slice of columns.

    All results are the same on every rank, and those of the op on the whole logits up to rounding: the token is the
    same unless its uniform lies within 1e-6 of a boundary of the CDF. A call has two collectives, in which a rank
    receives 16 R + 8 bytes per row (float32 sums of each of R ranks, and the token), whatever V is. The backward
    has none.

    Args:
        logits: [..., V_r] float32, bfloat16 or float16, any strides: the columns from ``first_token`` on.
        targets: [...] int64 in [0, V), or ``ignore_index``; the same on every rank.
        group: of R ranks, in whose order the slices lie; they may have different sizes. None is the default group.
        first_token: number of tokens before this rank's slice.
        ignore_index, reduction, normalizer, z_loss, temperature, ban_original: as for `cross_entropy_sample`; the same
            on every rank.
        uniforms: [...] float64 in [0, 1), the same on every rank; required if there is more than one.

    Returns:
        As `cross_entropy_sample`. ``loss`` and ``logsumexp`` are differentiable. Every rank calls the backward with the
        same upstream gradient and gets that of its own slice.

    Raises:
        TypeError, ValueError: as `cross_entropy_sample`, on the rank whose argument it is; the others wait then. Where
            values are checked, on every rank: the slices have a gap or overlap, or the ranks' targets, uniforms,
            normalizers or options differ. Where they are not, the loss is NaN.
    """
    check_row_logits(logits)
    slice_ = _slice(group, first_token, logits.shape[-1])
    _require_uniforms(uniforms, slice_)
    shape, device = logits.shape[:-1], logits.device
    settings = Options(ignore_index, reduction, z_loss, temperature, ban_original)
    uniforms, denominator = check_rows(
        targets, uniforms, normalizer, *settings, shape, "logits.shape[:-1]", device
    )
    return SampledLoss(*_CrossEntropySample.apply(logits, targets, uniforms, denominator, settings, slice_))


# ---- from hidden states -------------------------------------------------------------------------------------


class _LinearCrossEntropySample(torch.autograd.Function):
    """The gradients of weight and bias need no other rank; that of hidden is a sum over the ranks."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, *arguments: Any
    ) -> tuple[Tensor, ...]:
        save_backend(ctx)
        *settings, ctx.sums_hidden = arguments
        _, _, _, ctx.options, ctx.slice, ctx.needs = settings
        with torch.autocast(hidden.device.type, enabled=False):  # the public function has applied it
            outputs = vocab_parallel.linear_cross_entropy_sample(
                _row_kernels(hidden), hidden, weight, bias, *settings
            )
        loss, tokens, is_top1, logsumexp, parts, denominator, targets, *gradients = outputs
        ctx.mark_non_differentiable(tokens, is_top1, logsumexp)
        ctx.save_for_backward(hidden, weight, bias, targets, parts, denominator, *gradients)
        return loss, tokens, is_top1, logsumexp

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 10
        settings = (IGNORED, ctx.options.reduction, ctx.options.z_loss, ctx.needs)
        with same_backend(ctx, grad_loss):
            gradients = torch.ops.electra_kernels.linear_cross_entropy_sample_backward(
                grad_loss, *ctx.saved_tensors, *settings
            )
        if ctx.needs[0] and ctx.sums_hidden:
            dist.all_reduce(gradients[0], group=ctx.slice.group)
        needed = (gradient if need else None for gradient, need in zip(gradients, ctx.needs))
        return *needed, *[None] * 7


@not_compiled
def vocab_parallel_linear_cross_entropy_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    group: "dist.ProcessGroup | None",
    first_token: int,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    ban_original: bool = False,
    uniforms: Tensor | None = None,
) -> SampledLoss:
    """`linear_cross_entropy_sample` with weight [V, E] and bias [V] of which each rank of ``group`` has a slice.

    A rank works on blocks of rows (512 on the CPU, 2,048 on a GPU) with the logits of its own slice in two buffers.
    While the sums of one block travel, it computes the next one. A forward has ceil(N / block) + 1 collectives, in
    which a rank receives 16 R + 8 bytes per row, whatever V is. The backward has one, which sums the gradient of
    ``hidden``. Larger blocks would mean fewer collectives and larger buffers.

    Args:
        hidden: [..., E] float32, bfloat16 or float16, the same on every rank; under autocast it is cast.
        weight: [V_r, E] of hidden's dtype or float32: the rows from ``first_token`` on.
        bias: [V_r] of weight's dtype, or None.
        targets, group, first_token, ignore_index, reduction, normalizer, z_loss, temperature, ban_original, uniforms:
            as for `vocab_parallel_cross_entropy_sample`, with [...] = hidden.shape[:-1].

    Returns, raises: as `vocab_parallel_cross_entropy_sample`; ``logsumexp`` has no gradient. That of ``hidden`` is the
    whole one, the same on every rank.
    """
    settings = Options(ignore_index, reduction, z_loss, temperature, ban_original)
    return sample_linear(hidden, weight, bias, targets, normalizer, uniforms, settings, group, first_token)


def sample_linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    normalizer: float | Tensor | None,
    uniforms: Tensor | None,
    settings: Options,
    group: "dist.ProcessGroup | None",
    first_token: int,
    *,
    sums_hidden: bool = True,
) -> SampledLoss:
    """The function above; without ``sums_hidden`` the gradient of hidden is this rank's part of the sum."""
    hidden, shape = check_head(hidden, weight, bias)
    slice_ = _slice(group, first_token, weight.shape[0])
    _require_uniforms(uniforms, slice_)
    uniforms, denominator = check_rows(
        targets, uniforms, normalizer, *settings, shape, "hidden.shape[:-1]", hidden.device
    )
    parameters = (hidden, weight, bias)
    needs = [torch.is_grad_enabled() and value is not None and value.requires_grad for value in parameters]
    arguments = (targets, uniforms, denominator, settings, slice_, needs, sums_hidden)
    return SampledLoss(*_LinearCrossEntropySample.apply(*parameters, *arguments))
