"""Text of any size → vocabulary → token cache, in parallel processes and in bounded memory.

Two passes over the text, each cut into shards: a survey, which chooses the held-out text and a sample for the
vocabulary, and the encoding. Finished shards lie in OUTPUT/shards; the same call takes them up again after an
interruption. The files of the cache are moved to their places at the end, meta.json last.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from electra_kernels._version import __version__
from electra_kernels.data import token_cache
from electra_kernels.data.document import Document
from electra_kernels.data.documentation import documentation_file
from electra_kernels.data.held_out import (
    TOO_LITTLE,
    candidate,
    choose_held_out,
    divide,
    drop_repeated,
    wanted_size,
)
from electra_kernels.data.inputs import Input, find_inputs, read_standard_input
from electra_kernels.data.notes import Notes
from electra_kernels.data.reading import Piece, split_input
from electra_kernels.data.shards import (
    Encoding,
    Shard,
    Survey,
    encode_documents,
    hash_piece,
    paragraph_hash,
    special_token_ids,
    token_dtype,
)
from electra_kernels.data.token_cache import TokenCache, open_cache, read_meta
from electra_kernels.data.vocabulary import (
    describe_vocabulary,
    load_vocabulary,
    special_ids,
    train_vocabulary,
    vocabulary_file,
)
from electra_kernels.data.workers import run_tasks
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.models.tokenizer import save_tokenizer

SAMPLE = 64 << 20  # bytes of text on which a vocabulary is trained
_SHARD, _SMALLEST_SHARD, _SHARDS = 32 << 20, 2 << 20, 64  # bytes of text, and the wanted number of shards
_SMALL = 8 << 20  # bytes; starting processes for less takes longer than the work
_WRAPPED_SHARE, _WRAPPED_LINES = 0.6, 20
_STANDARD_INPUT = "standard-input"  # the copy of it
DOCUMENTATION = "Documentation of Django, SQLAlchemy, Twisted, Celery and Scrapy"

Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Options:
    """The options that decide what is in a cache."""

    vocabulary: str | None  # hash of the file
    vocab_size: int | None
    cased: bool
    keep_accents: bool | None
    wrapped: bool
    field: str


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
        vocab_size, cased, keep_accents: of the trained vocabulary, see `train_vocabulary`; unused with a given one.
        wrapped: lines are broken at a width: an empty line separates paragraphs, and a file is a document.
        field: name of the field or column with the text, in JSON lines, parquet files and saved datasets.
        processes: number of processes; None takes one per core. With more than one, a program that calls this function
            needs ``if __name__ == "__main__":``, as always with multiprocessing.
        log: called with one line at each step.
        progress: called with the name of the step, the bytes of text that are done, and an estimate of all of them.

    Raises:
        UserError: the text or the vocabulary cannot be used, or the folder has the cache of another call.
        OSError: a file cannot be written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    chosen = _Options(
        _hash_file(vocabulary) if vocabulary else None,
        None if vocabulary else vocab_size,
        cased and not vocabulary,
        None if vocabulary else keep_accents,
        wrapped,
        field,
    )
    notes = Notes()
    inputs = _find(paths, output, notes, log)
    if not inputs:
        _log_notes(notes, log)
        raise UserError(f"no text in {', '.join(map(str, paths))}")
    key = _key(inputs, chosen)
    if finished := _finished(output, key, inputs, chosen):
        log(f"{output} has this text already")
        return finished
    work = _Work(output, inputs, chosen, processes or os.cpu_count() or 1, log, progress, notes)
    work.begin(key)
    survey = work.survey()
    held_out = work.choose_held_out(survey)
    tokenizer = work.tokenizer(vocabulary, held_out)
    parts = work.encode(held_out)
    source = ", ".join(map(str, paths)) or DOCUMENTATION
    work.finish(tokenizer, held_out, parts, {"key": key, "source": source} | survey)
    return open_cache(output)


class _Work:
    """The steps of one call; each skips what an earlier, interrupted call has finished."""

    def __init__(
        self,
        output: Path,
        inputs: list[Input],
        options: _Options,
        processes: int,
        log: Log,
        progress: Progress,
        notes: Notes,
    ) -> None:
        self.output, self.folder = output, output / "shards"
        self.options, self.log, self.progress, self.notes = options, log, progress, notes
        self.shards = _shards(inputs, self.folder)
        self.inputs = inputs
        self.text_size = sum(shard.text_size for shard in self.shards)
        self.processes = 1 if self.text_size < _SMALL else processes

    def begin(self, key: str) -> None:
        """Take up the work of the same call, or remove that of another one."""
        plan = self.folder / "plan.json"
        if plan.is_file() and json.loads(plan.read_text()).get("key") == key:
            self.log(f"continuing with what is finished in {self.folder}")
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        write_whole(plan, json.dumps({"key": key}))

    def survey(self) -> dict[str, Any]:
        """The first pass. Returns the part of meta.json that it decides."""
        share = SAMPLE / max(self.text_size, 1)
        wanted = wanted_size(self.text_size)
        tasks = [
            Survey(
                shard,
                self.options.field,
                self.options.wrapped,
                # Some more than the share of the shard, because hashes are spread by chance.
                int(1.5 * wanted * shard.text_size / max(self.text_size, 1)) + (256 << 10),
                0 if self.options.vocabulary else int(share * shard.text_size),
                share >= 1,
            )
            for shard in self.shards
        ]
        self._run("reading", tasks)
        results = [self._result(task) for task in tasks]
        for result in results:
            self.notes.merge(Notes(result["notes"]))
        _log_notes(self.notes, self.log)
        self._warn_of_wrapping(results)
        total = sum(result["bytes"] for result in results)
        if not total:
            raise UserError(f"no text in {', '.join(str(source.path) for source in self.inputs[:3])}")
        hashes = [value for result in results for value in result["hashes"]]
        return {
            "text": {
                "bytes": total,
                "documents": sum(result["documents"] for result in results),
                "files": len(self.inputs),
                "bytes_on_disk": sum(source.size for source in self.inputs),
                "sha256": _combine(hashes),
            },
            "sample_bytes": sum(result["sample"] for result in results),
            "passed_over": {kind: list(value) for kind, value in self.notes.kinds.items()},
        }

    def choose_held_out(self, survey: dict[str, Any]) -> list[Document]:
        """The held-out documents, some of them ends of documents. They may share paragraphs with the training."""
        documents = {
            document.name: document
            for shard in self.shards
            for document in _read_documents(shard.file(".candidates.jsonl"))
        }
        chosen = choose_held_out(map(candidate, documents.values()), wanted_size(survey["text"]["bytes"]))
        parts = [divide(documents[name], size)[1] for name, size in chosen.items()]
        held_out = [part for part in parts if part is not None]
        if not held_out:
            raise UserError(TOO_LITTLE)
        hashes = {paragraph_hash(text) for document in held_out for text in document.paragraphs}
        write_whole(self.folder / "held_out.hashes", b"".join(sorted(hashes)))
        return sorted(held_out, key=lambda document: document.name)

    def tokenizer(self, vocabulary: Path | None, held_out: list[Document]) -> Tokenizer:
        folder = self.folder / token_cache.TOKENIZER
        if not folder.is_dir():
            tokenizer = load_vocabulary(vocabulary) if vocabulary else self._train(held_out)
            special_token_ids(tokenizer)
            unfinished = self.folder / "tokenizer.part"
            unfinished.mkdir(exist_ok=True)
            save_tokenizer(tokenizer, unfinished)
            unfinished.rename(folder)
        tokenizer = load_vocabulary(folder)
        self.log(
            f"the vocabulary has {tokenizer.get_vocab_size():,} tokens; it {describe_vocabulary(tokenizer)}"
        )
        return tokenizer

    def encode(self, held_out: list[Document]) -> list[Encoding]:
        """The second pass."""
        sizes = {document.name: document.size for document in held_out}
        tasks = []
        for shard in self.shards:
            names = [each.name for each in _read_documents(shard.file(".candidates.jsonl"))]
            tasks.append(
                Encoding(
                    shard,
                    self.options.field,
                    self.options.wrapped,
                    self.folder / token_cache.TOKENIZER,
                    {name: sizes[name] for name in names if name in sizes},
                    self.folder / "held_out.hashes",
                )
            )
        self._run("encoding", tasks)
        return tasks

    def finish(
        self, tokenizer: Tokenizer, held_out: list[Document], parts: list[Encoding], meta: dict[str, Any]
    ) -> None:
        """Join the shards, and move everything to its place."""
        results = [self._result(part) for part in parts]
        repeated = {value for result in results for value in result["repeated"]}
        texts = {text for document in held_out for text in document.paragraphs}
        held_out, overlap = drop_repeated(
            held_out, {text for text in texts if paragraph_hash(text).hex() in repeated}
        )
        tokens, documents = (sum(result[name] for result in results) for name in ("tokens", "documents"))
        held_out_tokens = sum(map(len, encode_documents(tokenizer, held_out)))
        if not tokens or not held_out_tokens:
            raise UserError(TOO_LITTLE)
        lines = "".join(document.to_json() + "\n" for document in held_out)
        write_whole(self.folder / token_cache.HELD_OUT, lines)
        counts = sum(np.load(part.shard.file(".counts.npy")) for part in parts)
        unknown = _unknown_share(tokenizer, counts)
        counts[special_token_ids(tokenizer)] = 0
        np.save(self.folder / token_cache.COUNTS, counts)
        _join(parts, results, self.folder)
        content = [result["sha256"] for result in results] + [result["documents"] for result in results]
        meta = {
            "format": token_cache.FORMAT,
            "digest": _combine([*content, tokenizer.to_str(), lines]),
            "documents": documents,
            "tokens": tokens,
            "held_out_documents": len(held_out),
            "held_out_tokens": held_out_tokens,
            "overlap": overlap,
            "vocab_size": tokenizer.get_vocab_size(),
            "vocabulary": describe_vocabulary(tokenizer),
            "unknown": unknown,
            "dtype": np.dtype(token_dtype(tokenizer.get_vocab_size())).name,
            "options": asdict(self.options),
            "versions": {"electra_kernels": __version__, "tokenizers": tokenizers.__version__},
        } | meta
        self._log_result(meta)
        self._move(meta)

    def _run(self, stage: str, tasks: Sequence[Survey] | Sequence[Encoding]) -> None:
        missing = [task for task in tasks if task.shard.result(task.SUFFIX) is None]
        done = sum(task.shard.text_size for task in tasks) - sum(task.shard.text_size for task in missing)
        self.progress(stage, done, self.text_size)
        run_tasks(
            missing,
            self.processes,
            lambda count: self.progress(stage, done + count, max(self.text_size, done + count)),
        )
        self.progress(stage, self.text_size, self.text_size)

    def _result(self, task: Survey | Encoding) -> dict[str, Any]:
        result = task.shard.result(task.SUFFIX)
        assert result is not None
        return result

    def _warn_of_wrapping(self, results: list[dict[str, Any]]) -> None:
        lines, ragged = (sum(result[name] for result in results) for name in ("lines", "ragged"))
        if not self.options.wrapped and lines >= _WRAPPED_LINES and ragged >= _WRAPPED_SHARE * lines:
            self.log(
                f"warning: {ragged / lines:.0%} of the lines look broken at a width, and each is read as a paragraph; "
                "--wrapped joins them"
            )

    def _train(self, held_out: list[Document]) -> Tokenizer:
        sizes = {document.name: document.size for document in held_out}
        sample = []
        for shard in self.shards:
            for document in _read_documents(shard.file(".sample.jsonl")):
                train, _ = divide(document, sizes.get(document.name, 0))
                sample += [train] if train else []
        size = sum(document.size for document in sample)
        self.log(
            f"training a vocabulary of {self.options.vocab_size:,} word pieces on {size / 1e6:,.1f} MB of the text"
        )
        assert self.options.vocab_size is not None
        return train_vocabulary(
            sample,
            self.options.vocab_size,
            cased=self.options.cased,
            keep_accents=self.options.keep_accents,
        )

    def _log_result(self, meta: dict[str, Any]) -> None:
        self.log(
            f"{meta['tokens']:,} tokens of {meta['documents']:,} documents to train on, {meta['held_out_tokens']:,} "
            f"of {meta['held_out_documents']:,} held out; {meta['overlap']:.1%} of the held-out paragraphs also "
            "occurred in the training text and were dropped"
        )
        if meta["unknown"] > 0.001:
            self.log(f"warning: {meta['unknown']:.1%} of the tokens are unknown to the vocabulary")

    def _move(self, meta: dict[str, Any]) -> None:
        final = self.output / token_cache.TOKENIZER
        if final.exists():
            shutil.rmtree(final)
        (self.folder / token_cache.TOKENIZER).rename(final)
        for name in (token_cache.TOKENS, token_cache.OFFSETS, token_cache.COUNTS, token_cache.HELD_OUT):
            os.replace(self.folder / name, self.output / name)
        write_whole(self.output / token_cache.META, json.dumps(meta, indent=2) + "\n")
        shutil.rmtree(self.folder)
        (self.output / _STANDARD_INPUT).unlink(missing_ok=True)


def _find(paths: Sequence[Path], output: Path, notes: Notes, log: Log) -> list[Input]:
    if not paths:
        path = documentation_file(log)
        size, digest = path.stat().st_size, hash_piece(Piece(Input(path, "", "documents", "gz"), 0, None, 0))
        return [Input(path, "documentation", "documents", "gz", size, digest)]
    if any(str(path) == "-" for path in paths):
        if len(paths) > 1:
            raise UserError("- (standard input) should be the only path")
        return [read_standard_input(output / _STANDARD_INPUT)]
    return find_inputs(paths, notes, leave_out=output)


def _shards(inputs: Iterable[Input], folder: Path) -> list[Shard]:
    """Neighbouring pieces of the text. They depend on the text alone, so that finished ones stay valid."""
    inputs = list(inputs)
    total = sum(source.text_size for source in inputs)
    size = min(_SHARD, max(_SMALLEST_SHARD, total // _SHARDS))
    groups: list[list[Piece]] = [[]]
    for piece in (piece for source in inputs for piece in split_input(source, size)):
        if groups[-1] and sum(each.text_size for each in groups[-1]) + piece.text_size > 1.5 * size:
            groups.append([])
        groups[-1].append(piece)
    return [Shard(folder / f"{index:06}", tuple(pieces)) for index, pieces in enumerate(groups)]


def _finished(output: Path, key: str, inputs: list[Input], options: _Options) -> TokenCache | None:
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
        hashes = (
            []
            if changed
            else [hash_piece(piece) for each in _shards(inputs, output) for piece in each.pieces]
        )
        if changed or meta["text"]["sha256"] != _combine(hashes):
            what = ", ".join(f"{name} {before.get(name)}" for name in changed) or "another text"
            raise UserError(
                f"{output}: has the token cache of {what}; choose another --output, or delete it first"
            )
    return open_cache(output)


def _key(inputs: list[Input], options: _Options) -> str:
    files = [(source.name, source.kind, source.size, source.stamp) for source in inputs]
    return _combine([json.dumps([token_cache.FORMAT, tokenizers.__version__, files, asdict(options)])])


def _join(parts: list[Encoding], results: list[dict[str, Any]], folder: Path) -> None:
    """Write tokens.bin and offsets.npy from those of the shards."""
    with open(folder / token_cache.TOKENS, "wb") as target:
        for part in parts:
            with open(part.shard.file(".tokens"), "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())
    documents = sum(result["documents"] for result in results)
    offsets = np.lib.format.open_memmap(folder / token_cache.OFFSETS, "w+", np.int64, (documents + 1,))
    offsets[0] = start = 0
    last = 0
    for part in parts:
        lengths = np.fromfile(part.shard.file(".lengths"), np.int64)
        offsets[start + 1 : start + 1 + len(lengths)] = last + np.cumsum(lengths)
        start, last = start + len(lengths), last + int(lengths.sum())
    offsets.flush()


def _read_documents(path: Path) -> Iterable[Document]:
    with open(path, encoding="ascii") as file:
        for line in file:
            yield Document.from_json(line)


def _unknown_share(tokenizer: Tokenizer, counts: np.ndarray) -> float:
    ids = special_ids(tokenizer)
    return float(counts[ids.unk] / max(counts.sum(), 1)) if ids.unk != ids.pad else 0.0


def _log_notes(notes: Notes, log: Log) -> None:
    for line in notes.lines():
        log(f"passed over: {line}")


def _combine(values: Iterable[object]) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(hashlib.sha256(str(value).encode(errors="backslashreplace")).digest())
    return digest.hexdigest()


def _hash_file(path: Path) -> str:
    path = vocabulary_file(Path(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()
