"""The linear head of every back end: GEMMs around a row kernel, so that the [N, V] logits never exist.

The loop takes chunks of rows: one GEMM writes their logits into a small reused buffer, the back end's row kernel
turns the logits into loss, sample and gradient in place, and two GEMMs carry the gradient to hidden and weight.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels.backends.linear_operands import (
    Operands,
    operands_of,
    parameter_columns,
    parameter_size,
    split_parameters,
)
from electra_kernels.reference.common import accumulation_dtype, safe_reciprocal
from electra_kernels.reference.mlm_head import upstream_scale

# Fewer rows starve the GEMMs; more rows do not make them faster.
LEAST_ROWS, MOST_ROWS = 256, 512
# A GPU's row kernel has three blocks on each multiprocessor, and a GEMM tiles of 128 rows.
CUDA_BLOCKS, CUDA_TILE = 3, 128
CUDA_LEAST_WAVES, CUDA_MOST_ROWS = 2, 4096
# glibc keeps a freed block of up to 32 MiB for the next call. A larger one goes back to the system, and each call pays
# for its page faults: as much as the row kernel for 62 MB of logits (benchmarks/FINDINGS.md).
_KEPT_BYTES = 32 << 20
# Half-precision rows that are summed at once. Summing a whole chunk takes ten times as long (benchmarks/FINDINGS.md).
_BIAS_ROWS = 32


class RowKernels(NamedTuple):
    """The kernels that a back end brings.

    Three of them take a chunk of logits [N, V] first, and the bias next if ``adds_bias``. A target outside of [0, V)
    belongs to another slice of the vocabulary (`vocab_parallel`): it has no logit and no one-hot.

    Attributes:
        forward: logits, targets [N], uniforms [N], ignore_index, z_loss, temperature, ban_original, writes_gradient,
            and the results to be written: losses, tokens, is_top1, logsumexp, each [N], and logsumexp_parts [N, 2].
            With ``writes_gradient`` the unnormalised gradient softmax (1 + 2 z l) - one_hot overwrites the logits.
        backward: logits, targets [N], logsumexp_parts [N, 2], ignore_index, z_loss. The same gradient overwrites the
            logits.
        loss: losses [N], targets [N], normalizer, ignore_index, reduction "mean" or "sum" → loss [], denominator [].
        sums: logits, targets [N], ignore_index, temperature, ban_original, and the result to be written, [N, 4]: what
            the slice of the vocabulary knows of each row (`reference.vocab_parallel.row_sums`).
        adds_bias: whether the kernels add the bias, [V] float32 or None; if not, it is part of the GEMMs.
    """

    forward: Callable[..., None]
    backward: Callable[..., None]
    loss: Callable[..., tuple[Tensor, Tensor]]
    sums: Callable[..., None]
    adds_bias: bool


def chunk_rows(vocab_size: int, width: int, dtype: torch.dtype, device: torch.device) -> int:
    """Number of rows in a chunk of logits.

    A chunk on a GPU is whole waves of the row kernel: at least two, and as many as make its logits fill half of the L2
    cache or match the weight's float32 gradient, which every chunk reads and writes (benchmarks/predicted_head.py). On
    the CPU the buffer of logits is one that malloc keeps. In half precision there every chunk costs a rounding of its
    weight gradient and a pass over the float32 accumulator, so it has the maximum number of rows.
    """
    row = vocab_size * dtype.itemsize
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        wave = max(CUDA_BLOCKS * gpu.multi_processor_count // CUDA_TILE, 1) * CUDA_TILE
        gradient = vocab_size * width * torch.float32.itemsize
        waves = max(gpu.L2_cache_size // 2 // (wave * row), -(-gradient // (wave * row)), CUDA_LEAST_WAVES)
        return min(waves, max(CUDA_MOST_ROWS // wave, 1)) * wave
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
    most = chunk_rows(vocab_size, operands.width, rows.dtype, rows.device)
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
        self._needs_hidden = needs[0]
        self._weight = projection[:, :width]
        self._hidden = rows.new_empty((rows.shape[0], width) if needs[0] else 0)
        # On a GPU, the products of the first chunk overwrite it. On a CPU that is slower than an addition to zeros.
        # A bias that is added up apart begins at zero too.
        self._overwrites = rows.is_cuda and rows.shape[0] > 0 and (operands.has_bias or not needs[2])
        new = rows.new_empty if self._overwrites else rows.new_zeros
        self._parameters = new(parameter_size(vocab_size, width, needs), dtype=dtype)
        # The products of the logits with columns of rows, and the bias if it is not among them.
        self._columns = columns = parameter_columns(width, needs)
        self._products, self._bias = self._parameters.view(vocab_size, -1), rows.new_empty(0, dtype=dtype)
        if not operands.has_bias:
            self._columns = slice(columns.start, width)
            self._products, bias = split_parameters(self._parameters, self._weight, needs, adds_bias=True)
            self._bias = bias.flatten()
        # Reused by every chunk: new memory would cost more than the arithmetic.
        is_rounded = dtype != rows.dtype and not rows.is_cuda
        self._product = rows.new_empty(self._products.shape if is_rounded else 0)
        self._block = self._bias.new_empty((_BIAS_ROWS, vocab_size) if len(self._bias) and is_rounded else 0)

    def add(self, chunk: slice, logits: Tensor, rows: Tensor, row_scale: Tensor | None = None) -> None:
        """Add the gradient of a chunk of logits [n, V]; ``rows`` [n, E or P] already carry ``row_scale`` [n, 1]."""
        if self._needs_hidden:
            torch.mm(logits, self._weight, out=self._hidden[chunk])
        if self._products.numel() > 0:
            self._add_products(
                logits.T, rows[:, self._columns], 0 if self._overwrites and chunk.start == 0 else 1
            )
        if self._bias.numel() > 0:
            self._add_to_bias(logits, row_scale)

    def finish(self) -> tuple[Tensor, Tensor]:
        """The gradients of hidden [N, E] and of the `parameter_columns` [V x columns], empty unless needed."""
        return self._hidden, self._parameters

    def _add_products(self, left: Tensor, right: Tensor, beta: int) -> None:
        """products = beta products + left @ right. On the CPU a half-precision product is rounded once before."""
        products = self._products
        if products.dtype == left.dtype:
            products.addmm_(left, right, beta=beta)
        elif left.is_cuda:
            torch.addmm(products, left, right, beta=beta, out_dtype=products.dtype, out=products)
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
    operands = operands_of(hidden, weight, bias, targets != ignore_index, adds_bias=row_kernels.adds_bias)
    gradients = Gradients(operands, needs)
    dtype, count = accumulation_dtype(hidden.dtype), len(targets)
    sizes = ((count,), (count,), (count, 2))
    losses, logsumexp, logsumexp_parts = (hidden.new_empty(size, dtype=dtype) for size in sizes)
    tokens, is_top1 = (targets.new_empty(count, dtype=t) for t in (torch.int64, torch.bool))
    options = (ignore_index, z_loss, temperature, ban_original, any(needs))
    for chunk, logits in chunks_of_logits(operands):
        results = (value[chunk] for value in (losses, tokens, is_top1, logsumexp, logsumexp_parts))
        row_kernels.forward(logits, *operands.bias, targets[chunk], uniforms[chunk], *options, *results)
        gradients.add(chunk, logits, operands.rows[chunk])
    if reduction == "none":
        loss, denominator = losses.reshape(shape), losses.new_ones((), dtype=torch.float64)
    else:
        loss, denominator = row_kernels.loss(losses, targets, normalizer, ignore_index, reduction)
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
        operands = operands_of(hidden, weight, bias, flat[0] != ignore_index, adds_bias=row_kernels.adds_bias)
        factor, gradients = _gradients_per_row(
            scale, operands, *flat, ignore_index, z_loss, needs_gradient, row_kernels
        )
        grad_hidden, grad_parameters = gradients.finish()
        row_scale = scale.reshape(-1, 1) if needs_gradient[0] else factor
        scale = factor
    else:
        row_scale = scale = (grad_loss * safe_reciprocal(denominator)).to(dtype)
    grad_weight, grad_bias = split_parameters(
        grad_parameters, weight, needs_gradient, adds_bias=row_kernels.adds_bias
    )
    if needs_gradient[0]:
        grad_hidden = grad_hidden.reshape(-1, hidden.shape[-1])
    return (
        _scaled(grad_hidden, row_scale, hidden.dtype).reshape(hidden.shape if needs_gradient[0] else 0),
        _scaled(grad_weight if needs_gradient[1] else grad_weight.flatten(), scale, weight.dtype),
        _scaled(grad_bias.flatten(), scale, weight.dtype),
    )


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """gradient * scale, computed in the dtype of the scale and rounded once to ``dtype``."""
    # A 0-dim scale would take the dtype of what it multiplies.
    scale = scale.reshape(-1, *[1] * (gradient.dim() - 1))
    return torch.mul(gradient, scale, out=gradient.new_empty(gradient.shape, dtype=dtype))


def _gradients_per_row(
    scale: Tensor,
    operands: Operands,
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
    gradients = Gradients(operands, needs_gradient)
    for chunk, logits in chunks_of_logits(operands):
        statistics = (targets[chunk], logsumexp_parts[chunk])
        row_kernels.backward(logits, *operands.bias, *statistics, ignore_index, z_loss)
        rows = _scaled(operands.rows[chunk], relative[chunk], operands.rows.dtype)
        gradients.add(chunk, logits, rows, relative[chunk])
    return factor, gradients
