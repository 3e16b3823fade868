"""Properties of the ops on tokens, for drawn shapes, strides, dtypes, masks and hostile numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from electra_kernels import (
    gather_rows,
    linear_masked_bce,
    masked_bce_with_logits,
    replace_tokens,
)

from . import oracle
from .strategies import dtypes, hostile_values, layouts, property_settings, reductions, seeds, shapes
from .test_bce import assert_loss_and_gradient
from .test_masking import VOCABULARY, assert_masked_as_specified
from .test_rtd_head import assert_loss_and_gradients

flag_dtypes = st.sampled_from(
    [torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32, torch.bfloat16]
)


def _flags(shape, share, generator, device):
    return (torch.rand(shape, generator=generator) < share).to(device)


def _broadcastable(data, shape):
    """A shape that broadcasts to ``shape``."""
    return tuple(size if data.draw(st.booleans()) else 1 for size in shape)


@property_settings
@given(
    data=st.data(), seed=seeds, dtype=dtypes, shape=shapes, smoothing=st.floats(0, 1), weight=st.floats(0, 5)
)
def test_the_loss_with_and_without_a_head(device, data, seed, dtype, shape, smoothing, weight):
    generator = torch.Generator().manual_seed(seed)
    values = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    logits = data.draw(layouts(shape))(values)
    labels = _flags(shape, 0.5, generator, device)
    mask = _flags(_broadcastable(data, shape), 0.7, generator, device)
    options = {"pos_weight": weight, "label_smoothing": smoothing}
    ours = masked_bce_with_logits(logits, labels, mask, **options)
    losses = oracle.binary_cross_entropy(values.double(), labels, mask, reduction="none", **options)
    truth = losses.sum() / mask.expand(shape).sum().clamp(min=1)
    oracle.assert_accurate("loss", ours, truth, scale=10 + truth)
    head = linear_masked_bce(logits[..., None], torch.ones(1, device=device), None, labels, mask, **options)
    oracle.assert_accurate("loss of the head", head.loss, truth, scale=10 + truth)


@property_settings
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    shape=shapes,
    label_dtype=flag_dtypes,
    mask_dtype=flag_dtypes,
    reduction=reductions,
)
def test_the_loss_and_its_gradient_for_labels_and_masks_of_any_dtype(
    device, data, seed, dtype, shape, label_dtype, mask_dtype, reduction
):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    labels = data.draw(layouts(shape))(_flags(shape, 0.4, generator, device).to(label_dtype))
    mask = _flags(_broadcastable(data, shape), 0.7, generator, device).to(mask_dtype)
    if mask.numel():
        mask.view(-1)[0] = 1  # the oracle cannot divide by a count of 0
    options = {"reduction": reduction, "upstream": data.draw(st.floats(-3, 3))}
    if logits.numel():
        assert_loss_and_gradient(logits, labels, mask, **options)


@property_settings
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    width=st.integers(1, 70),
    rows=st.integers(1, 9),
    reduction=reductions,
)
def test_the_loss_and_gradients_of_the_head(device, data, seed, dtype, width, rows, reduction):
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, rows, width), (width,), (1,)
    values = [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]
    parameters = [data.draw(layouts(value.shape))(value) for value in values]
    labels, mask = (_flags((2, rows), share, generator, device).long() for share in (0.4, 0.7))
    mask[0, 0] = 1
    assert_loss_and_gradients(
        parameters, labels, mask, reduction=reduction, upstream=data.draw(st.floats(-3, 3))
    )


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, count=st.integers(1, 80), reduction=reductions)
def test_the_loss_of_hostile_logits(device, data, seed, dtype, count, reduction):
    """Any number is legal under a mask of 0. Elsewhere NaN spoils the token, and a correct infinite logit costs 0."""
    generator = torch.Generator().manual_seed(seed)
    values = data.draw(hostile_values())(torch.randn(count, generator=generator).to(device, dtype), generator)
    labels, mask = _flags(count, 0.5, generator, device), _flags(count, 0.6, generator, device)
    weight = torch.ones(1, device=device, dtype=torch.float32)
    logits, hidden = (data.draw(layouts((count,)))(values).requires_grad_() for _ in range(2))
    losses = masked_bce_with_logits(logits, labels, mask, reduction="none")
    head = linear_masked_bce(hidden[:, None], weight, None, labels, mask, reduction="none")
    x = values.double()
    truth = torch.where(labels, -x, x).clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
    truth = truth.where(mask, 0)
    scale = 1e-6 + truth.abs().where(truth.isfinite(), 0)
    oracle.assert_accurate("losses", losses, truth, scale=scale)
    oracle.assert_accurate("losses of the head", head.loss, truth, scale=scale)
    total = masked_bce_with_logits(logits, labels, mask, reduction=reduction).sum()
    gradients = torch.autograd.grad(total + head.loss.sum(), (logits, hidden))
    for gradient in gradients:
        assert not gradient[~mask].any()
        assert torch.equal(gradient[mask].isnan(), values[mask].isnan())
        assert bool((gradient[mask & ~values.isnan()].abs() <= 1).all())


@property_settings
@given(
    seed=seeds,
    rows=st.integers(0, 4),
    length=st.integers(0, 40),
    slots=st.integers(1, 9),
    share=st.floats(0, 1),
    probability=st.floats(0.01, 1),
)
def test_replacing_by_the_targets_undoes_masking(device, seed, rows, length, slots, share, probability):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator).to(device)
    maskable = _flags((rows, length), share, generator, device)
    uniforms = torch.rand(rows, slots, 2, generator=generator, dtype=torch.float64).to(device)
    options = {"probability": probability, "mask_fraction": 0.7, "random_fraction": 0.2}
    masked = assert_masked_as_specified(ids, maskable, uniforms, **options)
    restored = replace_tokens(masked.input_ids, masked.positions, masked.targets)
    assert torch.equal(restored.input_ids, ids)
    assert torch.equal(restored.is_replaced, masked.input_ids != ids)


@property_settings
@given(data=st.data(), seed=seeds, rows=st.integers(0, 4), length=st.integers(0, 40))
def test_replacing_ignores_the_positions_of_unused_slots(device, data, seed, rows, length):
    """An unused slot may have any position, even one that another slot uses or one outside the row."""
    generator = torch.Generator().manual_seed(seed)
    slots = data.draw(st.integers(0, length))
    ids = torch.randint(0, 9, (rows, length), generator=generator).to(device)
    positions = torch.rand(rows, length, generator=generator).argsort(-1)[:, :slots].to(device)
    tokens = torch.randint(-3, 9, (rows, slots), generator=generator).to(device)
    positions = positions.where(tokens >= 0, data.draw(st.integers(-(2**62), 2**62)))
    view = data.draw(layouts(ids.shape))
    ours = replace_tokens(view(ids), positions, tokens)
    expected = ids.tolist()
    for row, row_positions, row_tokens in zip(expected, positions.tolist(), tokens.tolist()):
        for position, token in zip(row_positions, row_tokens):
            if token >= 0:
                row[position] = token
    assert ours.input_ids.tolist() == expected
    assert torch.equal(ours.is_replaced, ours.input_ids != ids)


@property_settings
@given(data=st.data(), seed=seeds, dtype=dtypes, rows=st.integers(0, 3), length=st.integers(1, 9))
def test_gathering_rows_and_their_gradient(device, data, seed, dtype, rows, length):
    """The gradient sums over all slots with the same position."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, length, 3, generator=generator).to(device, dtype)
    hidden = data.draw(layouts(values.shape))(values).requires_grad_()
    positions = torch.randint(0, length, (rows, data.draw(st.integers(0, 5))), generator=generator).to(device)
    gathered = gather_rows(hidden, positions)
    gathered.sum().backward()
    for row in range(rows):
        assert torch.equal(gathered[row], values[row][positions[row]])
        counts = positions[row].bincount(minlength=length).to(dtype)
        assert torch.equal(hidden.grad[row], counts[:, None].expand(-1, 3))
