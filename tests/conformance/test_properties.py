"""Properties over drawn shapes, strides, dtypes and masks."""

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_kernels import (
    cross_entropy_sample,
    linear_masked_bce,
    mask_tokens,
    masked_bce_with_logits,
    replace_tokens,
    sample_tokens,
)

from . import oracle
from .cases import quantity
from .test_masking import MASK, VOCABULARY, expected_row

few = settings(
    max_examples=quantity(25, interpreted=8),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**31)
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def layouts(draw, shape):
    """A permutation of the dimensions in memory, a step and an offset: view(values) has the values and that layout."""
    order = draw(st.permutations(range(len(shape))))
    step, offset = draw(st.integers(1, 3)), draw(st.integers(0, 5))

    def view(values):
        strides, size = [0] * len(shape), step
        for dimension in order:
            strides[dimension] = size
            size *= max(shape[dimension], 1)
        memory = (
            torch.full((size + offset,), torch.nan, dtype=torch.float64).to(values.dtype).to(values.device)
        )
        return memory.as_strided(shape, strides, offset).copy_(values)

    return view


@few
@given(data=st.data(), seed=seeds, dtype=dtypes, leading=shapes, vocabulary=st.integers(1, 1100))
def test_draws(device, data, seed, dtype, leading, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    logits = (4 * torch.randn(*leading, vocabulary, generator=generator)).to(device, dtype)
    logits = data.draw(layouts(logits.shape))(logits)
    logits[..., ::3] = -torch.inf if data.draw(st.booleans()) and vocabulary > 1 else logits[..., ::3]
    uniforms = torch.rand(leading, generator=generator, dtype=torch.float64).to(device)
    temperature = data.draw(st.floats(0.1, 10))
    tokens, logsumexp = sample_tokens(logits, temperature=temperature, uniforms=uniforms)
    if tokens.numel():
        oracle.assert_drawn(tokens, logits, uniforms, temperature=temperature)
    truth = logits.double().logsumexp(-1)
    oracle.assert_accurate(
        "logsumexp", logsumexp, truth, scale=1 + logits.double().abs().nan_to_num(posinf=0).amax(-1)
    )


@few
@given(data=st.data(), seed=seeds, dtype=dtypes, leading=shapes, vocabulary=st.integers(2, 700))
def test_cross_entropy(device, data, seed, dtype, leading, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*leading, vocabulary, generator=generator).to(device, dtype)
    logits = data.draw(layouts(values.shape))(values).requires_grad_()
    targets = torch.randint(0, vocabulary, leading, generator=generator)
    targets = targets.masked_fill(torch.rand(leading, generator=generator) < 0.3, oracle.IGNORED).to(device)
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


@few
@given(
    data=st.data(), seed=seeds, dtype=dtypes, shape=shapes, smoothing=st.floats(0, 1), weight=st.floats(0, 5)
)
def test_binary_cross_entropy(device, data, seed, dtype, shape, smoothing, weight):
    generator = torch.Generator().manual_seed(seed)
    values = (3 * torch.randn(shape, generator=generator)).to(device, dtype)
    logits = data.draw(layouts(shape))(values)
    labels = (torch.rand(shape, generator=generator) < 0.5).to(device)
    narrow = tuple(size if data.draw(st.booleans()) else 1 for size in shape)
    mask = (torch.rand(narrow, generator=generator) < 0.7).to(device)
    options = {"pos_weight": weight, "label_smoothing": smoothing}
    ours = masked_bce_with_logits(logits, labels, mask, **options)
    losses = oracle.binary_cross_entropy(values.double(), labels, mask, reduction="none", **options)
    truth = losses.sum() / mask.expand(shape).sum().clamp(min=1)
    oracle.assert_accurate("loss", ours, truth, scale=10 + truth)
    head = linear_masked_bce(logits[..., None], torch.ones(1, device=device), None, labels, mask, **options)
    oracle.assert_accurate("loss of the head", head.loss, truth, scale=10 + truth)


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
    maskable = (torch.rand(rows, length, generator=generator) < share).to(device)
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
