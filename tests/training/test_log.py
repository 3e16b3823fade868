"""The log survives kills, resumes and full disks, and TensorBoard reads the same numbers."""

import json
import math
import shutil

import pytest
from small_language import largest_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from electra_kernels.training.log import EVENTS, LOG, Log, RunLog, StepRecord, read_log


def record(step, **metrics):
    rates = {"learning_rate": 1e-3, "muon_learning_rate": 2e-3}
    return StepRecord(step, 100, 64 * step, 0.5 * step, rates, {"mlm_loss": 5.0 - step / 100, **metrics})


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def open_log(tmp_path, warnings):
    return lambda step=0: Log(tmp_path, step=step, warn=warnings.append)


def steps(folder):
    return [line["step"] for line in read_log(folder / LOG).of_kind("step")]


def scalars(folder, name):
    events = EventAccumulator(str(folder / EVENTS)).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_a_record_can_be_read_as_soon_as_it_is_written(tmp_path, open_log):
    log = open_log()
    log.start(0, 100, ranks=2)
    log.step(record(10, gradient_norm=0.25))
    log.evaluation(10, 5.0, {"auc_random": 0.75})
    log.alarm(10, "too high")
    lines = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["start", "step", "evaluation", "alarm"]
    del lines[1]["time"]
    assert lines[1] == {
        "kind": "step",
        "step": 10,
        "steps": 100,
        "tokens": 640,
        "seconds": 5.0,
        "learning_rate": 1e-3,
        "muon_learning_rate": 2e-3,
        "mlm_loss": 4.9,
        "gradient_norm": 0.25,
    }
    assert lines[2]["auc_random"] == 0.75


def test_numbers_that_are_not_finite_are_null(tmp_path, open_log):
    open_log().step(record(10, gradient_norm=math.nan, rtd_loss=-math.inf))
    (line,) = read_log(tmp_path / LOG).of_kind("step")
    assert line["gradient_norm"] is line["rtd_loss"] is None
    assert "NaN" not in (tmp_path / LOG).read_text()


def test_the_step_records_are_read_as_they_were_logged(tmp_path, open_log):
    log, logged = open_log(), [record(10, gradient_norm=0.25), record(20, gradient_norm=math.nan)]
    for each in logged:
        log.step(each)
        log.alarm(each.step, "an alarm")
    first, second = read_log(tmp_path / LOG).step_records
    assert first == logged[0]
    assert math.isnan(second.metrics["gradient_norm"])
    assert (second.step, second.learning_rates) == (20, logged[1].learning_rates)


def test_tensorboard_reads_the_same_numbers(tmp_path, open_log):
    log = open_log()
    for step in (10, 20):
        log.step(record(step, rtd_loss=math.nan))
        log.evaluation(step, 1.0, {"auc_random": step / 100})
    assert scalars(tmp_path, "training/mlm_loss") == [(10, pytest.approx(4.9)), (20, pytest.approx(4.8))]
    assert scalars(tmp_path, "training/learning_rate") == [
        (10, pytest.approx(1e-3)),
        (20, pytest.approx(1e-3)),
    ]
    assert scalars(tmp_path, "evaluation/auc_random") == [(10, pytest.approx(0.1)), (20, pytest.approx(0.2))]
    assert all(math.isnan(value) for _, value in scalars(tmp_path, "training/rtd_loss"))


def test_a_resumed_run_does_steps_again_and_logs_them_once(tmp_path, open_log):
    killed = open_log()
    for step in (10, 20, 30, 40):
        killed.step(record(step))
        killed.evaluation(step, 1.0, {"auc_random": 0.1})
    with open(tmp_path / LOG, "a") as file:
        file.write('{"kind": "step", "st')
    resumed = open_log(20)
    assert steps(tmp_path) == [10, 20]
    resumed.start(20, 100)
    resumed.step(record(30, mlm_loss=1.0))
    resumed.evaluation(30, 1.0, {"auc_random": 0.9})
    assert steps(tmp_path) == [10, 20, 30]
    assert scalars(tmp_path, "training/mlm_loss") == [
        (10, pytest.approx(4.9)),
        (20, pytest.approx(4.8)),
        (30, 1.0),
    ]
    assert [step for step, _ in scalars(tmp_path, "evaluation/auc_random")] == [10, 20, 30]


def test_a_run_that_begins_anew_has_a_new_log(tmp_path, open_log):
    open_log().step(record(10))
    open_log().step(record(20))
    assert steps(tmp_path) == [20]
    assert [step for step, _ in scalars(tmp_path, "training/mlm_loss")] == [20]


def test_a_line_in_the_middle_that_is_no_record_does_not_hide_the_others(tmp_path, open_log):
    log = open_log()
    log.step(record(10))
    with open(tmp_path / LOG, "ab") as file:
        file.write(b"\0\0\0\n[1]\n")
    log.step(record(20))
    log.step(record(30))
    assert steps(tmp_path) == [10, 20, 30]
    assert read_log(tmp_path / LOG).damaged == 2
    open_log(20)
    assert steps(tmp_path) == [10, 20]
    assert read_log(tmp_path / LOG).damaged == 0


def test_a_last_line_that_is_being_written_is_not_read(tmp_path, open_log):
    open_log().step(record(10))
    whole = (tmp_path / LOG).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / LOG).write_bytes(whole + whole[:length])
        assert steps(tmp_path) == [10]


def test_a_full_disk_gives_one_warning_and_no_record_is_lost(tmp_path, open_log, warnings):
    log = open_log()
    log.step(record(10))
    for outage in ((20, 30), (50, 60)):
        with largest_file(100):
            for step in outage:
                log.step(record(step))
                assert steps(tmp_path)[-1] < step
        assert read_log(tmp_path / LOG).damaged == 0
        log.step(record(outage[-1] + 10))
    assert steps(tmp_path) == [10, 20, 30, 40, 50, 60, 70]
    assert [step for step, _ in scalars(tmp_path, "training/mlm_loss")] == [10, 20, 30, 40, 50, 60, 70]
    assert [LOG in line for line in warnings].count(True) == len(warnings) / 2 == 2
    assert all("the training goes on" in line and "\n" not in line for line in warnings)


def test_a_folder_that_was_away_is_written_again(tmp_path, warnings):
    folder = tmp_path / "output"
    folder.mkdir()
    log = Log(folder, warn=warnings.append)
    log.step(record(10))
    folder.rename(tmp_path / "away")
    log.step(record(20))
    (tmp_path / "away").rename(folder)
    log.step(record(30))
    assert steps(folder) == [10, 20, 30]
    assert len(warnings) == 2


def test_the_records_of_a_long_outage_are_kept_up_to_a_limit(tmp_path, open_log, monkeypatch):
    monkeypatch.setattr("electra_kernels.training.log._KEPT", 3)
    log = open_log()
    with largest_file(0):
        for step in range(10, 110, 10):
            log.step(record(step))
    log.step(record(110))
    assert steps(tmp_path) == [90, 100, 110]
    assert [step for step, _ in scalars(tmp_path, "training/mlm_loss")] == [90, 100, 110]


def test_a_run_resumes_on_a_full_disk(tmp_path, open_log):
    log = open_log()
    for step in range(10, 110, 10):
        log.step(record(step))
    with largest_file(0):
        open_log(50).step(record(60))
    assert steps(tmp_path) == [10, 20, 30, 40, 50]


def test_the_log_knows_how_far_the_run_is(tmp_path, open_log):
    assert read_log(tmp_path / LOG) == RunLog([])
    log = open_log()
    log.start(0, 100)
    log.step(record(10))
    run = read_log(tmp_path / LOG)
    assert (run.step, run.steps, run.end) == (10, 100, None)
    log.end(10, "SIGTERM")
    assert read_log(tmp_path / LOG).end == "SIGTERM"
    log = open_log(10)
    log.start(10, 200)
    run = read_log(tmp_path / LOG)
    assert (run.step, run.steps, run.end) == (10, 200, None)
    log.end(200)
    assert read_log(tmp_path / LOG).end == "finished"


def test_a_step_that_was_evaluated_twice_counts_once(tmp_path, open_log):
    log = open_log()
    log.evaluation(10, 1.0, {"auc_random": 0.1})
    log.evaluation(10, 2.0, {"auc_random": 0.2})
    assert [line["auc_random"] for line in read_log(tmp_path / LOG).of_kind("evaluation")] == [0.2]


def test_records_do_not_need_the_folder_of_events(tmp_path, open_log, warnings):
    log = open_log()
    shutil.rmtree(tmp_path / EVENTS)
    log.step(record(10))
    log.step(record(20))
    assert steps(tmp_path) == [10, 20]
    assert len(warnings) == 1
    assert "No such file" in warnings[0]


def test_the_finished_share_of_a_run():
    assert record(25).fraction == 0.25
    assert StepRecord(0, 0, 0, 0.0, {}, {}).fraction == 1.0
