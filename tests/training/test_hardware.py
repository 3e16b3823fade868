"""Peaks by the name of a device, and FLOPs of a step against a count by hand and another kernel of torch."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from electra_kernels import linear_cross_entropy_sample
from electra_kernels.training.hardware import device_peak_flops, mfu, peak_flops, step_flops


@pytest.mark.parametrize(
    "name, expected",
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
    ],
)
def test_the_peak_of_a_known_gpu(name, expected):
    assert peak_flops(name) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA A10G",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA H200 MIG 1g.18gb",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "AVX512",
        "",
    ],
)
def test_a_gpu_that_only_resembles_a_known_one_has_no_peak(name):
    assert peak_flops(name) is None


def test_the_peak_depends_on_the_precision():
    assert peak_flops("NVIDIA A100-SXM4-80GB", "tf32") == pytest.approx(156e12)
    assert peak_flops("NVIDIA A100-SXM4-80GB", "float32") == pytest.approx(19.5e12)
    assert peak_flops("Tesla T4") is None
    assert peak_flops("Tesla T4", "float32") == pytest.approx(8.1e12)
    with pytest.raises(ValueError, match="float64"):
        peak_flops("Tesla T4", "float64")


def test_a_cpu_has_no_peak():
    assert device_peak_flops(torch.device("cpu")) is None


def test_a_linear_layer_costs_six_flops_per_weight_and_token():
    layer = torch.nn.Linear(8, 16, bias=False)
    x = torch.randn(5, 8, requires_grad=True)
    assert step_flops(lambda: layer(x).sum().backward()) == 6 * 5 * 8 * 16


@pytest.mark.parametrize("masked", [False, True])
def test_attention_counts_on_a_cpu(masked):
    """In agreement with separate matrix products, plus the scores that a fused backward computes again."""
    query, key, value = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool) if masked else None

    def step():
        F.scaled_dot_product_attention(query, key, value, attn_mask=mask).sum().backward()

    fused = step_flops(step)
    with sdpa_kernel(SDPBackend.MATH):
        separate = step_flops(step)
    product = 2 * 2 * 3 * 16 * 16 * 8
    assert (separate, fused) == (6 * product, 7 * product)


def test_the_head_counts_like_the_products_that_it_replaces():
    hidden = torch.randn(6, 8, requires_grad=True)
    weight, bias = torch.randn(20, 8, requires_grad=True), torch.zeros(20, requires_grad=True)
    targets = torch.arange(6)
    ours = step_flops(lambda: linear_cross_entropy_sample(hidden, weight, bias, targets).loss.backward())
    plain = step_flops(lambda: F.cross_entropy(F.linear(hidden, weight, bias), targets).backward())
    assert ours == plain > 0


def test_utilisation_is_shared_by_the_devices():
    """8 devices of 312 TFLOP/s at 2 steps of 624 TFLOPs per second use half of their peak."""
    assert mfu(624e12, 2.0, 8, peak=312e12) == pytest.approx(0.5)


def test_utilisation_of_the_current_gpu(monkeypatch):
    assert torch.cuda.is_available() or mfu(1e12, 1.0) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    assert mfu(312e12, 1.0, 2) == pytest.approx(0.5)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce MX150")
    assert mfu(312e12, 1.0, 2) is None
