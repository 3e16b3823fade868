"""The command line: ``electra-kernels pretrain | compare | evaluate | detect | doctor``."""

import argparse
import importlib.util
import io
import json
import os
import sys
from collections.abc import Sequence

import torch

from electra_kernels.commands import options
from electra_kernels.commands.interrupt import outcome, stop_signals_raise
from electra_kernels.errors import UserError

_NEEDS = ("matplotlib", "rich", "safetensors", "scipy", "tokenizers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a mistake of the user ends with one line and exit status 2."""
    with stop_signals_raise():
        try:
            if isinstance(sys.stdout, io.TextIOWrapper):  # the name of a file may be none of its encoding
                sys.stdout.reconfigure(errors="backslashreplace")
            return _flushed(_run(options.parser().parse_args(argv)))
        except KeyboardInterrupt as stop:
            word, status = outcome(type(stop))
            return _fail("; ".join([word, *map(str, stop.args)]), status)


def _run(arguments: argparse.Namespace) -> int:
    """Run a command, and turn the errors that a user can mend into one line."""
    try:
        if hasattr(arguments, "output"):
            _require_one_process()
        if arguments.command != "doctor":
            _require_packages()
        return _COMMANDS[arguments.command](arguments)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        return 0
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename else reason)
    except (MemoryError, RuntimeError) as error:
        # torch raises a plain RuntimeError where the CPU's memory is at its end.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return _fail(f"out of memory: {(str(error) or 'the allocation failed').splitlines()[0]}")
        raise


def _flushed(status: int) -> int:
    """Write what standard output still holds; without that Python would do it at exit, with a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status and not isinstance(error, BrokenPipeError):
            return _fail(f"standard output: {error.strerror}")
    return status


def _require_one_process() -> None:
    rank, world = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "")
    if rank is not None and world.isdecimal() and int(world) > 1:
        raise UserError(
            f"started as RANK {rank} of WORLD_SIZE {world}, as torchrun does: this trainer runs one process, start it "
            "without torchrun"
        )


def _require_packages() -> None:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'electra_kernels[pretraining]'")


def _fail(message: str, status: int = 2) -> int:
    print(f"electra-kernels: error: {message}", file=sys.stderr)
    return status


def pretrain(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.pretrain import Options, pretrain
    from electra_kernels.commands.progress import Progress

    names = Options.__dataclass_fields__
    options = Options(**{name: getattr(arguments, name) for name in names})
    report = pretrain(options, Progress())
    print(report)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.progress import Progress
    from electra_kernels.evaluation.comparison.compare import Options, compare, names

    options = {name: getattr(arguments, name) for name in Options.__dataclass_fields__}
    print(compare(Options(**options | {"objectives": names(arguments.objectives)}), Progress().say))
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.evaluate import evaluate
    from electra_kernels.evaluation.report import finite

    figures = evaluate(arguments.model, arguments.text)
    if arguments.json:
        print(json.dumps(finite(figures), indent=2, allow_nan=False))
        return 0
    for name, value in figures.items():
        print(f"{name:20}{value:12.4f}" if isinstance(value, float) else f"{name:20}{value:12,}")
    return 0


def detect(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from electra_kernels.commands.detect import detect, read_lines

    texts = arguments.text
    if texts == ["-"]:
        texts = read_lines(sys.stdin)
    lines = detect(arguments.model, texts)
    if arguments.json:
        print(
            json.dumps([[{"piece": t.piece, "probability": t.probability} for t in line] for line in lines])
        )
        return 0
    from electra_kernels.commands.progress import print_plainly
    from electra_kernels.evaluation.colouring import to_terminal

    console = Console()
    for line in lines:
        console.print(to_terminal(line))
        ranked = sorted(line, key=lambda token: -token.probability)[:5]
        words = ", ".join(f"{token.piece} {token.probability:.0%}" for token in ranked)
        print_plainly(console, f"most suspicious: {words}", style="dim")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.doctor import as_json, report

    print(as_json() if arguments.json else report(), flush=True)
    return 0


_COMMANDS = {
    "pretrain": pretrain,
    "compare": compare,
    "evaluate": evaluate,
    "detect": detect,
    "doctor": doctor,
}


if __name__ == "__main__":
    sys.exit(main())
