"""Text → documents. A document has a name and paragraphs."""

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
    """Paragraphs that belong together. A row of tokens never crosses the boundary of a document.

    Attributes:
        name: identifies the document, and is the same on every machine.
        paragraphs: the text. A paragraph is one line, is not empty and has no blanks around it.
    """

    name: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """Documents in two parts.

    Attributes:
        train: documents for the training.
        held_out: documents for the evaluation. None of their paragraphs occurs in `train`.
        overlap: share of the held-out paragraphs that were dropped because they also occur in `train`.
    """

    train: list[Document]
    held_out: list[Document]
    overlap: float


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Read text files and directories of text files.

    - Plain text (.txt, .md, .gz): each line is a paragraph, and an empty line separates documents.
    - JSON lines (.jsonl, .jsonl.gz): the field "text" of each line is a document; its lines are the paragraphs.
    - A folder written by `datasets.Dataset.save_to_disk`: the column "text" of each row is a document.

    Directories are read recursively, sorted by name. Other files in them are skipped.

    Args:
        paths: files and directories.

    Returns:
        The documents in the order of `paths`, without empty ones.

    Raises:
        UserError: a path is missing, unreadable or of an unknown kind, or none of the paths has any text.
    """
    documents = [document for path in map(Path, paths) for document in _read(path, path.name)]
    if not documents:
        raise UserError(f"no text in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return documents


def split_held_out(documents: Sequence[Document], every: int = 20) -> Corpus:
    """Hold out about one document in `every`.

    A document is held out if `every` divides the SHA-256 of its name, whatever other documents there are. If that
    holds out none or all, the document with the smallest hash is held out. A single document is divided instead: the
    last `1 / every` of its paragraphs, at least one, are held out. Held-out paragraphs that also occur in the training
    part are dropped.

    Args:
        documents: at least one; both parts keep their order.
        every: at least 2.

    Raises:
        UserError: there is too little text for two parts.
        ValueError: every is less than 2.
    """
    if every < 2:
        raise ValueError(f"every: {every} should be at least 2")
    if len(documents) == 1:
        train, held_out = _split_document(documents[0], every)
    else:
        names = _held_out_names(documents, every)
        train = [document for document in documents if document.name not in names]
        held_out = [document for document in documents if document.name in names]
    seen = {paragraph for document in train for paragraph in document.paragraphs}
    total = sum(len(document.paragraphs) for document in held_out)
    held_out = [_drop_paragraphs(document, seen) for document in held_out]
    held_out = [document for document in held_out if document.paragraphs]
    if not train or not held_out:
        raise UserError(
            "too little text: it needs at least two different paragraphs, one of them to hold out"
        )
    return Corpus(train, held_out, 1 - sum(len(document.paragraphs) for document in held_out) / total)


def _split_document(document: Document, every: int) -> tuple[list[Document], list[Document]]:
    kept = len(document.paragraphs) - max(1, len(document.paragraphs) // every)
    parts = (document.paragraphs[:kept], document.paragraphs[kept:])
    train, held_out = (replace(document, paragraphs=part) for part in parts)
    return [train] if train.paragraphs else [], [held_out]


def _held_out_names(documents: Sequence[Document], every: int) -> set[str]:
    hashes = {document.name: _hash(document.name) for document in documents}
    names = {name for name, value in hashes.items() if value % every == 0}
    if not names or len(names) == len(hashes):
        names = set(sorted(hashes, key=hashes.__getitem__)[:1])
    return names


def _hash(name: str) -> int:
    data = name.encode(errors="surrogateescape")  # a file name may contain bytes that are not UTF-8
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def _drop_paragraphs(document: Document, seen: set[str]) -> Document:
    return replace(document, paragraphs=tuple(text for text in document.paragraphs if text not in seen))


def _read(path: Path, name: str) -> Iterator[Document]:
    """Read one path. The names of its documents begin with `name`, which must not depend on the parent folders."""
    if not path.exists():
        raise UserError(f"{path}: no such file or directory")
    if path.is_dir():
        yield from _read_directory(path, name)
    elif path.name.endswith(_JSON_LINES):
        yield from _documents(name, (_paragraphs(text) for text in _json_texts(path)))
    elif path.name.endswith(_PLAIN):
        yield from _documents(name, _blocks(_lines(path)))
    else:
        raise UserError(f"{path}: not a kind of text file that can be read; should be {_FORMATS}")


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
        open_text = gzip.open if path.suffix == ".gz" else open
        with open_text(path, "rt", encoding="utf-8-sig") as file:  # without a byte order mark
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
