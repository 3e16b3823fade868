"""``electra-kernels report``: the report of a run, also while it is going on."""

import argparse
from pathlib import Path

from electra_kernels.commands.options import Commands


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="write the report of a run, also while it is going on",
        description="Read run.json, metrics.jsonl and, after the end, metrics.json of a pretrain run and write "
        "report.html and the curves as *.png into its folder. The run is not disturbed.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("folder", type=Path, metavar="OUTPUT", help="output folder of a pretrain run")


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.evaluation.report import make_report

    print(make_report(arguments.folder))
    return 0
