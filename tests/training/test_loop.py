"""The loop around the trainer: when it evaluates, saves, warns and stops. The trainer of these tests only counts."""

import itertools
import signal
from types import SimpleNamespace

import pytest
import torch

from electra_kernels._interrupt import Terminated, stop_signals_raise
from electra_kernels.training import loop
from electra_kernels.training.alarms import Monitor
from electra_kernels.training.log import StepRecord
from electra_kernels.training.schedule import one_phase
from electra_kernels.training.trainer import LOG_EVERY, Position
from electra_kernels.training.world import World


class CountingTrainer:
    """Yields records as `Trainer.train` does; ``before(step)`` is called before each of them."""

    def __init__(self, steps, first=0, before=lambda step: None, **metrics):
        self.world, self.schedule, self.position = World(), one_phase(16, steps), Position(step=first)
        self.before, self.metrics = before, metrics

    def train(self, sources, stop):
        last = self.schedule.steps
        for step in range(self.position.step + 1, last + 1):
            self.position.step = step
            self.before(step)
            is_stopped = stop()
            if step % LOG_EVERY == 0 or step == last or is_stopped:
                metrics = {"steps_per_second": 1.0, **self.metrics}
                yield StepRecord(step, last, 0, 0.0, {}, metrics)
            if is_stopped:
                return


class Watched:
    """The collaborators of `loop.run`, which write down what they are asked for."""

    def __init__(self, trainer, *, is_whole=True):
        self.trainer, self.is_whole = trainer, is_whole
        self.evaluated, self.models, self.checkpoints, self.shown, self.warnings = [], [], [], [], []
        self.logged, self.ends, self.polls = [], [], 0

    def run(self, save_minutes=1e9, has_log=True, **options):
        def poll():
            self.polls += 1

        checkpoints = SimpleNamespace(
            save=lambda trainer: self.checkpoints.append(trainer.position.step),
            poll=poll,
            finish=lambda: self.is_whole,
        )
        log = SimpleNamespace(
            step=lambda record: self.logged.append(("step", record.step)),
            evaluation=lambda step, seconds, figures: self.logged.append(("evaluation", step)),
            alarm=lambda step, message: self.logged.append(("alarm", step)),
            end=lambda step, reason="finished": self.ends.append((step, reason)),
        )
        loop.run(
            self.trainer,
            [],
            checkpoints=checkpoints,
            log=log if has_log else None,
            monitor=Monitor(),
            evaluate=self.evaluate,
            save_model=lambda step: self.models.append(step) is None,
            show=lambda record, figures: self.shown.append((record.step, dict(figures))),
            warn=self.warnings.append,
            save_minutes=save_minutes,
            **options,
        )

    def evaluate(self):
        self.evaluated.append(self.trainer.position.step)
        return {"auc_random": 0.5}


def evaluations(steps, first=0):
    watched = Watched(CountingTrainer(steps, first))
    watched.run()
    assert watched.models == watched.evaluated, "a model is saved with each evaluation"
    return watched.evaluated


def test_evaluations_are_spread_over_the_training_and_the_last_is_at_its_end():
    assert evaluations(1_200) == [10, *range(100, 1_201, 100)], "an early one shows that all works"
    assert evaluations(25) == [10, 20, 25]
    assert evaluations(3) == [3]


@pytest.mark.parametrize("first", [10, 50, 100, 110, 640, 1_199])
def test_a_resumed_training_is_evaluated_at_the_same_steps(first):
    assert evaluations(1_200, first) == [step for step in evaluations(1_200) if step > first]


def test_a_checkpoint_is_saved_after_the_minutes_and_at_the_end(monkeypatch):
    minutes = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))
    watched = Watched(CountingTrainer(100))
    watched.run(save_minutes=3)
    assert watched.checkpoints[-1] == 100
    assert 2 <= len(watched.checkpoints) < 10
    assert watched.polls == 10, "finished ones are put in their place while the training goes on"
    watched = Watched(CountingTrainer(100))
    watched.run(save_minutes=1e6)
    assert watched.checkpoints == [100]


@pytest.mark.parametrize("number, kind", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_saves_state_and_model_of_the_step_and_says_how_to_go_on(number, kind):
    def send(step):
        if step == 23:
            signal.raise_signal(number)

    watched = Watched(CountingTrainer(1_000, before=send))
    with stop_signals_raise(), pytest.raises(kind) as stopped:
        watched.run()
    assert type(stopped.value) is kind
    assert str(stopped.value) == "step 23 of 1,000 is saved; the same command continues there"
    assert watched.checkpoints == [23]
    assert watched.models[-1] == 23
    assert watched.ends == [(23, signal.Signals(number).name)]


def test_a_state_that_could_not_be_saved_is_not_called_saved():
    watched = Watched(
        CountingTrainer(100, before=lambda step: signal.raise_signal(signal.SIGINT) if step == 7 else None),
        is_whole=False,
    )
    with pytest.raises(KeyboardInterrupt, match="step 7 of 100 could not be saved"):
        watched.run()


def test_an_alarm_is_logged_and_printed_once():
    watched = Watched(CountingTrainer(50, rtd_loss=float("nan")))
    watched.run()
    (warning,) = watched.warnings
    assert warning.startswith("alarm at step 10: a loss is NaN")
    assert [step for kind, step in watched.logged if kind == "alarm"] == [10]


def test_the_progress_has_the_figures_of_the_last_evaluation():
    watched = Watched(CountingTrainer(30, first=10))
    watched.run()
    assert watched.shown == [(20, {"auc_random": 0.5}), (30, {"auc_random": 0.5})]
    assert [step for kind, step in watched.logged if kind == "step"] == [20, 30]


def test_the_peak_memory_of_a_gpu_is_that_of_the_training(monkeypatch):
    """The trials before it try how much memory there is."""
    calls, gpu = [], torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: calls.append("reset"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: calls.append("read") or 7)
    trainer = CountingTrainer(20)
    trainer.world = World(device=gpu)
    Watched(trainer).run()
    assert calls == ["reset", "read", "read"]


def test_only_rank_0_logs_shows_and_warns():
    watched = Watched(CountingTrainer(30, rtd_loss=float("nan")))
    watched.run(has_log=False)
    assert watched.evaluated == [10, 20, 30]
    assert not watched.shown
    assert not watched.warnings
