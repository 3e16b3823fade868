"""The generator's loss and sample, forward and backward: cross_entropy_sample and linear_cross_entropy_sample."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

import electra_kernels
from benchmarks import baselines, variants
from benchmarks.harness import Case, Size
from benchmarks.timers import Graph, Run
from benchmarks.variants import Variants
from electra_kernels.backends import linear_head
from electra_kernels.models.precision import has_native_bfloat16

MAIN_ROWS, MAIN_WIDTH = 1024, 128
HALVES = (torch.bfloat16, torch.float16)

# Masked tokens on a GPU: 20 in each of 128 rows, and 77 in each of 256.
GPU_ROWS = (2_560, 19_712)
CHUNKS = (384, 768, 1536, 3072)  # whole waves on 132 multiprocessors


def cases(size: Size) -> Iterator[Case]:
    if size == "tiny":
        yield _from_logits(4, 300, is_main=True)
        yield _from_hidden(4, 300, 16, is_main=True)
        return
    if size == "quick":
        yield _from_logits(128, baselines.VOCAB_SIZE)
        yield _from_hidden(128, baselines.VOCAB_SIZE, MAIN_WIDTH)
        return
    yield _from_logits(MAIN_ROWS, baselines.VOCAB_SIZE, is_main=True)
    yield _from_hidden(MAIN_ROWS, baselines.VOCAB_SIZE, MAIN_WIDTH, is_main=True)
    for rows, vocab_size in ((64, 30_522), (2048, 30_522), (MAIN_ROWS, 1_000), (512, 128_000)):
        yield _from_logits(rows, vocab_size)
        yield _from_hidden(rows, vocab_size, MAIN_WIDTH)
    for width in (64, 768):
        yield _from_hidden(512, baselines.VOCAB_SIZE, width)
    for dtype in HALVES:
        yield _from_logits(MAIN_ROWS, baselines.VOCAB_SIZE, dtype)
        yield _from_hidden(_half_rows(dtype), baselines.VOCAB_SIZE, MAIN_WIDTH, dtype)


def on_gpu(size: Size) -> Iterator[Case]:
    """The linear head in bfloat16, back to back, also in a CUDA graph with several chunk lengths."""
    if size == "tiny":
        yield _from_hidden(6, 300, 16, torch.bfloat16, back_to_back=True)
        return
    for rows in GPU_ROWS:
        yield _from_hidden(
            rows, baselines.VOCAB_SIZE, MAIN_WIDTH, torch.bfloat16, is_main=True, back_to_back=True
        )


def _half_rows(dtype: torch.dtype) -> int:
    """Fewer rows without hardware support, where a half-precision product takes 14 to 20 times as long."""
    device = torch.get_default_device()
    native = device.type == "cuda" or (dtype == torch.bfloat16 and has_native_bfloat16(device))
    return MAIN_ROWS if native else 32


class _FromMemory(torch.autograd.Function):
    """Returns ``memory`` as if an op had computed it, so that the loss may overwrite it in place."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, memory: Tensor) -> Tensor:
        return memory.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.sum(), None


def _eager_from_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(logits, targets), baselines.gumbel_max(logits.detach())


def _from_logits(
    rows: int, vocab_size: int, dtype: torch.dtype = torch.float32, is_main: bool = False
) -> Case:
    logits = torch.randn(rows, vocab_size, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab_size, (rows,))
    memory = logits.detach().clone()
    leaf = torch.zeros((), dtype=dtype, requires_grad=True)

    def differentiate(result: tuple[Tensor, Tensor]) -> object:
        return torch.autograd.grad(result[0], logits), result[1]

    def ours() -> object:
        return torch.autograd.grad(electra_kernels.cross_entropy_sample(logits, targets).loss, logits)

    def ours_in_place() -> object:
        computed = _FromMemory.apply(leaf, memory)
        loss = electra_kernels.cross_entropy_sample(computed, targets, inplace_backward=True).loss
        return torch.autograd.grad(loss, computed)

    in_place = variants.ours("cross_entropy_sample_", ours_in_place, everywhere=is_main)
    runs, absent = variants.collect(
        lambda: differentiate(_eager_from_logits(logits, targets)),
        baselines.compiled(_eager_from_logits, (logits, targets), differentiate) if is_main else None,
        variants.ours("cross_entropy_sample", ours, everywhere=is_main),
        {name.replace("ours", "ours in place"): run for name, run in in_place.items()},
    )
    size = rows * vocab_size * dtype.itemsize
    return Case(
        "cross_entropy_sample f+b",
        {"N": rows, "V": vocab_size},
        runs,
        # reads the logits once, writes their gradient once
        bytes_read=size,
        bytes_written=size,
        dtype=dtype,
        absent=absent,
        is_main=is_main,
    )


def _eager_from_hidden(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    return _eager_from_logits(F.linear(hidden, weight, bias), targets)


def _from_hidden(
    rows: int,
    vocab_size: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    is_main: bool = False,
    back_to_back: bool = False,
) -> Case:
    hidden = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    weight = (0.02 * torch.randn(vocab_size, width)).to(dtype).requires_grad_()
    bias = torch.zeros(vocab_size, dtype=dtype, requires_grad=True)
    parameters = (hidden, weight, bias)
    targets = torch.randint(vocab_size, (rows,))

    def differentiate(result: tuple[Tensor, Tensor]) -> object:
        return torch.autograd.grad(result[0], parameters), result[1]

    def ours() -> object:
        return torch.autograd.grad(
            electra_kernels.linear_cross_entropy_sample(*parameters, targets).loss, parameters
        )

    torchs, missing = _linear_cross_entropy(hidden, weight, bias, targets, in_chunks=is_main)
    runs, absent = variants.collect(
        lambda: differentiate(_eager_from_hidden(*parameters, targets)),
        baselines.compiled(_eager_from_hidden, (*parameters, targets), differentiate) if is_main else None,
        torchs,
        {"its three products alone": _products(hidden.detach(), weight.detach())},
        variants.ours("linear_cross_entropy_sample", ours, everywhere=is_main),
        _graphs(ours, hidden.device) if back_to_back else {},
    )
    # Hidden states and parameters are read and their gradients written; the logits need not reach memory.
    size = (rows * width + vocab_size * width + vocab_size) * dtype.itemsize
    return Case(
        "linear_cross_entropy_sample f+b",
        {"N": rows, "V": vocab_size, "E": width},
        runs,
        bytes_read=size,
        bytes_written=size,
        gradient_bytes=size,
        dtype=dtype,
        absent=absent | missing,
        is_main=is_main,
        back_to_back=back_to_back,
    )


def _graphs(ours: Run, device: torch.device) -> dict[str, Run]:
    """Ours in a CUDA graph, where launches cost nothing, with the default and with other chunk lengths."""

    def in_chunks(rows: int) -> Run:
        def run() -> object:
            with patch.object(linear_head, "chunk_rows", return_value=rows):
                return ours()

        return Graph(run, device)

    return {
        "ours, in a CUDA graph": Graph(ours, device),
        **{f"ours, in a CUDA graph, {rows} rows a chunk": in_chunks(rows) for rows in CHUNKS},
    }


def _linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, *, in_chunks: bool
) -> Variants:
    """torch's fused loss, which draws no sample, by default and in linear_head."""
    name = "F.linear_cross_entropy"
    function = getattr(F, "linear_cross_entropy", None)
    if function is None:
        return Variants({}, {name: f"torch is {torch.__version__}, should be at least 2.13"})

    def run(options: Any) -> object:
        loss = function(hidden, weight, targets, linear_bias=bias, options=options)
        return torch.autograd.grad(loss, (hidden, weight, bias))

    runs: dict[str, Run] = {name: lambda: run(None)}
    if in_chunks:
        options = torch.nn.LinearCrossEntropyOptions()
        runs[f"{name}, chunked"] = lambda: run(options)
    return Variants(runs, {})


def _products(hidden: Tensor, weight: Tensor) -> Run:
    """The three matrix products that every head needs, into memory that is allocated before."""
    logits = hidden.new_empty(hidden.shape[0], weight.shape[0])
    grad_hidden, grad_weight = torch.empty_like(hidden), torch.empty_like(weight)

    def run() -> object:
        torch.mm(hidden, weight.T, out=logits)
        torch.mm(logits, weight, out=grad_hidden)
        return torch.mm(logits.T, hidden, out=grad_weight)

    return run
