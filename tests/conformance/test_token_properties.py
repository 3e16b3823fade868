"""Properties of the ops on tokens over drawn shapes, strides, dtypes, masks and hostile numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from electra_kernels import (
    gather_rows,
    linear_masked_bce,
    mask_tokens,
    masked_bce_with_logits,
    replace_tokens,
)

from . import oracle
from .strategies import dtypes, few, hostile, layouts, reductions, seeds, shapes
from .test_bce import assert_loss_and_gradient
from .test_masking import MASK, VOCABULARY, expected_row
from .test_rtd_head import assert_loss_and_gradients

kinds = st.sampled_from([torch.bool, torch.int64, torch.int32, torch.uint8, torch.float32, torch.bfloat16])


def _flags(shape, share, generator, device):
    return (torch.rand(shape, generator=generator) < share).to(device)


def _narrow(data, shape):
    """A shape that broadcasts to this one."""
    return tuple(size if data.draw(st.booleans()) else 1 for size in shape)


@few
@given(
    data=st.data(), seed=seeds, dtype=dtypes, shape=shapes, smoothing=st.floats(0, 1), weight=st.floats(0, 5)
)
def test_binary_cross_entropy(device, data, seed, dtype, shape, smoothing, weight):
    generator = torch.Generator().manual_seed(seed)
    values = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    logits = data.draw(layouts(shape))(values)
    labels = _flags(shape, 0.5, generator, device)
    mask = _flags(_narrow(data, shape), 0.7, generator, device)
    options = {"pos_weight": weight, "label_smoothing": smoothing}
    ours = masked_bce_with_logits(logits, labels, mask, **options)
    losses = oracle.binary_cross_entropy(values.double(), labels, mask, reduction="none", **options)
    truth = losses.sum() / mask.expand(shape).sum().clamp(min=1)
    oracle.assert_accurate("loss", ours, truth, scale=10 + truth)
    head = linear_masked_bce(logits[..., None], torch.ones(1, device=device), None, labels, mask, **options)
    oracle.assert_accurate("loss of the head", head.loss, truth, scale=10 + truth)


@few
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    shape=shapes,
    labels_as=kinds,
    mask_as=kinds,
    reduction=reductions,
)
def test_gradients_of_any_kind_of_label_and_mask(
    device, data, seed, dtype, shape, labels_as, mask_as, reduction
):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    labels = data.draw(layouts(shape))(_flags(shape, 0.4, generator, device).to(labels_as))
    mask = _flags(_narrow(data, shape), 0.7, generator, device).to(mask_as)
    if mask.numel():
        mask.view(-1)[0] = 1  # the truth divides by what is counted
    options = {"reduction": reduction, "upstream": data.draw(st.floats(-3, 3))}
    if logits.numel():
        assert_loss_and_gradient(logits, labels, mask, **options)


@few
@given(
    data=st.data(),
    seed=seeds,
    dtype=dtypes,
    width=st.integers(1, 70),
    rows=st.integers(1, 9),
    reduction=reductions,
)
def test_gradients_of_the_head(device, data, seed, dtype, width, rows, reduction):
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, rows, width), (width,), (1,)
    values = [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]
    parameters = [data.draw(layouts(value.shape))(value) for value in values]
    labels, mask = (_flags((2, rows), share, generator, device).long() for share in (0.4, 0.7))
    mask[0, 0] = 1
    assert_loss_and_gradients(
        parameters, labels, mask, reduction=reduction, upstream=data.draw(st.floats(-3, 3))
    )


@few
@given(data=st.data(), seed=seeds, dtype=dtypes, count=st.integers(1, 80), reduction=reductions)
def test_hostile_logits_of_tokens(device, data, seed, dtype, count, reduction):
    """Anything may stand under a mask of 0. Elsewhere NaN is seen, and an infinite logit on the right side costs 0."""
    generator = torch.Generator().manual_seed(seed)
    values = data.draw(hostile())(torch.randn(count, generator=generator).to(device, dtype), generator)
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


@few
@given(
    seed=seeds,
    rows=st.integers(0, 4),
    length=st.integers(0, 40),
    slots=st.integers(1, 9),
    share=st.floats(0, 1),
    probability=st.floats(0.01, 1),
)
def test_masking_and_replacing(device, seed, rows, length, slots, share, probability):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, length), generator=generator).to(device)
    maskable = _flags((rows, length), share, generator, device)
    uniforms = torch.rand(rows, slots, 2, generator=generator, dtype=torch.float64).to(device)
    options = {"probability": probability, "mask_fraction": 0.7, "random_fraction": 0.2}
    masked = mask_tokens(
        ids,
        maskable,
        mask_token_id=MASK,
        vocab_size=VOCABULARY,
        max_predictions=slots,
        uniforms=uniforms,
        **options,
    )
    expected = [
        expected_row(*row, **options) for row in zip(ids.tolist(), maskable.tolist(), uniforms.tolist())
    ]
    for ours, theirs in zip(masked, zip(*expected)):
        assert ours.tolist() == list(theirs)
    restored = replace_tokens(masked.input_ids, masked.positions, masked.targets)
    assert torch.equal(restored.input_ids, ids), "the targets are what masking has removed"
    assert torch.equal(restored.is_replaced, masked.input_ids != ids)


@few
@given(data=st.data(), seed=seeds, rows=st.integers(0, 4), length=st.integers(0, 40))
def test_replacing_at_any_positions(device, data, seed, rows, length):
    """Unused slots may name any position, one of theirs or of others or none of the row at all."""
    generator = torch.Generator().manual_seed(seed)
    slots = data.draw(st.integers(0, length))
    ids = torch.randint(0, 9, (rows, length), generator=generator).to(device)
    positions = torch.rand(rows, length, generator=generator).argsort(-1)[:, :slots].to(device)
    tokens = torch.randint(-3, 9, (rows, slots), generator=generator).to(device)
    positions = positions.where(tokens >= 0, data.draw(st.integers(-(2**62), 2**62)))
    view = data.draw(layouts(ids.shape))
    ours = replace_tokens(view(ids), positions, tokens)
    expected = ids.tolist()
    for row, places, written in zip(expected, positions.tolist(), tokens.tolist()):
        for place, token in zip(places, written):
            if token >= 0:
                row[place] = token
    assert ours.input_ids.tolist() == expected
    assert torch.equal(ours.is_replaced, ours.input_ids != ids)


@few
@given(data=st.data(), seed=seeds, dtype=dtypes, rows=st.integers(0, 3), length=st.integers(1, 9))
def test_gathering(device, data, seed, dtype, rows, length):
    """The gradient adds up where a position is named twice."""
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
