"""Logits of a row that share a large offset: loss and gradient keep the digits below it."""

import pytest
import torch

from electra_kernels import cross_entropy_sample, linear_cross_entropy_sample, sample_tokens

from . import oracle

# Offsets that cost float32 3 to 7 digits, all of them, and one near the largest float32.
OFFSETS = (1e3, -1e4, 1e7, 1e17, -3e38)


def _logits(offset, dtype, device):
    """Rows rounded to the dtype, with columns behind the last whole tile."""
    logits = 3 * torch.randn(7, 1100) + offset
    largest = torch.finfo(dtype).max
    return logits.clamp(-largest, largest).to(device, dtype)


def _truth(logits, targets, reduction):
    x = logits.detach().double()
    x = (x - x.amax(-1, keepdim=True)).requires_grad_()  # exact, so that float64 keeps the digits
    loss = oracle.cross_entropy(x, targets, reduction)
    loss.sum().backward()
    return loss.detach(), x.grad


def _distance(logits):
    """One plus the distance of each logit from the row's log-sum-exp: the size of the exponent that is rounded."""
    x = logits.detach().double()
    return 1 + (x - x.logsumexp(-1, keepdim=True)).abs()


def _assert_accurate(name, gradient, truth, logits):
    scale = truth.abs() * (1 + _distance(logits) * oracle.float32_ulps(logits.dtype))
    oracle.assert_accurate(name, gradient, truth, scale=scale, precision=logits.dtype)


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("variant", ["none", "mean", "mean in place"])
def test_cross_entropy_keeps_its_digits(device, dtype, variant, offset):
    logits, reduction = _logits(offset, dtype, device), variant.split()[0]
    targets = torch.randint(0, logits.shape[-1], (len(logits),), device=device)
    leaf = logits.clone().requires_grad_()
    loss = cross_entropy_sample(
        leaf * 1, targets, reduction=reduction, inplace_backward=variant.endswith("place")
    ).loss
    loss.sum().backward()
    truth, gradient = _truth(logits, targets, reduction)
    oracle.assert_accurate("loss", loss, truth, scale=_distance(logits).amax())
    _assert_accurate("gradient", leaf.grad, gradient, logits)


@pytest.mark.parametrize("offset", OFFSETS)
def test_the_logsumexp_of_a_sample_keeps_its_digits(device, dtype, offset):
    leaf = _logits(offset, dtype, device).requires_grad_()
    _, logsumexp = sample_tokens(leaf)
    logsumexp.sum().backward()
    oracle.assert_accurate("logsumexp", logsumexp, leaf.detach().double().logsumexp(-1))
    _assert_accurate("gradient", leaf.grad, leaf.detach().double().softmax(-1), leaf)


@pytest.mark.parametrize("offset", [1e4, 1e10, 1e15])
@pytest.mark.parametrize("variant", ["none", "mean", "mean in place"])
def test_float64_keeps_its_digits(variant, offset):
    """The reference serves float64 and has the accuracy of PyTorch."""
    logits, reduction = 3 * torch.randn(7, 1100, dtype=torch.float64) + offset, variant.split()[0]
    targets = torch.randint(0, 1100, (7,))
    leaf = logits.clone().requires_grad_()
    loss = cross_entropy_sample(
        leaf * 1, targets, reduction=reduction, inplace_backward=variant.endswith("place")
    ).loss
    loss.sum().backward()
    # Subtracting the maximum is exact here, so the logits without their offset give the truth.
    truth, gradient = _truth(logits - logits.amax(-1, keepdim=True), targets, reduction)
    torch.testing.assert_close(loss, truth, rtol=1e-14, atol=0)
    torch.testing.assert_close(leaf.grad, gradient, rtol=1e-13, atol=1e-18)


@pytest.mark.parametrize("offset", [1e3, -1e4, 2.0**22])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_linear_head_keeps_its_digits(device, reduction, offset):
    """Hidden states and weights are small integers, so every logit, offset included, is exact in float32."""
    hidden, weight = (torch.randint(-1, 2, shape).float().to(device) for shape in ((7, 8), (1100, 8)))
    bias = torch.randint(-2, 3, (1100,)).float().to(device) + offset
    targets = torch.randint(0, 1100, (7,), device=device)
    leaves = [value.clone().requires_grad_() for value in (hidden, weight, bias)]
    loss = linear_cross_entropy_sample(*leaves, targets, reduction=reduction).loss
    loss.sum().backward()
    exact = [value.double().requires_grad_() for value in (hidden, weight, bias)]
    truth = oracle.cross_entropy(torch.nn.functional.linear(*exact), targets, reduction)
    truth.sum().backward()
    oracle.assert_accurate("loss", loss, truth, scale=torch.tensor(40.0))
    for name, ours, theirs in zip(("hidden", "weight", "bias"), leaves, exact):
        # Each gradient sums numbers up to 1 whose exponents are up to 40.
        scale = 40 * torch.tensor(1.0 if reduction == "none" else 1 / 7)
        oracle.assert_accurate(name, ours.grad, theirs.grad, scale=scale)
