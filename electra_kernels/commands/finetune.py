"""``electra-kernels finetune``: labelled text in; a model, scores and predictions out."""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from electra_kernels.commands.options import Commands, number, output_folder
from electra_kernels.commands.progress import Progress

if TYPE_CHECKING:
    from electra_kernels.finetuning.finetune import Result
    from electra_kernels.finetuning.training import Report


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "finetune",
        help="train an encoder on labelled words or texts",
        description="Fine-tune an encoder of transformers on a label per word or per text. Writes OUTPUT/model, a "
        "plain folder of transformers, OUTPUT/metrics.json and OUTPUT/predictions of the test file in its own format.",
    )
    parser.set_defaults(run=run)
    _add_data_options(parser)
    _add_training_options(parser)
    parser.add_argument(
        "--output", type=output_folder, required=True, metavar="DIR", help="folder of the result"
    )
    parser.add_argument(
        "--replace", action="store_true", help="replace the result of another finetune command in --output"
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and data")
    group.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="a folder of transformers, or OUTPUT/model of pretrain; without weights, training starts from scratch",
    )
    for name, required, what in (
        (
            "train",
            True,
            "labelled text: CoNLL columns, CoNLL-U, JSON lines, CSV, TSV, or a saved datasets folder",
        ),
        (
            "dev",
            False,
            "to stop early, and to choose the threshold and the best seed (default: 10 %% of --train)",
        ),
        ("test", False, "is scored and predicted, and has no part in any choice"),
    ):
        group.add_argument(f"--{name}", type=Path, required=required, metavar="FILE", help=what)
    group.add_argument(
        "--task",
        choices=("tokens", "sequence"),
        default="tokens",
        help="a tag per word, or a label per text (default: %(default)s)",
    )
    group.add_argument("--column", help="name or number of the column with the labels")
    group.add_argument("--text-column", help="name or number of the column with the words or the text")
    group.add_argument(
        "--label-all-pieces", action="store_true", help="train all pieces of a word, not the first alone"
    )
    group.add_argument(
        "--positive", metavar="TAG", help="with two tags, the one to find (default: the less frequent one)"
    )
    group.add_argument(
        "--length", type=number(int), help="tokens of a row (default: the model's limit, at most 512)"
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training, by default as ELECTRA for the size of the model")
    group.add_argument("--epochs", type=number(int), help="passes (default: 10 up to 6,000 examples, else 3)")
    group.add_argument(
        "--learning-rate", type=number(float), help="peak rate (default: 3e-4 small, 1e-4 base, 5e-5 large)"
    )
    group.add_argument(
        "--layer-decay",
        type=number(float, largest=1),
        help="factor of the rate from layer to layer downwards (default: 0.8, 0.9 large, 1 from scratch)",
    )
    group.add_argument("--batch-size", type=number(int), help="rows of a step (default: 32)")
    group.add_argument(
        "--patience", type=number(int), help="epochs without a better score before the end (default: 3)"
    )
    group.add_argument(
        "--seed",
        type=number(int, allow_zero=True, largest=2**32 - 1),
        default=0,
        help="of the head, the order of the rows, dropout and the held-out part (default: %(default)s)",
    )
    group.add_argument(
        "--seeds",
        type=number(int, largest=1000),
        default=1,
        help="trainings, with seeds --seed, --seed + 1, ...; mean and 95 %% interval (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.finetuning.finetune import Options, finetune
    from electra_kernels.finetuning.quiet import quiet_libraries

    progress = Progress()

    @contextmanager
    def bar(title: str) -> Iterator["Report"]:
        with progress.bar(title) as shown:

            def report(fraction: float, figures: Mapping[str, float] | None) -> None:
                line = "  ".join(f"{name} {value:.3f}" for name, value in (figures or {}).items())
                shown.show(fraction, line or None)
                if line:
                    shown.log(f"{title}  {fraction:4.0%}  {line}")

            yield report

    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    with quiet_libraries():
        result = finetune(options, log=progress.log, bar=bar)
    _print_result(result, options.output)
    return 0


def _print_result(result: "Result", output: Path) -> None:
    """Figures, scores per label of the best seed, and where the model lies."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from electra_kernels.commands.progress import print_plainly

    console, best, seeds = Console(), result.best, len(result.seeds)
    part = "dev" if best.test is None else "test"
    scores = best.dev if best.test is None else best.test
    for figure in scores.figures:
        print_plainly(console, f"{part} {figure.replace('_', ' ')}: {result.interval(part, figure)}")
    if seeds > 1:
        print_plainly(
            console,
            f"mean and 95 % interval of {seeds} seeds; the model is that of seed {best.seed}, best on dev",
        )
    if result.task.is_binary:
        print_plainly(console, f"threshold: {best.threshold:.3f}, the best F0.5 on the held-out text")
    table = Table("label", *("precision", "recall", "F1", "count"), title=f"{part}, seed {best.seed}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in scores.labels.items():
        figures = (f"{value:.3f}" for value in (row.precision, row.recall, row.f1))
        table.add_row(Text(name), *figures, f"{row.count:,}")
    console.print(table)
    print_plainly(console, str(output))
