"""The linear head of every back end: GEMMs around a row kernel, so that the [N, V] logits never exist.

The loop takes chunks of rows: one GEMM writes their logits into a small reused buffer, the back end's row kernel
turns the logits into loss, sample and gradient in place, and two GEMMs carry the gradient to hidden and weight.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
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
    """The kernels that a back end brings. All add bias [V] float32, if there is one, to a chunk of logits [N, V].
    A target outside of [0, V) belongs to another slice of the vocabulary (`vocab_parallel`).

    Attributes:
        forward: logits, bias, targets [N], uniforms [N], ignore_index, z_loss, temperature, ban_original,
            writes_gradient → losses, tokens, is_top1, each [N], logsumexp_parts [N, 2]. With ``writes_gradient`` the
            unnormalised gradient softmax (1 + 2 z l) - one_hot overwrites the logits.
        backward: logits, bias, targets [N], logsumexp_parts [N, 2], ignore_index, z_loss. The same gradient overwrites
            the logits.
        sums: logits, bias, targets [N], ignore_index, temperature, ban_original, and the result to be written: for
            each row what the slice of the vocabulary knows of it (`reference.mlm_head.row_sums`), [N, 4].
    """

    forward: Callable[
        [Tensor, Tensor | None, Tensor, Tensor, int, float, float, bool, bool],
        tuple[Tensor, Tensor, Tensor, Tensor],
    ]
    backward: Callable[[Tensor, Tensor | None, Tensor, Tensor, int, float], None]
    sums: Callable[[Tensor, Tensor | None, Tensor, int, float, bool, Tensor], None]


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


def chunks_of_logits(rows: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield each range of rows with its logits rows @ weight.T, in one buffer (`new_logits`).

    rows [N, E], weight [V, E] of the same dtype.
    """
    count, vocab_size = rows.shape[0], weight.shape[0]
    most = chunk_rows(vocab_size, rows.dtype, rows.device)
    buffer = new_logits(rows, min(most, count), vocab_size)
    for start in range(0, count, most):
        chunk = slice(start, min(start + most, count))
        yield chunk, torch.mm(rows[chunk], weight.T, out=buffer[: chunk.stop - start])


class Gradients:
    """The GEMMs after the row kernel. Sums over rows are accumulated in float32 whatever the dtype of the inputs.

    Args:
        rows: hidden states [N, E].
        projection: weight [V, E] in the dtype of ``rows``.
        needs: whether hidden, weight and bias need a gradient.
    """

    def __init__(self, rows: Tensor, projection: Tensor, needs: Sequence[bool]) -> None:
        dtype, vocab_size = accumulation_dtype(rows.dtype), projection.shape[0]
        self.needs, self.projection = needs, projection
        self.hidden = rows.new_empty(rows.shape if needs[0] else 0)
        self.weight = projection.new_zeros(projection.shape if needs[1] else 0, dtype=dtype)
        self.bias = projection.new_zeros(vocab_size if needs[2] else 0, dtype=dtype)
        # Reused by every chunk: new memory would cost more than the arithmetic.
        is_rounded = dtype != rows.dtype and not rows.is_cuda
        self._product = projection.new_empty(projection.shape if needs[1] and is_rounded else 0)
        self._block = self.bias.new_empty((_BIAS_ROWS, vocab_size) if needs[2] and is_rounded else 0)

    def add(self, chunk: slice, logits: Tensor, rows: Tensor, row_scale: Tensor | None = None) -> None:
        """Add the gradient of a chunk of logits [n, V]; ``rows`` [n, E] already carry ``row_scale`` [n, 1]."""
        if self.needs[0]:
            torch.mm(logits, self.projection, out=self.hidden[chunk])
        if self.needs[1]:
            self._add_to_weight(logits.T, rows)
        if self.needs[2]:
            self._add_to_bias(logits, row_scale)

    def _add_to_weight(self, left: Tensor, right: Tensor) -> None:
        """weight += left @ right. On the CPU a half-precision product is rounded once before it is added."""
        if self.weight.dtype == left.dtype:
            self.weight.addmm_(left, right)
        elif left.is_cuda:
            torch.addmm(self.weight, left, right, out_dtype=self.weight.dtype, out=self.weight)
        else:
            self.weight += torch.mm(left, right, out=self._product)

    def _add_to_bias(self, logits: Tensor, row_scale: Tensor | None) -> None:
        """bias += scale @ logits. On the CPU a few rows at a time, so that their float32 copy stays in the cache."""
        if logits.is_cuda and self.bias.dtype != logits.dtype:
            scaled = logits if row_scale is None else logits * row_scale
            self.bias += scaled.sum(0, dtype=self.bias.dtype)
            return
        scale = self.bias.new_ones(len(logits)) if row_scale is None else row_scale.flatten()
        if logits.dtype == self.bias.dtype:
            self.bias.addmv_(logits.T, scale)
            return
        for block, of_block in zip(logits.split(_BIAS_ROWS), scale.split(_BIAS_ROWS)):
            self.bias.addmv_(self._block[: len(block)].copy_(block).T, of_block)


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
    [..., 2], denominator [], and the unnormalised gradients of hidden, weight and bias (empty unless needed).

    With reduction "none" the backward computes the gradients, because each row has its own upstream gradient.
    """
    flat_targets, flat_uniforms = targets.reshape(-1), uniforms.reshape(-1)
    needs = [needed and reduction != "none" for needed in needs_gradient]
    rows = counted_rows(hidden, flat_targets, ignore_index)
    dtype = accumulation_dtype(hidden.dtype)
    projection, bias = weight.to(hidden.dtype), None if bias is None else bias.to(dtype).contiguous()
    gradients = Gradients(rows, projection, needs)
    losses, logsumexp_parts = (rows.new_empty(shape, dtype=dtype) for shape in ((len(rows),), (len(rows), 2)))
    tokens, is_top1 = (flat_targets.new_empty(flat_targets.shape, dtype=t) for t in (torch.int64, torch.bool))
    options = (ignore_index, z_loss, temperature, ban_original, any(needs))
    for chunk, logits in chunks_of_logits(rows, projection):
        statistics = row_kernels.forward(logits, bias, flat_targets[chunk], flat_uniforms[chunk], *options)
        losses[chunk], tokens[chunk], is_top1[chunk], logsumexp_parts[chunk] = statistics
        gradients.add(chunk, logits, rows[chunk])
    losses, tokens, is_top1 = (value.reshape(targets.shape) for value in (losses, tokens, is_top1))
    logsumexp_parts = logsumexp_parts.reshape(*targets.shape, 2)
    logsumexp = logsumexp_parts.sum(-1)
    loss, denominator = reduce_losses(losses, targets != ignore_index, normalizer, reduction)
    grad_hidden = gradients.hidden.reshape(hidden.shape) if needs[0] else gradients.hidden
    outputs = (loss, tokens, is_top1, logsumexp, logsumexp_parts, denominator)
    return *outputs, grad_hidden, gradients.weight, gradients.bias


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
    grad_weight: Tensor,
    grad_bias: Tensor,
    ignore_index: int,
    reduction: str,
    z_loss: float,
    needs_gradient: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, weight and bias (empty unless needed), in their own dtypes."""
    dtype = accumulation_dtype(hidden.dtype)
    if reduction == "none":
        scale = upstream_scale(grad_loss, denominator, targets, ignore_index, dtype)
        factor, gradients = _gradients_per_row(
            scale,
            hidden,
            weight,
            bias,
            targets,
            logsumexp_parts,
            ignore_index,
            z_loss,
            needs_gradient,
            row_kernels,
        )
        grad_hidden, grad_weight, grad_bias = gradients.hidden, gradients.weight, gradients.bias
        row_scale = scale.reshape(-1, 1) if needs_gradient[0] else factor
        scale = factor
    else:
        row_scale = scale = (grad_loss * safe_reciprocal(denominator)).to(dtype)
    # A 0-dim scale takes the dtype of what it multiplies: the cast keeps the product in float32.
    grad_hidden = (grad_hidden.to(scale.dtype) * row_scale).to(hidden.dtype)
    return (
        grad_hidden.reshape(hidden.shape) if needs_gradient[0] else grad_hidden,
        (grad_weight * scale).to(weight.dtype),
        (grad_bias * scale).to(weight.dtype),
    )


def _gradients_per_row(
    scale: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    logsumexp_parts: Tensor,
    ignore_index: int,
    z_loss: float,
    needs_gradient: Sequence[bool],
    row_kernels: RowKernels,
) -> tuple[Tensor, Gradients]:
    """Recompute the logits chunk by chunk and weight each row of the parameters' gradients by its upstream scale.

    The rows of hidden carry the scale into the GEMM. It is relative to the largest scale, so that neither these rows
    nor the soft-max leave the range of float16.

    Returns:
        The largest scale, by which the caller multiplies the gradients of weight and bias; and the gradients. The
        gradient of hidden is not scaled.
    """
    factor = scale.abs().amax() if scale.numel() else scale.new_ones(())
    # A division, because the reciprocal of a subnormal number is infinite.
    relative = (scale / factor.where(factor != 0, 1)).reshape(-1, 1)
    flat_targets, flat_logsumexp_parts = targets.reshape(-1), logsumexp_parts.reshape(-1, 2)
    rows = counted_rows(hidden, flat_targets, ignore_index)
    projection, bias = weight.to(hidden.dtype), None if bias is None else bias.to(scale.dtype).contiguous()
    gradients = Gradients(rows, projection, needs_gradient)
    for chunk, logits in chunks_of_logits(rows, projection):
        statistics = (flat_targets[chunk], flat_logsumexp_parts[chunk])
        row_kernels.backward(logits, bias, *statistics, ignore_index, z_loss)
        gradients.add(chunk, logits, (rows[chunk] * relative[chunk]).to(rows.dtype), relative[chunk])
    return factor, gradients


def counted_rows(hidden: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """Hidden as [N, E] with zeros in ignored rows, which must add nothing to the weight's gradient even if NaN."""
    return hidden.reshape(-1, hidden.shape[-1]).masked_fill((targets == ignore_index)[:, None], 0)
