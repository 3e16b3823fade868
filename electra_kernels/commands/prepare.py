"""``electra-kernels prepare``: text in, a token cache out."""

import argparse
from pathlib import Path
from typing import TypeAlias

from electra_kernels.commands.options import Commands, add_text, number, output_folder

Options: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"

# Larger values ask for more memory than any machine has; the largest vocabularies in use have a million entries.
LARGEST_VOCABULARY, LARGEST_PROCESSES = 2**21, 1024


def add_command(commands: Commands) -> None:
    parser = commands.add_parser(
        "prepare",
        help="turn text into a token cache, once, for pretrain --data",
        description="Train a vocabulary on text, or take a given one, and write the text as token ids: "
        "OUTPUT/tokens.bin, offsets.npy, counts.npy, tokenizer/, held_out.jsonl and meta.json. Interrupted, the same "
        "command continues where it was.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--output", type=output_folder, required=True, help="folder for the token cache")
    add_text(
        parser,
        help="files or folders: .txt and .md (one paragraph per line, an empty line between documents), .jsonl, "
        ".parquet, each also .gz or .zst, or a saved Hugging Face dataset; - is standard input; by default the "
        "documentation of five Python packages is downloaded from the package index",
    )
    add_reading_options(parser)
    add_vocabulary_options(parser)
    parser.add_argument(
        "--processes",
        type=number(int, largest=LARGEST_PROCESSES),
        help="number of processes (default: one per core)",
    )


def add_reading_options(parser: Options) -> None:
    parser.add_argument(
        "--field",
        default="text",
        help="field or column with the text in .jsonl, .parquet and saved datasets (default: %(default)s)",
    )
    parser.add_argument(
        "--wrapped",
        action="store_true",
        help="lines are broken at a width: an empty line separates paragraphs, and a file is a document",
    )


def add_vocabulary_options(parser: Options, *, size: int | None = 30_522) -> None:
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--vocabulary",
        type=Path,
        help="tokenizer.json (WordPiece, BPE or Unigram) or vocab.txt to use; by default a WordPiece vocabulary is "
        "trained on a sample of the text",
    )
    vocabulary.add_argument(
        "--vocab-size",
        type=number(int, largest=LARGEST_VOCABULARY),
        default=size,
        help=f"entries of the trained vocabulary (default: {size or 'as the configuration says'})",
    )
    parser.add_argument(
        "--cased",
        action="store_true",
        help="the trained vocabulary distinguishes capitals from small letters",
    )
    parser.add_argument(
        "--keep-accents",
        action=argparse.BooleanOptionalAction,
        help="whether the trained vocabulary keeps the accents of Latin letters (default: with --cased, and if "
        "at least 1 %% of the words have one); marks of other scripts are always kept",
    )


def run(arguments: argparse.Namespace) -> int:
    from electra_kernels.commands.progress import Progress
    from electra_kernels.data.prepare import prepare
    from electra_kernels.training.lock import locked

    progress = Progress()
    names = ("vocabulary", "vocab_size", "cased", "keep_accents", "wrapped", "field", "processes")
    options = {name: getattr(arguments, name) for name in names}
    with locked(arguments.output), progress.preparing() as show:
        cache = prepare(arguments.text, arguments.output, log=progress.log, progress=show, **options)
    print(cache.folder)
    return 0
