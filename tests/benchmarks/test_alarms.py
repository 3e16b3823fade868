"""`benchmarks.alarms` on logs of a stuck run, of one that learned, and of one that was stuck only for a while."""

import json
import math
import pickle
from types import SimpleNamespace

import pytest

from benchmarks import alarms
from electra_kernels.training.log import Log, StepRecord

STEPS = 100
LOSSES = {
    "stuck": ([math.log(2)] * STEPS, math.log(2)),
    "learned": ([0.5] * STEPS, 0.5),
    "late": ([math.log(2)] * 80 + [0.3] * 20, 0.3),
    "forgot": ([0.5] * STEPS, math.log(2)),
}


@pytest.fixture
def comparison(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "setting.pickle").write_bytes(pickle.dumps(SimpleNamespace(plateau=6.0)))
    for name, (losses, held_out) in LOSSES.items():
        (runs / f"{name}.log").mkdir()
        log = Log(runs / f"{name}.log", warn=pytest.fail)
        for step, loss in enumerate(losses, start=1):
            metrics = {"row_loss": loss, "gradient_norm": 1.0}
            log.step(StepRecord(step, STEPS, 0, 0.0, learning_rates={}, metrics=metrics))
        (runs / f"{name}-trained.json").write_text(json.dumps({"held_out": {"row_loss": held_out}}))
    return tmp_path


def test_false_alarms_and_misses_are_counted(comparison, capsys):
    alarms.main([str(comparison)])
    assert capsys.readouterr().out.splitlines() == [
        "4 runs",
        "guesses the rows: 2 alarms, 1 false, 1 missed",
        "    false: late",
        "    missed: forgot",
    ]


def test_a_run_that_is_not_finished_has_no_verdict(comparison):
    (comparison / "runs" / "late-trained.json").unlink()
    assert {one.run for one in alarms.judge(comparison / "runs")} == {"stuck", "learned", "forgot"}
