import signal
import time

import pytest
import torch

from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra
from electra_kernels.training.objectives import ReplacedTokenDetection, token_batch
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Budget
from electra_kernels.training.trainer import LOG_EVERY, Trainer, train

RECIPE = Recipe(length=16, batch_size=8, learning_rate=3e-3, warmup=0.1, steps=60, clip=None)


@pytest.fixture
def make(electra_config, facts):
    """Make an objective with the same initial weights at every call."""

    def make(kind=ReplacedTokenDetection, **options):
        torch.manual_seed(0)
        return kind(electra_config, facts, **options)

    return make


def _curve(objective, rows, steps=60, on_report=lambda: None):
    curve = []

    def record(state):
        curve.append((state.step, dict(state.metrics)))
        on_report()

    return curve, train(objective, rows, RECIPE, Budget(steps), seed=3, report=record)


def test_an_evaluation_does_not_change_the_loss_curve(make, rows, held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    plain, _ = _curve(make(head_start=0.3), rows)
    watched, evaluated = make(head_start=0.3), []
    disturbed, _ = _curve(
        watched, rows, on_report=lambda: evaluated.append(evaluate_electra(watched.model, fixed))
    )
    assert len(evaluated) == 6
    assert evaluated[0] != evaluated[-1]
    assert disturbed == plain


def test_the_same_seed_gives_the_same_model(make, rows):
    first, second = make(head_start=0.3), make(head_start=0.3)
    for objective in (first, second):
        _curve(objective, rows, steps=20)
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)


def test_generator_and_discriminator_learn(make, rows):
    curve, _ = _curve(make(head_start=0.3), rows, steps=150)
    assert curve[-1][1]["mlm_loss"] < 0.8 * curve[0][1]["mlm_loss"]
    losses = [metrics["rtd_loss"] for _, metrics in curve if "rtd_loss" in metrics]
    assert losses[-1] < losses[0]


def test_the_head_start_trains_the_generator_alone(make, rows):
    curve, _ = _curve(make(head_start=0.5), rows, steps=40)
    assert ["rtd_loss" in metrics for _, metrics in curve] == [False, False, True, True]


def test_a_report_comes_every_few_steps_and_after_the_last(make, rows):
    curve, state = _curve(make(), rows, steps=25)
    assert [step for step, _ in curve] == [LOG_EVERY, 2 * LOG_EVERY, 25]
    assert state.step == 25
    assert state.tokens > 25 * 8 * 10


def test_a_training_of_minutes_ends_in_time(make, rows):
    objective = make()
    start = time.monotonic()
    state = train(objective, rows, RECIPE, Budget(1_000_000, minutes=0.02), seed=0, report=lambda state: None)
    assert 1.2 <= time.monotonic() - start < 4
    assert state.fraction == 1
    assert state.learning_rate < RECIPE.learning_rate


def test_gradients_are_clipped_where_the_recipe_says_so(make, rows, monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grads_with_norm_", lambda parameters, most, norm: norms.append((most, norm))
    )
    recipe = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=3, clip=0.5)
    state = train(make(), rows, recipe, Budget(3), seed=0, report=lambda state: None)
    assert [most for most, _ in norms] == [0.5] * 3
    assert state.metrics["gradient_norm"] == pytest.approx(float(torch.stack([n for _, n in norms]).mean()))


def test_metrics_are_means_since_the_last_report(make, rows):
    class Counting(ReplacedTokenDetection):
        calls = 0

        def forward(self, batch, progress):
            loss, _ = super().forward(batch, progress)
            self.calls += 1
            return loss, {"call": torch.tensor(float(self.calls))}

    seen = []
    train(
        make(Counting),
        rows,
        RECIPE,
        Budget(20),
        seed=0,
        report=lambda state: seen.append(state.metrics["call"]),
    )
    assert seen == pytest.approx([5.5, 15.5])


def test_a_training_of_one_step_changes_the_weights(make, rows):
    objective = make()
    before = [parameter.clone() for parameter in objective.parameters()]
    train(objective, rows, RECIPE, Budget(1), seed=0, report=lambda state: None)
    assert any(not torch.equal(one, other) for one, other in zip(before, objective.parameters()))


def test_a_signal_waits_for_the_end_of_the_step(make, rows):
    class Signalled(ReplacedTokenDetection):
        def forward(self, batch, progress):
            signal.raise_signal(signal.SIGINT)
            return super().forward(batch, progress)

    objective = make(Signalled)
    trainer = Trainer(objective, RECIPE)
    before = [parameter.clone() for parameter in objective.parameters()]
    batch = objective.batch(token_batch(rows, torch.arange(4), torch.device("cpu")))
    with pytest.raises(KeyboardInterrupt):
        trainer.step(batch, 0.5)
    assert any(not torch.equal(one, other) for one, other in zip(before, objective.parameters()))
