"""Each alarm fires on what it is for, once, and on nothing else."""

import math

import pytest

from electra_kernels.pretraining.alarms import Watch
from electra_kernels.pretraining.run import State

HEALTHY = {
    "mlm_loss": 4.0,
    "mlm_accuracy": 0.3,
    "rtd_loss": 0.25,
    "replaced": 0.1,
    "recall": 0.1,
    "gradient_norm": 1.0,
}
FAULTS = {
    "not finite": {"rtd_loss": math.nan},
    "exploding gradient": {"gradient_norm": 30.0},
    "finds nothing": {"recall": 0.0},
    "generator at the plateau": {"mlm_loss": 6.3},
    "generator too strong": {"mlm_accuracy": 0.9},
    "generator too weak": {"rtd_loss": 0.02},
}


def names(watch, metrics, *, reports=100, start=0):
    """The alarms of a part of a run of 100 reports."""
    found = []
    for index in range(start, start + reports):
        state = State(step=10 * index, fraction=index / 100, metrics=metrics)
        found += [alarm.name for alarm in watch.see(state)]
    return found


def test_a_healthy_run_has_none():
    assert names(Watch(plateau=6.33), HEALTHY) == []


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_alarm_once(name):
    watch = Watch(plateau=6.33)
    assert names(watch, HEALTHY, reports=30) == []
    assert names(watch, HEALTHY | FAULTS[name], reports=70, start=30) == [name]


@pytest.mark.parametrize("name", ["finds nothing", "generator at the plateau", "generator too weak"])
def test_what_ends_soon_is_no_alarm(name):
    watch = Watch(plateau=6.33)
    for start in range(0, 100, 10):
        assert names(watch, HEALTHY | FAULTS[name], reports=9, start=start) == []
        assert names(watch, HEALTHY, reports=1, start=start + 9) == []


def test_metrics_that_an_objective_does_not_have_are_not_missed():
    assert names(Watch(plateau=6.33), {"row_loss": 0.69}) == []


def test_without_a_plateau_there_is_none():
    assert names(Watch(), HEALTHY | {"mlm_loss": 9.0}) == []


def test_an_alarm_says_when_and_what_to_try():
    watch = Watch()
    (alarm,) = watch.see(State(step=1_230, metrics={"rtd_loss": math.inf}))
    assert str(alarm).startswith("alarm at step 1,230: a loss is NaN or infinite")
    assert "learning rate" in str(alarm)
