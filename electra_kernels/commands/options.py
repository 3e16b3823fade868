"""Options, and types of option values, that several commands share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_text(
    parser: argparse.ArgumentParser, *, help: str = "as for pretrain", required: bool = False
) -> None:
    parser.add_argument(
        "--text", type=Path, nargs="+", default=[], metavar="PATH", required=required, help=help
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        default=Path("report/model"),
        help="folder OUTPUT/model of a pretrain run (default: %(default)s, which make demo writes)",
    )


def output_folder(text: str) -> Path:
    """A folder for models. Its name must be UTF-8, because safetensors opens no other file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} should be a name in UTF-8") from None
    return Path(text)


def number(kind: type, *, allow_zero: bool = False, largest: int = 2**62 - 1) -> Callable[[str], float]:
    """A converter for argparse whose error names the accepted range."""

    def convert(text: str) -> float:
        value: float = kind(text)
        if not 0 <= value <= largest or (value == 0 and not allow_zero):
            expected = f"{'of at least' if allow_zero else 'above'} 0"
            limit = f", at most {largest:,}" if value > largest else ""
            raise argparse.ArgumentTypeError(f"{text} should be a finite number {expected}{limit}")
        return value

    convert.__name__ = kind.__name__  # argparse puts it into "invalid int value"
    return convert


def numbers(kind: type, *, largest: int = 2**62 - 1) -> Callable[[str], list[float]]:
    """A converter for argparse: `number` for each part of a list with commas."""
    convert = number(kind, largest=largest)

    def convert_all(text: str) -> list[float]:
        return [convert(part) for part in text.split(",")]

    convert_all.__name__ = f"list of {kind.__name__}"
    return convert_all
