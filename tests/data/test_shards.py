"""What a shard records: every document, the boundaries of documents, and text as text."""

import random

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from electra_kernels.data import stages
from electra_kernels.data.prepare import prepare
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import save_vocabulary, train_vocabulary

WORDS = "the old cat saw a small dog near our house while rain fell on every green hill".split()
_RANDOM = random.Random(0)
CONTENT = "\n\n".join(
    "\n".join(" ".join(_RANDOM.choices(WORDS, k=12)) + f" {number}." for number in range(3))
    for _ in range(100)
)


def test_documents_without_a_token_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join([CONTENT, *["\u200b"] * 3]))
    log = []
    cache = prepare([tmp_path / "a.txt"], tmp_path / "cache", vocab_size=150, log=log.append)
    ((count, examples),) = cache.meta["passed_over"].values()
    assert cache.meta["documents"] + count + cache.meta["held_out_documents"] == 103
    assert len(examples) == count
    assert any("without a token" in line for line in log)


def test_the_digest_covers_the_boundaries_of_documents(tmp_path):
    content = CONTENT
    last = content.rindex("\n\n")
    vocabulary = tmp_path / "vocabulary"
    save_vocabulary(train_vocabulary([Document("a", tuple(content.split("\n")))], 150), vocabulary)
    caches = []
    for name, text in {"apart": content, "joined": content[:last] + " \n" + content[last + 2 :]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(text)
        caches.append(prepare([tmp_path / name / "a.txt"], tmp_path / name / "cache", vocabulary=vocabulary))
    apart, joined = caches
    assert (apart.tokens == joined.tokens).all()
    assert len(apart.offsets) == len(joined.offsets) + 1
    assert apart.meta["digest"] != joined.meta["digest"]


def test_names_of_special_tokens_in_a_text_are_no_special_tokens(tmp_path):
    """A Unigram vocabulary has them among its pieces, and would find them in the text."""
    content = CONTENT.replace("cat", "cat <mask> <s> </s> <pad>")
    (tmp_path / "a.txt").write_text(content)
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(content.split("\n"), trainer)
    unigram.save(str(tmp_path / "tokenizer.json"))
    cache = prepare([tmp_path / "a.txt"], tmp_path / "cache", vocabulary=tmp_path / "tokenizer.json")
    ids = cache.special_ids
    assert not np.isin(cache.tokens, [ids.pad, ids.cls, ids.sep, ids.mask]).any()
    assert (cache.tokens == ids.unk).sum() > 100


def test_documents_longer_than_the_sample_of_a_shard_give_their_beginnings(tmp_path, monkeypatch):
    """Otherwise books in a large text would give a vocabulary trained on nothing."""
    monkeypatch.setattr(stages, "SAMPLE", 2000)
    books = ["\n".join(" ".join(_RANDOM.choices(WORDS, k=12)) for _ in range(200)) for _ in range(5)]
    assert min(map(len, books)) > 4 * stages.SAMPLE
    corpus = tmp_path / "a.txt"
    corpus.write_text("\n\n".join(books))
    cache = prepare([corpus], tmp_path / "cache", vocab_size=150)
    assert 1000 < cache.meta["sample_bytes"] <= 2000
    assert cache.meta["unknown"] < 0.01
