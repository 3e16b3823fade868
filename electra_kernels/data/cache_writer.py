"""Encoded shards → the files of a token cache."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import Tokenizer

from electra_kernels._version import __version__
from electra_kernels.data.document import Document
from electra_kernels.data.held_out import ALL_REPEATED, TOO_LITTLE, drop_repeated
from electra_kernels.data.shards import (
    Encoding,
    Shard,
    encode_documents,
    paragraph_hash,
    special_token_ids,
    token_dtype,
)
from electra_kernels.data.token_cache import COUNTS, FORMAT, HELD_OUT, META, OFFSETS, TOKENIZER, TOKENS, WORK
from electra_kernels.data.vocabulary import describe_vocabulary, special_ids
from electra_kernels.errors import UserError
from electra_kernels.files import write_whole


def write_cache(
    output: Path,
    shards: Sequence[Shard],
    tokenizer: Tokenizer,
    held_out: Sequence[Document],
    meta: dict[str, Any],
) -> dict[str, Any]:
    """Join the shards in the work folder, and move the files to their places, meta.json last.

    Args:
        output: folder of the cache; its work folder has the shards and the tokenizer.
        shards: all encoded.
        tokenizer: the vocabulary.
        held_out: held-out documents. Paragraphs that the shards have met in the training text are dropped.
        meta: more entries for meta.json.

    Returns:
        The content of meta.json.

    Raises:
        UserError: there is no training text or no held-out text.
        OSError: a file cannot be written.
    """
    folder, results = output / WORK, [shard.finished(Encoding.SUFFIX) for shard in shards]
    held_out, overlap = drop_repeated(held_out, _repeated(held_out, results))
    lines = "".join(document.to_json() + "\n" for document in held_out)
    write_whole(folder / HELD_OUT, lines)
    tokens, documents = (sum(result[name] for result in results) for name in ("tokens", "documents"))
    held_out_tokens = sum(map(len, encode_documents(tokenizer, held_out, special_ids(tokenizer))))
    if not tokens or not held_out_tokens:
        raise UserError(ALL_REPEATED if overlap == 1 else TOO_LITTLE)
    unknown = _write_counts(shards, tokenizer, folder)
    _write_tokens(shards, folder)
    _write_offsets(shards, documents, folder)
    meta = {
        "format": FORMAT,
        "digest": combine_hashes([*(result["sha256"] for result in results), tokenizer.to_str(), lines]),
        "documents": documents,
        "tokens": tokens,
        "held_out_documents": len(held_out),
        "held_out_tokens": held_out_tokens,
        "overlap": overlap,
        "vocab_size": tokenizer.get_vocab_size(),
        "vocabulary": describe_vocabulary(tokenizer),
        "unknown": unknown,
        "dtype": np.dtype(token_dtype(tokenizer.get_vocab_size())).name,
        "versions": {"electra_kernels": __version__, "tokenizers": tokenizers.__version__},
        **meta,
    }
    _move(folder, output, meta)
    return meta


def combine_hashes(values: Iterable[str]) -> str:
    """One SHA-256 of several texts in their order."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(hashlib.sha256(value.encode(errors="backslashreplace")).digest())
    return digest.hexdigest()


def _repeated(held_out: Sequence[Document], results: Sequence[dict[str, Any]]) -> set[str]:
    hashes = {value for result in results for value in result["repeated"]}
    texts = {text for document in held_out for text in document.paragraphs}
    return {text for text in texts if paragraph_hash(text).hex() in hashes}


def _write_counts(shards: Sequence[Shard], tokenizer: Tokenizer, folder: Path) -> float:
    """Returns the share of unknown tokens."""
    counts = np.zeros(tokenizer.get_vocab_size(), np.int64)
    for shard in shards:
        counts += np.load(shard.file(".counts.npy"))
    ids = special_ids(tokenizer)
    unknown = counts[ids.unk] / counts.sum() if ids.unk != ids.pad else 0.0
    counts[special_token_ids(tokenizer)] = 0
    np.save(folder / COUNTS, counts)
    return float(unknown)


def _write_tokens(shards: Sequence[Shard], folder: Path) -> None:
    with open(folder / TOKENS, "wb") as target:
        for shard in shards:
            with open(shard.file(".tokens"), "rb") as source:
                shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fsync(target.fileno())


def _write_offsets(shards: Sequence[Shard], documents: int, folder: Path) -> None:
    # Written one shard after the other: a memory map would end the process if the disk is full.
    with open(folder / OFFSETS, "wb") as target:
        header = {"descr": "<i8", "fortran_order": False, "shape": (documents + 1,)}
        np.lib.format.write_array_header_1_0(target, header)
        target.write(np.zeros(1, "<i8").data)
        last = 0
        for shard in shards:
            lengths = np.fromfile(shard.file(".lengths"), np.int64)
            offsets = np.cumsum(lengths, dtype="<i8") + last
            target.write(offsets.data)
            last += int(lengths.sum())
        target.flush()
        os.fsync(target.fileno())


def _move(folder: Path, output: Path, meta: dict[str, Any]) -> None:
    if (output / TOKENIZER).exists():  # left by a call that was interrupted here
        shutil.rmtree(output / TOKENIZER)
    (folder / TOKENIZER).rename(output / TOKENIZER)
    for name in (TOKENS, OFFSETS, COUNTS, HELD_OUT):
        os.replace(folder / name, output / name)
    write_whole(output / META, json.dumps(meta, indent=2) + "\n")
    shutil.rmtree(folder)
