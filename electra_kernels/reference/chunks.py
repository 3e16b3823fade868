"""The GEMMs around a row kernel: logits a chunk of rows at a time, and their gradient on to hidden and weight.

One implementation for every back end and device; each brings its row kernels (`RowKernels`). A chunk is as large as
stays in the cache between the GEMMs that write and read it.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from electra_kernels.reference._values import accumulation_dtype

# Fewer rows starve the GEMMs, more no longer help them.
LEAST_ROWS, MOST_ROWS = 256, 512
CUDA_LEAST_ROWS, CUDA_MOST_ROWS = 512, 4096
# Half-precision rows that are summed at once: a whole chunk takes ten times as long (benchmarks/FINDINGS.md).
_BIAS_ROWS = 32
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


class RowKernels(NamedTuple):
    """What happens to a chunk of logits [N, V] between its GEMMs. Both add bias [V], float32, if there is one.

    Attributes:
        visit: logits, bias, targets [N], uniforms [N], ignore_index, temperature, ban_original, writes_gradient
            → losses, tokens, is_top1, each [N], logsumexp_parts [N, 2]; with ``writes_gradient`` the logits become
            their unnormalised gradient softmax - one_hot.
        gradient: logits, bias, targets [N], logsumexp_parts [N, 2], ignore_index → the same gradient, in their place.
    """

    visit: Callable[
        [Tensor, Tensor | None, Tensor, Tensor, int, float, bool, bool], tuple[Tensor, Tensor, Tensor, Tensor]
    ]
    gradient: Callable[[Tensor, Tensor | None, Tensor, Tensor, int], None]


@cache
def cache_bytes() -> int:
    """Size of the largest cache that the system tells of, else 8 MiB."""
    sizes = [int(path.read_text().rstrip("K\n")) * 1024 for path in _CACHES.glob("index*/size")]
    return max(sizes, default=8 << 20)


def chunk_rows(vocab_size: int, dtype: torch.dtype, device: torch.device) -> int:
    """Rows of logits that fill the cache. On the CPU, in half precision, a chunk's share of the weight's gradient is
    rounded and costs a pass over the accumulator, so there the most rows are taken."""
    row = vocab_size * dtype.itemsize
    if device.type == "cuda":
        # Half of it: on an H100 each half of the multiprocessors has one.
        fitting = torch.cuda.get_device_properties(device).L2_cache_size // 2 // row
        return min(max(fitting // 128 * 128, CUDA_LEAST_ROWS), CUDA_MOST_ROWS)
    if dtype.itemsize < 4:
        return MOST_ROWS
    fitting = cache_bytes() // row
    return min(max(fitting // LEAST_ROWS * LEAST_ROWS, LEAST_ROWS), MOST_ROWS)


def chunks_of_logits(rows: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Pairs of row range and logits rows @ weight.T, all in one buffer whose rows are padded to 128 bytes with -inf.

    rows [N, E], weight [V, E] of the same dtype.
    """
    count, vocab_size = rows.shape[0], weight.shape[0]
    most = chunk_rows(vocab_size, rows.dtype, rows.device)
    elements = 128 // rows.element_size()
    pitch = (vocab_size + elements - 1) // elements * elements
    padded = rows.new_empty(min(most, count), pitch)
    padded[:, vocab_size:] = -torch.inf
    buffer = padded[:, :vocab_size]
    for start in range(0, count, most):
        chunk = slice(start, min(start + most, count))
        yield chunk, torch.mm(rows[chunk], weight.T, out=buffer[: chunk.stop - start])


class Gradients:
    """The GEMMs behind the row kernel. Sums over rows are accumulated in float32 whatever the inputs are.

    rows [N, E], projection [V, E] of the same dtype; ``needs``: of hidden, of weight, of bias.
    """

    def __init__(self, rows: Tensor, projection: Tensor, needs: Sequence[bool]) -> None:
        dtype = accumulation_dtype(rows.dtype)
        self.needs, self.projection = needs, projection
        self.hidden = rows.new_empty(rows.shape if needs[0] else 0)
        self.weight = projection.new_zeros(projection.shape if needs[1] else 0, dtype=dtype)
        self.bias = projection.new_zeros(projection.shape[0] if needs[2] else 0, dtype=dtype)
        is_rounded = needs[1] and dtype != rows.dtype and not rows.is_cuda
        self._product = projection.new_empty(projection.shape if is_rounded else 0)

    def add(self, chunk: slice, logits: Tensor, rows: Tensor, row_scale: Tensor | None = None) -> None:
        """Take on the gradient of a chunk's logits; ``row_scale`` [n, 1] has been applied to ``rows``."""
        if self.needs[0]:
            torch.mm(logits, self.projection, out=self.hidden[chunk])
        if self.needs[1]:
            self._add_to_weight(logits.T, rows)
        if self.needs[2]:
            self._add_to_bias(logits, row_scale)

    def _add_to_weight(self, left: Tensor, right: Tensor) -> None:
        """weight += left @ right; on the CPU a half-precision product is rounded once before it is added."""
        if self.weight.dtype == left.dtype:
            self.weight.addmm_(left, right)
        elif left.is_cuda:
            torch.addmm(self.weight, left, right, out_dtype=self.weight.dtype, out=self.weight)
        else:
            self.weight += torch.mm(left, right, out=self._product)

    def _add_to_bias(self, logits: Tensor, row_scale: Tensor | None) -> None:
        """bias += scale @ logits; off CUDA a few rows at a time, so that their copy in float32 stays in the cache."""
        if logits.is_cuda and self.bias.dtype != logits.dtype:
            scaled = logits if row_scale is None else logits * row_scale
            self.bias += scaled.sum(0, dtype=self.bias.dtype)
            return
        scale = self.bias.new_ones(len(logits)) if row_scale is None else row_scale.flatten()
        most = len(logits) if logits.dtype == self.bias.dtype else _BIAS_ROWS
        for block, of_block in zip(logits.split(most), scale.split(most)):
            self.bias.addmv_(block.to(self.bias.dtype).T, of_block)
