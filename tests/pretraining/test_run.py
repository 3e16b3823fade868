import copy
import time

import pytest
import torch

from electra_kernels.pretraining.budget import Budget
from electra_kernels.pretraining.evaluation import FixedCorruption, evaluate_electra
from electra_kernels.pretraining.objectives import ReplacedTokenDetection
from electra_kernels.pretraining.recipe import Recipe
from electra_kernels.pretraining.run import LOG_EVERY, train

RECIPE = Recipe(length=16, batch_size=8, learning_rate=3e-3, warmup=0.1, steps=60, clip=None)


def _curve(model, rows, report=lambda state: None, steps=60, head_start=0.3):
    curve = []

    def record(state):
        curve.append((state.step, dict(state.metrics)))
        report(state)

    objective = ReplacedTokenDetection(copy.deepcopy(model), head_start=head_start)
    state = train(objective, rows, RECIPE, Budget(steps), seed=3, report=record)
    return curve, objective, state


def test_the_loss_curve_is_the_same_with_and_without_evaluation(model, rows, held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    evaluated = []

    def evaluate(state):
        # Evaluates the model that trains, which train() holds inside the objective of this call.
        evaluated.append(evaluate_electra(live.model, fixed))

    plain, *_ = _curve(model, rows)
    live = ReplacedTokenDetection(copy.deepcopy(model), head_start=0.3)
    disturbed = []

    def record(state):
        disturbed.append((state.step, dict(state.metrics)))
        evaluate(state)

    train(live, rows, RECIPE, Budget(60), seed=3, report=record)
    assert len(evaluated) == 6
    assert evaluated[0] != evaluated[-1]
    assert disturbed == plain


def test_the_same_seed_gives_the_same_model(model, rows):
    _, first, _ = _curve(model, rows, steps=20)
    _, second, _ = _curve(model, rows, steps=20)
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)


def test_generator_and_discriminator_learn(model, rows):
    curve, *_ = _curve(model, rows, steps=150)
    assert curve[-1][1]["mlm_loss"] < 0.8 * curve[0][1]["mlm_loss"]
    losses = [metrics["rtd_loss"] for _, metrics in curve if "rtd_loss" in metrics]
    assert losses[-1] < losses[0]


def test_the_head_start_trains_the_generator_alone(model, rows):
    curve, *_ = _curve(model, rows, steps=40, head_start=0.5)
    assert ["rtd_loss" in metrics for _, metrics in curve] == [False, False, True, True]


def test_a_run_reports_every_few_steps_and_after_the_last(model, rows):
    curve, _, state = _curve(model, rows, steps=25)
    assert [step for step, _ in curve] == [LOG_EVERY, 2 * LOG_EVERY, 25]
    assert state.step == 25
    assert state.tokens > 25 * 8 * 10


def test_a_run_of_minutes_ends_in_time(model, rows):
    objective = ReplacedTokenDetection(model)
    start = time.monotonic()
    state = train(objective, rows, RECIPE, Budget(1_000_000, minutes=0.02), seed=0, report=lambda state: None)
    assert 1.2 <= time.monotonic() - start < 4
    assert state.fraction == 1
    assert state.learning_rate < RECIPE.learning_rate


def test_gradients_are_clipped_where_the_recipe_says_so(model, rows, monkeypatch):
    norms = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, norm: norms.append(norm))
    recipe = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=3, clip=0.5)
    train(ReplacedTokenDetection(model), rows, recipe, Budget(3), seed=0, report=lambda state: None)
    assert norms == [0.5] * 3


def test_metrics_are_means_since_the_last_report(model, rows):
    class Counting(ReplacedTokenDetection):
        calls = 0

        def forward(self, batch, progress):
            loss, _ = super().forward(batch, progress)
            self.calls += 1
            return loss, {"call": torch.tensor(float(self.calls))}

    seen = []
    train(
        Counting(model),
        rows,
        RECIPE,
        Budget(20),
        seed=0,
        report=lambda state: seen.append(state.metrics["call"]),
    )
    assert seen == pytest.approx([5.5, 15.5])


def test_a_run_of_one_step_trains(model, rows):
    before = [parameter.clone() for parameter in model.parameters()]
    train(ReplacedTokenDetection(model), rows, RECIPE, Budget(1), seed=0, report=lambda state: None)
    assert any(not torch.equal(one, other) for one, other in zip(before, model.parameters()))
