"""Properties of the ops on rows of logits, for drawn shapes, strides, dtypes and hostile numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from electra_kernels import (
    cross_entropy_sample,
    linear_cross_entropy_sample,
    replace_tokens,
    sample_replacements,
    sample_tokens,
)

from . import oracle
from .cases import workload
from .oracle import IGNORED, assert_equal
from .strategies import (
    dtypes,
    hostile_values,
    layouts,
    property_settings,
    reductions,
    seeds,
    shapes,
    temperatures,
)
from .test_linear_mlm_head import assert_parameter_gradients

widths = st.integers(1, workload(1100, interpreted=600))
ORDINARY = 1e3  # largest logit to which float32 can add 1e-4


def _targets(shape, vocabulary, generator, device):
    targets = torch.randint(0, vocabulary, shape, generator=generator)
    return targets.masked_fill(torch.rand(shape, generator=generator) < 0.3, IGNORED).to(device)


def _uniforms(shape, generator, device):
    return torch.rand(shape, generator=generator, dtype=torch.float64).to(device)


def _is_bad(logits):
    """Whether each row of logits [..., V] has NaN or +inf, or no finite number."""
    return logits.isnan().any(-1) | logits.isposinf().any(-1) | ~logits.isfinite().any(-1)


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, leading=shapes, vocabulary=widths, temperature=temperatures)
def test_draws_invert_the_cdf(device, data, seed, dtype, leading, vocabulary, temperature):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(*leading, vocabulary, generator=generator)).to(device, dtype)
    logits = data.draw(layouts(logits.shape))(logits)
    logits[..., ::3] = -torch.inf if data.draw(st.booleans()) and vocabulary > 1 else logits[..., ::3]
    uniforms = _uniforms(leading, generator, device)
    tokens, logsumexp = sample_tokens(logits, temperature=temperature, uniforms=uniforms)
    if tokens.numel():
        oracle.assert_drawn(tokens, logits, uniforms, temperature=temperature)
    truth = logits.double().logsumexp(-1)
    scale = 1 + logits.double().abs().nan_to_num(posinf=0).amax(-1)
    oracle.assert_accurate("logsumexp", logsumexp, truth, scale=scale)


@property_settings
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    rows=st.integers(1, 4),
    vocabulary=widths,
    temperature=temperatures,
)
def test_draws_from_rows_of_hostile_numbers(device, data, seed, dtype, rows, vocabulary, temperature):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, vocabulary, generator=generator).to(device, dtype)
    values = data.draw(hostile_values())(values, generator)
    logits, uniforms = data.draw(layouts(values.shape))(values), _uniforms((rows,), generator, device)
    banned = torch.randint(-1, vocabulary, (rows,), generator=generator).to(device)
    tokens, logsumexp = sample_tokens(logits, banned=banned, temperature=temperature, uniforms=uniforms)
    allowed = values.masked_fill(torch.arange(vocabulary, device=device) == banned[:, None], -torch.inf)
    bad = _is_bad(values)
    has_draw = ~bad & allowed.isfinite().any(-1)
    assert torch.equal(tokens >= 0, has_draw)
    assert not logsumexp[bad].isfinite().any()
    if bool(has_draw.any()):
        oracle.assert_drawn(tokens[has_draw], allowed[has_draw], uniforms[has_draw], temperature=temperature)
    oracle.assert_logsumexp(logsumexp[~bad], values[~bad])


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, leading=shapes, vocabulary=st.integers(2, 700))
def test_the_loss_and_its_gradient(device, data, seed, dtype, leading, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*leading, vocabulary, generator=generator).to(device, dtype)
    logits = data.draw(layouts(values.shape))(values).requires_grad_()
    targets = _targets(leading, vocabulary, generator, device)
    upstream = torch.rand(leading, generator=generator).to(device)
    ours = cross_entropy_sample(logits, targets, reduction="none")
    ours.loss.backward(upstream)
    x = values.double().requires_grad_()
    truth = oracle.cross_entropy(x, targets)
    truth.backward(upstream.double())
    assert bool(((ours.tokens >= 0) == (targets >= 0)).all())
    oracle.assert_accurate("loss", ours.loss, truth, scale=10 + truth.detach())
    scale = x.grad.abs() * (2 if dtype != torch.float32 else 20)
    oracle.assert_accurate("gradient", logits.grad, x.grad, scale=scale + 1e-7, precision=dtype)


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, rows=st.integers(1, 4), vocabulary=widths, ban=st.booleans())
def test_the_loss_and_its_gradient_of_rows_of_hostile_numbers(
    device, data, seed, dtype, rows, vocabulary, ban
):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, vocabulary, generator=generator).to(device, dtype)
    values = data.draw(hostile_values())(values, generator)
    logits = data.draw(layouts(values.shape))(values).requires_grad_()
    targets = _targets((rows,), vocabulary, generator, device)
    ours = cross_entropy_sample(logits, targets, reduction="none", ban_original=ban)
    (gradient,) = torch.autograd.grad(ours.loss.sum(), logits)
    counted, bad = targets != IGNORED, _is_bad(values)
    assert not ours.loss[~counted].any()
    assert not gradient[~counted].any()
    assert bool(ours.loss[counted & bad].isnan().all())
    good = counted & ~bad
    assert bool(gradient[good].isfinite().all())
    x = values.double()
    truth = oracle.cross_entropy(x[good], targets[good]).float()  # twice the largest float32 is +inf
    magnitude = x[good].where(x[good].isfinite(), 0).abs().amax(-1) if bool(good.any()) else truth
    oracle.assert_accurate("loss", ours.loss[good], truth, scale=10 + 2 * magnitude)
    assert bool((ours.tokens[~counted | bad] == -1).all())
    assert not (ours.is_top1 & ~counted).any()
    highest = x.amax(-1) == x.gather(-1, targets.clamp(min=0)[:, None]).squeeze(-1)
    assert torch.equal(ours.is_top1[good], highest[good])
    _assert_gradient_of_ordinary_rows(gradient[good], x[good], targets[good], dtype)


def _assert_gradient_of_ordinary_rows(gradient, x, targets, dtype):
    ordinary = (
        x.where(x.isfinite(), 0).abs().amax(-1, keepdim=False) < ORDINARY if x.numel() else targets.bool()
    )
    x, targets = x[ordinary], targets[ordinary]
    softmax = x.softmax(-1)
    truth = softmax.scatter_add(-1, targets[:, None], -torch.ones_like(softmax[:, :1]))
    distance = 1 + x.logsumexp(-1, keepdim=True).abs() + x.nan_to_num(neginf=0).abs()
    scale = truth.abs() + distance * softmax * oracle.float32_ulps(dtype)
    oracle.assert_accurate("gradient", gradient[ordinary], truth, scale=scale, precision=dtype)


@property_settings
@given(
    data=st.data(), seed=seeds, dtype=dtypes, vocabulary=widths, ban=st.booleans(), temperature=temperatures
)
def test_the_gradient_in_place_equals_the_other(device, data, seed, dtype, vocabulary, ban, temperature):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(3, vocabulary, generator=generator).to(device, dtype)
    values = data.draw(hostile_values(without=("max", "-max")))(values, generator)
    leaf, view = values.clone().requires_grad_(), data.draw(layouts(values.shape))
    targets = _targets((3,), vocabulary, generator, device)
    options = {
        "reduction": data.draw(st.sampled_from(["mean", "sum"])),
        "ban_original": ban,
        "temperature": temperature,
        "uniforms": _uniforms((3,), generator, device),
    }
    expected = cross_entropy_sample(leaf, targets, **options)
    (gradient,) = torch.autograd.grad(expected.loss, leaf)
    logits = view(values).requires_grad_() * 1
    ours = cross_entropy_sample(logits, targets, inplace_backward=True, **options)
    torch.testing.assert_close(ours.loss, expected.loss, equal_nan=True)
    assert torch.equal(ours.tokens, expected.tokens)
    assert torch.equal(ours.is_top1, expected.is_top1)
    (overwritten,) = torch.autograd.grad(ours.loss, logits)
    # An exponent of up to 104 is rounded to float32.
    rtol = 3 * torch.finfo(dtype).eps + 200 * torch.finfo(torch.float32).eps
    atol = 2 * torch.finfo(dtype).smallest_normal
    torch.testing.assert_close(overwritten, gradient, atol=atol, rtol=rtol, equal_nan=True)


@property_settings
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    rows=st.integers(1, 5),
    width=st.integers(1, 9),
    vocabulary=st.integers(2, 600),
    reduction=reductions,
)
def test_the_loss_and_gradients_of_the_linear_head(
    device, data, seed, dtype, rows, width, vocabulary, reduction
):
    generator = torch.Generator().manual_seed(seed)
    sizes = (rows, width), (vocabulary, width), (vocabulary,)
    values = [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]
    parameters = [data.draw(layouts(value.shape))(value) for value in values]
    if data.draw(st.booleans()):
        parameters[2] = None
    targets = _targets((rows,), vocabulary, generator, device)
    targets[0] = vocabulary - 1
    assert_parameter_gradients(parameters, targets, reduction, data.draw(st.floats(-3, 3)))


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, vocabulary=widths)
def test_a_bad_hidden_state_spoils_no_other_row(device, data, seed, dtype, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(4, 5, generator=generator).to(device, dtype)
    hidden[1:] = data.draw(hostile_values())(hidden[1:], generator)
    weight = torch.randn(vocabulary, 5, generator=generator).to(device, dtype)
    targets = _targets((4,), vocabulary, generator, device)
    targets[0] = 0
    ours = linear_cross_entropy_sample(hidden.requires_grad_(), weight, None, targets, reduction="none")
    ours.loss.sum().backward()
    alone = linear_cross_entropy_sample(hidden[:1], weight, None, targets[:1], reduction="none")
    torch.testing.assert_close(
        ours.loss[:1], alone.loss, rtol=1e-4 if dtype == torch.float32 else 0.02, atol=1e-4
    )
    assert bool(hidden.grad[0].isfinite().all())
    assert not ours.loss[targets == IGNORED].any()
    bad = ~hidden.detach().isfinite().all(-1) & (targets != IGNORED)
    assert not ours.loss[bad].isfinite().any()
    assert bool((ours.tokens[targets == IGNORED] == -1).all())


@property_settings
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    rows=st.integers(0, 3),
    slots=st.integers(0, 5),
    ban=st.booleans(),
)
def test_sample_replacements_equals_sampling_then_replacing(device, data, seed, dtype, rows, slots, ban):
    generator = torch.Generator().manual_seed(seed)
    length, vocabulary = slots + data.draw(st.integers(0, 9)), data.draw(st.integers(1, 50))
    values = torch.randn(rows, slots, vocabulary, generator=generator).to(device, dtype)
    logits = data.draw(layouts(values.shape))(data.draw(hostile_values())(values, generator))
    ids = torch.randint(0, vocabulary, (rows, length), generator=generator).to(device)
    positions = torch.rand(rows, length, generator=generator).argsort(-1)[:, :slots].to(device)
    targets = _targets((rows, slots), vocabulary, generator, device)
    uniforms = _uniforms((rows, slots), generator, device)
    ours = sample_replacements(logits, ids, positions, targets, ban_original=ban, uniforms=uniforms)
    tokens, _ = sample_tokens(logits, banned=targets if ban else None, uniforms=uniforms)
    expected = replace_tokens(ids, positions, tokens.where(targets >= 0, -1))
    assert_equal(ours, expected)
