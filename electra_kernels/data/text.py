"""Text → documents: a document is a name and its paragraphs."""

import gzip
import hashlib
import importlib.util
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from electra_kernels.errors import UserError

_PLAIN = (".txt", ".md", ".txt.gz", ".md.gz", ".gz")
_JSON_LINES = (".jsonl", ".jsonl.gz")
_FORMATS = ".txt, .md, .jsonl, the same with .gz, or a folder saved by the package datasets"


@dataclass(frozen=True)
class Document:
    """Paragraphs that belong together; no row of tokens ever crosses its boundary.

    Attributes:
        name: what identifies it, the same on every machine.
        paragraphs: its text, each one line without surrounding blanks, none empty.
    """

    name: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents in two parts.

    Attributes:
        train: to learn from.
        held_out: to judge by; no paragraph of these is in `train`.
        overlap: share of the held-out paragraphs that were dropped because they are in `train` too.
    """

    train: list[Document]
    held_out: list[Document]
    overlap: float


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Read text files, and directories of them.

    Plain text (.txt, .md, .gz): one paragraph a line, an empty line between documents. JSON lines (.jsonl,
    .jsonl.gz): a document in the field "text" of each line, one paragraph a line of it. A folder
    written by `datasets.Dataset.save_to_disk`: a document in the column "text" of each row. Directories are
    read recursively, sorted by name; files of other kinds in them are passed over.

    Args:
        paths: files and directories.

    Returns:
        The documents in the order of `paths`, those without any text left out.

    Raises:
        UserError: a path is missing, of an unknown kind or unreadable, or there is no text in all of them.
    """
    documents = [document for path in map(Path, paths) for document in _read(path, path.name)]
    if not documents:
        raise UserError(f"no text in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return documents


def split_held_out(documents: Sequence[Document], every: int = 20) -> Corpus:
    """Hold out whole documents: those whose name has a SHA-256 divisible by `every`, about one in `every`.

    At least one is held out (the one with the smallest hash if the rule finds none) and at least one is kept.
    A single document cannot be held out whole: its last `1 / every` of paragraphs (at least one) are.
    Held-out paragraphs that also occur in training are dropped.

    Args:
        documents: at least one; their order is kept in both parts.
        every: one document in how many is held out, at least 2.

    Raises:
        UserError: there is too little text to hold out any.
        ValueError: every is less than 2.
    """
    if every < 2:
        raise ValueError(f"every: {every} should be at least 2")
    if len(documents) == 1:
        train, held_out = _cut(documents[0], every)
    else:
        chosen = _chosen(documents, every)
        train = [document for document in documents if document.name not in chosen]
        held_out = [document for document in documents if document.name in chosen]
    seen = {paragraph for document in train for paragraph in document.paragraphs}
    total = sum(len(document.paragraphs) for document in held_out)
    held_out = [_without(document, seen) for document in held_out]
    held_out = [document for document in held_out if document.paragraphs]
    if not train or not held_out:
        raise UserError(
            "too little text: it needs at least two different paragraphs, one of them to hold out"
        )
    return Corpus(train, held_out, 1 - sum(len(document.paragraphs) for document in held_out) / total)


def _cut(document: Document, every: int) -> tuple[list[Document], list[Document]]:
    kept = len(document.paragraphs) - max(1, len(document.paragraphs) // every)
    parts = (document.paragraphs[:kept], document.paragraphs[kept:])
    train, held_out = (replace(document, paragraphs=part) for part in parts)
    return [train] if train.paragraphs else [], [held_out]


def _chosen(documents: Sequence[Document], every: int) -> set[str]:
    hashes = {document.name: _hash(document.name) for document in documents}
    chosen = {name for name, value in hashes.items() if value % every == 0}
    if not chosen or len(chosen) == len(hashes):
        chosen = set(sorted(hashes, key=hashes.__getitem__)[:1])
    return chosen


def _hash(name: str) -> int:
    data = name.encode(errors="surrogateescape")  # the name of a file may be bytes that are not UTF-8
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _without(document: Document, seen: set[str]) -> Document:
    return replace(document, paragraphs=tuple(text for text in document.paragraphs if text not in seen))


def _read(path: Path, name: str) -> Iterator[Document]:
    """Documents of one path; their names begin with `name`, which says nothing of where the path lies."""
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_dir():
        yield from _read_directory(path, name)
    elif path.name.endswith(_JSON_LINES):
        yield from _documents(name, (_paragraphs(text) for text in _json_texts(path)))
    elif path.name.endswith(_PLAIN):
        yield from _documents(name, _blocks(_lines(path)))
    else:
        raise UserError(f"{path}: not a kind of text file that can be read; it should be {_FORMATS}")


def _read_directory(path: Path, name: str) -> Iterator[Document]:
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        yield from _documents(name, (_paragraphs(text) for text in _dataset_texts(path)))
        return
    for child in sorted(path.iterdir()):
        readable = child.is_dir() or child.name.endswith(_PLAIN + _JSON_LINES)
        if readable and not child.name.startswith("."):
            yield from _read(child, f"{name}/{child.name}")


def _documents(name: str, texts: Iterable[tuple[str, ...]]) -> Iterator[Document]:
    for index, paragraphs in enumerate(texts):
        if paragraphs:
            yield Document(f"{name}#{index}", paragraphs)


def _paragraphs(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _blocks(lines: Iterable[str]) -> Iterator[tuple[str, ...]]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line.strip())
        elif block:
            yield tuple(block)
            block = []
    yield tuple(block)


def _lines(path: Path) -> Iterator[str]:
    try:
        # utf-8-sig: a byte order mark is no part of the text.
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _json_texts(path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from error
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{path}, line {number}: no field "text" that holds a string')
        yield text


def _dataset_texts(path: Path) -> Iterator[str]:
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"{path}: reading it needs the package datasets (pip install datasets)")
    import datasets

    loaded = datasets.load_from_disk(str(path))
    splits = (
        [loaded[name] for name in sorted(loaded)] if isinstance(loaded, datasets.DatasetDict) else [loaded]
    )
    for split in splits:
        if "text" not in split.column_names:
            raise UserError(f'{path}: no column "text"; it has {", ".join(split.column_names)}')
        yield from split["text"]
