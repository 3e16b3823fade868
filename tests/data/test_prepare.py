"""The token cache holds what reading, holding out and encoding in memory give, however the text is cut into shards."""

import gzip
import io
import json
import os
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from electra_kernels.data import stages
from electra_kernels.data.prepare import prepare
from electra_kernels.data.text import Document, read_documents, split_held_out
from electra_kernels.data.token_cache import open_cache
from electra_kernels.data.vocabulary import save_vocabulary, special_ids, train_vocabulary
from electra_kernels.errors import UserError

WORDS = "the old cat saw a small dog near our house while rain fell on every green hill".split()


def sentence(number):
    return (
        " ".join(WORDS[(number * 7 + i * (number % 5 + 1)) % len(WORDS)] for i in range(12)) + f" {number}."
    )


def plain_text(documents, paragraphs=3, start=0):
    numbers = iter(range(start, start + documents * paragraphs))
    return "\n\n".join(
        "\n".join(sentence(next(numbers)) for _ in range(paragraphs)) for _ in range(documents)
    )


@pytest.fixture
def text(tmp_path):
    """A folder with one file of each kind."""
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.txt").write_text(plain_text(300))
    lines = [json.dumps({"text": plain_text(1, start=number)}) for number in range(2000, 2200)]
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (folder / "wiki_00").write_text(plain_text(50, start=4000))
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(stages, "_SMALLEST_SHARD", 4096)
    monkeypatch.setattr(stages, "_SHARDS", 1000)


def documents_of(cache):
    tokens = (cache.tokens[a:b].tolist() for a, b in zip(cache.offsets, cache.offsets[1:]))
    return [cache.tokenizer.decode(each) for each in tokens]


def test_the_cache_is_the_text_as_it_is_read_and_held_out_in_memory(text, tmp_path, small_shards):
    cache = prepare([text], tmp_path / "cache", vocab_size=200, processes=1)
    corpus = split_held_out(read_documents([text]))
    expected = [
        [
            i
            for part in document.paragraphs
            for i in cache.tokenizer.encode(part, add_special_tokens=False).ids
        ]
        for document in corpus.train
    ]
    assert [cache.tokens[a:b].tolist() for a, b in zip(cache.offsets, cache.offsets[1:])] == expected
    assert {each.name: each for each in cache.held_out} == {each.name: each for each in corpus.held_out}
    assert cache.meta["overlap"] == corpus.overlap
    assert len(cache.meta["passed_over"]) == 0


def test_counts_are_those_of_the_tokens_and_special_tokens_have_none(text, tmp_path):
    cache = prepare([text], tmp_path / "cache", vocab_size=200)
    assert cache.counts.tolist() == np.bincount(cache.tokens, minlength=cache.vocab_size).tolist()
    assert cache.counts[:5].tolist() == [0] * 5
    assert cache.meta["tokens"] == int(cache.counts.sum()) == cache.offsets[-1]
    assert cache.facts.special_ids == cache.special_ids


def test_the_files_are_all_that_is_left(text, tmp_path):
    prepare([text], tmp_path / "cache", vocab_size=200)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    assert names == {"tokens.bin", "offsets.npy", "counts.npy", "tokenizer", "held_out.jsonl", "meta.json"}


def test_transformers_loads_the_tokenizer_and_pads(text, tmp_path):
    cache = prepare([text], tmp_path / "cache", vocab_size=200)
    loaded = AutoTokenizer.from_pretrained(tmp_path / "cache" / "tokenizer")
    batch = loaded(["the old cat", "rain"], padding=True)["input_ids"]
    assert batch[0] == cache.tokenizer.encode("the old cat").ids
    assert batch[1][-1] == cache.special_ids.pad


def test_the_number_of_shards_and_processes_does_not_matter(text, tmp_path, monkeypatch):
    whole = prepare([text], tmp_path / "whole", vocab_size=200)
    monkeypatch.setattr(stages, "_SMALLEST_SHARD", 30_000)
    monkeypatch.setattr(stages, "_SMALL", 0)
    parallel = prepare([text], tmp_path / "parallel", vocab_size=200, processes=2)
    assert documents_of(parallel) == documents_of(whole)
    assert (tmp_path / "parallel/held_out.jsonl").read_text() == (
        tmp_path / "whole/held_out.jsonl"
    ).read_text()
    # An error in a worker is the same line as here.
    (text / "c.txt").write_bytes(plain_text(400).encode() + b"caf\xe9")
    with pytest.raises(UserError, match=r"c.txt: not UTF-8 text \(unexpected end of data at byte \d+\)"):
        prepare([text], tmp_path / "bad", vocab_size=200, processes=2)


@pytest.mark.parametrize("moment", range(1, 26, 4))
def test_an_interrupted_call_leaves_no_cache_and_continues(text, tmp_path, small_shards, moment):
    whole = prepare([text], tmp_path / "whole", vocab_size=200)
    calls = []

    def interrupt(stage, done, total):
        calls.append(stage)
        if len(calls) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare([text], tmp_path / "cache", vocab_size=200, progress=interrupt, processes=1)
    with pytest.raises(UserError, match="unfinished token cache; run the same prepare command again"):
        open_cache(tmp_path / "cache")
    lines = []
    cache = prepare([text], tmp_path / "cache", vocab_size=200, log=lines.append)
    assert lines[0].startswith("continuing with what is finished")
    assert cache.meta["digest"] == whole.meta["digest"]


def test_the_same_call_returns_the_finished_cache(text, tmp_path):
    prepare([text], tmp_path / "cache", vocab_size=200)
    before = (tmp_path / "cache/tokens.bin").stat()
    lines = []
    prepare([text], tmp_path / "cache", vocab_size=200, log=lines.append)
    for file in text.iterdir():
        os.utime(file, (1, 1))  # copied: the times differ, the content does not
    prepare([text], tmp_path / "cache", vocab_size=200, log=lines.append)
    assert lines == [f"{tmp_path / 'cache'} has this text already"] * 2
    assert (tmp_path / "cache/tokens.bin").stat() == before


def test_another_call_into_the_folder_of_a_cache_is_refused(text, tmp_path):
    prepare([text], tmp_path / "cache", vocab_size=200)
    with pytest.raises(UserError, match="has the token cache of vocab_size 200; choose another --output"):
        prepare([text], tmp_path / "cache", vocab_size=201)
    (text / "a.txt").write_text(plain_text(300).replace("cat", "dog"))
    with pytest.raises(UserError, match="has the token cache of another text"):
        prepare([text], tmp_path / "cache", vocab_size=200)


def test_a_deleted_cache_leaves_nothing_behind(text, tmp_path):
    prepare([text], tmp_path / "cache", vocab_size=200)
    shutil.rmtree(tmp_path / "cache")
    again = prepare([text], tmp_path / "cache", vocab_size=150)
    assert again.meta["digest"] == prepare([text], tmp_path / "other", vocab_size=150).meta["digest"]


@pytest.mark.parametrize("file", ["tokens.bin", "offsets.npy", "counts.npy", "held_out.jsonl"])
def test_a_damaged_cache_is_one_line(text, tmp_path, file):
    prepare([text], tmp_path / "cache", vocab_size=200)
    path = tmp_path / "cache" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 2 * 2])
    with pytest.raises(UserError, match=r"damaged token cache|cannot be read") as error:
        assert open_cache(tmp_path / "cache").held_out
    assert "\n" not in str(error.value)


def test_a_folder_without_a_cache_or_of_another_format_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not a token cache"):
        open_cache(tmp_path)
    (tmp_path / "meta.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99, should be 1"):
        open_cache(tmp_path)


def test_a_text_inside_the_output_folder_does_not_read_the_output(text):
    cache = prepare([text], text, vocab_size=200)
    assert prepare([text], text, vocab_size=200).meta == cache.meta
    assert cache.meta["text"]["files"] == 3


def test_standard_input_is_read(tmp_path, monkeypatch):
    def feed(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    data = plain_text(60).encode()
    feed(data)
    cache = prepare(["-"], tmp_path / "cache", vocab_size=200)
    (tmp_path / "a.txt").write_bytes(data)
    assert cache.meta["text"]["documents"] == len(read_documents([tmp_path / "a.txt"])) == 60
    feed(gzip.compress(data, mtime=0))
    assert prepare(["-"], tmp_path / "packed", vocab_size=200).meta["text"]["documents"] == 60
    feed(data)
    assert prepare(["-"], tmp_path / "cache", vocab_size=200).meta == cache.meta
    assert not (tmp_path / "cache" / "standard-input").exists()
    feed(b"\x00\x01\x02")
    with pytest.raises(UserError, match="standard input: neither text in UTF-8 nor JSON lines"):
        prepare(["-"], tmp_path / "binary")


def byte_level(tmp_path):
    """A byte-level BPE with the special tokens of RoBERTa, but without <unk>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([sentence(number) for number in range(200)], trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_byte_level_vocabulary_without_unknown_token_is_taken_as_it_is(text, tmp_path):
    (text / "d.txt").write_text("Ünknown 東京 – 😀 word.\n" * 3 + "\n" + plain_text(3, start=9000))
    cache = prepare([text], tmp_path / "cache", vocabulary=byte_level(tmp_path))
    assert (cache.special_ids.cls, cache.special_ids.unk, cache.special_ids.pad) == (0, 1, 1)
    assert cache.meta["unknown"] == 0
    assert cache.meta["vocabulary"] == "keeps capitals, keeps accents"
    assert any("Ünknown 東京 – 😀 word. Ünknown" in each for each in documents_of(cache))
    starts = cache.facts.starts_word
    vocabulary = cache.tokenizer.get_vocab()
    assert all(starts[i] == (piece[0] == "Ġ" or i < 4) for piece, i in vocabulary.items())
    assert AutoTokenizer.from_pretrained(cache.folder / "tokenizer").mask_token == "<mask>"
    # Every paragraph begins a word, so a word never spans two of them.
    assert all(starts[int(cache.tokens[a])] for a in cache.offsets[:-1])


def test_a_sentencepiece_vocabulary_is_taken_as_it_is(text, tmp_path):
    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
        "▁",
        *(f"▁{word}" for word in WORDS),
        *"abcdefghijklmnopqrstuvwxyz.",
    ]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    lines = []
    cache = prepare([text], tmp_path / "cache", vocabulary=tmp_path, log=lines.append)
    assert (cache.special_ids.unk, cache.special_ids.mask) == (3, 4)
    assert cache.facts.starts_word.tolist() == [i < 6 or piece[0] == "▁" for i, piece in enumerate(pieces)]
    assert cache.meta["unknown"] > 0.01  # digits
    assert re.fullmatch(r"warning: .*% of the tokens are unknown to the vocabulary", lines[-1])


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path, text):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"x{i}" for i in range(66_000)), "."]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    cache = prepare([text], tmp_path / "cache", vocabulary=tmp_path / "vocab.txt")
    assert cache.tokens.dtype == np.uint32
    assert cache.tokens.max() == len(tokens) - 1
    assert cache.vocab_size == len(tokens)


def test_text_with_nothing_to_train_on_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("Alone.")
    with pytest.raises(UserError, match="too little text"):
        prepare([tmp_path / "a.txt"], tmp_path / "cache")
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(UserError, match=r"no text in .*a\.txt"):
        prepare([tmp_path / "a.txt"], tmp_path / "cache")


def test_the_vocabulary_is_trained_on_a_sample_of_stated_size(text, tmp_path, monkeypatch, small_shards):
    monkeypatch.setattr(stages, "SAMPLE", 30_000)
    lines = []
    cache = prepare([text], tmp_path / "cache", vocab_size=200, log=lines.append)
    assert 15_000 < cache.meta["sample_bytes"] <= 30_000
    assert "training a vocabulary of 200 word pieces on 0.0" in lines[0]


def test_a_saved_vocabulary_is_the_one_of_the_cache(text, tmp_path):
    tokenizer = train_vocabulary([Document("", (sentence(1),) * 5)], 80)
    save_vocabulary(tokenizer, tmp_path / "vocabulary")
    cache = prepare([text], tmp_path / "cache", vocabulary=tmp_path / "vocabulary")
    assert cache.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert special_ids(cache.tokenizer) == special_ids(tokenizer)


def test_a_text_of_which_everything_is_repeated_is_told_so(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join([plain_text(50)] * 2))
    with pytest.raises(UserError, match="also occurs in the training text"):
        prepare([tmp_path / "a.txt"], tmp_path / "cache", vocab_size=150)
