"""Which text is held out: about a twentieth, by the hash of a document's name."""

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from electra_kernels.data.document import Document
from electra_kernels.errors import UserError

SHARE = 1 / 20
LARGEST = 16 << 20  # bytes; an evaluation needs no more, whatever the size of the corpus
_TOLERANCE = 1 / 4  # of the wanted amount, so that documents of usual length stay whole
_HASHES = 1 << 64
_MANY = 256 << 20  # bytes of text
TOO_LITTLE = "too little text: it needs at least two different paragraphs, one of them to hold out"
ALL_REPEATED = "too little text: every paragraph that was held out also occurs in the training text"


class Candidate(NamedTuple):
    """A document that may be held out. The smallest hashes come first."""

    hash: int
    name: str
    size: int
    paragraphs: int


def candidate(document: Document) -> Candidate:
    return Candidate(name_hash(document.name), document.name, document.size, len(document.paragraphs))


def name_hash(name: str) -> int:
    """64 bits of the SHA-256 of a name, which may contain bytes that are not UTF-8."""
    data = name.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def largest_hash(wanted: int, total: int) -> int:
    """Documents with larger hashes will not be held out, in a text that has many documents.

    Documents have at most 1 MiB, so 48 or more are left to choose from.
    """
    return _HASHES if total < _MANY else int(min(1.0, 3 * wanted / total) * _HASHES)


def wanted_size(total: int, share: float = SHARE) -> int:
    """Bytes to hold out of ``total`` bytes of text."""
    return int(min(total * share, LARGEST))


def choose_held_out(candidates: Iterable[Candidate], wanted: int) -> dict[str, int]:
    """Choose documents in the order of their hashes until there are about ``wanted`` bytes.

    A document that is too long for that gives its end. If it cannot be divided, the next ones are tried.

    Returns:
        Name → bytes to hold out at the end of the document; its whole size if all of it is held out. Empty if there is
        only one document with only one paragraph.
    """
    ordered = sorted(candidates)
    chosen: dict[str, int] = {}
    slack = wanted * _TOLERANCE
    missing: float = wanted
    for each in ordered:
        if chosen and missing <= slack:
            break
        if each.size <= missing + slack:
            chosen[each.name] = each.size
            missing -= each.size
        elif each.paragraphs > 1:
            chosen[each.name] = max(1, int(missing))
            break
    if not chosen and len(ordered) > 1:
        smallest = min(ordered, key=lambda each: each.size)
        chosen[smallest.name] = smallest.size
    return chosen


def divide(document: Document, held_out: int) -> tuple[Document | None, Document | None]:
    """The training part and the held-out part of a document, of which ``held_out`` bytes at the end are held out.

    Unless all of it is held out, each part has at least one paragraph.
    """
    if held_out <= 0:
        return document, None
    if held_out >= document.size or len(document.paragraphs) == 1:
        return None, document
    kept, size = len(document.paragraphs), 0
    while kept > 1 and size < held_out:
        kept -= 1
        size += len(document.paragraphs[kept].encode()) + 1
    return (
        replace(document, paragraphs=document.paragraphs[:kept]),
        replace(document, paragraphs=document.paragraphs[kept:]),
    )


def beginning(document: Document, size: int) -> Document:
    """The first ``size`` bytes of a document; the last paragraph may be cut."""
    paragraphs, left = [], size
    for paragraph in document.paragraphs:
        data = paragraph.encode()[: max(0, left - 1)]
        if text := data.decode(errors="ignore").strip():
            paragraphs.append(text)
        left -= len(data) + 1
        if left <= 0:
            break
    return replace(document, paragraphs=tuple(paragraphs))


def halves(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Every other document; a single one is divided in its middle.

    Raises:
        UserError: there is only one paragraph.
    """
    if len(documents) > 1:
        return list(documents[::2]), list(documents[1::2])
    parts = divide(documents[0], documents[0].size // 2) if documents else (None, None)
    if parts[0] is None or parts[1] is None:
        raise UserError(
            "too little held-out text: it needs two paragraphs, one of them to choose a learning rate by"
        )
    return [parts[0]], [parts[1]]


def drop_repeated(documents: Sequence[Document], repeated: Container[str]) -> tuple[list[Document], float]:
    """Held-out documents without the paragraphs that also occur in training.

    Returns:
        The documents that still have a paragraph, and the share of the paragraphs that was dropped.
    """
    left = [
        replace(each, paragraphs=tuple(text for text in each.paragraphs if text not in repeated))
        for each in documents
    ]
    total = sum(len(each.paragraphs) for each in documents)
    remaining = sum(len(each.paragraphs) for each in left)
    return [each for each in left if each.paragraphs], 1 - remaining / max(total, 1)
