import math

import pytest

from electra_kernels.evaluation.comparison.intervals import Interval
from electra_kernels.evaluation.comparison.scores import (
    budget_curve,
    budgets_of,
    difference,
    runs_of,
    score,
    side,
    tasks_of,
    tokens_needed,
)

from .made_record import made_record, made_run


def test_a_difference_is_taken_seed_by_seed_whatever_the_order():
    by_seed = {0: 0.6, 1: 0.8, 2: 0.7}
    record = {
        "runs": [made_run("one", seed, figure) for seed, figure in by_seed.items()]
        + [made_run("two", seed, by_seed[seed] - 0.1) for seed in (2, 0, 1)]
    }
    apart = difference(record, "two", "one", "commas", "frozen")
    assert apart.mean == pytest.approx(-0.1)
    assert apart.half_width == pytest.approx(0.0, abs=1e-9)
    assert f"{apart:+}" == "-0.100 ± 0.000"
    assert score(record, "two", "commas", "frozen").half_width > 0.1


def test_each_budget_has_its_own_runs_and_the_untrained_encoder_belongs_to_all():
    record = made_record({"one": {100: 0.6, 1_000: 0.7}})
    assert budgets_of(record) == [100, 1_000]
    assert [len(runs_of(record, "one", budget)) for budget in (100, 1_000, 10)] == [3, 3, 0]
    assert runs_of(record, "one") == runs_of(record, "one", 1_000)
    assert [run["budget"] for run in runs_of(record, "untrained", 100)] == 3 * [0]
    assert [(b, f.mean) for b, f in budget_curve(record, "one", "commas", "frozen")] == [
        (100, pytest.approx(0.6)),
        (1_000, pytest.approx(0.7)),
    ]


def test_an_untrained_encoder_is_compared_on_the_seeds_that_the_budget_has():
    record = made_record({"one": {100: 0.6}})
    record["runs"] = [run for run in record["runs"] if run["objective"] == "untrained" or run["seed"] < 2]
    assert difference(record, "untrained", "one", "commas", "frozen").mean == pytest.approx(0.5 - 0.595)


def test_the_task_of_the_curve_is_measured_with_the_encoder_frozen():
    record = made_record({"one": {100: 0.6}})
    assert tasks_of(record, "frozen") == ["replaced_tokens", "commas"]
    assert tasks_of(record, "fine_tuned") == ["commas"]
    assert score(record, "one", "replaced_tokens", "frozen").mean == pytest.approx(0.6)


@pytest.mark.parametrize(
    "mean, half_width, expected",
    [(0.1, 0.05, 1), (-0.1, 0.05, -1), (0.1, 0.2, 0), (0.1, math.nan, 0), (0.0, 0.0, 0)],
)
def test_a_difference_has_a_side_if_its_interval_excludes_0(mean, half_width, expected):
    assert side(Interval(mean, half_width)) == expected


def test_tokens_are_interpolated_in_their_logarithm():
    record = made_record({"one": {100: 0.6, 1_000: 0.7, 10_000: 0.8}})

    def needed(target):
        return tokens_needed(record, "one", "commas", "frozen", target)

    assert needed(0.75) == pytest.approx(1_000 * math.sqrt(10))
    assert needed(0.7) == pytest.approx(1_000)
    assert needed(0.5) == pytest.approx(100)
    assert needed(0.81) is None
