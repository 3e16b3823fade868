"""The token cache: a text as token ids on disk, with its vocabulary, made by `electra_kernels.data.prepare`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.document import Document
from electra_kernels.data.facts import TextFacts, text_facts
from electra_kernels.data.shards import token_dtype
from electra_kernels.data.vocabulary import SpecialIds, load_vocabulary, special_ids
from electra_kernels.errors import UserError

FORMAT = 1
TOKENS, OFFSETS, COUNTS, TOKENIZER, HELD_OUT, META = (
    "tokens.bin",
    "offsets.npy",
    "counts.npy",
    "tokenizer",
    "held_out.jsonl",
    "meta.json",
)

WORK = "shards"  # folder of unfinished work in that of the cache


@dataclass(frozen=True)
class TokenCache:
    """A text as token ids. Its size does not matter for memory: tokens and offsets are memory maps.

    Attributes:
        folder: where it is.
        tokenizer: vocabulary of V tokens.
        special_ids: ids of its special tokens.
        tokens: uint16 or uint32, the training documents one after the other, without [CLS] and [SEP].
        offsets: int64 [D + 1]; document d is ``tokens[offsets[d]:offsets[d + 1]]``.
        counts: int64 [V], how often each token occurs in ``tokens``; 0 for special tokens.
        meta: the content of meta.json. "digest" identifies the tokens, the vocabulary and the held-out text.
    """

    folder: Path
    tokenizer: Tokenizer
    special_ids: SpecialIds
    tokens: np.ndarray
    offsets: np.ndarray
    counts: Tensor
    meta: dict[str, Any]

    @property
    def vocab_size(self) -> int:
        return len(self.counts)

    @property
    def facts(self) -> TextFacts:
        return text_facts(self.tokenizer, self.counts)

    @property
    def held_out(self) -> list[Document]:
        """The held-out documents, at most 16 MB of text, read from the file.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / HELD_OUT
        try:
            return [Document.from_json(line) for line in path.read_bytes().splitlines()]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read: {error}") from error

    def documents(self, tokens: int) -> Iterator[Document]:
        """The first training documents as text, of up to ``tokens`` tokens, in the words of the vocabulary."""
        count = int(np.searchsorted(self.offsets, tokens, side="right")) - 1
        bounds = self.offsets[: max(2, count + 1)].tolist()
        ids = (self.tokens[start:end].tolist() for start, end in pairwise(bounds))
        for number, text in enumerate(self.tokenizer.decode_batch(list(ids))):
            yield Document(f"document {number}", (text,))


def open_cache(folder: Path) -> TokenCache:
    """Open a token cache.

    Raises:
        UserError: the folder has none, or one that is not complete, damaged or of another version.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    if meta is None:
        state = "an unfinished token cache; run the same prepare command again" if _unfinished(folder) else ""
        raise UserError(f"{folder}: {state or 'not a token cache (electra-kernels prepare makes one)'}")
    tokenizer = load_vocabulary(folder / TOKENIZER)
    try:
        offsets = np.load(folder / OFFSETS, mmap_mode="r")
        counts = torch.from_numpy(np.load(folder / COUNTS))
        tokens = np.memmap(folder / TOKENS, token_dtype(len(counts)), "r")
        whole = len(counts) == tokenizer.get_vocab_size() == meta["vocab_size"]
        whole &= len(tokens) == offsets[-1] == meta["tokens"] and len(offsets) == meta["documents"] + 1
        whole &= (folder / HELD_OUT).is_file()
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{folder}: damaged token cache ({error}); delete it and prepare it again") from error
    if not whole:
        raise UserError(f"{folder}: damaged token cache (sizes differ); delete it and prepare it again")
    return TokenCache(folder, tokenizer, special_ids(tokenizer), tokens, offsets, counts, meta)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """The content of meta.json; None if there is no such file.

    Raises:
        UserError: it is damaged, or of another version.
    """
    path = folder / META
    if not path.is_file():
        return None
    try:
        meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = meta["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the meta.json of a token cache ({error!r})") from error
    if version != FORMAT:
        raise UserError(f"{folder}: a token cache of format {version}, should be {FORMAT}; prepare it again")
    return meta


def _unfinished(folder: Path) -> bool:
    return (folder / WORK / "plan.json").is_file()
