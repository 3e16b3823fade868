import pytest

from electra_kernels.evaluation.comparison.page import (
    by_budget,
    differences,
    probes,
    signals,
    tokens_to_first,
)

from .made_record import made_record


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("others", [[], ["two"]])
def test_the_page_has_the_differences_from_the_first(seeds, others):
    record = made_record(
        {"one": {100: 0.8}, **{name: {100: 0.7} for name in others}}, spread=0.0, seeds=seeds
    )
    spread = "" if seeds == 1 else " ± 0.000"
    expected = {"two": ("-0.100", "-0.050"), "untrained": ("-0.300", "-0.150")}
    for index, mode in enumerate(("frozen", "fine_tuned")):
        section = differences(record, mode)
        tasks = ["replaced_tokens", "commas"] if mode == "frozen" else ["commas"]
        assert section.header == ["", *tasks]
        cells = {name: f"{expected[name][index]}{spread}" for name in (*others, "untrained")}
        assert section.rows == [[name, *(cell for _ in tasks)] for name, cell in cells.items()]


def test_scores_are_those_of_the_largest_budget_above_the_rules():
    section = probes(made_record({"one": {100: 0.6, 1_000: 0.8}}, spread=0.0), "frozen")
    assert section.title == "All tasks at 1,000 tokens, the encoder frozen"
    assert section.header == ["", "replaced_tokens (per token, AUC)", "commas (per token, AUC)"]
    assert section.rows == [
        ["one", "0.800 ± 0.000", "0.800 ± 0.000"],
        ["untrained", "0.500 ± 0.000", "0.500 ± 0.000"],
        ["rule: rarity of the word", "0.510", ""],
        ["rule: word alone", "", "0.600"],
    ]


def test_a_row_has_the_scores_at_all_budgets_and_their_differences():
    record = made_record({"one": {100: 0.6, 1_000: 0.8}, "two": {100: 0.7, 1_000: 0.7}}, spread=0.0)
    section = by_budget(record, "commas", "frozen")
    assert section.header == ["", "100", "1,000"]
    assert section.rows == [
        ["one", "0.600 ± 0.000", "0.800 ± 0.000"],
        ["two", "0.700 ± 0.000 (+0.100 ± 0.000)", "0.700 ± 0.000 (-0.100 ± 0.000)"],
    ]


def test_the_tokens_needed_are_for_the_score_of_the_first_at_the_second_largest_budget():
    budgets = (10**5, 10**6, 10**7)
    means = {
        "one": (0.6, 0.7, 0.8),
        "early": (0.7, 0.75, 0.8),
        "late": (0.6, 0.65, 0.75),
        "never": (0.5, 0.5, 0.6),
    }
    record = made_record({name: dict(zip(budgets, curve)) for name, curve in means.items()}, spread=0.0)
    section = tokens_to_first(record, "fine_tuned")
    assert section.header == ["million tokens", "commas: 0.350"]
    assert dict(section.rows) == {"one": "1", "early": "≤ 0.1", "late": "3.2", "never": "> 10"}


def test_the_signals_have_the_speed_and_the_strength_of_the_generator():
    (row,) = signals(made_record({"one": {1_000: 0.6}})).rows
    assert row[-4:] == ["0.003", "500", "25.0%", ""]
