"""The command line: ``electra-kernels prepare | pretrain | report | compare | evaluate | detect | finetune | predict |
doctor``.

Each command is a module with ``add_command``, which declares its options, and ``run``. A module imports whatever takes
long, or belongs to an optional package, inside its functions, so that ``--help`` needs none of it.
"""

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Sequence

import torch

from electra_kernels._interrupt import describe_stop, raise_lost_stop, stop_signals_raise
from electra_kernels._version import __version__
from electra_kernels.commands import (
    compare,
    detect,
    doctor,
    evaluate,
    finetune,
    predict,
    prepare,
    pretrain,
    report,
)
from electra_kernels.errors import AgreedError, UserError

_COMMANDS = (prepare, pretrain, report, compare, evaluate, detect, finetune, predict, doctor)
_ALONE = ("prepare", "compare", "finetune")  # write a folder, and start processes of their own
_REQUIRED_PACKAGES = ("matplotlib", "rich", "safetensors", "scipy", "tensorboard", "tokenizers")
_FINETUNING = ("finetune", "predict")
_FINETUNING_PACKAGES = ("accelerate", "datasets", "seqeval", "sklearn", "transformers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; an error of the user is one line and status 2."""
    with stop_signals_raise():
        try:
            if isinstance(sys.stdout, io.TextIOWrapper):  # its encoding may lack characters of a file name
                sys.stdout.reconfigure(errors="backslashreplace")
            return _flush_output(_run(command_line().parse_args(argv)))
        except KeyboardInterrupt as stop:
            word, status = describe_stop(type(stop))
            return _fail("; ".join([word, *map(str, stop.args)]), status)


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="electra-kernels",
        description="Pre-train Transformer encoders as per-token classifiers (ELECTRA), and use them.",
        epilog="electra-kernels COMMAND --help lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"electra_kernels {__version__}")
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    for command in _COMMANDS:
        command.add_command(commands)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    """Run a command; an error that the user can correct becomes one line."""
    try:
        if arguments.command in _ALONE:
            _require_one_process()
        if arguments.command in _FINETUNING:
            _require_packages((*_REQUIRED_PACKAGES, *_FINETUNING_PACKAGES), "finetuning")
        elif arguments.command != "doctor":
            _require_packages(_REQUIRED_PACKAGES, "pretraining")
        return _run_unless_stopped(arguments)
    except BrokenPipeError:  # the reader of the output, such as head, has closed it
        return 0
    except AgreedError as error:
        return _fail(str(error)) if os.environ.get("RANK", "0") == "0" else 2
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        return _fail(f"{error.filename}: {reason}" if error.filename else reason)
    except (MemoryError, RuntimeError) as error:
        # On a CPU torch raises a plain RuntimeError if an allocation fails.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            return _fail(f"out of memory: {(str(error) or 'the allocation failed').splitlines()[0]}")
        raise


def _run_unless_stopped(arguments: argparse.Namespace) -> int:
    try:
        status: int = arguments.run(arguments)
        return status
    except Exception:
        raise_lost_stop()
        raise


def _flush_output(status: int) -> int:
    """Flush standard output here, because a failing flush at Python's exit prints a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not status and not isinstance(error, BrokenPipeError):
            return _fail(f"standard output: {error.strerror}")
    return status


def _require_one_process() -> None:
    rank, world_size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE", "")
    if rank is not None and world_size.isdecimal() and int(world_size) > 1:
        raise UserError(
            f"started as RANK {rank} of WORLD_SIZE {world_size}, as torchrun does: only pretrain runs in several "
            "processes, start this command without torchrun"
        )


def _require_packages(names: Sequence[str], extra: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} not installed: pip install 'electra_kernels[{extra}]'")


def _fail(message: str, status: int = 2) -> int:
    print(f"electra-kernels: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
