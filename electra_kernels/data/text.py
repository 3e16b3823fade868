"""Text that fits into memory: files → documents → a training and a held-out part.

`electra_kernels.data.prepare` does the same for text of any size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from electra_kernels.data.document import Document
from electra_kernels.data.held_out import (
    ALL_REPEATED,
    TOO_LITTLE,
    candidate,
    choose_held_out,
    divide,
    drop_repeated,
    wanted_size,
)
from electra_kernels.data.inputs import find_inputs
from electra_kernels.data.notes import Notes
from electra_kernels.data.pieces import split_input
from electra_kernels.data.reading import Reader
from electra_kernels.errors import UserError

__all__ = ["Corpus", "Document", "read_documents", "split_held_out"]

_PIECE = 1 << 40  # bytes; a file is read in one piece


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


def read_documents(
    paths: Sequence[Path],
    *,
    field: str = "text",
    wrapped: bool = False,
    log: Callable[[str], None] = lambda message: None,
) -> list[Document]:
    """Read text files and directories of text files.

    - Plain text (.txt, .md, or no suffix): each line is a paragraph, and an empty line separates documents.
    - JSON lines (.jsonl, .json): the field "text" of each line is a document; its lines are the paragraphs.
    - .parquet, and folders written by `datasets.Dataset.save_to_disk`: the column "text" of each row is a document. Of
      a `DatasetDict` the split train is read; the folder of another split can be given instead.
    - Each file may be compressed: .gz or .zst.

    Directories are read recursively, sorted by name.

    Args:
        paths: files and directories.
        field: name of the field or column with the text.
        wrapped: lines are broken at a width: an empty line separates paragraphs, and a file is a document.
        log: called with one line per kind of file or record that is passed over.

    Returns:
        The documents in the order of `paths`, without empty ones.

    Raises:
        UserError: a path is missing, unreadable or of an unknown kind, or none of the paths has any text.
    """
    reader = Reader(Notes(), field, wrapped)
    documents = [
        document
        for source in find_inputs(paths, reader.notes)
        for piece in split_input(source, _PIECE)
        for document in reader.documents(piece)
    ]
    for line in reader.notes.lines():
        log(f"passed over: {line}")
    if not documents:
        raise UserError(f"no text in {', '.join(map(str, paths)) or 'an empty list of paths'}")
    return documents


def split_held_out(documents: Sequence[Document], every: int = 20) -> Corpus:
    """Hold out about one byte of text in `every`.

    Documents are held out in the order of the SHA-256 of their names. A document that is too long is divided: its
    last paragraphs are held out. Held-out paragraphs that also occur in the training part are dropped.

    Args:
        documents: at least one, with different names; both parts keep their order.
        every: at least 2.

    Raises:
        UserError: there is too little text for two parts.
        ValueError: every is less than 2.
    """
    if every < 2:
        raise ValueError(f"every: {every} should be at least 2")
    candidates = [candidate(document) for document in documents]
    chosen = choose_held_out(candidates, wanted_size(sum(each.size for each in candidates), 1 / every))
    parts = [divide(document, chosen.get(document.name, 0)) for document in documents]
    train = [part for part, _ in parts if part is not None]
    held_out = [part for _, part in parts if part is not None]
    seen = {paragraph for document in train for paragraph in document.paragraphs}
    held_out, overlap = drop_repeated(held_out, seen)
    if not train or not held_out:
        raise UserError(ALL_REPEATED if overlap == 1 else TOO_LITTLE)
    return Corpus(train, held_out, overlap)
