"""`z_loss` of the two masked-LM ops, their output ``logsumexp``, and the losses that users compose of the outputs."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import cross_entropy_sample, linear_cross_entropy_sample

from . import oracle
from .cases import workload
from .oracle import IGNORED

Z_LOSS = 0.03
VOCABULARY = 600  # one whole tile of 512, and a part


def _logits(dtype, device):
    rows = workload(9, interpreted=5)
    logits = (3 * torch.randn(rows, VOCABULARY) + 5).to(device, dtype)
    targets = torch.randint(0, VOCABULARY, (rows,), device=device)
    targets[1::4] = IGNORED
    return logits, targets


def _truth(x, targets, reduction):
    """Loss with the z-loss, and the log-sum-exp with 0 in ignored rows, in the dtype of ``x``."""
    counted = targets != IGNORED
    logsumexp = x.logsumexp(-1).where(counted, 0)
    losses = oracle.cross_entropy(x, targets) + Z_LOSS * logsumexp.square()
    return oracle.reduce(losses, counted.to(x.dtype), reduction), logsumexp


def _assert_gradient(gradient, logits, targets, objective, *, scale=1.0):
    """Compares the gradient of ``objective(loss, logsumexp)`` with float64 and eager torch.

    The gradient is a difference of soft-max and one-hot terms, each of which the z-loss may multiply.
    """
    results = []
    for dtype in (torch.float64, logits.dtype):
        x = logits.detach().to(dtype, copy=True).requires_grad_()
        results += torch.autograd.grad(objective(*_truth(x, targets, "none")), x)
    soft_max = logits.detach().double().softmax(-1)
    terms = soft_max * (1 + 2 * Z_LOSS * logits.detach().double().logsumexp(-1, keepdim=True)).abs()
    terms = terms + F.one_hot(targets.clamp(min=0), VOCABULARY) * (1 - soft_max)
    size = 1 + logits.detach().double().abs().amax(-1, keepdim=True)
    ulps = 1 + size * oracle.float32_ulps(logits.dtype)
    oracle.assert_accurate("gradient", gradient, *results, scale=scale * terms * ulps, precision=logits.dtype)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_loss_and_the_log_sum_exp(device, dtype, reduction):
    logits, targets = _logits(dtype, device)
    ours = cross_entropy_sample(logits, targets, z_loss=Z_LOSS, reduction=reduction)
    loss, logsumexp = _truth(logits.double(), targets, reduction)
    eager, _ = _truth(logits, targets, reduction)
    size = 1 + logits.double().abs().amax(-1) + Z_LOSS * logsumexp.square()
    scale = {"none": size, "sum": size.sum(), "mean": size.mean()}[reduction]
    oracle.assert_accurate("loss", ours.loss, loss, eager, scale=scale)
    oracle.assert_accurate("logsumexp", ours.logsumexp, logsumexp, scale=1 + logsumexp.abs())
    assert ours.logsumexp.dtype == torch.float32


@pytest.mark.parametrize("inplace", [False, True])
def test_the_gradient_of_the_mean(device, dtype, inplace):
    logits, targets = _logits(dtype, device)
    leaf = logits.clone().requires_grad_()
    ours = cross_entropy_sample(leaf * 1, targets, z_loss=Z_LOSS, inplace_backward=inplace)
    ours.loss.backward()
    count = (targets != IGNORED).sum()
    _assert_gradient(
        leaf.grad, logits, targets, lambda losses, _: losses.sum() / count, scale=1 / count.item()
    )


def test_the_gradient_of_each_row_and_of_its_log_sum_exp(device, dtype):
    logits, targets = _logits(dtype, device)
    leaf = logits.clone().requires_grad_()
    weights = torch.linspace(-1, 2, len(targets), device=device)
    ours = cross_entropy_sample(leaf, targets, z_loss=Z_LOSS, reduction="none")
    ((ours.loss * weights).sum() + (ours.logsumexp * weights.flip(0)).sum()).backward()

    def objective(losses, logsumexp):
        return (losses * weights.to(losses.dtype)).sum() + (
            logsumexp * weights.flip(0).to(losses.dtype)
        ).sum()

    _assert_gradient(leaf.grad, logits, targets, objective, scale=4.0)


def test_the_gradient_of_the_log_sum_exp_alone_is_the_soft_max(device, dtype):
    logits, targets = _logits(dtype, device)
    leaf = logits.clone().requires_grad_()
    cross_entropy_sample(leaf, targets).logsumexp.sum().backward()
    _assert_gradient(leaf.grad, logits, targets, lambda _, logsumexp: logsumexp.sum())


def test_ignored_rows_have_no_log_sum_exp_whatever_they_hold(device, dtype):
    logits, targets = _logits(dtype, device)
    logits[1], logits[5 % len(logits), 2] = torch.nan, torch.inf
    targets[5 % len(logits)] = IGNORED
    leaf = logits.requires_grad_()
    ours = cross_entropy_sample(leaf, targets, z_loss=Z_LOSS)
    upstream = torch.ones_like(ours.logsumexp).where(targets != IGNORED, torch.nan)
    (ours.loss + (ours.logsumexp * upstream).nan_to_num().sum()).backward()
    assert not ours.logsumexp[targets == IGNORED].any()
    assert not leaf.grad[targets == IGNORED].any()
    assert bool(leaf.grad.isfinite().all())


def test_a_bad_row_has_no_log_sum_exp(device, dtype):
    logits, targets = _logits(dtype, device)
    logits[0, 3], logits[2, 550], logits[3] = torch.nan, torch.inf, -torch.inf
    for z_loss in (0.0, Z_LOSS):
        ours = cross_entropy_sample(logits, targets, z_loss=z_loss, reduction="none")
        for row in (0, 2, 3):
            assert bool(ours.loss[row].isnan())
            assert bool(ours.logsumexp[row].isnan())


@pytest.mark.parametrize("offset", [1e4, -1e4, 1e25])
def test_a_large_offset_adds_nothing_without_a_z_loss(device, offset):
    """The square of a log-sum-exp of 1e25 is infinite in float32, and 0 times it is not 0."""
    logits, targets = _logits(torch.float32, device)
    x = (logits + offset).requires_grad_()
    ours = cross_entropy_sample(x, targets)
    ours.loss.backward()
    assert bool(ours.loss.isfinite())
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_linear_head(device, dtype, reduction):
    rows, width = workload(70, interpreted=12), 8
    hidden = torch.randn(rows, width).to(device, dtype)
    weight = (torch.randn(VOCABULARY, width) / 2).to(device, dtype)
    bias = torch.randn(VOCABULARY).to(device, dtype)
    targets = torch.randint(0, VOCABULARY, (rows,), device=device)
    targets[1::4] = IGNORED

    def run(precision, function):
        leaves = [value.to(precision, copy=True).requires_grad_() for value in (hidden, weight, bias)]
        loss, logsumexp = function(*leaves)
        weights = oracle.upstream_gradient(1.5, loss, reduction).to(loss.dtype)
        (loss * weights).sum().backward()
        return loss.detach(), logsumexp.detach(), *(leaf.grad for leaf in leaves)

    def ours(*leaves):
        out = linear_cross_entropy_sample(*leaves, targets, z_loss=Z_LOSS, reduction=reduction)
        return out.loss, out.logsumexp

    def theirs(*leaves):
        return _truth(F.linear(*leaves), targets, reduction)

    results = zip(run(dtype, ours), run(torch.float64, theirs), run(dtype, theirs))
    for name, (one, truth, eager) in zip(("loss", "logsumexp", "hidden", "weight", "bias"), results):
        # Chunks of logits and their gradient are held in the dtype of hidden.
        magnitude = truth.abs().amax() * (rows if name in ("weight", "bias") else 8)
        oracle.assert_accurate(name, one, truth, eager, scale=magnitude, precision=dtype)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_label_smoothing_is_composed_of_the_loss_and_the_mean_logit(device, smoothing):
    """With label smoothing s the loss is the cross-entropy + s (x[target] - mean(x)): the log-sum-exp cancels."""
    logits, targets = _logits(torch.float32, device)
    targets = targets.clamp(min=0)
    results = []
    for function in (
        lambda x: (
            cross_entropy_sample(x, targets).loss
            + smoothing * (x.gather(-1, targets[:, None]).squeeze(-1) - x.mean(-1)).mean()
        ),
        lambda x: F.cross_entropy(x, targets, label_smoothing=smoothing),
    ):
        x = logits.clone().requires_grad_()
        loss = function(x)
        loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(*results)


def test_class_weights_are_weights_of_the_rows(device):
    logits, targets = _logits(torch.float32, device)
    weights = torch.rand(VOCABULARY, device=device) + 0.5
    results = []
    for function in (
        lambda x: (
            (cross_entropy_sample(x, targets, reduction="none").loss * weights[targets.clamp(min=0)]).sum()
            / weights[targets[targets != IGNORED]].sum()
        ),
        lambda x: F.cross_entropy(x, targets, weight=weights),
    ):
        x = logits.clone().requires_grad_()
        loss = function(x)
        loss.backward()
        results.append((loss.detach(), x.grad))
    torch.testing.assert_close(*results)
