"""Few and many rows of many tiles, which may or may not fit into on-chip memory: every path that a back end chooses by
the size and number of rows gives the results of the reference."""

import pytest
import torch

from electra_kernels import sample_tokens, use_backend

from . import oracle
from .cases import workload
from .oracle import IGNORED

# A few tiles, and more tiles than a block has warps. Both are odd, so that rows begin at every alignment.
VOCABULARIES = (2501, 9001)
# A single row; more rows, among them ignored ones and ones whose target has the highest logit.
ROWS = (1, 3, 9)
OPTIONS = ((1.0, False), (0.7, True))  # (temperature, ban_original)


def _rows(rows, vocabulary, dtype, device):
    logits = (3 * torch.randn(rows, vocabulary)).to(device, dtype)
    targets = torch.randint(0, vocabulary, (rows,), device=device)
    targets[2::3] = logits[2::3].argmax(-1)
    targets[1::4] = IGNORED
    return logits, targets, torch.rand(rows, dtype=torch.float64).to(device)


def _assert_close(ours, expected, dtype):
    """Allows each side to round a gradient to ``dtype`` and the exponents of its soft-max to float32."""
    rtol = 2 * torch.finfo(dtype).eps + 2e-5
    torch.testing.assert_close(ours, expected, rtol=rtol, atol=2 * torch.finfo(dtype).smallest_normal)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_loss_sample_and_the_gradient_in_place(device, dtype, vocabulary, rows, options):
    op = torch.ops.electra_kernels.cross_entropy_sample_
    logits, targets, uniforms = _rows(rows, vocabulary, dtype, device)
    ours, expected = logits.clone(), logits.clone()
    loss, tokens, is_top1, *_ = op(ours, targets, uniforms, None, IGNORED, "sum", 0.01, *options)
    with use_backend("reference"):
        theirs = op(expected, targets, uniforms, None, IGNORED, "sum", 0.01, *options)
    torch.testing.assert_close(loss, theirs[0])
    assert torch.equal(is_top1, theirs[2])
    _assert_close(ours, expected, dtype)
    counted = targets != IGNORED
    assert bool((tokens[~counted] == -1).all())
    banned = targets[counted] if options[1] else None
    oracle.assert_drawn(
        tokens[counted], logits[counted], uniforms[counted], temperature=options[0], banned=banned
    )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_loss_sample_and_the_gradient_in_new_memory(device, dtype, vocabulary, rows):
    ops = torch.ops.electra_kernels
    logits, targets, uniforms = _rows(rows, vocabulary, dtype, device)
    upstream = torch.linspace(-1, 2, rows).to(device)
    results = []
    for backend in (None, "reference"):
        with use_backend(backend) if backend else torch.no_grad():
            loss, tokens, is_top1, _, parts, denominator = ops.cross_entropy_sample(
                logits, targets, uniforms, None, IGNORED, "none", 0.01, 1.0, True
            )
            gradient = ops.cross_entropy_sample_backward(
                upstream, upstream.flip(0), logits, targets, parts, denominator, IGNORED, 0.01
            )
            results.append((loss, gradient, is_top1))
            counted = targets != IGNORED
            oracle.assert_drawn(tokens[counted], logits[counted], uniforms[counted], banned=targets[counted])
    (loss, gradient, is_top1), (expected_loss, expected_gradient, expected_top1) = results
    torch.testing.assert_close(loss, expected_loss)
    _assert_close(gradient, expected_gradient, dtype)
    assert torch.equal(is_top1, expected_top1)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_sample_inverts_the_cdf(device, dtype, vocabulary, rows):
    logits, targets, uniforms = _rows(rows, vocabulary, dtype, device)
    tokens, logsumexp = sample_tokens(logits, banned=targets, uniforms=uniforms)
    oracle.assert_drawn(tokens, logits, uniforms, banned=targets)
    oracle.assert_logsumexp(logsumexp, logits)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_more_rows_than_a_block_has_threads(device, reduction):
    for _ in range(4):  # the order of the threads is another each time
        logits, targets, uniforms = _rows(workload(1500, interpreted=200), 7, torch.float32, device)
        arguments = (logits, targets, uniforms, None, IGNORED, reduction, 0.0, 1.0, False)
        loss, *_, denominator = torch.ops.electra_kernels.cross_entropy_sample(*arguments)
        truth = oracle.cross_entropy(logits.double(), targets, reduction)
        torch.testing.assert_close(loss.double(), truth, rtol=1e-6, atol=0)
        assert denominator.item() == (int((targets != IGNORED).sum()) if reduction == "mean" else 1)


def test_every_token_has_a_uniform_that_draws_it(device):
    """All tokens have equal weights; each uniform is the middle of a token's share of [0, 1). Covers every tile."""
    vocabulary = 5000
    expected = torch.arange(0, vocabulary, 37)
    uniforms = (expected.double() + 0.5) / vocabulary
    logits = torch.zeros(len(expected), 1, device=device).expand(-1, vocabulary)
    tokens, _ = sample_tokens(logits, uniforms=uniforms.to(device))
    assert torch.equal(tokens.cpu(), expected)


@pytest.mark.parametrize("rows", ROWS)
def test_scaling_a_gradient_by_a_factor_per_row(device, dtype, rows):
    gradient = torch.randn(rows, 2501).to(device, dtype)
    factors = torch.linspace(0.5, 2, rows).to(device)
    expected = (gradient.float() * factors[:, None]).to(dtype)
    torch.ops.electra_kernels.scale_gradient_(gradient, factors)
    torch.testing.assert_close(gradient, expected)
