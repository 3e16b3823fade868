from electra_kernels.evaluation.comparison.conclusion import conclusion

from .made_record import made_record


def test_it_names_those_that_are_ahead_and_behind_with_their_tasks():
    record = made_record({"one": {100: 0.6}, "two": {100: 0.7}, "three": {100: 0.6}, "four": {100: 0.5}})
    ahead, behind, undecided, limits = conclusion(record)
    assert ahead == (
        "Ahead of one at 100 tokens, beyond the paired interval: two (frozen: replaced_tokens, commas; fine-tuned: "
        "commas)."
    )
    assert behind.startswith("Behind one: four (frozen: ")
    assert undecided.startswith("3 of the 9 differences are undecided")
    assert "says nothing about larger budgets" in limits


def test_a_change_of_the_order_is_named_with_its_budgets():
    record = made_record({"one": {100: 0.6, 1_000: 0.7}, "two": {100: 0.65, 1_000: 0.65}})
    changes = conclusion(record)[3]
    assert changes.startswith(
        "The order relative to one changes with the budget: two (frozen: replaced_tokens) is "
    )
    assert "two (frozen: commas) is ahead at 100 tokens, behind at 1,000 tokens" in changes


def test_a_lead_that_grows_is_no_change_of_the_order():
    record = made_record({"one": {100: 0.6, 1_000: 0.65}, "two": {100: 0.61, 1_000: 0.7}})
    unchanged = conclusion(record)[3]
    assert "Between 100 and 1,000 tokens no objective is seen to change sides with one" in unchanged
    assert "3 of the 3 differences are decided at more than one budget" in unchanged


def test_a_single_seed_decides_nothing():
    record = made_record({"one": {100: 0.6}, "two": {100: 0.7}}, seeds=1)
    ahead, behind, undecided, _ = conclusion(record)
    assert ahead.endswith(": no objective.")
    assert behind.endswith(": no objective.")
    assert undecided.startswith("3 of the 3 ")


def test_the_standing_is_that_of_the_largest_budget_with_several_seeds():
    record = made_record({"one": {100: 0.6, 1_000: 0.7}, "two": {100: 0.7, 1_000: 0.65}})
    record["runs"] = [run for run in record["runs"] if run["budget"] != 1_000 or run["seed"] == 0]
    assert conclusion(record)[0].startswith("Ahead of one at 100 tokens, beyond the paired interval: two ")


def test_a_single_objective_has_no_conclusion():
    assert conclusion(made_record({"one": {100: 0.6}})) == []
