import time

import pytest

from electra_kernels.training.schedule import Budget, learning_rate_scale


def test_a_budget_of_steps_advances_with_the_steps():
    budget = Budget(4)
    assert [budget.fraction(step) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_budget_of_minutes_advances_with_the_clock_only():
    budget = Budget(1, minutes=0.001)
    assert budget.fraction(100) < 1
    time.sleep(0.07)
    assert budget.fraction(0) == 1


def test_paused_time_does_not_count():
    budget = Budget(1, minutes=10.0)
    with budget.paused():
        time.sleep(0.1)
    assert budget.seconds() < 0.05


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"steps": 5, "minutes": 0.0},
        {"steps": 5, "minutes": -1.0},
        {"steps": 5, "minutes": float("nan")},
        {"steps": 5, "minutes": float("inf")},
    ],
)
def test_a_budget_without_steps_or_finite_positive_minutes_is_refused(arguments):
    with pytest.raises(ValueError, match="should be"):
        Budget(**arguments)


def test_the_learning_rate_warms_up_and_decays_to_zero():
    scales = [learning_rate_scale(fraction, 0.2) for fraction in (0, 0.1, 0.2, 0.6, 1)]
    assert scales == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_without_warm_up_the_learning_rate_starts_at_its_peak():
    assert learning_rate_scale(0.0, 0.0) == 1.0
