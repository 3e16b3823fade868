"""A comparison that is stopped, and folders that it may not write to."""

import pickle
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from electra_kernels.commands.progress import Progress
from electra_kernels.errors import UserError
from electra_kernels.evaluation.comparison import compare as comparison
from electra_kernels.evaluation.comparison import runs
from electra_kernels.evaluation.comparison.compare import compare
from electra_kernels.evaluation.comparison.runs import Run, carry_out

from .test_compare import _command, _training_child, _wait, here, options, setting  # noqa: F401 -- fixtures


def test_ctrl_c_ends_the_runs_at_once(setting, tmp_path):  # noqa: F811
    path = tmp_path / "setting.pickle"
    path.write_bytes(pickle.dumps(replace(setting, recipe=replace(setting.recipe, steps=10**9))))
    program = (
        "from pathlib import Path; from electra_kernels.evaluation.comparison import runs; "
        "run = runs.Run('corrupted_tokens', 1e-3, 0); "
        f"print(list(runs.in_processes(runs.carry_out, Path({str(path)!r}), [run], 1)))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    try:
        worker = _wait(lambda: _training_child(parent.pid))
        assert worker
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=60)
        assert _wait(lambda: not _command(worker))
    finally:
        parent.kill()
        parent.communicate()


def test_no_more_processes_than_runs(setting, tmp_path):  # noqa: F811
    """A queue for 10^18 processes cannot be made."""
    path = tmp_path / "setting.pickle"
    path.write_bytes(pickle.dumps(setting))
    (result,) = runs.in_processes(carry_out, path, [Run("corrupted_tokens", 3e-3, 1)], 10**18)
    assert result["steps"] == setting.recipe.steps


def test_who_stops_a_comparison_is_told_where_the_finished_runs_are(options, here, monkeypatch):  # noqa: F811
    def stopped(work, path, missing, processes):
        yield work(pickle.loads(path.read_bytes()), missing[0], path.parent)
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "in_processes", stopped)
    with pytest.raises(KeyboardInterrupt, match=r"the finished runs are in .*runs and will not run again"):
        compare(options, Progress())
    assert sorted(path.suffix for path in (options.output / "runs").iterdir()) == [
        ".json",
        ".pickle",
        ".safetensors",
    ]
    assert not (options.output / "electra-kernels.lock").exists()


@pytest.mark.parametrize("name", ["compare.html", "compare.json", "compare.png", "runs/mine.txt"])
def test_results_of_something_else_are_left_alone(name, options, here):  # noqa: F811
    path = options.output / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(
        UserError, match=f"holds {name.split('/')[0]}, which is not from electra-kernels compare"
    ):
        compare(options, Progress())
    assert path.read_text() == "mine"


@pytest.mark.parametrize("content", ["{", "[1]", "3"])
def test_a_setting_that_is_none_is_one_line(content, options, here):  # noqa: F811
    options.output.mkdir()
    (options.output / "setting.json").write_text(content)
    with pytest.raises(UserError, match=r"setting\.json is not from a comparison"):
        compare(options, Progress())
