"""``electra-kernels report`` on the command line."""

import json

from electra_kernels.commands.main import main
from electra_kernels.training.log import Log, StepRecord


def test_it_prints_the_path_of_the_page_and_leaves_the_log_alone(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps({"objective": "replaced_tokens"}))
    log = Log(tmp_path, warn=print)
    log.start(0, 100)
    log.step(StepRecord(10, 100, 640, 1.0, {"learning_rate": 1e-3}, {"mlm_loss": 4.0}))
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert "In progress: step 10 of 100" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    log.step(StepRecord(20, 100, 640, 1.0, {"learning_rate": 1e-3}, {"mlm_loss": 3.0}))
    assert main(["report", str(tmp_path)]) == 0
    assert "In progress: step 20 of 100" in (tmp_path / "report.html").read_text()


def test_a_rank_of_a_running_job_may_make_it(tmp_path, capsys, monkeypatch):
    """In a shell of a job, the variables of torchrun may be set."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "run.json").write_text("{}")
    assert main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_no_run_gives_one_line(tmp_path, capsys):
    for folder in (tmp_path, tmp_path / "none"):
        assert main(["report", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(
            f"electra-kernels: error: {folder} is not the output of electra-kernels pretrain"
        )
