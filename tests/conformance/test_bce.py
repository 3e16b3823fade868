"""Masked binary cross-entropy per token, with every option, against PyTorch and Transformers."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import masked_bce_with_logits

from . import oracle, views
from .oracle import IGNORED

SHAPE = (3, 41)  # 41 is prime, so rows end within a vector


def _logits(dtype, device, shape=SHAPE):
    return (4 * torch.randn(shape)).to(device, dtype)


def _labels(kind, device, shape=SHAPE):
    labels = torch.rand(shape, device=device)
    return labels if kind == torch.float32 else (labels < 0.3).to(kind)


def _gradient_terms(logits, mask, upstream, reduction, pos_weight):
    """m (sigmoid(x) + p sigmoid(-x)): the magnitude of the terms that are rounded in float32 before they cancel."""
    x = logits.detach().double()
    weight = torch.ones_like(x) if mask is None else mask.double().expand_as(x)
    terms = weight * (x.sigmoid() + (1.0 if pos_weight is None else pos_weight) * (-x).sigmoid())
    return terms * upstream.double().abs() / (weight.sum() if reduction == "mean" else 1)


def assert_loss_and_gradient(logits, labels, mask=None, *, reduction="mean", upstream=1.0, **options):
    """Compares loss and gradient with float64, for an upstream gradient of ``upstream`` (see upstream_gradient)."""
    logits = logits.detach().clone().requires_grad_()
    loss = masked_bce_with_logits(logits, labels, mask, reduction=reduction, **options)
    weights = oracle.upstream_gradient(upstream, loss, reduction)
    (loss * weights).sum().backward()
    results = []
    for dtype in (torch.float64, logits.dtype):
        x = logits.detach().to(dtype, copy=True).requires_grad_()
        expected = oracle.binary_cross_entropy(x, labels, mask, reduction=reduction, **options)
        (expected * weights.to(dtype)).sum().backward()
        results.append((expected.detach(), x.grad))
    (truth, gradient), (eager, eager_gradient) = results
    losses = oracle.binary_cross_entropy(
        logits.detach().double(), labels, mask, reduction="none", **options
    ).abs()
    scale = losses if reduction == "none" else losses.sum() * (truth / losses.sum().clamp(min=1e-30)).abs()
    oracle.assert_accurate("loss", loss, truth, eager, scale=scale)
    assert loss.dtype == torch.float32
    terms = _gradient_terms(logits, mask, weights, reduction, options.get("pos_weight"))
    scale = gradient.abs() + oracle.float32_ulps(logits.dtype) * terms
    oracle.assert_accurate(
        "gradient", logits.grad, gradient, eager_gradient, scale=scale, precision=logits.dtype
    )
    assert logits.grad.dtype == logits.dtype
    return loss


@pytest.mark.parametrize("upstream", [1.0, 3.7])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss_and_gradient(device, dtype, reduction, upstream):
    labels, mask = _labels(torch.bool, device), torch.rand(SHAPE, device=device) < 0.7
    assert_loss_and_gradient(_logits(dtype, device), labels, mask, reduction=reduction, upstream=upstream)


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32])
def test_labels_of_every_dtype(device, dtype, kind):
    assert_loss_and_gradient(_logits(dtype, device), _labels(kind, device))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32])
def test_masks_of_every_dtype(device, kind):
    logits, labels = _logits(torch.float32, device), _labels(torch.int64, device)
    mask = (torch.rand(SHAPE, device=device) < 0.7).to(kind)
    assert_loss_and_gradient(logits, labels, mask)


def test_a_nonzero_integer_mask_is_a_flag_and_a_float_mask_is_a_weight(device):
    logits, labels = _logits(torch.float32, device), _labels(torch.int64, device)
    mask = torch.randint(0, 4, SHAPE, device=device)
    as_flag = masked_bce_with_logits(logits, labels, mask)
    assert torch.equal(as_flag, masked_bce_with_logits(logits, labels, mask != 0))
    as_weight = masked_bce_with_logits(logits, labels, mask.float())
    torch.testing.assert_close(as_weight, oracle.binary_cross_entropy(logits, labels, mask.float()))
    assert not torch.isclose(as_flag, as_weight)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("pos_weight", [None, 0.0, 2.5])
def test_positive_weight_and_label_smoothing(device, dtype, pos_weight, label_smoothing, reduction):
    labels, mask = _labels(torch.float32, device), torch.rand(SHAPE, device=device)
    assert_loss_and_gradient(
        _logits(dtype, device),
        labels,
        mask,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


# For logits [3, 41]: a scalar, one weight per column, per row, per column with a leading 1, and per element.
@pytest.mark.parametrize("shape", [(), (41,), (3, 1), (1, 41), (3, 41)])
def test_a_positive_weight_broadcasts(device, shape):
    pos_weight = torch.rand(shape, device=device) * 3
    assert_loss_and_gradient(
        _logits(torch.float32, device), _labels(torch.bool, device), pos_weight=pos_weight
    )


def test_multi_label_classification_with_a_mask_per_token(device, dtype):
    shape = (3, 7, 5)
    logits, labels = _logits(dtype, device, shape), _labels(torch.int64, device, shape)
    mask = torch.rand(3, 7, 1, device=device) < 0.6
    assert_loss_and_gradient(logits, labels, mask, pos_weight=torch.rand(5, device=device))


# A scalar, one dimension, several, and one of size 1 among them.
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (2, 1, 3, 2)])
def test_logits_of_any_shape(device, shape):
    logits, labels = _logits(torch.float32, device, shape), _labels(torch.bool, device, shape)
    assert assert_loss_and_gradient(logits, labels, reduction="none").shape == shape


def test_ignored_labels_and_masked_tokens_add_nothing(device, dtype):
    for reduction in ("mean", "sum", "none"):
        logits, labels = _logits(dtype, device), _labels(torch.int64, device)
        mask = torch.ones(SHAPE, device=device)
        labels[0, :5], mask[1, :5] = IGNORED, 0
        clean = masked_bce_with_logits(logits, labels, mask, reduction=reduction)
        logits[0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
        logits[1, :3], labels[1, 4] = logits[0, :3], 77
        logits.requires_grad_()
        dirty = masked_bce_with_logits(logits, labels, mask, reduction=reduction)
        upstream = torch.ones_like(dirty)
        if reduction == "none":
            upstream[:2, :2] = torch.tensor([torch.nan, torch.inf])
        dirty.backward(upstream)
        assert torch.equal(clean, dirty)
        assert bool(logits.grad.isfinite().all())
        assert not logits.grad[:2, :5].any()


def test_large_logits_are_exact(device):
    """Neither a threshold above which softplus(x) is x, nor overflow, nor infinity times zero."""
    logits = torch.tensor([-1e4, -120.0, -25.0, 25.0, 120.0, 1e4, torch.inf, -torch.inf], device=device)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0], device=device)
    losses = masked_bce_with_logits(logits.requires_grad_(), labels, reduction="none")
    losses.sum().backward()
    truth = F.softplus(-logits.detach().double().abs(), threshold=1e6)
    oracle.assert_accurate("loss", losses, truth)
    sign = torch.where(labels == 1, -1.0, 1.0)
    oracle.assert_accurate(
        "gradient", logits.grad, sign * torch.special.expit(-logits.detach().double().abs())
    )
    wrong = masked_bce_with_logits(logits.detach(), 1 - labels, reduction="none")
    assert torch.equal(wrong, logits.detach().abs().where(logits.abs() > 30, wrong))


def test_a_nan_logit_gives_a_nan_loss_and_gradient(device):
    logits = torch.zeros(4, device=device)
    logits[2] = torch.nan
    losses = masked_bce_with_logits(logits.requires_grad_(), torch.ones(4, device=device), reduction="none")
    losses.sum().backward()
    assert losses.isnan().tolist() == logits.grad.isnan().tolist() == [False, False, True, False]


def test_the_raw_op_returns_confusion_counts(device, dtype):
    logits, labels = _logits(dtype, device), _labels(torch.int64, device)
    mask = torch.rand(SHAPE, device=device) < 0.7
    labels[0, :5] = IGNORED
    op = torch.ops.electra_kernels.masked_bce_with_logits
    _, counts, denominator = op(logits, labels, mask, None, None, 0.0, "mean")
    counted = mask & (labels != IGNORED)
    assert counts.tolist() == oracle.confusion_counts(logits > 0, labels == 1, counted)
    assert denominator.item() == int(counted.sum())


@pytest.mark.parametrize("padding", [0, 3])
def test_the_loss_equals_that_of_electra_in_transformers(device, padding):
    from transformers import ElectraConfig, ElectraForPreTraining

    config = ElectraConfig(
        vocab_size=50,
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    model = ElectraForPreTraining(config).to(device).eval()
    ids = torch.randint(0, 50, (2, 9), device=device)
    attention_mask = (torch.arange(9, device=device) < 9 - padding).long().repeat(2, 1)
    labels = torch.randint(0, 2, (2, 9), device=device)
    theirs = model(ids, attention_mask=attention_mask, labels=labels)
    ours = masked_bce_with_logits(theirs.logits, labels, attention_mask)
    torch.testing.assert_close(ours, theirs.loss)
    one, other = (
        torch.autograd.grad(loss, model.discriminator_predictions.dense.weight, retain_graph=True)[0]
        for loss in (ours, theirs.loss)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("argument", ["labels", "mask"])
def test_any_nonzero_byte_of_a_bool_tensor_is_true(device, argument):
    logits = torch.randn(3, 700, device=device)
    flags = torch.rand(3, 700, device=device) < 0.5
    results = []
    for value in (flags, views.as_odd_bytes(flags)):
        leaf = logits.clone().requires_grad_()
        tensors = {"labels": torch.ones_like(flags), "mask": None, argument: value}
        loss, counts, _ = torch.ops.electra_kernels.masked_bce_with_logits(
            leaf, tensors["labels"], tensors["mask"], None, None, 0.0, "mean"
        )
        loss.backward()
        results.append((loss.detach(), counts, leaf.grad))
    oracle.assert_equal(*results)
