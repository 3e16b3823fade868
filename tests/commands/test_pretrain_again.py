"""pretrain with a folder that holds a run: the same command, another one, and ``--resume never``."""

import json
import shutil
import signal
from dataclasses import replace

import pytest

from electra_kernels.commands import measurements, planning
from electra_kernels.commands.main import main
from electra_kernels.training.log import read_log
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.trainer import Trainer


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """The output folder and the command of a finished run without a generator; tests leave its results as they are."""
    output = tmp_path_factory.mktemp("finished")
    command = ["pretrain", "--text", text, "--output", output, "--vocab-size", 200, "--batch-size", 4]
    command += ["--objective", "masked_lm", "--threads", 1, "--micro-batch", 4]
    assert main([*map(str, command), "--steps", "12"]) == 0
    return output, command


def in_folder(output, finished):
    """The command of the finished run, for another folder."""
    earlier, command = finished
    return [output if argument == earlier else argument for argument in command]


def names(folder):
    """The files and folders in a folder, except the curves of the report."""
    return {path.name for path in folder.iterdir() if path.suffix != ".png"}


def test_run_json_says_what_was_run(finished):
    output, _ = finished
    known = json.loads((output / "run.json").read_text())
    assert known["schedule"] == f"{known['recipe']['length']}:12"
    assert known["identity"]["--objective"] == "masked_lm"
    assert known["execution"] == {
        "micro_batch": 4,
        "shard": False,
        "checkpoint_layers": False,
        "compile": False,
        "vocab_parallel": 1,
        "ranks": 1,
        "threads": 1,
    }
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-12"]


def test_a_finished_run_that_is_started_again_makes_its_report_again(finished, in_process):
    output, command = finished
    weights, log = (
        (output / name).read_bytes() for name in ("model/encoder/model.safetensors", "metrics.jsonl")
    )
    (output / "report.html").unlink()
    (output / "notes.txt").write_text("mine")
    status, out, err = in_process(*command, "--steps", 12)
    assert status == 0
    assert out == f"{output / 'report.html'}\n"
    assert f"the run in {output} is finished; --resume never would start it again" in err
    assert "masked" in (output / "report.html").read_text()
    assert [
        (output / name).read_bytes() for name in ("model/encoder/model.safetensors", "metrics.jsonl")
    ] == [
        weights,
        log,
    ]
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", 12, "--seed", 5], "--seed 0, not 5"),
        (["--steps", 13], ":12, not "),
        (["--steps", 12, "--learning-rate", 0.5], "--learning-rate "),
    ],
)
def test_another_command_into_the_same_folder_is_refused(finished, in_process, more, said):
    output, command = finished
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    status, out, err = in_process(*command, *more)
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"electra-kernels: error: --output {output} holds a run with ")
    assert said in last
    assert last.endswith("choose another folder, or --resume never to replace that run")
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == before


def test_resume_never_replaces_the_run(finished, in_process, tmp_path):
    earlier, _ = finished
    output = tmp_path / "output"
    shutil.copytree(earlier, output)
    (output / "notes.txt").write_text("mine")
    again = in_folder(output, finished)
    status, _, err = in_process(*again, "--steps", 11, "--seed", 5, "--resume", "never")
    assert status == 0, err
    assert names(output) == names(earlier) | {"notes.txt"}
    assert json.loads((output / "metrics.json").read_text())["run"]["steps"] == 11
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-11"]
    starts = [record for record in read_log(output / "metrics.jsonl").records if record["kind"] == "start"]
    assert [(start["step"], start["steps"]) for start in starts] == [(0, 11)]


def test_an_alarm_counts_the_steps_before_a_stop(finished, in_process, tmp_path, monkeypatch):
    """With such a plateau the generator is at it from the first report on, at step 10; the alarm is due at step 26."""
    monkeypatch.setattr(measurements, "unigram_entropy", lambda rows, counts: 0.01)
    command, step = [*in_folder(tmp_path, finished), "--steps", 40], Trainer.step

    def stop_at_20(self, batch):
        step(self, batch)
        if self.position.step == 20:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at_20)
        assert in_process(*command)[0] == 130
    assert in_process(*command)[0] == 0
    log = read_log(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in log.of_kind("alarm")] == [30]


def test_minutes_become_steps_before_the_start(finished, in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "step_seconds", lambda trainer, rows: 0.5)
    monkeypatch.setitem(RECIPES, "demo", replace(RECIPES["demo"], least_steps=2))
    earlier, _ = finished
    output = tmp_path / "output"
    again = in_folder(output, finished)
    data = [again.index("--text"), again.index("--text") + 2]
    again[slice(*data)] = ["--data", earlier / "data"]
    del again[again.index("--vocab-size") : again.index("--vocab-size") + 2]
    status, _, err = in_process(*again, "--minutes", 0.1)
    assert status == 0, err
    assert "12 steps, about 0.1 minutes" in err
    assert json.loads((output / "metrics.json").read_text())["evaluations"][-1]["step"] == 12
    assert not (output / "data").exists(), "the data was prepared before"
