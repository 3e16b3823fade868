"""The stages of `electra_kernels.data.prepare`. Each skips what an earlier, interrupted call has finished."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from electra_kernels.data.document import Document
from electra_kernels.data.held_out import (
    TOO_LITTLE,
    candidate,
    choose_held_out,
    divide,
    largest_hash,
    name_hash,
    wanted_size,
)
from electra_kernels.data.inputs import Input
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import Piece, split_input
from electra_kernels.data.shards import Encoding, Shard, Survey, paragraph_hash, read_jsonl
from electra_kernels.data.token_cache import TOKENIZER, WORK
from electra_kernels.data.vocabulary import describe_vocabulary, load_vocabulary, train_vocabulary
from electra_kernels.data.workers import run_tasks
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole
from electra_kernels.tokenizer_files import save_tokenizer

Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]

SAMPLE = 64 << 20  # bytes of text on which a vocabulary is trained
_SHARD, _SMALLEST_SHARD, _SHARDS = 32 << 20, 2 << 20, 64  # bytes of text, and the wanted number of shards
_SMALL = 8 << 20  # bytes of text; starting processes for less takes longer than the work
_WRAPPED_SHARE, _WRAPPED_LINES = 0.6, 20


@dataclass(frozen=True)
class Options:
    """The options that decide what is in a cache.

    Attributes:
        vocabulary: hash of the file of a given vocabulary; None if one is trained.
        vocab_size, cased, keep_accents: of a trained vocabulary.
        wrapped, field: see `electra_kernels.data.reading.Reader`.
    """

    vocabulary: str | None
    vocab_size: int | None
    cased: bool
    keep_accents: bool | None
    wrapped: bool
    field: str


class Stages:
    """The stages of one call, to be run in the order in which they stand here."""

    def __init__(
        self,
        output: Path,
        inputs: Sequence[Input],
        options: Options,
        *,
        processes: int,
        log: Log,
        progress: Progress,
    ) -> None:
        self.folder, self.inputs, self.options = output / WORK, inputs, options
        self.log, self.progress = log, progress
        self.shards = make_shards(inputs, self.folder)
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

    def survey(self) -> list[dict[str, Any]]:
        """The first pass. Returns the result of each shard."""
        tasks = [self._survey_of(shard) for shard in self.shards]
        self._run("reading", tasks)
        results = [task.shard.finished(task.SUFFIX) for task in tasks]
        self._warn_of_wrapping(results)
        return results

    def choose_held_out(self, total: int) -> list[Document]:
        """Choose from ``total`` bytes of text.

        Returns:
            Documents in the order of their hashes, some of them ends of documents. They may share paragraphs with the
            training text.

        Raises:
            UserError: there is too little text.
        """
        candidates = (candidate(each) for shard in self.shards for each in _candidates(shard))
        chosen = choose_held_out(candidates, wanted_size(total))
        held_out = [
            part
            for shard in self.shards
            for each in _candidates(shard)
            if (part := divide(each, chosen.get(each.name, 0))[1])
        ]
        if not held_out:
            raise UserError(TOO_LITTLE)
        hashes = {paragraph_hash(text) for document in held_out for text in document.paragraphs}
        write_whole(self._hashes, b"".join(sorted(hashes)))
        return sorted(held_out, key=lambda document: name_hash(document.name))

    def vocabulary(self, given: Path | None, held_out: Sequence[Document]) -> Tokenizer:
        """The vocabulary, trained or given, which the folder has afterwards."""
        folder = self.folder / TOKENIZER
        if not folder.is_dir():
            tokenizer = load_vocabulary(given) if given else self._train(held_out)
            unfinished = self.folder / "tokenizer.part"
            unfinished.mkdir(exist_ok=True)
            save_tokenizer(tokenizer, unfinished)
            unfinished.rename(folder)
        tokenizer = load_vocabulary(folder)
        size = tokenizer.get_vocab_size()
        self.log(f"the vocabulary has {size:,} tokens; it {describe_vocabulary(tokenizer)}")
        return tokenizer

    def encode(self, held_out: Sequence[Document]) -> list[Shard]:
        """The second pass. Returns the shards, all encoded."""
        sizes = {document.name: document.size for document in held_out}
        tasks = [self._encoding_of(shard, sizes) for shard in self.shards]
        self._run("encoding", tasks)
        return self.shards

    @property
    def _hashes(self) -> Path:
        return self.folder / "held_out.hashes"

    def _survey_of(self, shard: Shard) -> Survey:
        wanted, share = wanted_size(self.text_size), SAMPLE / max(self.text_size, 1)
        return Survey(
            shard,
            self.options.field,
            self.options.wrapped,
            # Some more than the share of the shard, because the smallest hashes are spread by chance.
            largest_held_out=int(1.5 * wanted * shard.text_size / max(self.text_size, 1)) + (256 << 10),
            largest_hash=largest_hash(wanted, self.text_size),
            sample=0 if self.options.vocabulary else int(share * shard.text_size),
            sample_all=share >= 1,
        )

    def _encoding_of(self, shard: Shard, sizes: dict[str, int]) -> Encoding:
        names = (each.name for each in _candidates(shard))
        return Encoding(
            shard,
            self.options.field,
            self.options.wrapped,
            tokenizer=self.folder / TOKENIZER,
            held_out={name: sizes[name] for name in names if name in sizes},
            held_out_hashes=self._hashes,
        )

    def _run(self, stage: str, tasks: Sequence[Survey] | Sequence[Encoding]) -> None:
        missing = [task for task in tasks if not task.shard.is_finished(task.SUFFIX)]
        done = self.text_size - sum(task.shard.text_size for task in missing)

        def report(count: int) -> None:
            self.progress(stage, done + count, max(self.text_size, done + count))

        report(0)
        run_tasks(missing, self.processes, report)
        self.progress(stage, self.text_size, self.text_size)

    def _warn_of_wrapping(self, results: Sequence[dict[str, Any]]) -> None:
        lines, ragged = (sum(result[name] for result in results) for name in ("lines", "ragged"))
        if not self.options.wrapped and lines >= _WRAPPED_LINES and ragged >= _WRAPPED_SHARE * lines:
            self.log(
                f"warning: {ragged / lines:.0%} of the lines look broken at a width, and each is read as a paragraph; "
                "--wrapped joins them"
            )

    def _train(self, held_out: Sequence[Document]) -> Tokenizer:
        sizes = {document.name: document.size for document in held_out}
        texts = (each for shard in self.shards for each in read_jsonl(shard.file(".sample.jsonl")))
        sample = [part for each in texts if (part := divide(each, sizes.get(each.name, 0))[0])]
        size, vocab_size = sum(document.size for document in sample), self.options.vocab_size
        assert vocab_size is not None
        self.log(f"training a vocabulary of {vocab_size:,} word pieces on {size / 1e6:,.2f} MB of the text")
        return train_vocabulary(
            sample, vocab_size, cased=self.options.cased, keep_accents=self.options.keep_accents
        )


def make_shards(inputs: Iterable[Input], folder: Path) -> list[Shard]:
    """Neighbouring pieces of the text. They depend on the text alone, so that finished ones stay valid."""
    inputs = list(inputs)
    total = sum(source.text_size for source in inputs)
    size = min(_SHARD, max(_SMALLEST_SHARD, total // _SHARDS))
    groups: list[list[Piece]] = [[]]
    filled = 0
    for piece in (piece for source in inputs for piece in split_input(source, size)):
        if groups[-1] and filled + piece.text_size > 1.5 * size:
            groups.append([])
            filled = 0
        groups[-1].append(piece)
        filled += piece.text_size
    return [Shard(folder / f"{index:06}", tuple(pieces)) for index, pieces in enumerate(groups)]


def log_notes(notes: Notes, log: Log) -> None:
    for line in notes.lines():
        log(f"passed over: {line}")


def _candidates(shard: Shard) -> Iterable[Document]:
    return read_jsonl(shard.file(".candidates.jsonl"))
