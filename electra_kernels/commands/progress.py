"""Output of a running command: lines, and a progress bar with the latest metrics."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from electra_kernels.training.trainer import State


def print_plainly(console: Console, line: str, style: str | None = None) -> None:
    """Print a line literally: rich would interpret brackets, colons and numbers in a file name."""
    console.print(line, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class Bar:
    """A progress bar on a terminal; elsewhere one line per evaluation."""

    def __init__(self, console: Console, progress: RichProgress, task: TaskID) -> None:
        self.console, self.progress, self.task = console, progress, task
        self.last_step = -1.0

    def update(self, state: State, evaluation: Mapping[str, float]) -> None:
        """Show the state of the run and the metrics of its last evaluation."""
        losses = {name: value for name, value in state.metrics.items() if name.endswith("_loss")}
        parts = [f"{name.removesuffix('_loss')} {value:.3f}" for name, value in losses.items()]
        if "auc_random" in evaluation:
            parts.append(f"AUC {evaluation['auc_random']:.3f}")
        parts.append(f"{state.tokens / max(state.seconds, 1e-9):,.0f} tokens/s")
        line = "  ".join(parts)
        self._show(state.fraction, line)
        if evaluation.get("step", -1.0) > self.last_step:
            self.last_step = evaluation["step"]
            self.log(f"step {state.step:6,}  {line}")

    def update_pair(self, step: int, fraction: float, figures: Mapping[str, float]) -> None:
        """Show how far the pair has come, and the AUCs of the sides that have one."""
        line = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in figures.items())
        self._show(fraction, line)
        self.log(f"step {step:6,}  AUC  {line}")

    def log(self, line: str) -> None:
        if not self.console.is_terminal:
            print_plainly(self.console, line)

    def _show(self, fraction: float, line: str) -> None:
        self.progress.update(self.task, completed=fraction, figures=line)


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
        with RichProgress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            yield Bar(self.console, progress, progress.add_task(title, total=1.0, figures=""))
