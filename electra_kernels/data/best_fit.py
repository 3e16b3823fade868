"""Best-fit-decreasing bin packing of integer sizes.

Sizes are small integers, so rows with equal room are treated together. The work is that of sorting the sizes, plus a
few steps for every pair of a size and a room that occurs.
"""

from bisect import bisect_left, insort

import numpy as np


def best_fit(sizes: np.ndarray, capacity: int, order: np.ndarray) -> np.ndarray:
    """Put pieces into as few rows as best fit finds: the largest first, each where it leaves the least room.

    Args:
        sizes: [n] integers from 1 to ``capacity``.
        capacity: cells of a row.
        order: a permutation of n, which decides among pieces of equal size.

    Returns:
        int64 [n], the row of each piece; rows are numbered from 0.
    """
    ascending = order[np.argsort(sizes[order], kind="stable")]
    rows, opened = np.empty(len(sizes), np.int64), 0
    room = _Room()
    for pieces in reversed(np.split(ascending, np.flatnonzero(np.diff(sizes[ascending])) + 1)):
        while len(pieces):
            size = int(sizes[pieces[0]])
            space, chosen = room.take(size)
            if chosen is None:
                space, chosen = capacity, np.arange(opened, opened - (-len(pieces) // (capacity // size)))
                opened += len(chosen)
            # A row that took one piece of this size is the best fit for the next one, until it has no room left.
            each = space // size
            full, rest = divmod(min(len(pieces), len(chosen) * each), each)
            rows[pieces[: full * each + rest]] = np.repeat(chosen, each)[: len(pieces)]
            pieces = pieces[full * each + rest :]
            room.put(space - each * size, chosen[:full])
            room.put(space - rest * size, chosen[full : full + bool(rest)])
            room.put(space, chosen[full + bool(rest) :])
    return rows


class _Room:
    """The rows that are not full, by the number of their free cells."""

    def __init__(self) -> None:
        self._rows: dict[int, list[np.ndarray]] = {}
        self._spaces: list[int] = []  # the keys, ascending

    def put(self, space: int, rows: np.ndarray) -> None:
        if len(rows) and space:
            if space not in self._rows:
                self._rows[space] = []
                insort(self._spaces, space)
            self._rows[space].append(rows)

    def take(self, size: int) -> tuple[int, np.ndarray | None]:
        """Rows with the least space that is at least ``size``."""
        index = bisect_left(self._spaces, size)
        if index == len(self._spaces):
            return 0, None
        space = self._spaces[index]
        rows = self._rows[space].pop()
        if not self._rows[space]:
            del self._rows[space], self._spaces[index]
        return space, rows
