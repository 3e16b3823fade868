"""The matrices of the linear head, its chunks, and what it launches."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels.backends import linear_head
from electra_kernels.backends.linear_head import RowKernels


def _tf32(x):
    """Rounded to 10 explicit bits, as the operands of a product on tensor cores may be."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0xFFF + (bits >> 13 & 1)) & ~0x1FFF).view(torch.float32)


def _operands(hidden, weight, bias, adds_bias=False):
    targets = torch.zeros(len(hidden), dtype=torch.int64)
    return linear_head.operands(RowKernels(None, None, None, adds_bias), hidden, weight, bias, targets, -100)


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
