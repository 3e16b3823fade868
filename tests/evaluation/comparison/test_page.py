import pytest

from electra_kernels.evaluation.comparison.page import differences
from electra_kernels.evaluation.comparison.scores import difference, score
from electra_kernels.evaluation.comparison.setting import UNTRAINED


def run(objective, seed, figure, budget=1_000):
    return {
        "objective": objective,
        "budget": 0 if objective == UNTRAINED else budget,
        "seed": seed,
        "curve": [{"tokens": 0, "figure": 0.5}, {"tokens": budget, "figure": figure}],
        "probes": {"commas": {"frozen": figure, "fine_tuned": figure / 2}},
    }


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
    assert score(record, "two", "commas", "frozen").half_width > 0.1


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("others", [[], ["two"]])
def test_the_page_has_the_differences_from_the_first(seeds, others):
    figure = {"one": 0.8, "two": 0.7, "untrained": 0.5}
    record = {
        "objectives": dict.fromkeys(["one", *others]),
        "baselines": {"commas": {}},
        "runs": [
            run(name, seed, figure[name]) for name in ("one", *others, "untrained") for seed in range(seeds)
        ],
    }
    spread = "" if seeds == 1 else " ± 0.000"
    expected = {"two": ("-0.100", "-0.050"), "untrained": ("-0.300", "-0.150")}
    for index, mode in enumerate(("frozen", "fine_tuned")):
        section = differences(record, mode)
        tasks = ["replaced_tokens", "commas"] if mode == "frozen" else ["commas"]
        assert section.header == ["", *tasks]
        cells = {name: f"{expected[name][index]}{spread}" for name in (*others, "untrained")}
        assert section.rows == [[name, *(cell for _ in tasks)] for name, cell in cells.items()]
