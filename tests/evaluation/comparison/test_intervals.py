import math

import pytest
import torch
from scipy import stats

from electra_kernels.evaluation.comparison.intervals import interval, tokens_to


@pytest.mark.parametrize("count", range(2, 13))
def test_the_interval_is_student_t(count):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count)).tolist()
    ours = interval(values)
    low, high = stats.t.interval(0.95, count - 1, loc=sum(values) / count, scale=stats.sem(values))
    assert ours.mean == pytest.approx((low + high) / 2)
    assert ours.half_width == pytest.approx((high - low) / 2, rel=1e-9)


def test_a_single_seed_has_no_interval():
    single = interval([0.7])
    assert single.mean == 0.7
    assert math.isnan(single.half_width)
    assert str(single) == "0.700"


def test_an_interval_needs_at_least_one_value():
    with pytest.raises(ValueError, match="values is empty"):
        interval([])


def test_tokens_to_a_target_lie_between_the_points_around_it():
    curve = [(0.0, 0.5), (100.0, 0.5), (200.0, 0.7), (300.0, 0.6)]
    assert tokens_to(curve, 0.6) == pytest.approx(150.0)
    assert tokens_to(curve, 0.5) == 0.0
    assert tokens_to(curve, 0.8) is None
