"""``python -m benchmarks.rows``: share of padding and speed of reading, with and without packing, on the demo's text.

Three sources of the same text are read in turns by one thread: unpacked rows held in memory, unpacked rows of a memory
map, and packed rows of a memory map. A batch has about 16,384 cells and is chosen by `row_indices`. Only cells without
padding count as tokens.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from electra_kernels.data.batch import RowSource
from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.order import row_indices
from electra_kernels.data.packing import Plan, plan_rows
from electra_kernels.data.rows import PackedRows, encode_rows
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import SpecialIds, special_ids, train_vocabulary

_CELLS = 16_384
_COLUMNS = f"{'T':>5}  {'rows':24}{'count':>8}{'padding':>9}{'dropped':>9}{'plan ms':>9}{'M tokens/s':>12}{'spread':>8}"


@dataclass(frozen=True)
class Store:
    folder: Path
    tokens: np.ndarray
    offsets: np.ndarray
    special_ids: SpecialIds
    meta: dict[str, Any]


def store(documents: list[Document], tokenizer: Tokenizer, folder: Path, copies: int) -> Store:
    """A memory map of the text's tokens, with the text ``copies`` times."""
    texts = [paragraph for document in documents for paragraph in document.paragraphs]
    encodings = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    ids = [
        [token for _ in document.paragraphs for token in next(encodings).ids] for document in documents
    ] * copies
    np.concatenate([np.array(document, np.uint16) for document in ids]).tofile(folder / "tokens.bin")
    tokens = np.memmap(folder / "tokens.bin", np.uint16, "r")
    return Store(folder, tokens, np.cumsum([0, *map(len, ids)]), special_ids(tokenizer), {"digest": "demo"})


def timed_plan(text: Store, length: int, *, pack: bool) -> tuple[Plan, float]:
    start = time.perf_counter()
    plan = plan_rows(text, length, seed=0, pack=pack)
    return plan, time.perf_counter() - start


def read(rows: RowSource, first: int, batches: int) -> float:
    """Tokens a second of reading consecutive batches of a run."""
    size = _CELLS // rows.length
    start, tokens = time.perf_counter(), 0
    for step in range(first, first + batches):
        numbers = step * size + torch.arange(size)
        batch = rows.batch(row_indices(numbers, len(rows), 0), numbers)
        tokens += int(batch.attention_mask.sum())
    return tokens / (time.perf_counter() - start)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each source (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=50, help="batches of a turn (default: %(default)s)")
    parser.add_argument(
        "--copies", type=int, default=1, help="times that the text is repeated (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    documents = documentation_text()
    tokenizer = train_vocabulary(documents, 8_000)
    with tempfile.TemporaryDirectory() as folder:
        text = store(documents, tokenizer, Path(folder), options.copies)
        print(f"{len(text.offsets) - 1:,} documents, {len(text.tokens):,} tokens\n{_COLUMNS}")
        for length in (128, 512, 1024):
            show(text, documents * options.copies, tokenizer, length, options)


def show(
    text: Store, documents: list[Document], tokenizer: Tokenizer, length: int, options: argparse.Namespace
) -> None:
    in_memory = encode_rows(documents, tokenizer, length)
    plans = {pack: timed_plan(text, length, pack=pack) for pack in (False, True)}
    sources: list[RowSource] = [in_memory, *(PackedRows(text, plan) for plan, _ in plans.values())]
    speeds: list[list[float]] = [[] for _ in sources]
    for turn in range(options.rounds):
        for source, measured in zip(sources, speeds):
            measured.append(read(source, turn * options.batches, options.batches) / 1e6)
    (unpacked, seconds), (packed, packed_seconds) = plans.values()
    facts = [
        ("in memory", unpacked, None),
        ("memory map", unpacked, seconds),
        ("memory map, packed", packed, packed_seconds),
    ]
    for (name, plan, taken), measured in zip(facts, speeds):
        low, median, high = statistics.quantiles(measured, n=4)
        plan_time = "-" if taken is None else f"{taken * 1e3:.0f}"
        print(
            f"{length:5}  {name:24}{len(plan):8,}{plan.padding:9.2%}{plan.dropped_tokens:9,}{plan_time:>9}"
            f"{median:12.1f}{high - low:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
