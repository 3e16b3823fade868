"""`linear_cross_entropy_sample`: loss, sample and the gradients of hidden, weight and bias, without the logits."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels import cross_entropy_sample, linear_cross_entropy_sample
from electra_kernels.backends import linear_head

from . import oracle
from .cases import workload
from .oracle import IGNORED

NAMES = ("hidden", "weight", "bias")


def _inputs(rows, vocabulary, width, dtype, device, *, bias=True):
    hidden = torch.randn(rows, width).to(device, dtype)
    weight = (torch.randn(vocabulary, width) / width**0.5).to(device, dtype)
    bias = torch.randn(vocabulary).to(device, dtype) if bias else None
    targets = torch.randint(0, vocabulary, (rows,), device=device)
    targets[1::4] = IGNORED
    return (hidden, weight, bias), targets


def _eager(parameters, targets, reduction, upstream, dtype):
    """Loss and gradients with the logits in ``dtype``."""
    leaves = [None if value is None else value.detach().to(dtype).requires_grad_() for value in parameters]
    loss = oracle.cross_entropy(F.linear(*leaves), targets, reduction)
    (loss * upstream.to(dtype)).sum().backward()
    return loss.detach(), [None if leaf is None else leaf.grad for leaf in leaves]


def _scales(parameters, targets, reduction, upstream):
    """Sums of the absolute terms of the loss and of each gradient."""
    hidden, weight, bias = (None if v is None else v.detach().double() for v in parameters)
    x = F.linear(hidden, weight, bias).requires_grad_()
    (oracle.cross_entropy(x, targets, reduction) * upstream.double()).sum().backward()
    x = x.detach()
    size = 1 + x.logsumexp(-1).abs() + F.linear(hidden.abs(), weight.abs()).amax(-1) + x.abs().amax(-1)
    gradient = x.softmax(-1) + F.one_hot(targets.clamp(min=0), x.shape[-1])
    # Chunks of it are held in the dtype of hidden. Its subnormal numbers are as far apart as its smallest normal ones.
    gradient = gradient.clamp(min=torch.finfo(parameters[0].dtype).smallest_normal)
    rows = {
        "none": upstream.abs(),
        "sum": upstream.abs(),
        "mean": upstream.abs() / (targets != IGNORED).sum(),
    }
    gradient = gradient * size[:, None] * rows[reduction].double().expand_as(size)[:, None]
    loss = {"none": size, "sum": size.sum(), "mean": size.mean()}[reduction]
    return loss, (gradient @ weight.abs(), gradient.T @ hidden.abs(), gradient.sum(0))


def assert_parameter_gradients(parameters, targets, reduction, upstream):
    """Compares the loss and the gradients of hidden, weight and bias with float64. The bias may be None."""
    dtype = parameters[0].dtype
    leaves = [value if value is None else value.requires_grad_() for value in parameters]
    ours = linear_cross_entropy_sample(*leaves, targets, reduction=reduction)
    weights = oracle.upstream_gradient(upstream, ours.loss, reduction)
    (ours.loss * weights).sum().backward()
    loss, gradients = _eager(parameters, targets, reduction, weights, torch.float64)
    eager_loss, eager_gradients = _eager(parameters, targets, reduction, weights, dtype)
    loss_scale, scales = _scales(parameters, targets, reduction, weights)
    oracle.assert_accurate("loss", ours.loss, loss, eager_loss, scale=loss_scale, precision=dtype)
    for name, leaf, *rest, scale in zip(NAMES, leaves, gradients, eager_gradients, scales):
        if leaf is not None:
            oracle.assert_accurate(name, leaf.grad, *rest, scale=scale, precision=dtype)
            assert leaf.grad.dtype == leaf.dtype


# Less than one tile of the vocabulary; more rows, and one token more than a tile of 512.
@pytest.mark.parametrize("upstream", [1.0, 3.7])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("rows", "vocabulary", "width"), [(9, 37, 6), (workload(70, interpreted=12), 513, 8)]
)
def test_loss_and_gradients(device, dtype, rows, vocabulary, width, reduction, upstream):
    parameters, targets = _inputs(rows, vocabulary, width, dtype, device)
    assert_parameter_gradients(parameters, targets, reduction, upstream)


@pytest.mark.parametrize("upstream", [9e-40, 1e-30, 0.0])
def test_a_tiny_upstream_gradient_of_each_row(device, upstream):
    """The reciprocal of 9e-40 is infinite in float32."""
    parameters, targets = _inputs(5, 37, 6, torch.float32, device)
    assert_parameter_gradients(parameters, targets, "none", upstream)


def test_gradients_at_a_vocabulary_of_30522(device, dtype):
    parameters, targets = _inputs(4, 30_522, 6, dtype, device)
    leaves = [value.requires_grad_() for value in parameters]
    linear_cross_entropy_sample(*leaves, targets).loss.backward()
    one = torch.ones((), device=device)
    _, truth = _eager(parameters, targets, "mean", one, torch.float64)
    _, eager = _eager(parameters, targets, "mean", one, dtype)
    _, scales = _scales(parameters, targets, "mean", one)
    for name, leaf, *rest, scale in zip(NAMES, leaves, truth, eager, scales):
        oracle.assert_accurate(name, leaf.grad, *rest, scale=scale, precision=dtype)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6}, {"ban_original": True}])
def test_the_sample_inverts_the_cdf_of_the_logits(device, dtype, options):
    (hidden, weight, bias), targets = _inputs(workload(40, interpreted=16), 600, 6, dtype, device)
    uniforms = torch.rand(targets.shape, dtype=torch.float64).to(device)
    ours = linear_cross_entropy_sample(hidden, weight, bias, targets, uniforms=uniforms, **options)
    counted = targets != IGNORED
    logits = F.linear(hidden.double(), weight.double(), bias.double())
    rounding = torch.finfo(dtype).eps * F.linear(hidden.double().abs(), weight.double().abs()).max()
    temperature = options.get("temperature", 1.0)
    oracle.assert_drawn(
        ours.tokens[counted],
        logits[counted],
        uniforms[counted],
        temperature=temperature,
        banned=targets[counted] if "ban_original" in options else None,
        tolerance=oracle.CDF_TOLERANCE + 2 * rounding.item() / temperature,
    )
    assert bool((ours.tokens[~counted] == -1).all())


def test_it_agrees_with_cross_entropy_sample_in_float32(device):
    (hidden, weight, bias), targets = _inputs(40, 600, 6, torch.float32, device)
    uniforms = torch.rand(40, dtype=torch.float64).to(device)
    ours = linear_cross_entropy_sample(hidden, weight, bias, targets, uniforms=uniforms, reduction="none")
    logits = F.linear(hidden, weight, bias)
    theirs = cross_entropy_sample(logits, targets, uniforms=uniforms, reduction="none")
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert torch.equal(ours.is_top1, theirs.is_top1)
    assert torch.equal(ours.tokens, theirs.tokens)


@pytest.mark.parametrize("frozen", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_tensors_that_require_grad_get_a_gradient(device, reduction, frozen):
    parameters, targets = _inputs(9, 37, 6, torch.float32, device)
    leaves = [value.requires_grad_(index not in frozen) for index, value in enumerate(parameters)]
    loss = linear_cross_entropy_sample(*leaves, targets, reduction=reduction).loss.sum()
    assert loss.requires_grad == (len(frozen) < 3)
    if len(frozen) == 3:
        return
    loss.backward()
    _, truth = _eager(parameters, targets, reduction, torch.ones((), device=device), torch.float64)
    for index, (leaf, expected) in enumerate(zip(leaves, truth)):
        assert (leaf.grad is None) == (index in frozen)
        if index not in frozen:
            torch.testing.assert_close(leaf.grad, expected.float())


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_gradient_of_the_bias_alone_includes_every_row(device, dtype, reduction):
    parameters, targets = _inputs(70, 37, 6, dtype, device)
    parameters[2].requires_grad_()
    upstream = torch.ones((), device=device)
    linear_cross_entropy_sample(*parameters, targets, reduction=reduction).loss.sum().backward()
    _, truth = _eager(parameters, targets, reduction, upstream, torch.float64)
    _, scales = _scales(parameters, targets, reduction, upstream)
    error = (parameters[2].grad.double() - truth[2]).abs()
    assert (error <= 4 * torch.finfo(dtype).eps * scales[2]).all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_bias_equals_a_bias_of_zero(device, dtype, reduction):
    (hidden, weight, _), targets = _inputs(9, 37, 6, dtype, device, bias=False)
    zeros = torch.zeros(37, device=device, dtype=dtype)
    results = []
    for bias in (None, zeros):
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = linear_cross_entropy_sample(*leaves, bias, targets, reduction=reduction).loss
        loss.sum().backward()
        results.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("weight_dtype", ["of hidden", torch.float32])
@pytest.mark.parametrize("banning", [-torch.inf, -1e9])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_bias_bans_a_token(device, dtype, weight_dtype, banning, reduction):
    """-1e9 is -inf in float16, which leaves nothing for a low part of the bias."""
    (hidden, weight, bias), targets = _inputs(9, 37, 6, dtype, device)
    if weight_dtype == torch.float32:
        weight, bias = weight.float(), bias.float()
    others = torch.arange(37, device=device) != 36
    targets = targets.where(targets != 36, 35)
    uniforms = torch.full((9,), 1 - 2.0**-53, device=device, dtype=torch.float64)
    results = []
    for rows in (slice(None), others):
        leaves = [value.detach().clone().requires_grad_() for value in (hidden, weight[rows], bias[rows])]
        with torch.no_grad():
            leaves[2][~others[rows]] = torch.tensor(banning).to(leaves[2])
        ours = linear_cross_entropy_sample(*leaves, targets, uniforms=uniforms, reduction=reduction)
        ours.loss.sum().backward()
        results.append([ours.loss, ours.tokens, *(leaf.grad for leaf in leaves)])
    (loss, tokens, *gradients), (expected_loss, expected_tokens, *expected) = results
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(gradients[0], expected[0])
    for gradient, other in zip(gradients[1:], expected[1:]):
        torch.testing.assert_close(gradient[others], other)
        assert not gradient[36].any()


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_a_large_bias_costs_no_digits(device, dtype, offset):
    """The bias of float32 master weights is rounded only with the logit that it is part of."""
    (hidden, weight, bias), targets = _inputs(workload(40, interpreted=16), 600, 8, dtype, device)
    bias = 10 * bias.float() + offset
    ours = linear_cross_entropy_sample(hidden, weight.float(), bias, targets, reduction="none")
    logits = F.linear(hidden.double(), weight.double(), bias.double())
    truth = oracle.cross_entropy(logits, targets, "none")
    rounding = torch.finfo(dtype).eps / 2 * logits.abs().amax()
    bound = 2 * rounding + 1e-5 * (1 + logits.abs().amax())
    assert ((ours.loss - truth).abs() <= bound).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float32_weights_get_float32_gradients(device, monkeypatch, half, reduction):
    """The gradient of master weights is accumulated in float32 and not rounded to the dtype of the activations.

    The product of one chunk of rows may be rounded, so this test has more rows than a chunk.
    """
    monkeypatch.setattr(linear_head, "MOST_ROWS", workload(linear_head.MOST_ROWS, interpreted=64))
    (hidden, weight, bias), targets = _inputs(workload(600, interpreted=80), 37, 6, torch.float32, device)
    leaves = hidden.to(half).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()
    linear_cross_entropy_sample(*leaves, targets, reduction=reduction).loss.sum().backward()
    parameters = (leaves[0], weight.to(half), bias)
    one = torch.ones((), device=device)
    _, truth = _eager(parameters, targets, reduction, one, torch.float64)
    _, scales = _scales(parameters, targets, reduction, one)
    for name, leaf, expected, scale in zip(NAMES, leaves, truth, scales):
        assert leaf.grad.dtype == leaf.dtype
        oracle.assert_accurate(name, leaf.grad, expected, scale=scale, precision=half)
    assert not torch.equal(weight.grad, weight.grad.to(half).float()), (
        "the gradient was rounded to the half dtype"
    )


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float16_gradients_at_2560_rows(device, reduction):
    """Words that are no target get the soft-max only. Multiplying by 1 / N too early would flush it to 0 in float16."""
    rows, vocabulary = workload(2560, interpreted=64), 257
    hidden = (1 + torch.rand(rows, 4)).to(device, torch.float16).requires_grad_()
    weight = (torch.randn(vocabulary, 4) / 10).to(device, torch.float16)
    weight[:10] += 1.2
    weight.requires_grad_()
    targets = torch.randint(0, 10, (rows,), device=device)
    normalizer = 2560 if reduction == "mean" else None
    ours = linear_cross_entropy_sample(
        hidden, weight, None, targets, reduction=reduction, normalizer=normalizer
    ).loss
    loss = ours if reduction == "mean" else ours.sum() / 2560
    scale = 1024.0  # like a gradient scaler: the unscaled gradients are below the resolution of float16
    (loss * scale).backward()
    one = torch.tensor(scale * rows / 2560, device=device)
    _, (_, truth, _) = _eager((hidden, weight, None), targets, "mean", one, torch.float64)
    others = weight.grad[10:].double()
    error = ((others - truth[10:]) / truth[10:]).abs()
    assert error.max() < 0.02, f"worst at {error.argmax().item()}: {error.max().item()}"


def test_ignored_rows_add_nothing_even_if_they_are_not_finite(device, dtype):
    for reduction in ("mean", "none"):
        (hidden, weight, bias), targets = _inputs(9, 37, 6, dtype, device)
        hidden[1], hidden[5, 2] = torch.nan, torch.inf
        leaves = [value.requires_grad_() for value in (hidden, weight, bias)]
        ours = linear_cross_entropy_sample(*leaves, targets, reduction=reduction)
        upstream = torch.ones_like(ours.loss)
        if reduction == "none":
            upstream[1], upstream[5] = torch.nan, torch.inf
        ours.loss.backward(upstream)
        assert bool(ours.loss.isfinite().all())
        assert all(bool(leaf.grad.isfinite().all()) for leaf in leaves)
        assert not hidden.grad[1::4].any()
        assert bool((ours.tokens[1::4] == -1).all())
