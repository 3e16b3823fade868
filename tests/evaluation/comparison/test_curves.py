import pytest

from electra_kernels.evaluation.comparison import curves

from .made_record import made_record


@pytest.fixture
def drawn(monkeypatch):
    """The panels of a figure by their titles. The second objective has a label per row."""
    record = made_record({"one": {100: 0.6, 1_000: 0.7}, "two": {100: 0.5, 1_000: 0.9}})
    record["objectives"]["two"] = {"per": "row"}
    figures = []
    make = curves.Figure

    def watched(*arguments, **options):
        figures.append(make(*arguments, **options))
        return figures[-1]

    monkeypatch.setattr(curves, "Figure", watched)
    assert curves.budgets_figure(record).startswith(b"\x89PNG")
    return {axis.get_title(): axis for axis in figures[0].axes if axis.axison}


def test_each_task_and_mode_has_a_panel(drawn):
    assert list(drawn) == [
        "replaced_tokens, AUC\nthe encoder frozen",
        "commas, AUC\nthe encoder frozen",
        "commas, AUC\nthe encoder fine-tuned",
    ]


def test_a_panel_has_a_line_per_objective_over_the_logarithm_of_the_tokens(drawn):
    axis = drawn["commas, AUC\nthe encoder frozen"]
    assert axis.get_xscale() == "log"
    one, two, untrained = axis.get_lines()
    assert (list(one.get_xdata()), list(one.get_ydata())) == ([100, 1_000], pytest.approx([0.6, 0.7]))
    assert (one.get_linestyle(), two.get_linestyle()) == ("-", "--")
    assert untrained.get_ydata()[0] == 0.5


def test_a_panel_shows_all_means_whatever_the_width_of_the_bands(drawn):
    low, high = drawn["commas, AUC\nthe encoder frozen"].get_ylim()
    assert low < 0.5 < 0.9 < high
