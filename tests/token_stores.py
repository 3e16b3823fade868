"""Token stores in a folder, for tests of plans and rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from electra_kernels.data.vocabulary import SpecialIds

IDS = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


@dataclass(frozen=True)
class Store:
    folder: Path
    tokens: np.ndarray
    offsets: np.ndarray
    special_ids: SpecialIds = IDS
    meta: dict[str, Any] = field(default_factory=lambda: {"digest": "d" * 64})


def store(folder, lengths, dtype=np.uint16):
    """Documents of these lengths. Their tokens count up from 5, so that every token of a small store is another one."""
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    tokens = np.arange(offsets[-1]) % (np.iinfo(np.uint16).max - 5) + 5
    return Store(folder, tokens.astype(dtype), offsets)
