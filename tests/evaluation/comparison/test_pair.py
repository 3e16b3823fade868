"""The controlled pair: two runs that differ in nothing but the label."""

from dataclasses import replace

import pytest
import torch

from electra_kernels.evaluation.comparison import pair, runs
from electra_kernels.evaluation.comparison.pair import pair_runs, pair_setting, train_pair
from electra_kernels.evaluation.comparison.setting import objective_of
from electra_kernels.training.objectives import CorruptedRows, CorruptedTokens
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def short_rows(monkeypatch):
    monkeypatch.setattr(pair, "SMALL_RECIPE", replace(pair.SMALL_RECIPE, length=16, batch_size=16))
    monkeypatch.setattr(pair, "FITTED_ROWS", 64)


def train_briefly(corpus, report=lambda *arguments: None):
    return train_pair(corpus, steps=24, seed=0, device=CPU, report=report)


def test_both_sides_are_one_module_with_the_same_weights(corpus):
    setting, _ = pair_setting(corpus)
    per_token, per_row = (objective_of(setting, run) for run in pair_runs(5))
    ours, theirs = per_token.model.state_dict(), per_row.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_both_sides_see_the_same_corrupted_rows(corpus, monkeypatch):
    seen = {}
    for kind in (CorruptedTokens, CorruptedRows):

        def batch(self, tokens, seed, make=kind.batch):
            made = make(self, tokens, seed)
            seen.setdefault(self.name, []).append(made.replaced.input_ids)
            return made

        monkeypatch.setattr(kind, "batch", batch)
    train_briefly(corpus)
    assert len(seen["corrupted_tokens"]) == len(seen["corrupted_rows"]) == 24
    assert all(map(torch.equal, seen["corrupted_tokens"], seen["corrupted_rows"]))


def test_the_pair_is_repeatable_and_reports_each_point_of_both_sides(corpus):
    reports = []
    result = train_briefly(corpus, lambda *arguments: reports.append(arguments))
    assert result["steps"] == 24
    assert [point["step"] for point in result["curve"]] == [0, 10, 20, 24]
    assert [set(point) for point in result["curve"]] == 4 * [
        {"step", "per_token_tokens", "per_token_rows", "per_row_rows"}
    ]
    assert [(step, fraction) for step, fraction, _ in reports] == [
        *((step, pytest.approx(step / 48)) for step in (10, 20, 24)),
        *((step, pytest.approx(0.5 + step / 48)) for step in (10, 20, 24)),
    ]
    assert [set(figures) for _, _, figures in reports] == 3 * [{"per_token_tokens", "per_token_rows"}] + 3 * [
        {"per_row_rows"}
    ]
    assert set(result["probe"]) == {"per_token", "per_row", "untrained"}
    assert all(0 <= value <= 1 for value in result["probe"].values())
    assert result == train_briefly(corpus)


def test_both_sides_share_the_minutes(corpus, monkeypatch):
    monkeypatch.setattr(runs, "step_seconds", lambda trainer, rows: 0.025)
    result = train_pair(corpus, minutes=0.01, seed=0, device=CPU, report=lambda *arguments: None)
    assert result["steps"] == 0.005 * 60 / 0.025
    assert result["curve"][-1]["step"] == result["steps"]


def test_a_label_per_row_can_be_learned(corpus):
    """The side with a label per row learns where the error is plain: one word that the text never has."""
    setting, _ = pair_setting(corpus)
    counts = setting.text.counts
    one_token_counts = (torch.arange(counts.numel()) == counts.argmin()).long()
    setting = replace(setting, text=replace(setting.text, counts=one_token_counts))
    _, run = pair_runs(0)
    recipe = replace(setting.recipe, batch_size=32, learning_rate=run.learning_rate)
    trainer = Trainer(objective_of(setting, run), recipe, one_phase(16, 120), seed=0)
    losses = [record.metrics["row_loss"] for record in trainer.train([setting.rows])]
    assert losses[-1] + losses[-2] < 0.5 * (losses[0] + losses[1])
