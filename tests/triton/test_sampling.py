"""Draws in Triton, in cases that need longer rows than the conformance suite has."""

import pytest
import torch

from electra_kernels import draw_uniforms
from electra_kernels.reference import sampling as reference
from electra_kernels.triton import launch, sampling

DEVICE = "cpu" if launch.is_interpreted() else "cuda"
pytestmark = pytest.mark.skipif(
    not launch.is_interpreted() and not torch.cuda.is_available(),
    reason="kernels run on a GPU, or in Triton's interpreter: TRITON_INTERPRET=1",
)


def _inputs(rows, vocabulary):
    logits = 3 * torch.randn(rows, vocabulary, device=DEVICE)
    banned = torch.randint(-1, vocabulary, (rows,), device=DEVICE)
    return logits, banned, draw_uniforms((rows,), device=DEVICE)


@pytest.mark.parametrize("multiprocessors", [1, 2, 5, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("vocabulary", [1500, 9000])
def test_a_row_scanned_in_parts_gives_the_same_bits(monkeypatch, vocabulary, temperature, multiprocessors):
    inputs = _inputs(3, vocabulary)
    monkeypatch.setattr(launch, "multiprocessors", lambda device: 0)
    whole = sampling.sample_tokens(*inputs, temperature)
    monkeypatch.setattr(launch, "multiprocessors", lambda device: multiprocessors)
    monkeypatch.setattr(sampling, "_WARPS", 1)
    for ours, theirs in zip(sampling.sample_tokens(*inputs, temperature), whole):
        assert torch.equal(ours, theirs)


def test_rows_of_many_tiles_match_the_reference():
    inputs = _inputs(3, 66_001)
    expected = reference.sample_tokens(*inputs, 1.0)
    logsumexp, tokens, parts = sampling.sample_tokens(*inputs, 1.0)
    torch.testing.assert_close(logsumexp, expected[0])
    assert torch.equal(tokens, expected[1])
    torch.testing.assert_close(parts, expected[2], rtol=1e-7, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, -3.0, 1.0, 1e30])
def test_invalid_uniforms_draw_tokens_inside_the_row(bad):
    """On a GPU, values are not checked before the kernel runs."""
    logits, _, uniforms = _inputs(2, 1500)
    _, tokens, _ = sampling.sample_tokens(logits, None, torch.full_like(uniforms, bad), 1.0)
    assert bool(((tokens >= 0) & (tokens < 1500)).all())


@pytest.mark.parametrize("banned", [1500, 2**40])
def test_a_banned_token_out_of_range_bans_nothing(banned):
    logits, _, uniforms = _inputs(2, 1500)
    free = sampling.sample_tokens(logits, None, uniforms, 1.0)
    ours = sampling.sample_tokens(logits, torch.full((2,), banned, device=DEVICE), uniforms, 1.0)
    for one, other in zip(ours, free):
        assert torch.equal(one, other)
