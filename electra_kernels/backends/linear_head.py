"""The linear head of every back end: GEMMs around a row kernel, so that the [N, V] logits never exist.

The loop takes chunks of rows: one GEMM writes their logits into a small reused buffer, the back end's row kernel
turns the logits into loss, sample and gradient in place, and two GEMMs carry the gradient to hidden and weight.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from electra_kernels.reference.common import accumulation_dtype, reduce_losses, safe_reciprocal
from electra_kernels.reference.mlm_head import upstream_scale

# Fewer rows starve the GEMMs; more rows do not make them faster.
LEAST_ROWS, MOST_ROWS = 256, 512
CUDA_LEAST_ROWS, CUDA_MOST_ROWS = 512, 4096
# glibc keeps a freed block of up to 32 MiB for the next call. A larger one goes back to the system, and each call pays
# for its page faults: as much as the row kernel for 62 MB of logits (benchmarks/FINDINGS.md).
_KEPT_BYTES = 32 << 20
# Half-precision rows that are summed at once. Summing a whole chunk takes ten times as long (benchmarks/FINDINGS.md).
_BIAS_ROWS = 32


class RowKernels(NamedTuple):
    """The kernels that a back end brings. All take a chunk of logits [N, V], and bias next if ``adds_bias``. A target
    outside of [0, V) belongs to another slice of the vocabulary (`vocab_parallel`): it has no logit and no one-hot.

    Attributes:
        forward: logits, targets [N], uniforms [N], ignore_index, z_loss, temperature, ban_original, writes_gradient,
            and the results to be written: losses, tokens, is_top1, logsumexp, each [N], and logsumexp_parts [N, 2].
            With ``writes_gradient`` the unnormalised gradient softmax (1 + 2 z l) - one_hot overwrites the logits.
        backward: logits, targets [N], logsumexp_parts [N, 2], ignore_index, z_loss. The same gradient overwrites the
            logits.
        sums: logits, targets [N], ignore_index, temperature, ban_original, and the result to be written, [N, 4]: what
            the slice of the vocabulary knows of each row (`reference.vocab_parallel.row_sums`).
        adds_bias: whether the kernels add the bias, [V] float32 or None. If not, it is part of the GEMMs: a row of
            float32 bias is twice as long as one of half-precision logits, and the kernels of a GPU would read it from
            the cache for every row. On a CPU it costs less than the copy of the weight that the GEMMs need.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]
    sums: Callable[..., None]
    adds_bias: bool


class Operands(NamedTuple):
    """The matrices that the GEMMs of a call multiply, whose product is the logits.

    Attributes:
        rows: hidden [N, E] with zeros in ignored rows, which must add nothing to the weight's gradient even if NaN. If
            the bias is part of the GEMMs, ones follow, up to P columns.
        projection: weight [V, E] in the dtype of rows; or [V, P] with the bias, high and low part, and zeros behind it.
        bias: the argument ``bias`` of row kernels that have one, and nothing for the others.
        width: E.
    """

    rows: Tensor
    projection: Tensor
    bias: tuple[Tensor | None, ...]
    width: int

    @property
    def has_bias(self) -> bool:
        """Whether the bias is part of the GEMMs."""
        return self.projection.shape[1] > self.width


def operands(
    row_kernels: RowKernels,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    ignore_index: int,
) -> Operands:
    """Hidden [..., E], weight [V, E], bias [V] or None, targets [N] → what the GEMMs multiply."""
    width = weight.shape[1]
    rows = hidden.reshape(-1, width).masked_fill((targets == ignore_index)[:, None], 0)
    if row_kernels.adds_bias:
        bias = None if bias is None else bias.to(accumulation_dtype(hidden.dtype)).contiguous()
        return Operands(rows, weight.to(hidden.dtype), (bias,), width)
    if bias is None:
        return Operands(rows, weight.to(hidden.dtype), (), width)
    rows = F.pad(rows, (0, _padded(width) - width), value=1.0)
    return Operands(rows, _with_bias(weight, bias, hidden.dtype), (), width)


def _padded(width: int) -> int:
    """P: E and two columns for the bias, in a pitch of whole 16 bytes in any dtype."""
    return (width + 2 + 7) // 8 * 8


def _with_bias(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """[V, P] = weight, high, low, zeros: high is the bias rounded to half precision, low the rest of it.

    float32 needs both parts as well: TF32 has the digits of one.
    """
    width = weight.shape[1]
    projection = weight.new_zeros(weight.shape[0], _padded(width), dtype=dtype)
    high, low = projection[:, width], projection[:, width + 1]
    projection[:, :width] = weight
    high.copy_(bias if dtype.itemsize == 2 else bias.bfloat16())
    # Nothing is left of a bias whose high part is infinite: it bans its token, or is beyond the dtype.
    torch.sub(bias, high, out=low).nan_to_num_(0, 0, 0)
    return projection


def parameter_columns(width: int, needs: Sequence[bool]) -> slice:
    """Columns of [weight, bias, padding], [V, P], whose gradients are needed. The bias has column E."""
    return slice(0 if needs[1] else width, _padded(width) if needs[2] else width)


def chunk_rows(vocab_size: int, dtype: torch.dtype, device: torch.device) -> int:
    """Number of rows in a chunk of logits.

    On a GPU the logits fill the cache. On the CPU their buffer is one that malloc keeps. In half precision there every
    chunk costs a rounding of its weight gradient and a pass over the float32 accumulator, so it has the maximum number
    of rows.
    """
    row = vocab_size * dtype.itemsize
    if device.type == "cuda":
        # Half of the L2 cache: on an H100 each half of the multiprocessors has its own part.
        fitting = torch.cuda.get_device_properties(device).L2_cache_size // 2 // row
        return min(max(fitting // 128 * 128, CUDA_LEAST_ROWS), CUDA_MOST_ROWS)
    if dtype.itemsize < 4:
        return MOST_ROWS
    return min(max(_KEPT_BYTES // row // LEAST_ROWS * LEAST_ROWS, LEAST_ROWS), MOST_ROWS)


def new_logits(like: Tensor, count: int, vocab_size: int) -> Tensor:
    """Memory [count, V] for logits, padded by -inf to 128 bytes per row."""
    elements = 128 // like.element_size()
    pitch = (vocab_size + elements - 1) // elements * elements
    padded = like.new_empty(count, pitch)
    padded[:, vocab_size:] = -torch.inf
    return padded[:, :vocab_size]


def chunks_of_logits(operands: Operands) -> Iterator[tuple[slice, Tensor]]:
    """Yield each range of rows with its logits, in one buffer (`new_logits`)."""
    rows, projection = operands.rows, operands.projection
    count, vocab_size = rows.shape[0], projection.shape[0]
    most = chunk_rows(vocab_size, rows.dtype, rows.device)
    buffer = new_logits(rows, min(most, count), vocab_size)
    for start in range(0, count, most):
        chunk = slice(start, min(start + most, count))
        yield chunk, torch.mm(rows[chunk], projection.T, out=buffer[: chunk.stop - start])


class Gradients:
    """The GEMMs after the row kernel. Sums over rows are accumulated in float32 whatever the dtype of the inputs.

    Args:
        operands: of the call.
        needs: whether hidden, weight and bias need a gradient.
    """

    def __init__(self, operands: Operands, needs: Sequence[bool]) -> None:
        rows, projection, _, width = operands
        vocab_size, dtype = projection.shape[0], accumulation_dtype(rows.dtype)
        columns = parameter_columns(width, needs)
        self._needs_hidden = needs[0]
        self._weight = projection[:, :width]
        self._hidden = rows.new_empty((rows.shape[0], width) if needs[0] else 0)
        self._parameters = rows.new_zeros(
            (vocab_size, columns.stop - columns.start) if any(needs[1:]) else 0, dtype=dtype
        )
        # The columns of rows whose products with the logits are gradients of parameters.
        self._columns = columns if operands.has_bias else slice(columns.start, width)
        # In front of the bias, if row kernels add it, or all.
        self._products = self._parameters[..., : self._columns.stop - self._columns.start]
        self._bias = rows.new_zeros(vocab_size if needs[2] and not operands.has_bias else 0, dtype=dtype)
        # Reused by every chunk: new memory would cost more than the arithmetic.
        is_rounded = dtype != rows.dtype and not rows.is_cuda
        self._product = rows.new_empty(self._products.shape if is_rounded else 0)
        self._block = self._bias.new_empty((_BIAS_ROWS, vocab_size) if len(self._bias) and is_rounded else 0)

    def add(self, chunk: slice, logits: Tensor, rows: Tensor, row_scale: Tensor | None = None) -> None:
        """Add the gradient of a chunk of logits [n, V]; ``rows`` [n, E or P] already carry ``row_scale`` [n, 1]."""
        if self._needs_hidden:
            torch.mm(logits, self._weight, out=self._hidden[chunk])
        if self._products.numel() > 0:
            self._add_products(logits.T, rows[:, self._columns])
        if self._bias.numel() > 0:
            self._add_to_bias(logits, row_scale)

    def finish(self) -> tuple[Tensor, Tensor]:
        """The gradients of hidden [N, E] and of the parameters [V, columns], empty unless needed."""
        if self._bias.numel() > 0:
            self._parameters[:, self._products.shape[1]] = self._bias
        return self._hidden, self._parameters

    def _add_products(self, left: Tensor, right: Tensor) -> None:
        """products += left @ right. On the CPU a half-precision product is rounded once before it is added."""
        products = self._products
        if products.dtype == left.dtype:
            products.addmm_(left, right)
        elif left.is_cuda:
            torch.addmm(products, left, right, out_dtype=products.dtype, out=products)
        else:
            products += torch.mm(left, right, out=self._product)

    def _add_to_bias(self, logits: Tensor, row_scale: Tensor | None) -> None:
        """bias += scale @ logits, a few rows of half precision at a time: their float32 copy stays in the cache."""
        scale = self._bias.new_ones(len(logits)) if row_scale is None else row_scale.flatten()
        if logits.dtype == self._bias.dtype:
            self._bias.addmv_(logits.T, scale)
            return
        for block, of_block in zip(logits.split(_BIAS_ROWS), scale.split(_BIAS_ROWS)):
            self._bias.addmv_(self._block[: len(block)].copy_(block).T, of_block)


def linear_cross_entropy_sample(
    row_kernels: RowKernels,
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
    needs_gradient: Sequence[bool],
) -> tuple[Tensor, ...]:
    """hidden [..., E], weight [V, E], bias [V] → loss, tokens, is_top1 and logsumexp, each [...], logsumexp_parts
    [..., 2], denominator [], and the unnormalised gradients of hidden and of the `parameter_columns` (empty unless
    needed).

    With reduction "none" the backward computes the gradients, because each row has its own upstream gradient.
    """
    shape, targets, uniforms = targets.shape, targets.reshape(-1), uniforms.reshape(-1)
    needs = [needed and reduction != "none" for needed in needs_gradient]
    factors = operands(row_kernels, hidden, weight, bias, targets, ignore_index)
    gradients = Gradients(factors, needs)
    dtype, count = accumulation_dtype(hidden.dtype), len(targets)
    sizes = ((count,), (count,), (count, 2))
    losses, logsumexp, logsumexp_parts = (hidden.new_empty(size, dtype=dtype) for size in sizes)
    tokens, is_top1 = (targets.new_empty(count, dtype=t) for t in (torch.int64, torch.bool))
    options = (ignore_index, z_loss, temperature, ban_original, any(needs))
    for chunk, logits in chunks_of_logits(factors):
        results = (value[chunk] for value in (losses, tokens, is_top1, logsumexp, logsumexp_parts))
        row_kernels.forward(logits, *factors.bias, targets[chunk], uniforms[chunk], *options, *results)
        gradients.add(chunk, logits, factors.rows[chunk])
    loss, denominator = reduce_losses(losses, targets != ignore_index, normalizer, reduction)
    loss = loss.reshape(shape) if reduction == "none" else loss
    grad_hidden, grad_parameters = gradients.finish()
    grad_hidden = grad_hidden.reshape(hidden.shape) if needs[0] else grad_hidden
    statistics = (value.reshape(shape) for value in (tokens, is_top1, logsumexp))
    logsumexp_parts = logsumexp_parts.reshape(*shape, 2)
    return loss, *statistics, logsumexp_parts, denominator, grad_hidden, grad_parameters


def linear_cross_entropy_sample_backward(
    row_kernels: RowKernels,
    grad_loss: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logsumexp_parts: Tensor,
    denominator: Tensor,
    grad_hidden: Tensor,
    grad_parameters: Tensor,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    needs_gradient: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias (empty unless needed), in their own dtypes."""
    dtype = accumulation_dtype(hidden.dtype)
    if reduction == "none":
        scale = upstream_scale(grad_loss, denominator, targets, ignore_index, dtype)
        flat = (targets.reshape(-1), logsumexp_parts.reshape(-1, 2))
        factors = operands(row_kernels, hidden, weight, bias, flat[0], ignore_index)
        factor, gradients = _gradients_per_row(
            scale, factors, *flat, ignore_index, z_loss, needs_gradient, row_kernels
        )
        grad_hidden, grad_parameters = gradients.finish()
        row_scale = scale.reshape(-1, 1) if needs_gradient[0] else factor
        scale = factor
    else:
        row_scale = scale = (grad_loss * safe_reciprocal(denominator)).to(dtype)
    # A 0-dim scale takes the dtype of what it multiplies: the cast keeps the product in float32.
    grad_hidden = (grad_hidden.to(scale.dtype) * row_scale).to(hidden.dtype)
    width = hidden.shape[-1] if needs_gradient[1] else 0
    grad_weight = grad_parameters[:, :width] if needs_gradient[1] else grad_parameters.new_empty(0)
    grad_bias = grad_parameters[:, width] if needs_gradient[2] else grad_parameters.new_empty(0)
    return (
        grad_hidden.reshape(hidden.shape) if needs_gradient[0] else grad_hidden,
        (grad_weight * scale).to(weight.dtype),
        (grad_bias * scale).to(weight.dtype),
    )


def _gradients_per_row(
    scale: Tensor,
    factors: Operands,
    targets: Tensor,
    logsumexp_parts: Tensor,
    ignore_index: int,
    z_loss: float,
    needs_gradient: Sequence[bool],
    row_kernels: RowKernels,
) -> tuple[Tensor, Gradients]:
    """Recompute the logits chunk by chunk and weight each row of the parameters' gradients by its upstream scale.

    The rows carry the scale into the GEMM. It is relative to the largest scale, so that neither these rows nor the
    soft-max leave the range of float16.

    Returns:
        The largest scale, by which the caller multiplies the gradients of weight and bias; and the gradients. The
        gradient of hidden is not scaled.
    """
    factor = scale.abs().amax() if scale.numel() else scale.new_ones(())
    # A division, because the reciprocal of a subnormal number is infinite.
    relative = (scale / factor.where(factor != 0, 1)).reshape(-1, 1)
    gradients = Gradients(factors, needs_gradient)
    for chunk, logits in chunks_of_logits(factors):
        statistics = (targets[chunk], logsumexp_parts[chunk])
        row_kernels.backward(logits, *factors.bias, *statistics, ignore_index, z_loss)
        rows = factors.rows[chunk]
        gradients.add(chunk, logits, (rows * relative[chunk]).to(rows.dtype), relative[chunk])
    return factor, gradients
