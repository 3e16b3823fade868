"""``electra-kernels compare``: several objectives side by side, on the same encoder, text and budget."""

import argparse
import os
from pathlib import Path

from electra_kernels.commands.options import Commands, add_text, number, numbers, output_folder

MOST_SEEDS = 1_000


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare objectives: same encoder, initial weights, text and budget, several seeds",
        description="Train the same encoder with each objective and probe it on other tasks. Writes "
        "OUTPUT/compare.html, compare.png (its curves) and compare.json, anew after each budget. OUTPUT/runs keeps "
        "every encoder (safetensors), the logs, and the checkpoints of unfinished runs; the same command continues.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--output",
        type=output_folder,
        default=Path("compare"),
        metavar="DIR",
        help="folder for the results (default: %(default)s)",
    )
    parser.add_argument(
        "--objectives",
        default="replaced_tokens,masked_lm,corrupted_rows",
        metavar="NAMES",
        help="names separated by commas; an unknown name lists the known ones (default: %(default)s)",
    )
    add_text(parser)
    _add_run_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--tokens",
        type=numbers(int),
        default=[1_000_000],
        metavar="BUDGETS",
        help="training tokens per run, without the probes; or several budgets in ascending order, separated by "
        "commas, each with runs and a decay of its own (default: 1000000)",
    )
    length.add_argument("--seconds", type=number(float), help="training time per run, instead of --tokens")
    parser.add_argument(
        "--seeds",
        type=numbers(int, largest=MOST_SEEDS),
        default=[3],
        help="number of seeds per objective; or one number for each budget, separated by commas (default: 3)",
    )
    parser.add_argument(
        "--rates",
        type=number(float),
        nargs="+",
        default=[1.5e-3, 3e-3],
        metavar="RATE",
        help="learning rates of AdamW to try, at the second budget if there are several; Muon's rate keeps its ratio "
        "to AdamW's (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=number(int),
        default=os.cpu_count() or 1,
        help="runs at the same time, each on one thread (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.progress import Progress
    from electra_kernels.evaluation.comparison.compare import Options, compare, names

    options = {name: getattr(arguments, name) for name in Options.__dataclass_fields__}
    print(compare(Options(**options | {"objectives": names(arguments.objectives)}), Progress().log))
    return 0
