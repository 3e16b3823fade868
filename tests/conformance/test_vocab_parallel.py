"""The row kernels on a slice of a vocabulary that is spread over ranks."""

import pytest
import torch
import torch.nn.functional as F

from electra_kernels.backends.linear_head import new_logits
from electra_kernels.backends.registry import implementation
from electra_kernels.backends.vocab_parallel import ELSEWHERE, IGNORED

from . import oracle
from .cases import workload

# Less than one tile; and several, of which the last is not whole.
SIZES = (5, 1200)


def _kernels(device, dtype):
    return implementation("row_kernels", device.type, device.index)(dtype)


def _rows(size, dtype, device, rows=8):
    """Logits in a padded buffer, their bias as the kernels of the back end want it, and targets of every kind."""
    kernels = _kernels(device, dtype)
    logits = new_logits(torch.empty((), dtype=dtype, device=device), rows, size)
    logits.copy_(3 * torch.randn(rows, size) + 20)
    bias = torch.randn(size, device=device) if kernels.adds_bias else None
    targets = torch.randint(0, size, (rows,), device=device)
    targets[1::4], targets[2::4] = IGNORED, ELSEWHERE
    return kernels, logits, ((bias,) if kernels.adds_bias else ()), targets


def _exact(logits, bias):
    return sum((part.double() for part in bias), logits.double())


def _sums(kernels, logits, bias, targets, temperature, ban_original):
    sums = torch.full((len(logits), 4), torch.nan, device=logits.device)
    kernels.sums(logits, *bias, targets, IGNORED, temperature, ban_original, sums)
    return sums


@pytest.mark.parametrize("ban_original", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("size", SIZES)
def test_the_sums_of_a_slice(device, dtype, size, temperature, ban_original):
    kernels, logits, bias, targets = _rows(size, dtype, device)
    sums = _sums(kernels, logits, bias, targets, temperature, ban_original).double()
    x = _exact(logits, bias)
    is_here, counted = targets >= 0, targets != IGNORED
    safe = targets.clamp(min=0)[:, None]
    target_logit = x.gather(1, safe).squeeze(1).where(is_here, -torch.inf)
    if ban_original:
        one_hot = F.one_hot(safe.squeeze(1), size).bool() & is_here[:, None]
        x = x.masked_fill(one_hot, -torch.inf)
    maximum = x.amax(1)
    shifted = x - maximum[:, None]
    columns = [maximum, shifted.exp().sum(1), (shifted / temperature).exp().sum(1), target_logit]
    truth = torch.stack(columns, 1).where(counted[:, None], 0)
    # The exponent is rounded in float32, and so is the logit with its bias.
    scale = truth.abs() * (1 + x[x.isfinite()].abs().max() / temperature)
    oracle.assert_accurate("sums", sums, truth, scale=scale.nan_to_num(posinf=0))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_bad_number_shows_in_the_maximum_or_in_the_banned_logit(device, dtype, size, value):
    for column in (0, size // 2, size - 1):
        kernels, logits, bias, targets = _rows(size, dtype, device, rows=4)
        logits[:, column] = value
        targets[0] = column
        for ban_original in (False, True):
            sums = _sums(kernels, logits, bias, targets, 1.0, ban_original)
            shown = sums[:, 0].maximum(sums[:, 3])
            for row in (0, 2, 3):
                assert not shown[row].isfinite(), (column, row)
                assert shown[row] == shown[row] or value != value, "an infinity is no NaN"
            assert not sums[1].any(), "an ignored row is not read"


def test_a_slice_without_a_finite_logit_has_no_sum(device, dtype):
    """Other slices may have finite logits of the row. A single token that is banned leaves nothing either."""
    for size in (1, 1200):
        kernels, logits, bias, targets = _rows(size, dtype, device, rows=3)
        targets.fill_(0)
        if size > 1:
            logits[:, 1:] = -torch.inf
        for ban_original in (False, True):
            sums = _sums(kernels, logits, bias, targets, 0.5, ban_original)
            expected = [-torch.inf, 0.0, 0.0] if ban_original else [sums[0, 3].item(), 1.0, 1.0]
            assert sums[0, :3].tolist() == expected


@pytest.mark.parametrize("ban_original", [False, True])
def test_a_target_elsewhere_bans_nothing_and_has_no_one_hot(device, dtype, ban_original):
    size, rows = 1200, workload(40, interpreted=8)
    kernels, logits, bias, targets = _rows(size, dtype, device, rows)
    targets.fill_(ELSEWHERE)
    # The token that is drawn is the one that would be banned.
    logits[:, 0] = 60.0
    x = _exact(logits, bias)
    uniforms = torch.full((rows,), 0.5, dtype=torch.float64, device=device)
    losses, parts = x.new_empty(rows, dtype=torch.float32), x.new_empty(rows, 2, dtype=torch.float32)
    tokens, is_top1 = targets.clone(), targets > 0
    results = (losses, tokens, is_top1, losses.clone(), parts)
    options = (IGNORED, 0.0, 1.0, ban_original, False)
    kernels.forward(logits, *bias, targets, uniforms, *options, *results)
    assert tokens.tolist() == [0] * rows
    kernels.backward(logits, *bias, targets, parts, IGNORED, 0.1)
    logsumexp = x.logsumexp(1, keepdim=True)
    truth = x.softmax(1) * (1 + 0.2 * logsumexp)
    ulps = 1 + x.abs().amax() * oracle.float32_ulps(dtype)
    oracle.assert_accurate("gradient", logits, truth, scale=truth * ulps, precision=dtype)
