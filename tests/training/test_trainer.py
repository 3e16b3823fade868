"""One process: the loop, its records, and what a step does."""

import signal
from types import SimpleNamespace

import pytest
import torch

from electra_kernels.evaluation.held_out import FixedCorruption, evaluate_electra
from electra_kernels.models import EncoderConfig
from electra_kernels.training import trainer as trainer_module
from electra_kernels.training.objectives import ReplacedTokenDetection, means, ratio, token_batch
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.schedule import Phase, Schedule, one_phase
from electra_kernels.training.trainer import LOG_EVERY, Execution, Trainer

RECIPE = Recipe(length=16, batch_size=8, learning_rate=3e-3, warmup=0.1, steps=60, clip=None)


@pytest.fixture
def make(electra_config, facts):
    """Make an objective with the same initial weights at every call."""

    def make(kind=ReplacedTokenDetection, **options):
        torch.manual_seed(0)
        return kind(electra_config, facts, **options)

    return make


def trainer_of(objective, steps=60, recipe=RECIPE, **options):
    return Trainer(objective, recipe, one_phase(16, steps), seed=3, **options)


def curve_of(trainer, rows, on_record=lambda: None):
    curve = []
    for record in trainer.train([rows]):
        timing = ("tokens_per_second", "steps_per_second", "data_wait")
        figures = {name: value for name, value in record.metrics.items() if name not in timing}
        curve.append((record.step, figures))
        on_record()
    return curve


def test_an_evaluation_does_not_change_the_loss_curve(make, rows, held_out, counts):
    fixed = FixedCorruption(held_out, counts)
    plain = curve_of(trainer_of(make(head_start=0.3)), rows)
    watched, evaluated = make(head_start=0.3), []
    disturbed = curve_of(
        trainer_of(watched), rows, lambda: evaluated.append(evaluate_electra(watched.model, fixed))
    )
    assert len(evaluated) == 6
    assert evaluated[0] != evaluated[-1]
    assert repr(disturbed) == repr(plain)  # NaN equals itself in words


def test_the_same_seed_gives_the_same_model(make, rows):
    first, second = make(head_start=0.3), make(head_start=0.3)
    for objective in (first, second):
        curve_of(trainer_of(objective, steps=20), rows)
    for one, other in zip(first.parameters(), second.parameters()):
        assert torch.equal(one, other)


def test_dropout_follows_from_the_seed_and_the_step(electra_config, facts, rows):
    """A trainer that continues at a step drops the same values as one that came there by itself."""
    values = vars(electra_config.discriminator) | {"dropout": 0.3}
    config = type(electra_config)(**(vars(electra_config) | {"discriminator": EncoderConfig(**values)}))
    batch = token_batch(rows, torch.arange(8), torch.device("cpu"))
    losses = []
    for before in (0, 1):
        torch.manual_seed(0)
        trainer = trainer_of(ReplacedTokenDetection(config, facts))
        trainer.bfloat16 = False
        for _ in range(before):
            trainer.optimizers[0].step = lambda: None  # the weights stay as they are
            trainer.step(batch)
        trainer.position.step, trainer._sums = 5, {}
        trainer.step(batch)
        losses.append(trainer._sums["mlm_loss"])
    assert torch.equal(*losses)


def test_generator_and_discriminator_learn(make, rows):
    curve = curve_of(trainer_of(make(head_start=0.3), steps=150), rows)
    assert curve[-1][1]["mlm_loss"] < 0.8 * curve[0][1]["mlm_loss"]
    losses = [metrics["rtd_loss"] for _, metrics in curve if "rtd_loss" in metrics]
    assert losses[-1] < losses[0]


def test_the_head_start_trains_the_generator_alone(make, rows):
    curve = curve_of(trainer_of(make(head_start=0.5), steps=40), rows)
    assert ["rtd_loss" in metrics for _, metrics in curve] == [False, False, True, True]


def test_a_record_comes_every_few_steps_and_after_the_last(make, rows):
    records = list(trainer_of(make(), steps=25).train([rows]))
    assert [record.step for record in records] == [LOG_EVERY, 2 * LOG_EVERY, 25]
    assert records[-1].fraction == 1
    assert records[-1].tokens > 25 * 8 * 10
    assert 0 <= records[-1].metrics["padding"] < 0.2
    assert records[-1].learning_rates["learning_rate"] < 0.1 * RECIPE.learning_rate


def test_the_time_of_a_record_ends_when_the_device_has_finished_the_steps(make, rows, monkeypatch):
    """A GPU computes the steps while the CPU is already ahead; here the metrics are there after five seconds."""
    now = [0.0]

    def finished(sums):
        now[0] += 5.0
        return means(sums)

    monkeypatch.setattr(trainer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(trainer_module, "means", finished)
    records = list(trainer_of(make(), steps=20).train([rows]))
    assert [record.seconds for record in records] == [5.0, 10.0]
    assert records[0].metrics["steps_per_second"] == 2.0


def test_the_training_stops_after_the_step_that_it_is_told(make, rows):
    asked = iter([False] * 13 + [True])
    records = list(trainer_of(make()).train([rows], lambda: next(asked)))
    assert [record.step for record in records] == [LOG_EVERY, 14]


def test_phases_have_rows_of_their_own_length(make, rows, corpus, tokenizer):
    from electra_kernels.data.rows import encode_rows

    longer = encode_rows(corpus.train, tokenizer, 24)
    seen = []

    class Watching(ReplacedTokenDetection):
        def batch(self, tokens, seed):
            seen.append((tokens.input_ids.shape[1], tokens.numbers.tolist()))
            return super().batch(tokens, seed)

    schedule = Schedule((Phase(16, 3), Phase(24, 2)))
    trainer = Trainer(make(Watching), RECIPE, schedule, seed=3)
    assert list(trainer.train([rows, longer]))[-1].step == 5
    assert [length for length, _ in seen] == [16, 16, 16, 24, 24]
    assert [number for _, numbers in seen for number in numbers] == list(range(40))


def test_a_trainer_continues_inside_a_phase(make, rows):
    whole = curve_of(trainer_of(make(), steps=20), rows)
    trainer = trainer_of(make(), steps=20)
    for record in trainer.train([rows], lambda: trainer.position.step == 10):
        assert record.step == 10
    assert repr(curve_of(trainer, rows)) == repr(whole[1:])


def test_gradients_are_clipped_where_the_recipe_says_so(make, rows, monkeypatch):
    norms = []
    monkeypatch.setattr(
        torch.nn.utils, "clip_grads_with_norm_", lambda parameters, most, norm: norms.append((most, norm))
    )
    recipe = Recipe(length=16, batch_size=8, learning_rate=1e-3, warmup=0.1, steps=3, clip=0.5)
    (record,) = trainer_of(make(), steps=3, recipe=recipe).train([rows])
    assert [most for most, _ in norms] == [0.5] * 3
    assert record.metrics["gradient_norm"] == pytest.approx(float(torch.stack([n for _, n in norms]).mean()))


def test_metrics_are_means_since_the_last_record(make, rows):
    class Counting(ReplacedTokenDetection):
        calls = 0

        def forward(self, batch, progress, counts=None):
            loss, _ = super().forward(batch, progress, counts)
            self.calls += 1
            return loss, {"call": ratio(torch.tensor(float(self.calls)), torch.tensor(1.0))}

    seen = [record.metrics["call"] for record in trainer_of(make(Counting), steps=20).train([rows])]
    assert seen == pytest.approx([5.5, 15.5])


def test_a_training_of_one_step_changes_the_weights(make, rows):
    objective = make()
    before = [parameter.clone() for parameter in objective.parameters()]
    curve_of(trainer_of(objective, steps=1), rows)
    assert any(not torch.equal(one, other) for one, other in zip(before, objective.parameters()))


@pytest.mark.parametrize("execution", [Execution(micro_batch=3), Execution(checkpoint_layers=True)])
def test_the_execution_changes_no_result_beyond_rounding(make, rows, execution):
    def weights(execution):
        trainer = trainer_of(make(), steps=8, execution=execution)
        trainer.bfloat16 = False
        curve_of(trainer, rows)
        return torch.cat([parameter.detach().flatten() for parameter in trainer.objective.parameters()])

    torch.testing.assert_close(weights(execution), weights(Execution()), rtol=0, atol=1e-6)


def test_a_signal_waits_for_the_end_of_the_step(make, rows):
    class Signalled(ReplacedTokenDetection):
        def forward(self, batch, progress, counts=None):
            signal.raise_signal(signal.SIGINT)
            return super().forward(batch, progress, counts)

    objective = make(Signalled)
    before = [parameter.clone() for parameter in objective.parameters()]
    with pytest.raises(KeyboardInterrupt):
        trainer_of(objective).step(token_batch(rows, torch.arange(4), torch.device("cpu")))
    assert any(not torch.equal(one, other) for one, other in zip(before, objective.parameters()))


def test_two_phases_of_one_length_have_orders_of_their_own(make, rows):
    seen = []

    class Watching(ReplacedTokenDetection):
        def batch(self, tokens, seed):
            seen.append(tokens.document.tolist())
            return super().batch(tokens, seed)

    schedule = Schedule((Phase(16, 3), Phase(16, 3)))
    list(Trainer(make(Watching), RECIPE, schedule, seed=3).train([rows, rows]))
    assert seen[:3] != seen[3:]
