"""What the command line shows while it works: lines, and a bar with the figures of the run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from electra_kernels.training.trainer import State


def print_plainly(console: Console, line: str, style: str | None = None) -> None:
    """Print a line as it is: brackets, colons and numbers in the name of a file mean nothing to the console."""
    console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Bar:
    """A bar on a terminal; elsewhere a line for each evaluation."""

    def __init__(self, console: Console, progress: RichProgress, task: TaskID) -> None:
        self.console, self.progress, self.task = console, progress, task
        self.last_step = -1.0

    def update(self, state: State, evaluation: Mapping[str, float]) -> None:
        """``state`` of the run, and the figures of the last evaluation."""
        losses = {name: value for name, value in state.metrics.items() if name.endswith("_loss")}
        words = [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items()]
        if "auc_random" in evaluation:
            words.append(f"AUC {evaluation['auc_random']:.3f}")
        words.append(f"{state.tokens / max(state.seconds, 1e-9):,.0f} tokens/s")
        line = "  ".join(words)
        self._show(state.fraction, line)
        if evaluation.get("step", -1.0) > self.last_step:
            self.last_step = evaluation["step"]
            self.say(f"step {state.step:6,}  {line}")

    def update_pair(self, step: int, fraction: float, figures: Mapping[str, float]) -> None:
        line = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        self._show(fraction, line)
        self.say(f"step {step:6,}  AUC  {line}")

    def say(self, line: str) -> None:
        if not self.console.is_terminal:
            print_plainly(self.console, line)

    def _show(self, fraction: float, line: str) -> None:
        self.progress.update(self.task, completed=fraction, figures=line)


class Progress:
    """The one place that prints during a run.

    Args:
        console: by default standard error, so that standard output stays clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = Console(stderr=True) if console is None else console

    def say(self, line: str) -> None:
        print_plainly(self.console, line)

    @contextmanager
    def bar(self, title: str) -> Iterator[Bar]:
        """A bar from 0 to 1 that stays on the screen when it is done."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        with RichProgress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            yield Bar(self.console, progress, progress.add_task(title, total=1.0, figures=""))
