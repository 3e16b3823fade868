"""The generator's output: masked-LM loss, the sample that replaces the masked token, and the loss's gradient.

Loss and sample come out of one pass, because an exact categorical draw needs the same log-sum-exp as the loss.
"""

from typing import Any

import torch
from torch import Tensor

from electra_kernels.backends.linear_operands import parameter_size
from electra_kernels.backends.vocab_parallel import Options
from electra_kernels.ops import _inplace
from electra_kernels.ops._autograd import needs_autograd, register_gradient, same_backend, save_backend
from electra_kernels.ops._checks import check_flag, check_head, check_row_logits, check_rows, is_dtensor
from electra_kernels.ops._library import define, options, overload
from electra_kernels.ops._results import SampledLoss
from electra_kernels.reference.common import accumulation_dtype


def _fake_statistics(
    like: Tensor, targets: Tensor, reduction: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(like.dtype)
    return (
        targets.new_empty(targets.shape if reduction == "none" else (), dtype=dtype),
        targets.new_empty(targets.shape),
        targets.new_empty(targets.shape, dtype=torch.bool),
        targets.new_empty(targets.shape, dtype=dtype),
        targets.new_empty((*targets.shape, 2), dtype=dtype),
        targets.new_empty((), dtype=torch.float64),
    )


# ---- from materialised logits ----------------------------------------------------------------------------


def _fake(
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
    return _fake_statistics(logits, targets, reduction)


define("cross_entropy_sample", _fake)
define(
    "cross_entropy_sample_backward",
    lambda grad_loss, grad_logsumexp, logits, *_: logits.new_empty(logits.shape),
)


class _CrossEntropySample(torch.autograd.Function):
    """d loss / d logits = softmax(x) (1 + 2 z l) - one_hot(target), times upstream / denominator, and d l / d logits =
    softmax(x), with l = logsumexp(x) and z = z_loss.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *_, temperature, _ = arguments
        output = overload("cross_entropy_sample", temperature)(*arguments)
        _CrossEntropySample.save(ctx, arguments, output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        save_backend(ctx)
        logits, targets, _, _, ctx.ignore_index, _, ctx.z_loss, *_ = inputs
        _, tokens, is_top1, _, logsumexp_parts, denominator = output
        ctx.mark_non_differentiable(tokens, is_top1, logsumexp_parts, denominator)
        ctx.save_for_backward(logits, targets, logsumexp_parts, denominator)

    @staticmethod
    def backward(
        ctx: Any,
        grad_loss: Tensor | None,
        grad_tokens: None,
        grad_is_top1: None,
        grad_logsumexp: Tensor | None,
        *_: None,
    ) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            if grad_logsumexp is None:
                return (None,) * 9
            grad_loss = grad_logsumexp.new_zeros(())
        gradient = overload("cross_entropy_sample_backward", ctx.z_loss)
        with same_backend(ctx, grad_loss, grad_logsumexp):
            grad = gradient(grad_loss, grad_logsumexp, *ctx.saved_tensors, ctx.ignore_index, ctx.z_loss)
        return grad, *[None] * 8


register_gradient("cross_entropy_sample", _CrossEntropySample)


def cross_entropy_sample(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    ban_original: bool = False,
    uniforms: Tensor | None = None,
    inplace_backward: bool = False,
) -> SampledLoss:
    """Cross-entropy of each row, a token drawn from softmax(logits / temperature), and whether the target is the top 1.

    loss = l - x[target] + z l² with l = logsumexp(x), always at temperature 1 and with no token banned. At z = 0 that
    is ``torch.nn.functional.cross_entropy``. Its gradient is softmax(x) (1 + 2 z l) - one_hot(target).

    Args:
        logits: [..., V] float32, bfloat16 or float16, any strides.
        targets: [...] int64 in [0, V), or ``ignore_index``.
        ignore_index: rows with this target have no loss, no gradient and no token.
        reduction: "mean" over the rows that are not ignored (0 if there is none), "sum" or "none".
        normalizer: replaces the number of rows as the denominator of "mean", so that micro-batches or ranks add
            up to the gradient of one big batch. A positive number, or a 0-dim tensor of float32, float64 or
            integers, which is never synchronised.
        z_loss: weight z of the squared log-sum-exp, at least 0, which keeps the logits from drifting (PaLM, Chowdhery
            et al. 2022, section 5: 1e-4).
        temperature: above 0; it applies to the draw only.
        ban_original: never draw the target.
        uniforms: [...] float64 in [0, 1), by default from `draw_uniforms`.
        inplace_backward: allow the gradient to overwrite ``logits``, which saves a tensor of their size.
            A second backward raises, also under saved-tensor hooks. If another op needs the logits for its own
            backward, that backward raises too, except under hooks that return the memory they were given, where
            autograd checks nothing. Checkpointing (``use_reentrant=False``) is right if the checkpointed function
            computes the logits itself, because it runs again from its inputs.

    Returns:
        ``loss`` float32, [] or, with "none", [...]. ``tokens`` [...] int64, -1 where none was drawn. ``is_top1``
        [...] bool, whether the target has the highest logit. ``logsumexp`` [...] float32, of the raw logits, 0 in
        ignored rows; differentiable unless ``inplace_backward``. A row with NaN or +inf, or with no finite logit,
        has a NaN loss and log-sum-exp and token -1.

    Raises:
        TypeError, ValueError: an argument has a wrong dtype, shape, device or range. A target out of range is
            found on the CPU, and on other devices with ELECTRA_KERNELS_DEBUG=1.
    """
    check_row_logits(logits)
    shape = logits.shape[:-1]
    uniforms, denominator = check_rows(
        *(targets, uniforms, normalizer, ignore_index, reduction, z_loss, temperature, ban_original),
        *(shape, "logits.shape[:-1]", logits.device),
    )
    z_loss, temperature = options((z_loss, temperature), (0.0, 1.0))
    settings = (ignore_index, reduction, z_loss, temperature, ban_original)
    arguments = (logits, targets, uniforms, denominator, *settings)
    check_flag("inplace_backward", inplace_backward)
    if inplace_backward:
        _inplace.check_overwritable(logits, reduction)
        if torch.is_grad_enabled() and logits.requires_grad and not torch.compiler.is_compiling():
            return SampledLoss(*_inplace.CrossEntropySample.apply(*arguments))
    op = overload("cross_entropy_sample", temperature)
    function = _CrossEntropySample.apply if needs_autograd(logits, denominator) else op
    return SampledLoss(*function(*arguments)[:4])


# ---- from hidden states: only one chunk of rows of the logits exists at a time ------------------------------


def _fake_linear(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    uniforms: Tensor,
    normalizer: Tensor | None,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    temperature: float,
    ban_original: bool,
    needs_gradient: list[bool],
) -> tuple[Tensor, ...]:
    needs = [needed and reduction != "none" for needed in needs_gradient]
    return (
        *_fake_statistics(hidden, targets, reduction),
        hidden.new_empty(hidden.shape if needs[0] else (0,)),
        weight.new_empty(
            parameter_size(weight.shape[0], weight.shape[1], needs), dtype=accumulation_dtype(hidden.dtype)
        ),
    )


def _fake_linear_backward(
    grad_loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *tensors_and_options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    needs = tensors_and_options[-1]
    return (
        hidden.new_empty(hidden.shape if needs[0] else (0,)),
        weight.new_empty(weight.shape if needs[1] else (0,)),
        weight.new_empty((weight.shape[0] if needs[2] else 0,)),
    )


define("linear_cross_entropy_sample", _fake_linear)
define("linear_cross_entropy_sample_backward", _fake_linear_backward)


class _LinearCrossEntropySample(torch.autograd.Function):
    """The forward computes the gradients for "mean" and "sum", and the backward scales them."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        *_, temperature, _, _ = arguments
        output = overload("linear_cross_entropy_sample", temperature)(*arguments)
        _LinearCrossEntropySample.save(ctx, arguments, output)
        return output

    @staticmethod
    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        save_backend(ctx)
        hidden, weight, bias, targets, _, _, *settings = inputs
        ctx.ignore_index, ctx.reduction, ctx.z_loss, _, _, ctx.needs = settings
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(hidden, weight, bias, targets, *output[4:])

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad_loss is None:
            return (None,) * 12
        gradient = overload("linear_cross_entropy_sample_backward", ctx.z_loss)
        settings = (ctx.ignore_index, ctx.reduction, ctx.z_loss, ctx.needs)
        with same_backend(ctx, grad_loss):
            gradients = gradient(grad_loss, *ctx.saved_tensors, *settings)
        needed = (gradient if need else None for gradient, need in zip(gradients, ctx.needs))
        return *needed, *[None] * 9


register_gradient("linear_cross_entropy_sample", _LinearCrossEntropySample)


def linear_cross_entropy_sample(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    ban_original: bool = False,
    uniforms: Tensor | None = None,
) -> SampledLoss:
    """`cross_entropy_sample` of hidden @ weight.T + bias; the [..., V] logits never exist.

    Chunks of rows pass through one small buffer of logits, in which the row kernel leaves the gradient. With
    reduction "mean" or "sum" the forward computes all gradients and accumulates them over the rows in float32.
    With "none" the backward recomputes the logits.

    Args:
        hidden: [..., E] float32, bfloat16 or float16; under autocast it is cast to autocast's dtype.
        weight: [V, E] of hidden's dtype or float32. Its gradient has its own dtype and is accumulated in float32;
            with half-precision hidden states each chunk's part is rounded to their dtype once. A ``DTensor`` sharded
            on dimension 0, with ``bias`` likewise, calls `vocab_parallel_linear_cross_entropy_sample` on its mesh;
            ``hidden`` may be a DTensor then, replicated or sharded on dimension 0.
        bias: [V] of weight's dtype, or None; -inf bans its token.
        targets, ignore_index, reduction, normalizer, z_loss, temperature, ban_original, uniforms: as for
            `cross_entropy_sample`, with [...] = hidden.shape[:-1].

    Returns, raises: as `cross_entropy_sample`; ``logsumexp`` has no gradient.
    """
    if is_dtensor(weight):
        # Not at the top, because it imports torch.distributed.tensor.
        from electra_kernels.ops._dtensor import sharded_cross_entropy_sample

        shared = Options(ignore_index, reduction, z_loss, temperature, ban_original)
        return sharded_cross_entropy_sample(hidden, weight, bias, targets, normalizer, uniforms, shared)
    hidden, shape = check_head(hidden, weight, bias)
    uniforms, denominator = check_rows(
        *(targets, uniforms, normalizer, ignore_index, reduction, z_loss, temperature, ban_original),
        *(shape, "hidden.shape[:-1]", hidden.device),
    )
    parameters = (hidden, weight, bias)
    needs = [torch.is_grad_enabled() and value is not None and value.requires_grad for value in parameters]
    z_loss, temperature = options((z_loss, temperature), (0.0, 1.0))
    settings = (ignore_index, reduction, z_loss, temperature, ban_original, needs)
    op = overload("linear_cross_entropy_sample", temperature)
    function = _LinearCrossEntropySample.apply if needs_autograd(*parameters, denominator) else op
    return SampledLoss(*function(*parameters, targets, uniforms, denominator, *settings)[:4])
