"""`linear_masked_bce`: the discriminator's last linear layer fused with its loss."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import linear_masked_bce, masked_bce_with_logits

from . import oracle
from .oracle import IGNORED

SHAPE = (3, 41)  # 41 is prime, so rows end within a vector
NAMES = ("hidden", "weight", "bias")


def make_inputs(dtype, device, width=9, shape=SHAPE):
    hidden = torch.randn(*shape, width).to(device, dtype)
    weight, bias = torch.randn(width).to(device, dtype), torch.randn(1).to(device, dtype)
    labels = (torch.rand(shape, device=device) < 0.3).long()
    mask = (torch.rand(shape, device=device) < 0.8).long()
    return (hidden, weight, bias), labels, mask


def _eager(parameters, labels, mask, dtype, reduction, upstream, **options):
    hidden, weight, bias = (value.detach().to(dtype).requires_grad_() for value in parameters)
    logits = (hidden @ weight.reshape(-1)) + bias.reshape(())
    loss = oracle.binary_cross_entropy(logits, labels, mask, reduction=reduction, **options)
    (loss * upstream.to(dtype)).sum().backward()
    return loss.detach(), logits.detach(), (hidden.grad, weight.grad, bias.grad)


def _scales(parameters, mask, reduction, upstream):
    """Sums of the absolute terms of a logit, of the loss, and of each gradient as if sigmoid and label were 1."""
    hidden, weight, bias = (value.detach().double().abs() for value in parameters)
    logit = hidden @ weight.reshape(-1) + bias.reshape(())
    denominator = mask.sum() if reduction == "mean" else 1.0
    token = mask * upstream.double().abs().expand_as(mask) * (1 + logit) / denominator
    flat = token.reshape(-1)
    gradients = (token[..., None] * weight, hidden.reshape(-1, hidden.shape[-1]).T @ flat, flat.sum())
    loss = {"none": 1 + logit, "sum": (1 + logit).sum(), "mean": (1 + logit).mean()}[reduction]
    return logit, loss, gradients


def assert_loss_and_gradients(parameters, labels, mask, *, reduction="mean", upstream=1.0, **options):
    """Compares logits, loss and gradients with float64 and returns the result of the op."""
    leaves = [value.requires_grad_() for value in parameters]
    ours = linear_masked_bce(*leaves, labels, mask, reduction=reduction, **options)
    weights = oracle.upstream_gradient(upstream, ours.loss, reduction)
    (ours.loss * weights).sum().backward()
    dtype = parameters[0].dtype
    loss, logits, gradients = _eager(leaves, labels, mask, torch.float64, reduction, weights, **options)
    eager = _eager(leaves, labels, mask, dtype, reduction, weights, **options)
    logit_scale, loss_scale, scales = _scales(leaves, mask, reduction, weights)
    # The logits are computed in float32 whatever the dtype of hidden.
    oracle.assert_accurate("logits", ours.logits, logits, scale=logit_scale)
    oracle.assert_accurate("loss", ours.loss, loss, scale=loss_scale)
    assert ours.loss.dtype == ours.logits.dtype == torch.float32
    for name, leaf, truth, theirs, scale in zip(NAMES, leaves, gradients, eager[2], scales):
        scale = torch.maximum(scale.reshape(truth.shape) * oracle.float32_ulps(dtype), truth.abs())
        oracle.assert_accurate(name, leaf.grad, truth, theirs, scale=scale, precision=dtype)
        assert leaf.grad.dtype == leaf.dtype
    return ours


# A width of 1, and widths that are no multiple of a vector: less than a warp and more than one. For whole vectors see
# test_token_sizes.py.
@pytest.mark.parametrize("upstream", [1.0, 3.7])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("width", [1, 9, 130])
def test_loss_logits_and_gradients(device, dtype, width, reduction, upstream):
    assert_loss_and_gradients(*make_inputs(dtype, device, width), reduction=reduction, upstream=upstream)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_positive_weight_and_label_smoothing(device, dtype, reduction):
    options = {"pos_weight": torch.rand(41, device=device) * 3, "label_smoothing": 0.2}
    assert_loss_and_gradients(*make_inputs(dtype, device), reduction=reduction, **options)


@pytest.mark.parametrize("weight_shape", [(9,), (1, 9)])
@pytest.mark.parametrize("bias_shape", [(), (1,), None])
def test_weight_and_bias_of_every_legal_shape(device, weight_shape, bias_shape):
    (hidden, weight, bias), labels, mask = make_inputs(torch.float32, device)
    weight = weight.reshape(weight_shape).requires_grad_()
    bias = None if bias_shape is None else bias.reshape(bias_shape).requires_grad_()
    ours = linear_masked_bce(hidden, weight, bias, labels, mask)
    ours.loss.backward()
    logits = hidden @ weight.detach().reshape(-1) + (0 if bias is None else bias.detach().reshape(()))
    torch.testing.assert_close(ours.logits, logits)
    assert weight.grad.shape == weight_shape
    assert bias is None or bias.grad.shape == bias_shape


def test_it_equals_a_linear_layer_followed_by_the_loss(device):
    (hidden, weight, bias), labels, mask = make_inputs(torch.float32, device)
    ours = linear_masked_bce(hidden, weight, bias, labels, mask)
    logits = F.linear(hidden, weight[None], bias).squeeze(-1)
    torch.testing.assert_close(ours.loss, masked_bce_with_logits(logits, labels, mask))
    assert not ours.logits.requires_grad
    assert not ours.counts.requires_grad


def test_it_returns_confusion_counts(device, dtype):
    parameters, labels, mask = make_inputs(dtype, device)
    labels[0, :7] = IGNORED
    ours = linear_masked_bce(*parameters, labels, mask)
    counted = (mask != 0) & (labels != IGNORED)
    assert ours.counts.tolist() == oracle.confusion_counts(ours.logits > 0, labels == 1, counted)
    assert ours.counts.dtype == torch.int64


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_float32_weights_get_float32_gradients(device, half):
    (hidden, weight, bias), labels, mask = make_inputs(torch.float32, device)
    parameters = hidden.to(half), weight, bias
    leaves = [value.requires_grad_() for value in parameters]
    linear_masked_bce(*leaves, labels, mask).loss.backward()
    one = torch.ones((), device=device)
    _, _, truth = _eager(parameters, labels, mask, torch.float64, "mean", one)
    _, _, scales = _scales(parameters, mask, "mean", one)
    for name, leaf, expected, scale in zip(NAMES[1:], leaves[1:], truth[1:], scales[1:]):
        assert leaf.grad.dtype == torch.float32
        oracle.assert_accurate(name, leaf.grad, expected, scale=scale.reshape(expected.shape))


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (1, 2), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_tensors_that_require_grad_get_a_gradient(device, reduction, frozen):
    parameters, labels, mask = make_inputs(torch.float32, device)
    leaves = [value.requires_grad_(index not in frozen) for index, value in enumerate(parameters)]
    loss = linear_masked_bce(*leaves, labels, mask, reduction=reduction).loss.sum()
    assert loss.requires_grad == (len(frozen) < 3)
    if len(frozen) == 3:
        return
    loss.backward()
    truth = _eager(parameters, labels, mask, torch.float64, reduction, torch.ones((), device=device))[2]
    for index, (leaf, expected) in enumerate(zip(leaves, truth)):
        assert (leaf.grad is None) == (index in frozen)
        if index not in frozen:
            torch.testing.assert_close(leaf.grad, expected.float())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_masked_tokens_add_nothing_even_if_they_are_not_finite(device, dtype, reduction):
    (hidden, weight, bias), labels, mask = make_inputs(dtype, device)
    mask[0, :4], labels[1, :4] = 0, IGNORED
    hidden[:2, 0], hidden[:2, 1, 3] = torch.nan, torch.inf
    leaves = [value.requires_grad_() for value in (hidden, weight, bias)]
    ours = linear_masked_bce(*leaves, labels, mask, reduction=reduction)
    upstream = torch.ones_like(ours.loss)
    if reduction == "none":
        upstream[:2, :2] = torch.tensor([torch.nan, torch.inf])
    ours.loss.backward(upstream)
    assert bool(ours.loss.isfinite().all())
    assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
    assert not hidden.grad[:2, :4].any()
    assert int(ours.counts.sum()) == int(((mask != 0) & (labels != IGNORED)).sum())
