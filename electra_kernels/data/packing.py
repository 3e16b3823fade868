"""Which pieces of the documents stand in which row: a plan, computed once and kept beside the token cache.

A document of n tokens is cut into pieces of T - 2 tokens and a shorter rest. A piece stands in its row as
[CLS], tokens, [SEP], so a full piece fills a row. The rests are packed by best fit: the longest first, each into the
row with the least room that suffices. A document that fits into a row is never cut, so the padding depends on the
lengths of the documents: on ordinary text it is below 0.1 %, but documents that are all a little longer than half a
row leave the other half empty.

Documents are packed in windows of about a million pieces. Finished windows go to disk, so the memory is that of one
window, up to 150 MB, and 4 bytes for each row of the plan.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from electra_kernels.data.best_fit import best_fit
from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.errors import UserError

SHORTEST_ROW = 8  # tokens of text in a row that is not packed; fewer give too little context
_SPECIAL = 2  # cells of a row that a piece takes for [CLS] and [SEP]
_WINDOW = 2**20  # documents and full pieces that are packed together
_ARRAYS = ("starts", "lengths", "rows")
_VERSION = 1  # format of a plan; increase it with every change of the rules or of the files


class TokenStore(Protocol):
    """The token ids of documents, as `electra_kernels.data.token_cache.TokenCache` has them.

    Attributes:
        folder: where the store is on disk.
        tokens: uint16 or uint32, the documents one after the other, without [CLS] and [SEP].
        offsets: int64 [D + 1], document d is ``tokens[offsets[d] : offsets[d + 1]]``.
        special_ids: ids of the five special tokens.
        meta: "digest" identifies the content.
    """

    @property
    def folder(self) -> Path: ...
    @property
    def tokens(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    @property
    def special_ids(self) -> SpecialIds: ...
    @property
    def meta(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Plan:
    """R rows of P pieces, memory-mapped: 12 bytes a piece and 8 bytes a row.

    Attributes:
        length: T, cells of a row.
        packed: whether a row may hold several pieces.
        starts: int64 [P], where each piece begins in the tokens of the store.
        lengths: int32 [P], tokens of each piece, without [CLS] and [SEP].
        rows: int64 [R + 1], row r holds the pieces ``rows[r]`` to ``rows[r + 1]``, the longest first.
        tokens: tokens of the text in all rows.
        dropped_pieces: pieces that stand in no row, because they are shorter than SHORTEST_ROW; 0 if packed.
        dropped_tokens: their tokens.
    """

    length: int
    packed: bool
    starts: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    tokens: int
    dropped_pieces: int
    dropped_tokens: int

    def __len__(self) -> int:
        return len(self.rows) - 1

    @property
    def most_pieces(self) -> int:
        """The largest number of pieces in a row."""
        return int(np.diff(self.rows).max())

    @property
    def padding(self) -> float:
        """Share of the cells of all rows that hold padding."""
        return 1 - (self.tokens + _SPECIAL * len(self.starts)) / (len(self) * self.length)


def plan_rows(
    store: TokenStore, length: int, *, seed: int, pack: bool = True, folder: Path | None = None
) -> Plan:
    """The rows of all documents of a store: read from its folder ``plans``, or computed and saved there.

    The seed decides which pieces of equal length share a row. They come from a window of about a million documents, so
    a row rarely holds neighbours. Every token of the store stands in exactly one row if ``pack``, and otherwise all
    but those of the dropped pieces.

    Args:
        store: the token ids.
        length: T, at least 10.
        seed: of the packing; unused without it.
        pack: False gives each piece a row of its own, and drops pieces of fewer than SHORTEST_ROW tokens.
        folder: takes the place of the store's folder if that cannot be written.

    Raises:
        UserError: there are no rows.
        ValueError: length is less than 10.
        OSError: the plan cannot be written.
    """
    if length < SHORTEST_ROW + _SPECIAL:
        raise ValueError(f"length: {length} should be at least {SHORTEST_ROW + _SPECIAL}")
    digest = str(store.meta["digest"])
    rule = {"digest": digest, "length": length, "seed": seed if pack else None, "version": _VERSION}
    name = f"{length}-{f'packed-{seed}' if pack else 'unpacked'}-{digest[:16]}"
    places = [place / "plans" / name for place in (store.folder, folder) if place is not None]
    plan = next(filter(None, (_load(place, rule) for place in places)), None)
    if plan is None:
        beside = store.folder / "plans"
        is_writable = os.access(beside if beside.is_dir() else store.folder, os.W_OK)
        place = places[0] if is_writable else places[-1]
        _save(place, store, rule)
        plan = _load(place, rule)
        assert plan is not None, f"{place} was just written"
    if not len(plan):
        raise UserError(f"too little text: no document has {1 if pack else SHORTEST_ROW} tokens")
    return plan


class _Pieces(NamedTuple):
    """Pieces in the order of their rows: first token, number of tokens, and for each row the number of pieces."""

    starts: np.ndarray
    lengths: np.ndarray
    per_row: np.ndarray


def _windows(offsets: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """The offsets of consecutive documents, in parts that hold up to _WINDOW documents and as many full pieces."""
    start = 0
    while start < len(offsets) - 1:
        stop = int(np.searchsorted(offsets, offsets[start] + _WINDOW * width, side="right")) - 1
        stop = max(start + 1, min(stop, start + _WINDOW))
        yield np.asarray(offsets[start : stop + 1])
        start = stop


def _cut(offsets: np.ndarray, width: int, shortest: int) -> _Pieces:
    """The pieces of consecutive documents that have at least ``shortest`` tokens, each in a row of its own."""
    counts = -(-np.diff(offsets) // width)
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(offsets[:-1], counts) + width * nth
    lengths = np.minimum(width, np.repeat(offsets[1:], counts) - starts).astype(np.int32)
    kept = lengths >= shortest
    return _Pieces(starts[kept], lengths[kept], np.ones(np.count_nonzero(kept), np.int32))


def _pack(pieces: _Pieces, length: int, random: np.random.Generator) -> _Pieces:
    """The full pieces as they are, then the rests, packed."""
    full = pieces.lengths == length - _SPECIAL
    starts, lengths = pieces.starts[~full], pieces.lengths[~full]
    rows = best_fit(lengths + _SPECIAL, length, random.permutation(len(lengths)))
    order = np.lexsort((-lengths, rows))
    return _Pieces(
        np.concatenate([pieces.starts[full], starts[order]]),
        np.concatenate([pieces.lengths[full], lengths[order]]),
        np.concatenate([pieces.per_row[full], np.bincount(rows).astype(np.int32)]),
    )


def _load(place: Path, rule: dict[str, Any]) -> Plan | None:
    """The plan in a folder; None if there is none, if it follows another rule, or if a loss of power tore it."""
    try:
        facts = json.loads((place / "plan.json").read_text())
        starts, lengths, rows = (np.load(place / f"{name}.npy", mmap_mode="r") for name in _ARRAYS)
        if facts["rule"] != rule or not len(starts) == len(lengths) == rows[-1]:
            return None
        return Plan(rule["length"], rule["seed"] is not None, starts, lengths, rows, **facts["counts"])
    except (FileNotFoundError, EOFError, ValueError, TypeError, LookupError):
        return None


def _save(place: Path, store: TokenStore, rule: dict[str, Any]) -> None:
    """Compute a plan in a folder of its own, and move it to ``place`` when it is whole.

    Of several processes that compute the same plan, the first one's is kept. It sweeps away the unfinished ones, also
    those of processes that were killed.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=place.parent, prefix=f"{place.name}.", ignore_cleanup_errors=True
    ) as scratch:
        unfinished = Path(scratch) / place.name
        try:
            unfinished.mkdir()
            _write(unfinished, store.offsets, rule)
            if place.exists() and _load(place, rule) is None:
                shutil.rmtree(place)
            os.rename(unfinished, place)
        except OSError as error:
            if _load(place, rule) is None:
                raise OSError(error.errno, error.strerror or str(error), str(place)) from error
    for leftover in place.parent.glob(f"{place.name}.*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _write(folder: Path, offsets: np.ndarray, rule: dict[str, Any]) -> None:
    """Write the three arrays and plan.json, window by window."""
    packed, width = rule["seed"] is not None, rule["length"] - _SPECIAL
    shortest = 1 if packed else SHORTEST_ROW
    random = np.random.default_rng(rule["seed"] % 2**64 if packed else 0)
    kept, dropped, dropped_tokens = _count(offsets, width, shortest)
    per_row = []
    with (
        _array(folder / "starts.npy", np.int64, kept) as starts,
        _array(folder / "lengths.npy", np.int32, kept) as lengths,
    ):
        for window in _windows(offsets, width):
            pieces = _cut(window, width, shortest)
            if packed:
                pieces = _pack(pieces, rule["length"], random)
            starts.write(pieces.starts.data)
            lengths.write(pieces.lengths.data)
            per_row.append(pieces.per_row)
    with _array(folder / "rows.npy", np.int64, 1 + sum(map(len, per_row))) as rows:
        end = np.zeros(1, np.int64)
        rows.write(end.data)
        for counts in filter(len, per_row):
            ends = end + np.cumsum(counts, dtype=np.int64)
            rows.write(ends.data)
            end = ends[-1:]
    tokens = int(offsets[-1] - offsets[0]) - dropped_tokens
    totals = {"tokens": tokens, "dropped_pieces": dropped, "dropped_tokens": dropped_tokens}
    (folder / "plan.json").write_text(json.dumps({"rule": rule, "counts": totals}, indent=1))


def _count(offsets: np.ndarray, width: int, shortest: int) -> tuple[int, int, int]:
    """Pieces that are kept, and pieces and tokens that are dropped."""
    kept = dropped = dropped_tokens = 0
    for window in _windows(offsets, width):
        full, rest = np.divmod(np.diff(window), width)
        short = (rest > 0) & (rest < shortest)
        kept += int(full.sum()) + int(np.count_nonzero(rest >= shortest))
        dropped += int(np.count_nonzero(short))
        dropped_tokens += int(rest[short].sum())
    return kept, dropped, dropped_tokens


@contextmanager
def _array(path: Path, dtype: type, count: int) -> Iterator[BinaryIO]:
    """A .npy file whose ``count`` numbers the caller writes. Through a memory map, a full disk would be SIGBUS."""
    facts = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count,)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, facts)
        yield file
        file.flush()
        os.fsync(file.fileno())
