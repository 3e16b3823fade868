"""A document: a name and paragraphs."""

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """Paragraphs that belong together. A row of tokens never crosses the boundary of a document.

    Attributes:
        name: identifies the document, and is the same on every machine.
        paragraphs: the text. A paragraph is one line, is not empty and has no blanks around it.
    """

    name: str
    paragraphs: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the text in UTF-8, one line end per paragraph included."""
        return sum(len(paragraph.encode()) + 1 for paragraph in self.paragraphs)

    def to_json(self) -> str:
        """One line of JSON in ASCII. It also represents a name with bytes that are not UTF-8."""
        return json.dumps({"name": self.name, "paragraphs": self.paragraphs})

    @classmethod
    def from_json(cls, line: str | bytes) -> "Document":
        """Raises ValueError, KeyError or TypeError if the line was not made by `to_json`."""
        record = json.loads(line)
        return cls(record["name"], tuple(record["paragraphs"]))
