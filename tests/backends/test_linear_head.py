"""The matrices of the linear head, its chunks, and what it launches."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from electra_kernels.backends import linear_head
from electra_kernels.backends.implementations import guarded
from electra_kernels.backends.linear_head import RowKernels
from electra_kernels.backends.linear_operands import operands_of
from electra_kernels.backends.table import OPS


def _tf32(x):
    """Rounded to 10 explicit bits, as the operands of a product on tensor cores may be."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


def _operands(hidden, weight, bias, adds_bias=False):
    counted = torch.ones(len(hidden), dtype=torch.bool)
    return operands_of(hidden, weight, bias, counted, adds_bias=adds_bias)


@pytest.mark.parametrize("width", [6, 8, 13, 128])
def test_the_bias_is_part_of_the_product(dtype_of_rows, width):
    hidden, weight = (torch.randn(size, width).to(dtype_of_rows) for size in (5, 30))
    bias = 30 * torch.randn(30)
    factors = _operands(hidden, weight.float(), bias)
    assert factors.rows.shape[1] * factors.rows.element_size() % 16 == 0
    assert torch.equal(factors.rows[:, :width], hidden)
    assert torch.equal(factors.projection[:, :width], weight)
    product = factors.rows.double() @ factors.projection.double().T
    # Two parts of bfloat16 have 16 digits, those of float16 22.
    tolerance = 2.0**-16 if dtype_of_rows == torch.bfloat16 else 2.0**-21
    error = (product - F.linear(hidden.double(), weight.double(), bias.double())).abs()
    limits = torch.finfo(dtype_of_rows)
    assert (error <= tolerance * bias.abs() + limits.eps * limits.smallest_normal + 1e-12).all()


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
def dtype_of_rows(request):
    return request.param


def test_tf32_keeps_the_bias():
    """TF32 rounds the operands of a float32 product to 11 digits; the two parts together keep 1e-5 of the bias."""
    bias = 30 * torch.randn(10_000)
    projection = _operands(torch.zeros(1, 8), torch.zeros(10_000, 8), bias).projection
    error = (_tf32(projection).double().sum(1) - bias.double()).abs() / bias.abs()
    assert error.max() < 1e-5
    assert ((_tf32(bias) - bias).abs() / bias.abs()).max() > 1e-4, "TF32 needs no second part"


def test_infinite_and_missing_numbers_of_the_bias_have_no_low_part():
    bias = torch.tensor([-torch.inf, torch.inf, torch.nan, 1e9, -1e9, 0.1])
    parts = _operands(torch.zeros(1, 6, dtype=torch.float16), torch.zeros(6, 6), bias).projection[:, 6:]
    assert parts[:, 0].isnan().tolist() == [False, False, True, False, False, False]
    assert parts[[0, 1, 3, 4], 0].tolist() == [-torch.inf, torch.inf, torch.inf, -torch.inf]
    assert not parts[:5, 1].any()
    assert parts[5].double().sum().item() == pytest.approx(0.1, abs=2.0**-25)


@pytest.mark.parametrize("adds_bias", [False, True])
def test_a_head_without_bias_has_no_more_columns(adds_bias):
    factors = _operands(torch.randn(3, 8), torch.randn(5, 8), None, adds_bias)
    assert factors.rows.shape == (3, 8)
    assert factors.projection.shape == (5, 8)
    assert not factors.has_bias


# An H100, a B200, an A100, and a GPU with few multiprocessors.
@pytest.mark.parametrize(
    ("multiprocessors", "cache", "width", "rows"),
    [
        (132, 50 << 20, 128, 768),
        (132, 50 << 20, 256, 768),
        (132, 50 << 20, 768, 1536),
        (148, 126 << 20, 128, 768),
        (108, 40 << 20, 128, 512),
        (20, 4 << 20, 128, 256),
        (132, 50 << 20, 4096, 3840),
    ],
)
def test_a_chunk_on_a_gpu_is_whole_waves(monkeypatch, multiprocessors, cache, width, rows):
    gpu = SimpleNamespace(multi_processor_count=multiprocessors, L2_cache_size=cache)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    assert linear_head.chunk_rows(30_522, width, torch.bfloat16, torch.device("cuda")) == rows
    waves = -(-rows // (3 * multiprocessors))
    assert rows / (waves * 3 * multiprocessors) > 0.75


class _Launches(TorchDispatchMode):
    """Counts the ops of torch that a GPU would launch a kernel for; the row kernels count themselves."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        aliases = (argument.alias_info for argument in function._schema.arguments)
        is_view = any(alias and not alias.is_write for alias in aliases)
        allocates = "empty" in function.__name__
        if not is_view and not allocates and result.numel() > 0:
            self.count += 1
        return result


@pytest.mark.parametrize(("rows", "chunks"), [(512, 5), (768, 4), (2560, 1)])
def test_launches_of_a_loss_with_its_gradients(monkeypatch, rows, chunks):
    """Four for each chunk: three products and the row kernel. No value is checked, nothing is copied in between."""
    monkeypatch.setattr(linear_head, "chunk_rows", lambda *sizes: rows)
    launches = _Launches()

    def kernel(*arguments):
        launches.count += 1

    def loss(losses, *arguments):
        launches.count += 1
        return losses.new_empty(()), losses.new_empty((), dtype=torch.float64)

    row_kernels = RowKernels(kernel, kernel, loss, kernel, adds_bias=False)
    forward, backward = (
        guarded(OPS[name], partial(getattr(linear_head, name), row_kernels))
        for name in ("linear_cross_entropy_sample", "linear_cross_entropy_sample_backward")
    )
    hidden, weight, bias, upstream = (
        torch.empty(size, device="meta") for size in ((2560, 128), (30_522, 128), (30_522,), ())
    )
    targets = torch.empty(2560, dtype=torch.int64, device="meta")
    head, options = (hidden, weight, bias, targets), (-100, "mean")
    with launches:
        results = forward(*head, targets.double(), None, *options, 0.0, 1.0, False, [True] * 3)
    assert launches.count == 4 * chunks + 15
    launches.count = 0
    with launches:
        backward(upstream, *head, *results[4:], *options, 0.0, [True] * 3)
    assert launches.count == 7
