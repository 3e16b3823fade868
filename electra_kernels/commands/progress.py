"""Output of a running command: lines, and a progress bar with the latest metrics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as RichProgress

from electra_kernels.training.log import StepRecord

_RATE_SECONDS = (
    600.0  # the time left follows from the rate over this time, which has steps and evaluations in it
)


def print_plainly(console: Console, line: str, style: str | None = None) -> None:
    """Print a line literally: rich would interpret brackets, colons and numbers in a file name."""
    console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar on a terminal; elsewhere one line per evaluation."""

    def __init__(self, console: Console, progress: RichProgress, task: TaskID) -> None:
        self.console, self.progress, self.task = console, progress, task
        self.evaluation: Mapping[str, float] = {}

    def update(self, state: StepRecord, evaluation: Mapping[str, float]) -> None:
        """Show the state of the run and the metrics of its last evaluation, empty before the first."""
        line = "  ".join(_figures(state, evaluation))
        step = f"step {state.step:6,} of {state.steps:,}"
        self.show(state.fraction, f"{step}  {line}")
        if evaluation != self.evaluation:
            self.evaluation = evaluation
            remaining = self.progress.tasks[self.task].time_remaining
            left = f"  {timedelta(seconds=remaining)} left" if remaining and state.fraction < 1.0 else ""
            self.log(f"{step}  {line}{left}")

    def update_pair(self, step: int, fraction: float, figures: Mapping[str, float]) -> None:
        """Show how far the pair has come, and the AUCs of the sides that have one."""
        line = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        self.show(fraction, line)
        self.log(f"step {step:6,}  AUC  {line}")

    def log(self, line: str) -> None:
        if not self.console.is_terminal:
            print_plainly(self.console, line)

    def show(self, fraction: float, line: str | None = None) -> None:
        """Move the bar; None keeps the line beside it."""
        self.progress.update(self.task, completed=fraction)
        if line is not None:
            self.progress.update(self.task, figures=line)


def _figures(state: StepRecord, evaluation: Mapping[str, float]) -> list[str]:
    losses = {name: value for name, value in state.metrics.items() if name.endswith("_loss")}
    figures = [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items()]
    if "auc_random" in evaluation:
        figures.append(f"AUC {evaluation['auc_random']:.3f}")
    average = state.tokens / max(state.seconds, 1e-9)
    return [*figures, f"{state.metrics.get('tokens_per_second', average):,.0f} tokens/s"]


class Progress:
    """Prints the progress of a run; nothing else prints during it.

    Args:
        console: by default standard error, which leaves standard output to the result.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console

    def log(self, line: str) -> None:
        print_plainly(self.console, line)

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        """A bar from 0 to 1, which stays on the screen afterwards."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with RichProgress(
            *columns,
            console=self.console,
            disable=not self.console.is_terminal,
            speed_estimate_period=_RATE_SECONDS,
        ) as progress:
            yield Bar(self.console, progress, progress.add_task(title, total=1.0, figures=""))

    @contextmanager
    def preparing(self) -> Iterator[Callable[[str, int, int], None]]:
        """A bar per step of `prepare`, with MB/s and the time left; nothing unless the console is a terminal."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        tasks: dict[str, TaskID] = {}
        with RichProgress(*columns, console=self.console, disable=not self.console.is_terminal) as bars:

            def progress(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(f"{stage:8}", total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield progress
