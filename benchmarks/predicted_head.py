"""``python -m benchmarks.predicted_head``: time of the linear head on a GPU, predicted by arithmetic and not measured.

A pass takes as long as its arithmetic or its memory traffic, whichever takes longer. For each chunk of n rows:

| pass | FLOPs | bytes |
|---|---|---|
| logits = rows @ projection.T | 2 n V P | P V of the projection, n V of logits |
| row kernel, in whole waves of blocks | | 2 n V |
| gradient of hidden | 2 n V E | n V, E V |
| gradient of weight and bias | 2 n V P | n V for each tile of 256 columns; 4-byte accumulators V P, read and written |

P is E and the columns of the bias; the tensor cores multiply it in tiles of 64 columns, and n in tiles of 128 rows.
What the passes share (logits, projection, accumulators) comes from the cache as far as it fits, and the rest from
memory. The three products alone are those of all rows at once, whose logits [N, V] come from memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from types import SimpleNamespace
from unittest import mock

import torch

from electra_kernels.backends import linear_head
from electra_kernels.backends.linear_operands import parameter_columns

ROWS, VOCAB_SIZE, WIDTHS = 2_560, 30_522, (128, 256, 768)
HALF, FLOAT = 2, 4
TILE_ROWS, TILE_COLUMNS, MOST_COLUMNS = 128, 64, 256
LAUNCH_SECONDS = 2e-6  # from the end of a kernel to the start of the next, in a CUDA graph


@dataclass(frozen=True)
class Gpu:
    """Rates of a GPU: FLOP/s of dense bfloat16, bytes/s of memory and cache, bytes of cache, multiprocessors."""

    flops: float
    memory: float
    cache: float
    cache_bytes: int
    multiprocessors: int

    def seconds(self, flops: float, traffic: float, shared: float) -> float:
        """Time of a pass; it and its neighbours use ``shared`` bytes together."""
        hits = min(1.0, self.cache_bytes / shared)
        return max(flops / self.flops, traffic * (hits / self.cache + (1 - hits) / self.memory))


H100 = Gpu(700e12, 3.35e12, 5.5e12, 50 << 20, 132)


@dataclass(frozen=True)
class Prediction:
    """Seconds of each pass over all rows."""

    logits: float = 0
    row_kernel: float = 0
    hidden: float = 0
    parameters: float = 0
    launches: float = 0

    def __add__(self, other: "Prediction") -> "Prediction":
        return Prediction(*map(sum, zip(self.parts, other.parts)))

    @property
    def parts(self) -> tuple[float, ...]:
        return self.logits, self.row_kernel, self.hidden, self.parameters, self.launches

    @property
    def total(self) -> float:
        return sum(self.parts)


def predict(gpu: Gpu, width: int, rows_at_once: int) -> Prediction:
    """The forward pass with its gradients in chunks of rows."""
    starts = range(0, ROWS, rows_at_once)
    chunks = (_chunk(gpu, width, min(rows_at_once, ROWS - start), start == 0) for start in starts)
    return sum(chunks, Prediction())


def _chunk(gpu: Gpu, width: int, rows: int, is_first: bool) -> Prediction:
    columns = parameter_columns(width, [True] * 3).stop
    logits, weight, projection = (HALF * VOCAB_SIZE * size for size in (rows, width, columns))
    accumulators = FLOAT * VOCAB_SIZE * columns
    shared = logits + projection + accumulators
    flops = 2.0 * _up(rows, TILE_ROWS) * VOCAB_SIZE
    blocks = linear_head.CUDA_BLOCKS * gpu.multiprocessors
    return Prediction(
        gpu.seconds(flops * _up(columns, TILE_COLUMNS), projection + logits, shared),
        gpu.seconds(0, 2 * logits, shared) * _up(rows, blocks) / rows,
        gpu.seconds(flops * width, weight + logits, shared),
        gpu.seconds(
            flops * _up(columns, TILE_COLUMNS),
            ceil(columns / MOST_COLUMNS) * logits + (1 if is_first else 2) * accumulators,
            shared,
        ),
        4 * LAUNCH_SECONDS,
    )


def products(gpu: Gpu, width: int) -> float:
    """Seconds of the three products alone."""
    logits, weight = HALF * VOCAB_SIZE * ROWS, HALF * VOCAB_SIZE * width
    flops = 2.0 * ROWS * VOCAB_SIZE * width
    return 3 * gpu.seconds(flops, logits + weight, torch.inf)


def default_rows(gpu: Gpu, width: int) -> int:
    """Rows of a chunk that `linear_head.chunk_rows` chooses."""
    properties = SimpleNamespace(
        multi_processor_count=gpu.multiprocessors, L2_cache_size=int(gpu.cache_bytes)
    )
    with mock.patch.object(torch.cuda, "get_device_properties", return_value=properties):
        return linear_head.chunk_rows(VOCAB_SIZE, width, torch.bfloat16, torch.device("cuda"))


def table(gpu: Gpu = H100) -> Iterator[str]:
    """The lines of a Markdown table, in microseconds."""
    yield (
        "| E | rows a chunk | logits | row kernel | gradient of hidden | of weight and bias | launches | all "
        "| three products | ratio | without the row kernel |"
    )
    yield "|---" * 11 + "|"
    for width in WIDTHS:
        alone, default = products(gpu, width), default_rows(gpu, width)
        for rows in sorted({384, 512, 768, default, ROWS}):
            head = predict(gpu, width, rows)
            parts = " | ".join(f"{1e6 * part:.0f}" for part in (*head.parts, head.total, alone))
            name = f"**{rows}**" if rows == default else f"{rows}"
            fused = (head.total - head.row_kernel) / alone
            yield f"| {width} | {name} | {parts} | {head.total / alone:.2f} | {fused:.2f} |"


def _up(size: int, tile: int) -> int:
    return ceil(size / tile) * tile


if __name__ == "__main__":
    print("\n".join(table()))
