"""The progress of a run on a terminal and in a file."""

import io

import pytest
from rich.console import Console

from electra_kernels.commands.progress import Progress
from electra_kernels.training.log import StepRecord


def record(step, **metrics):
    return StepRecord(step, 2_000, 64 * step, 0.5 * step, {"learning_rate": 1e-3}, metrics)


@pytest.fixture
def show():
    """Show records with a new evaluation at every hundredth step; returns the output."""

    def shown(*steps, terminal, **metrics):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=150, color_system=None)
        with Progress(console).bar("pre-training") as bar:
            for step in steps:
                bar.update(record(step, **metrics), {"auc_random": 0.75 + step // 100 / 1e6})
        return console.file.getvalue()

    return shown


def test_a_file_gets_one_line_per_evaluation(show):
    lines = show(
        1_000, 1_010, 1_100, 1_110, terminal=False, mlm_loss=4.25, rtd_loss=0.3, recall=0.5
    ).splitlines()
    assert lines[0] == "step  1,000 of 2,000  mlm 4.250  rtd 0.300  AUC 0.750  128 tokens/s"
    assert lines[1].startswith("step  1,100 of 2,000  mlm 4.250")
    assert lines[1].endswith(" left")
    assert [line for line in lines[2:] if line] == []


def test_nothing_is_printed_before_the_first_evaluation():
    console = Console(file=io.StringIO(), force_terminal=False)
    with Progress(console).bar("pre-training") as bar:
        bar.update(record(10, mlm_loss=4.25), {})
    assert console.file.getvalue().strip() == ""


def test_the_last_line_has_no_time_left(show):
    lines = show(1_900, 2_000, terminal=False, mlm_loss=4.25).splitlines()
    assert lines[1] == "step  2,000 of 2,000  mlm 4.250  AUC 0.750  128 tokens/s"


def test_a_terminal_gets_a_bar_with_the_step_and_the_measured_speed(show):
    page = show(1_000, 1_500, terminal=True, mlm_loss=4.25, tokens_per_second=12_345.0)
    assert "75 %" in page
    assert "step  1,500 of 2,000  mlm 4.250  AUC 0.750  12,345 tokens/s" in page
