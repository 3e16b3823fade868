"""Single runs of a comparison: the same start, repeatable, undisturbed by their measurements."""

from dataclasses import replace

import pytest
import torch

from electra_kernels.evaluation.comparison import runs
from electra_kernels.evaluation.comparison.runs import choice_run, probe_run, train_run
from electra_kernels.evaluation.comparison.setting import UNTRAINED, Run, objective_of, recipe_of
from electra_kernels.training.log import LOG, read_log
from electra_kernels.training.objectives import OBJECTIVES


def test_the_figure_of_the_choice_is_the_mean_over_its_tasks(setting, budget, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1, budget)
    trained = train_run(setting, run, tmp_path)["curve"][-1]["figure"]
    fitted = replace(setting.curve, measure=lambda score: 0.0)
    chosen = choice_run(replace(setting, choice=[setting.curve, fitted]), run, tmp_path)
    assert chosen["choice"] == pytest.approx(trained / 2)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_objectives_start_with_the_same_encoder(setting, name):
    ours, other = (objective_of(setting, Run(kind, 1e-3, 5)).encoder for kind in (name, "corrupted_tokens"))
    for one, two in zip(ours.state_dict().values(), other.state_dict().values()):
        assert torch.equal(one, two)


def test_a_run_is_repeatable_and_its_curve_begins_before_the_first_step(setting, budget, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1, budget)
    first, second = train_run(setting, run, tmp_path), train_run(setting, run, tmp_path)
    for record in (first, second):
        del record["seconds"]
        for point in record["curve"]:
            del point["seconds"]
    assert first == second
    assert [point["step"] for point in first["curve"]] == [0, 10, 20, 30]
    assert first["curve"][0]["tokens"] == 0


def test_the_log_of_a_run_holds_its_steps_once_also_when_it_is_repeated(setting, budget, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1, budget)
    for _ in range(2):
        train_run(setting, run, tmp_path)
    records = read_log(tmp_path / f"{run.name}.log" / LOG).records
    assert [(record["kind"], record["step"]) for record in records] == [("step", n) for n in (10, 20, 30)]
    assert all(record["rtd_loss"] > 0 for record in records)


def test_the_probed_encoder_is_that_of_the_end_of_the_run(setting, budget, tmp_path):
    run = Run("corrupted_tokens", 3e-3, 1, budget)
    trained = train_run(setting, run, tmp_path)
    figures = probe_run(setting, run, tmp_path)["probes"]["replaced_tokens"]
    assert figures.keys() == {"frozen", "fine_tuned"}
    # Here the task of the curve is also the only task.
    assert figures["frozen"] == pytest.approx(trained["curve"][-1]["figure"])


def test_every_run_of_a_seed_begins_with_the_untrained_encoder(setting, budget, tmp_path):
    untrained = train_run(setting, Run(UNTRAINED, 0.0, 1), tmp_path)
    run = train_run(setting, Run("masked_lm", 3e-3, 1, budget), tmp_path)
    assert untrained["curve"][0]["figure"] == run["curve"][0]["figure"]
    assert probe_run(setting, Run(UNTRAINED, 0.0, 1), tmp_path)["probes"].keys() == {"replaced_tokens"}


def test_measuring_does_not_disturb_the_training(setting, budget, monkeypatch, tmp_path):
    run = Run("replaced_tokens", 3e-3, 1, budget)
    often = train_run(setting, run, tmp_path)["curve"][-1]["figure"]
    monkeypatch.setattr(runs, "CURVE_POINTS", 1)
    assert train_run(setting, run, tmp_path)["curve"][-1]["figure"] == often


def test_the_rate_of_muon_keeps_its_ratio_to_the_rate_that_is_tried(setting):
    muon = replace(setting, recipe=replace(setting.recipe, learning_rate=2e-3, muon_learning_rate=6e-3))
    recipe = recipe_of(muon, Run("masked_lm", 1e-3, 0))
    assert (recipe.learning_rate, recipe.muon_learning_rate) == pytest.approx((1e-3, 3e-3))
    assert recipe_of(setting, Run("masked_lm", 1e-3, 0)).muon_learning_rate is None
