"""`cross_entropy_sample` on materialised logits: loss, tokens, is_top1 and gradient."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import cross_entropy_sample, sample_tokens

from . import oracle
from .cases import workload
from .oracle import IGNORED


def _rows(rows, vocabulary, dtype, device, *, ignored=True):
    logits = (3 * torch.randn(rows, vocabulary)).to(device, dtype)
    targets = torch.randint(0, vocabulary, (rows,), device=device)
    if ignored:
        targets[1::4] = IGNORED
    return logits, targets


def _truth(logits, targets, upstream, reduction):
    """Loss and gradient in float64, then in eager torch in the dtype of the logits."""
    results = []
    for dtype in (torch.float64, logits.dtype):
        x = logits.detach().to(dtype, copy=True).requires_grad_()
        loss = oracle.cross_entropy(x, targets, reduction)
        (loss * upstream.to(dtype)).sum().backward()
        results += [loss.detach(), x.grad]
    # Even in float64, soft-max - 1 of a nearly certain target rounds to 0. The gradients of a row sum to 0, so take
    # the target's from the others.
    truth, column = results[1], targets.where(targets != IGNORED, 0)[..., None]
    truth.scatter_(-1, column, -truth.scatter(-1, column, 0.0).sum(-1, keepdim=True))
    return results


def _size(logits):
    """The magnitude of the largest logit in each row plus that of its log-sum-exp."""
    x = logits.detach().double()
    return 1 + x.logsumexp(-1).abs() + x.abs().amax(-1)


def _exponent_error(size, dtype):
    """Rounding an exponent to float32 and its exponential to ``dtype``, in units in the last place of ``dtype``."""
    return 1 + size * oracle.float32_ulps(dtype)


def assert_loss_and_gradient(logits, targets, reduction, upstream, **options):
    """Compares loss and gradient with float64 and returns the result of the op."""
    ours = cross_entropy_sample(logits.requires_grad_(), targets, reduction=reduction, **options)
    weights = oracle.upstream_gradient(upstream, ours.loss, reduction)
    (ours.loss * weights).sum().backward()
    loss, gradient, eager_loss, eager_gradient = _truth(logits, targets, weights, reduction)
    size = _size(logits)
    scale = {"none": size, "sum": size.sum(), "mean": size.mean()}[reduction]
    oracle.assert_accurate("loss", ours.loss, loss, eager_loss, scale=scale)
    assert ours.loss.dtype == torch.float32
    scale = gradient.abs() * _exponent_error(size, logits.dtype)[..., None]
    oracle.assert_accurate(
        "gradient", logits.grad, gradient, eager_gradient, scale=scale, precision=logits.dtype
    )
    assert logits.grad.dtype == logits.dtype
    return ours


# One token, less than a tile of 512, one token more than a tile, and a prime.
@pytest.mark.parametrize("upstream", [1.0, 3.7])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("vocabulary", [1, 37, 513, 1021])
def test_loss_and_gradient(device, dtype, vocabulary, reduction, upstream):
    assert_loss_and_gradient(
        *_rows(workload(9, interpreted=5), vocabulary, dtype, device), reduction, upstream
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_loss_and_gradient_at_a_vocabulary_of_30522(device, dtype, reduction):
    assert_loss_and_gradient(*_rows(6, 30_522, dtype, device), reduction, 1.0)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"ban_original": True}])
def test_the_sample_equals_that_of_sample_tokens(device, dtype, options):
    """The loss and its gradient ignore temperature and banned tokens."""
    logits, targets = _rows(9, 600, dtype, device)
    uniforms = torch.rand(9, dtype=torch.float64).to(device)
    ours = assert_loss_and_gradient(logits, targets, "mean", 1.0, uniforms=uniforms, **options)
    counted = targets != IGNORED
    banned = targets if options.get("ban_original") else None
    temperature = options.get("temperature", 1.0)
    oracle.assert_drawn(
        ours.tokens[counted],
        logits[counted],
        uniforms[counted],
        temperature=temperature,
        banned=None if banned is None else banned[counted],
    )
    tokens, _ = sample_tokens(logits.detach(), temperature=temperature, banned=banned, uniforms=uniforms)
    assert torch.equal(ours.tokens, tokens.where(counted, -1))
    assert ours.tokens.dtype == torch.int64


@pytest.mark.parametrize("lead", [30.0, 90.0])
def test_a_banned_original_may_have_nearly_all_probability(device, dtype, lead):
    logits, targets = _rows(9, 600, dtype, device, ignored=False)
    logits.scatter_(1, targets[:, None], lead)
    uniforms = torch.rand(9, dtype=torch.float64).to(device)
    ours = assert_loss_and_gradient(logits, targets, "none", 1.0, ban_original=True, uniforms=uniforms)
    oracle.assert_drawn(ours.tokens, logits, uniforms, banned=targets)


def test_the_loss_stays_finite_if_nothing_is_left_to_draw(device, dtype):
    logits = torch.full((2, 600), -torch.inf, device=device, dtype=dtype)
    logits[:, 7] = 1.0
    targets = torch.tensor([7, 7], device=device)
    ours = cross_entropy_sample(logits.requires_grad_(), targets, ban_original=True)
    ours.loss.backward()
    assert ours.tokens.tolist() == [-1, -1]
    assert ours.loss.item() == 0
    assert not logits.grad.any()


def test_is_top1_says_whether_the_target_has_the_highest_logit(device, dtype):
    logits, targets = _rows(12, 600, dtype, device)
    targets[::3] = logits[::3].argmax(-1)
    targets[1::4] = IGNORED
    logits[1::4, 0] = 99.0
    ours = cross_entropy_sample(logits, targets)
    counted = targets != IGNORED
    highest = logits.gather(1, targets.clamp(min=0)[:, None]).squeeze(1) == logits.amax(-1)
    assert torch.equal(ours.is_top1, highest & counted)
    assert ours.is_top1.dtype == torch.bool
    assert bool(ours.is_top1.any())


def test_ignored_rows_add_nothing_and_their_outputs_are_written(device, dtype):
    logits, targets = _rows(8, 50, dtype, device, ignored=False)
    targets[[0, 3]] = IGNORED
    logits[0], logits[3, 2] = torch.nan, torch.inf
    logits.requires_grad_()
    upstream = torch.ones(8, device=device)
    upstream[0], upstream[3] = torch.nan, torch.inf
    ours = cross_entropy_sample(logits, targets, reduction="none")
    ours.loss.backward(upstream)
    for row in (0, 3):
        assert ours.loss[row].item() == 0
        assert ours.tokens[row].item() == -1
        assert not ours.is_top1[row].item()
        assert not logits.grad[row].any()
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("ignore_index", [-100, 0, 7, 999])
def test_any_ignore_index(device, ignore_index):
    logits, targets = _rows(9, 50, torch.float32, device, ignored=False)
    targets[::2] = ignore_index
    ours = cross_entropy_sample(logits, targets, ignore_index=ignore_index)
    expected = F.cross_entropy(logits, targets, ignore_index=ignore_index)
    torch.testing.assert_close(ours.loss, expected)
    assert bool((ours.tokens[::2] == -1).all())


# A single row, one dimension, several, and one of size 1 among them.
@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 3)])
def test_logits_of_any_leading_shape(device, shape):
    logits = torch.randn(*shape, 50, device=device)
    targets = torch.randint(0, 50, shape, device=device)
    ours = assert_loss_and_gradient(logits, targets, "none", 1.0)
    assert ours.loss.shape == ours.tokens.shape == ours.is_top1.shape == shape


def test_the_loss_requires_no_grad_if_nothing_else_does(device):
    logits, targets = _rows(4, 50, torch.float32, device)
    with torch.no_grad():
        assert not cross_entropy_sample(logits.requires_grad_(), targets).loss.requires_grad
    assert not cross_entropy_sample(logits.detach(), targets).loss.requires_grad


@pytest.mark.parametrize("inplace", [False, True])
def test_float16_gradients_at_2560_rows(device, inplace):
    """Multiplying by 1 / N before rounding to float16 would flush most entries to zero."""
    rows, vocabulary = workload(2560, interpreted=64), 37
    logits, targets = _rows(rows, vocabulary, torch.float16, device, ignored=False)
    logits.requires_grad_()
    upstream = torch.tensor(1024.0, device=device)  # like a gradient scaler's
    loss = cross_entropy_sample(logits * 1, targets, inplace_backward=inplace, normalizer=2560).loss
    (loss * upstream).backward()
    _, truth, _, eager = _truth(logits, targets, upstream * rows / 2560, "mean")
    scale = truth.abs() * _exponent_error(_size(logits), torch.float16)[:, None]
    oracle.assert_accurate("gradient", logits.grad, truth, eager, scale=scale, precision=torch.float16)
    assert (logits.grad == 0).float().mean() < 0.01
