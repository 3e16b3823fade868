"""A run that was stopped in its middle continues there, with the same result."""

import json
from dataclasses import replace

import pytest

from electra_kernels.evaluation.comparison import runs, unfinished
from electra_kernels.evaluation.comparison.runs import train_run
from electra_kernels.evaluation.comparison.setting import Run
from electra_kernels.training.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def stopped(setting, budget, tmp_path, monkeypatch):
    """A folder with a run of 30 steps that was stopped in its step 24, after a checkpoint at step 20."""
    run = Run("replaced_tokens", 3e-3, 1, budget)
    step = Trainer.step

    def stop(self, batch):
        if self.position.step == 23:
            raise KeyboardInterrupt
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "SAVE_MINUTES", 0.0)
        patch.setattr(Trainer, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(setting, run, tmp_path)
    return run


def test_it_continues_from_its_checkpoint_to_the_same_end(setting, stopped, tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    whole = train_run(setting, stopped, tmp_path / "other")
    steps, step = [], Trainer.step

    def count(self, batch):
        steps.append(self.position.step)
        step(self, batch)

    monkeypatch.setattr(Trainer, "step", count)
    continued = train_run(setting, stopped, tmp_path)
    assert steps[0] in (10, 20)  # the checkpoint of step 20 may not have been whole
    assert continued["held_out"] == whole["held_out"]
    points = [[(point["step"], point["figure"]) for point in each["curve"]] for each in (continued, whole)]
    assert points[0] == points[1]
    assert continued["tokens"] == whole["tokens"]


def test_an_alarm_counts_the_time_before_the_stop(setting, stopped, tmp_path):
    """With such a plateau the generator is at it from the first report on, at step 10; the alarm is due at step 22."""
    always = replace(setting, plateau=0.01)
    (alarm,) = train_run(always, stopped, tmp_path)["alarms"]
    assert alarm.startswith("alarm at step 30: for 40 % of the run")


def test_a_finished_run_leaves_no_checkpoint(setting, stopped, tmp_path):
    folder = tmp_path / f"{stopped.name}.unfinished"
    assert json.loads((folder / "curve.json").read_text())[0]["step"] == 0
    train_run(setting, stopped, tmp_path)
    assert not folder.exists()


def test_a_run_of_minutes_begins_anew(setting, stopped, tmp_path, monkeypatch):
    """Its length is measured by each start, so the schedule of an earlier one does not fit."""
    monkeypatch.setattr(runs, "steps_in", lambda *arguments: 10)
    record = train_run(replace(setting, minutes=1.0), stopped, tmp_path)
    assert record["steps"] == 10
