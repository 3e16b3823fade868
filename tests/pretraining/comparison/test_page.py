import pytest

from electra_kernels.pretraining.comparison.page import difference, figures


def run(objective, seed, figure):
    return {"objective": objective, "seed": seed, "probes": {"commas": {"frozen": figure}}}


def test_a_difference_is_taken_seed_by_seed_whatever_the_order():
    by_seed = {0: 0.6, 1: 0.8, 2: 0.7}
    record = {
        "runs": [run("one", seed, figure) for seed, figure in by_seed.items()]
        + [run("two", seed, by_seed[seed] - 0.1) for seed in (2, 0, 1)]
    }
    apart = difference(record, "two", "one", "commas", "frozen")
    assert apart.mean == pytest.approx(-0.1)
    assert apart.half_width == pytest.approx(0.0, abs=1e-9)
    assert f"{apart:+}" == "-0.100 ± 0.000"
    assert figures(record, "two", "commas", "frozen").half_width > 0.1
