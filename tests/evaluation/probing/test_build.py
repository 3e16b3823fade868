import pytest

from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing import TASKS, errors, sentiment, tasks

from .conftest import LENGTH


def test_every_task_has_its_name_its_figure_and_baselines_in_reach(offline, corpus, tokenizer):
    said = []
    built = tasks(corpus, tokenizer, LENGTH, 0, said.append)
    assert [task.name for task in built] == list(TASKS)
    assert said == []
    assert [(task.per, task.metric) for task in built] == [("token", "AUC")] * 3 + [("row", "accuracy")]
    assert all(0 < figure < 1 for task in built for figure in task.baselines.values())


def test_what_cannot_be_downloaded_is_left_out_and_told(corpus, tokenizer, monkeypatch):
    def unreachable(*_):
        raise UserError("no connection to the package registry")

    monkeypatch.setattr(errors, "fetch_error_pairs", unreachable)
    monkeypatch.setattr(sentiment, "fetch_package", unreachable)
    said = []
    built = tasks(corpus, tokenizer, LENGTH, 0, said.append)
    assert [task.name for task in built] == ["capitalised", "comma_follows"]
    assert said == [
        f"{name} is not measured: no connection to the package registry"
        for name in ("real_word_errors", "sentiment")
    ]
    with pytest.raises(UserError, match="no connection"):
        TASKS["sentiment"](corpus, tokenizer, LENGTH, 0)
