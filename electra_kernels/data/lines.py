"""Bytes of a file → lines → blocks of paragraphs, in bounded memory.

A line of plain text or a block that exceeds `LONGEST` continues as another one.
"""

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeAlias

LONGEST = 1 << 20  # bytes of a line of plain text, and of a document
_MARK = "\ufeff"  # byte order mark
# WikiExtractor puts each article between two such lines.
_ARTICLE_LINE = re.compile(r"<doc [^>]*>\s*|</doc>\s*")

Line: TypeAlias = tuple[int, str]  # offset in the file, and the text
Block: TypeAlias = tuple[int, tuple[str, ...]]  # offset of the first line, and the paragraphs


def lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[Line]:
    """The lines between two offsets. The lines around an article of WikiExtractor become empty.

    A carriage return alone ends a line too, as in files of old Macs.
    """
    for offset, line in _raw_lines(file, start, stop):
        whole = _decode(line, offset)
        if whole.find("\r", 0, -2) < 0:
            yield offset, _without_article_line(whole)
        else:
            for place, text in _split_at_returns(offset, whole):
                yield place, _without_article_line(text)


def _without_article_line(text: str) -> str:
    return "" if text.startswith("<") and _ARTICLE_LINE.fullmatch(text) else text


def _split_at_returns(offset: int, line: str) -> Iterator[Line]:
    for text in line.rstrip("\r\n").split("\r"):
        yield offset, text
        offset += len(text.encode()) + 1


def _decode(line: bytes, offset: int) -> str:
    """Decode without a byte order mark.

    Raises:
        UnicodeDecodeError: its position counts from the beginning of the file.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        begin = offset + error.start
        raise UnicodeDecodeError("utf-8", b"", begin, begin + 1, error.reason) from None
    return text.removeprefix(_MARK) if offset == 0 else text


def json_lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[tuple[int, str, str]]:
    """Offset, place in words, and content of the lines that are not blank. They may be of any length."""
    if start:
        file.seek(start)
    position = start
    for number, line in enumerate(file, start=1):
        text = _decode(line, position)
        if text.strip():
            yield position, f"line {number}" if start == 0 else f"line at byte {position}", text
        position += len(line)
        if stop is not None and position >= stop:
            return


def blocks(lines: Iterable[Line]) -> Iterator[Block]:
    """Blocks of lines between empty lines; the offset of the first line, and each line as a paragraph."""
    block: list[str] = []
    first, size = 0, 0
    for offset, line in lines:
        paragraphs = list(paragraphs_of(line))
        if block and (not paragraphs or size + len(line) > LONGEST):
            yield first, tuple(block)
            block, size = [], 0
        if paragraphs:
            first = first if block else offset
            block += paragraphs
            size += len(line)
    if block:
        yield first, tuple(block)


def long_blocks(lines: Iterable[Line]) -> Iterator[Block]:
    """The paragraphs of one document, cut where it becomes too long. Empty lines do not matter."""
    return blocks((offset, line) for offset, line in lines if line.strip())


def wrapped_blocks(lines: Iterable[Line]) -> Iterator[Block]:
    """A whole file as one document, cut where it becomes too long; the lines of a block form one paragraph."""
    joined = ((offset, " ".join(block)) for offset, block in blocks(lines))
    return long_blocks(joined)


def paragraphs_of(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if line.strip())


def cut_place(line: bytes) -> int:
    """Where to cut a long line: after a blank or, without one, between two characters."""
    place = line.rfind(b" ") + 1
    if not place:
        place = len(line) - 1
        while place > 1 and line[place] & 0xC0 == 0x80:  # inside a character
            place -= 1
    return place


def _raw_lines(file: BinaryIO, start: int, stop: int | None) -> Iterator[tuple[int, bytes]]:
    """Lines of at most LONGEST bytes with their offsets; an overlong one is cut."""
    if start:
        file.seek(start)
    position, rest = start, b""
    while True:
        limit = LONGEST - len(rest)
        if stop is not None:
            limit = min(limit, stop - position - len(rest))
        line = rest + (file.readline(limit) if limit > 0 else b"")
        if not line:
            return
        cut = cut_place(line) if len(line) >= LONGEST and not line.endswith(b"\n") else len(line)
        line, rest = line[:cut], line[cut:]
        yield position, line
        position += cut
