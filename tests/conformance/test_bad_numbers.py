"""NaN, infinities and rows with nothing to draw give a NaN loss and token -1, never an invalid token."""

import pytest
import torch

from electra_kernels import cross_entropy_sample, linear_cross_entropy_sample, sample_tokens

from . import oracle
from .oracle import IGNORED

# Less than one tile; and several tiles, so that the bad number is in the first, a middle or the last one.
VOCABULARIES = (5, 600, 1200)


def _rows_with(value, columns, vocabulary, dtype, device):
    """One row for each column, with ``value`` in that column, and a last row that is finite."""
    logits = torch.randn(len(columns) + 1, vocabulary).to(device, dtype)
    for row, column in enumerate(columns):
        logits[row, column] = value
    return logits


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_row_with_nan_or_infinity_draws_nothing_and_has_a_nan_loss(device, dtype, value, vocabulary):
    columns = (0, 1, vocabulary // 2, vocabulary - 1)
    logits = _rows_with(value, columns, vocabulary, dtype, device)
    targets = torch.ones(len(logits), dtype=torch.int64, device=device)
    tokens, logsumexp = sample_tokens(logits)
    assert tokens[:-1].tolist() == [-1] * len(columns)
    assert 0 <= int(tokens[-1]) < vocabulary
    assert not logsumexp[:-1].isfinite().any()
    ours = cross_entropy_sample(logits, targets, reduction="none")
    assert ours.tokens[:-1].tolist() == [-1] * len(columns)
    assert ours.loss.isnan().tolist() == [True] * len(columns) + [False]
    assert bool(cross_entropy_sample(logits, targets).loss.isnan())


def test_the_gradient_of_the_log_sum_exp_of_a_row_with_infinity(device, dtype):
    """softmax is 0 at the finite columns, as in torch, and NaN where the infinity is."""
    logits = _rows_with(torch.inf, (3,), 600, dtype, device).requires_grad_()
    sample_tokens(logits)[1].sum().backward()
    others = torch.arange(600, device=device) != 3
    assert logits.grad[0].isnan().tolist() == (~others).tolist()
    assert not logits.grad[0, others].any()
    assert bool(logits.grad[1].isfinite().all())


def test_a_bad_number_in_the_banned_column_still_spoils_its_row(device, dtype):
    for value in (torch.nan, torch.inf):
        logits = _rows_with(value, (3,), 600, dtype, device)
        banned = torch.tensor([3, 3], device=device)
        tokens, _ = sample_tokens(logits, banned=banned)
        assert int(tokens[0]) == -1
        assert int(tokens[1]) >= 0
        ours = cross_entropy_sample(logits, banned, reduction="none", ban_original=True)
        assert int(ours.tokens[0]) == -1
        assert ours.loss.isnan().tolist() == [True, False]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_row_without_a_finite_logit_draws_nothing_and_has_a_nan_loss(device, dtype, vocabulary):
    logits = torch.full((2, vocabulary), -torch.inf, device=device, dtype=dtype)
    logits[1, -1] = 0
    tokens, logsumexp = sample_tokens(logits)
    assert tokens.tolist() == [-1, vocabulary - 1]
    assert logsumexp.tolist()[1] == 0
    assert not logsumexp[0].isfinite()
    targets = torch.zeros(2, dtype=torch.int64, device=device)
    ours = cross_entropy_sample(logits, targets, reduction="none")
    assert ours.tokens.tolist() == [-1, vocabulary - 1]
    assert ours.loss.isnan().tolist() == [True, False]


TOP_LOGIT = 5.0


def _rows_with_target_on_top(vocabulary, dtype, device):
    """Logits, targets and the expected is_top1. Each target, column 2, has the highest logit before the bad numbers.

    A row with NaN has no highest logit. In a row without a finite logit all are equal, so the target is the highest.
    """
    logits = torch.randn(8, vocabulary).clamp(max=TOP_LOGIT - 1)
    logits[:, 2] = TOP_LOGIT
    expected = [True] * 8
    for row, column in enumerate((0, 3, vocabulary - 1, 2)):
        logits[row, column], expected[row] = torch.nan, False
    logits[4, 0], expected[4] = torch.inf, False
    logits[5, 2] = torch.inf
    logits[6] = -torch.inf
    return logits.to(device, dtype), torch.full((8,), 2, device=device), expected


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_is_top1_in_rows_with_bad_numbers(device, dtype, vocabulary):
    logits, targets, expected = _rows_with_target_on_top(vocabulary, dtype, device)
    for options in ({}, {"reduction": "none"}, {"ban_original": True}, {"temperature": 0.5}):
        assert cross_entropy_sample(logits, targets, **options).is_top1.tolist() == expected
    leaf = logits.clone().requires_grad_()
    assert cross_entropy_sample(leaf * 1, targets, inplace_backward=True).is_top1.tolist() == expected
    ignored = cross_entropy_sample(logits, torch.full_like(targets, IGNORED))
    assert not ignored.is_top1.any()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [(0, torch.nan, False), (599, torch.inf, False), (2, -torch.inf, False), (599, -torch.inf, True)],
)
def test_is_top1_of_the_linear_head_with_bad_numbers(device, dtype, column, value, expected, reduction):
    """The hidden state is 1, so the logits equal the weight."""
    weight = torch.randn(600, 1).clamp(max=TOP_LOGIT - 1)
    weight[2] = TOP_LOGIT
    weight[column] = value
    hidden, targets = torch.ones(1, 1, device=device, dtype=dtype), torch.tensor([2], device=device)
    ours = linear_cross_entropy_sample(hidden, weight.to(device, dtype), None, targets, reduction=reduction)
    assert ours.is_top1.tolist() == [expected]


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_bad_row_spoils_no_other_row(device, dtype, reduction):
    logits = _rows_with(torch.nan, (3,), 600, dtype, device).requires_grad_()
    targets = torch.tensor([1, 2], device=device)
    ours = cross_entropy_sample(logits, targets, reduction=reduction)
    ours.loss.sum().backward()
    assert bool(logits.grad[0].isnan().any())
    assert bool(logits.grad[1].isfinite().all())


def test_tiles_of_minus_infinity_do_not_make_nan(device, dtype):
    """The finite tile comes first, in the middle or last. An online soft-max that computes -inf - -inf gives NaN."""
    for start, stop in ((0, 3), (700, 720), (1999, 2000)):
        logits = torch.full((4, 2000), -torch.inf, device=device, dtype=dtype)
        logits[:, start:stop] = torch.randn(4, stop - start).to(device, dtype)
        targets = torch.full((4,), start, device=device)
        uniforms = torch.rand(4, dtype=torch.float64).to(device)
        leaf = logits.requires_grad_()
        ours = cross_entropy_sample(leaf, targets, uniforms=uniforms)
        ours.loss.backward()
        oracle.assert_drawn(ours.tokens, logits, uniforms)
        truth = logits.detach().double().requires_grad_()
        loss = oracle.cross_entropy(truth, targets, "mean")
        loss.backward()
        oracle.assert_accurate("loss", ours.loss, loss, scale=1 + loss.detach().abs())
        oracle.assert_accurate(
            "gradient", leaf.grad, truth.grad, scale=truth.grad.abs() + 0.1, precision=dtype
        )
        assert not leaf.grad[:, :start].any()
        assert not leaf.grad[:, stop:].any()


def test_a_target_at_minus_infinity_has_an_infinite_loss_and_a_finite_gradient(device, dtype):
    logits = torch.randn(3, 600).to(device, dtype)
    logits[:, 4] = -torch.inf
    targets = torch.tensor([4, 4, 5], device=device)
    for options in ({}, {"ban_original": True}):
        leaf = logits.clone().requires_grad_()
        ours = cross_entropy_sample(leaf, targets, reduction="none", **options)
        ours.loss.sum().backward()
        assert ours.loss.isposinf().tolist() == [True, True, False]
        assert bool((ours.tokens >= 0).all())
        assert bool(leaf.grad.isfinite().all())
        assert leaf.grad[:2, 4].tolist() == [-1, -1]


def test_huge_logits_neither_overflow_nor_vanish(device):
    logits = torch.tensor([[3e38, -3e38, 0.0], [-3e38, -3e38, -3e38]], device=device).requires_grad_()
    targets = torch.tensor([0, 2], device=device)
    ours = cross_entropy_sample(logits, targets, reduction="none")
    ours.loss.sum().backward()
    assert int(ours.tokens[0]) == 0
    assert ours.loss[0].item() == 0
    assert bool(logits.grad[0].eq(0).all())
    assert 0 <= int(ours.tokens[1]) < 3


def test_a_bad_hidden_state_marks_its_own_row_only(device, dtype):
    """In the linear head, the other rows keep a loss and a token."""
    hidden, weight = torch.randn(3, 6).to(device, dtype), torch.randn(37, 6).to(device, dtype)
    hidden[1, 2] = torch.nan
    targets = torch.tensor([1, 2, 3], device=device)
    ours = linear_cross_entropy_sample(hidden, weight, None, targets, reduction="none")
    assert ours.loss.isnan().tolist() == [False, True, False]
    assert (ours.tokens < 0).tolist() == [False, True, False]
