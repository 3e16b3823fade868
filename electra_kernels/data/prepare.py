"""Text of any size → vocabulary → token cache, in parallel processes and in bounded memory.

Two passes over the text, each cut into shards: a survey, which chooses the held-out text and a sample for the
vocabulary, and the encoding. Finished shards lie in OUTPUT/shards; the same call takes them up again after an
interruption. The files of the cache are moved to their places at the end, meta.json last.
"""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tokenizers

from electra_kernels.data.cache_writer import combine_hashes, write_cache
from electra_kernels.data.documentation import documentation_file
from electra_kernels.data.inputs import Input, find_inputs, read_standard_input
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import Piece, hash_piece
from electra_kernels.data.shards import Encoding, Shard
from electra_kernels.data.stages import Log, Options, Progress, Stages, log_notes, make_shards
from electra_kernels.data.token_cache import FORMAT, TokenCache, open_cache, read_meta
from electra_kernels.data.vocabulary import vocabulary_file
from electra_kernels.errors import UserError

_STANDARD_INPUT = "standard-input"  # the copy of it in the output folder
DOCUMENTATION = "Documentation of Django, SQLAlchemy, Twisted, Celery and Scrapy"


def prepare(
    paths: Sequence[Path],
    output: Path,
    *,
    vocabulary: Path | None = None,
    vocab_size: int = 30_522,
    cased: bool = False,
    keep_accents: bool | None = None,
    wrapped: bool = False,
    field: str = "text",
    processes: int | None = None,
    log: Log = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
) -> TokenCache:
    """Make a token cache, or open the one that the same call has made.

    Args:
        paths: files and folders, see `electra_kernels.data.text.read_documents`; ``-`` is standard input. If empty, the
            documentation of five Python packages is downloaded.
        output: folder of the cache.
        vocabulary: file or folder of a vocabulary, see `load_vocabulary`; None trains one on a sample of the text.
        vocab_size, cased, keep_accents: of the trained vocabulary, see `train_vocabulary`. With a given one, vocab_size
            is unused.
        wrapped: lines are broken at a width: an empty line separates paragraphs, and a file is a document.
        field: name of the field or column with the text, in JSON lines, parquet files and saved datasets.
        processes: number of processes; None takes one per core. With more than one, a program that calls this function
            needs ``if __name__ == "__main__":``, as always with multiprocessing.
        log: called with one line at each step.
        progress: called with the name of the step, the bytes of text that are done, and an estimate of all of them.

    Raises:
        UserError: the text or the vocabulary cannot be used, cased or keep_accents is given with a vocabulary, or the
            folder has the cache of another call.
        OSError: a file cannot be written.
    """
    if vocabulary and (cased or keep_accents is not None):
        raise UserError(
            "--cased and --keep-accents are for a trained vocabulary; a given one is used as it is"
        )
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    options = (
        Options(_hash_vocabulary(vocabulary), None, False, None, wrapped, field)
        if vocabulary
        else Options(None, vocab_size, cased, keep_accents, wrapped, field)
    )
    try:
        return _prepare(paths, output, vocabulary, options, processes or os.cpu_count() or 1, log, progress)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(output)) from error  # a write does not name its file
    finally:
        (output / _STANDARD_INPUT).unlink(missing_ok=True)


def _prepare(
    paths: Sequence[Path],
    output: Path,
    vocabulary: Path | None,
    options: Options,
    processes: int,
    log: Log,
    progress: Progress,
) -> TokenCache:
    notes, names = Notes(), ", ".join(map(str, paths))
    inputs = _find(paths, output, notes, log)
    if not inputs:
        log_notes(notes, log)
        raise UserError(f"no text in {names}")
    key = _key(inputs, options)
    if finished := _finished(output, key, inputs, options):
        log(f"{output} has this text already")
        return finished
    stages = Stages(output, inputs, options, processes=processes, log=log, progress=progress)
    stages.begin(key)
    meta: dict[str, Any] = {"key": key, "source": names or DOCUMENTATION, "options": asdict(options)}
    meta |= _describe(inputs, stages.survey(), notes)
    log_notes(notes, log)
    if not meta["text"]["bytes"]:
        raise UserError(f"no text in {names}")
    held_out = stages.choose_held_out(meta["text"]["bytes"])
    tokenizer = stages.vocabulary(vocabulary, held_out)
    shards = stages.encode(held_out)
    meta["passed_over"] = _add_notes(notes, shards, log)
    _log_result(write_cache(output, shards, tokenizer, held_out, meta), log)
    return open_cache(output)


def _find(paths: Sequence[Path], output: Path, notes: Notes, log: Callable[[str], None]) -> list[Input]:
    if not paths:
        path = documentation_file(log)
        source = Input(path, "documentation", "documents", "gz", path.stat().st_size)
        return [
            Input(path, source.name, source.kind, "gz", source.size, hash_piece(Piece(source, 0, None, 0)))
        ]
    if any(str(path) == "-" for path in paths):
        if len(paths) > 1:
            raise UserError("- (standard input) should be the only path")
        return [read_standard_input(output / _STANDARD_INPUT)]
    return find_inputs(paths, notes, leave_out=output)


def _finished(output: Path, key: str, inputs: list[Input], options: Options) -> TokenCache | None:
    """The cache in the folder, if there is one and it is that of this call.

    Raises:
        UserError: it is that of another call.
    """
    meta = read_meta(output)
    if meta is None:
        return None
    if meta.get("key") != key:
        before = meta.get("options", {})
        changed = [name for name, value in asdict(options).items() if before.get(name) != value]
        # The times of the files may have changed and their content not.
        if changed or meta["text"]["sha256"] != _hash_text(inputs, output):
            what = ", ".join(f"{name} {before.get(name)}" for name in changed) or "another text"
            raise UserError(
                f"{output}: has the token cache of {what}; choose another --output, or delete it first"
            )
    return open_cache(output)


def _hash_text(inputs: list[Input], output: Path) -> str:
    pieces = (piece for shard in make_shards(inputs, output) for piece in shard.pieces)
    return combine_hashes(map(hash_piece, pieces))


def _key(inputs: list[Input], options: Options) -> str:
    """Identifies a call: its options, and the names, sizes and times of its files."""
    files = [(source.name, source.kind, source.size, source.stamp) for source in inputs]
    return combine_hashes([json.dumps([FORMAT, tokenizers.__version__, files, asdict(options)])])


def _describe(inputs: list[Input], results: list[dict[str, Any]], notes: Notes) -> dict[str, Any]:
    """The part of meta.json that the survey decides. What it has passed over is added to ``notes``."""
    for result in results:
        notes.merge(Notes(result["notes"]))
    return {
        "text": {
            "bytes": sum(result["bytes"] for result in results),
            "documents": sum(result["documents"] for result in results),
            "files": len(inputs),
            "bytes_on_disk": sum(source.size for source in inputs),
            "sha256": combine_hashes(value for result in results for value in result["hashes"]),
        },
        "sample_bytes": sum(result["sample"] for result in results),
    }


def _add_notes(notes: Notes, shards: Sequence[Shard], log: Log) -> dict[str, Any]:
    """Log what the encoding has passed over. Returns all that was passed over."""
    more = Notes()
    for shard in shards:
        more.merge(Notes(shard.finished(Encoding.SUFFIX)["notes"]))
    log_notes(more, log)
    notes.merge(more)
    return notes.kinds


def _log_result(meta: dict[str, Any], log: Log) -> None:
    log(
        f"{meta['tokens']:,} tokens of {meta['documents']:,} documents to train on, {meta['held_out_tokens']:,} of "
        f"{meta['held_out_documents']:,} held out; {meta['overlap']:.1%} of the held-out paragraphs also occurred in "
        "the training text and were dropped"
    )
    if meta["unknown"] > 0.001:
        log(f"warning: {meta['unknown']:.1%} of the tokens are unknown to the vocabulary")


def _hash_vocabulary(path: Path) -> str:
    return hashlib.sha256(vocabulary_file(Path(path)).read_bytes()).hexdigest()
