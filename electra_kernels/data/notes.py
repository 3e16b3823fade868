"""What was passed over or changed while text was read: a count and a few examples per kind."""

from collections.abc import Iterable

_EXAMPLES = 3


class Notes:
    """Counts of what was passed over, by kind, each with the first few examples.

    Attributes:
        kinds: kind → [count, examples], which JSON can represent.
    """

    def __init__(self, kinds: dict[str, tuple[int, list[str]]] | None = None) -> None:
        self.kinds = dict(kinds or {})

    def add(self, kind: str, example: str, count: int = 1) -> None:
        self._add(kind, count, [example])

    def merge(self, other: "Notes") -> None:
        for kind, (count, examples) in other.kinds.items():
            self._add(kind, count, examples)

    def lines(self) -> Iterable[str]:
        """One line per kind, for a log."""
        for kind, (count, examples) in sorted(self.kinds.items()):
            more = ", …" if count > len(examples) else ""
            yield f"{count:,} × {kind}: {', '.join(examples)}{more}"

    def _add(self, kind: str, count: int, examples: list[str]) -> None:
        total, known = self.kinds.get(kind, (0, []))
        self.kinds[kind] = (total + count, [*known, *examples][:_EXAMPLES])
