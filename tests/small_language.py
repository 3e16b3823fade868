"""A tiny language for fast tests: each word is followed by one of two others."""

import random
import resource
from contextlib import contextmanager

import pytest
import torch

from electra_kernels.data.facts import text_facts
from electra_kernels.data.rows import encode_rows, unigram_counts
from electra_kernels.data.text import Document, split_held_out
from electra_kernels.data.vocabulary import special_ids, train_vocabulary
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig

WORDS = "the old cat saw a small dog near our house while rain fell on every green hill of that land".split()
LENGTH = 16


@contextmanager
def largest_file(size):
    """Simulates a full disk: writing more than ``size`` bytes to a file fails within the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def documents():
    """Random walks around a ring of words: each word is followed by one of the next two."""
    return [Document(f"document {n}", tuple(_walk(f"{n} {m}") for m in range(4))) for n in range(60)]


def _walk(seed):
    rng = random.Random(seed)
    position, words = rng.randrange(len(WORDS)), []
    for _ in range(rng.randrange(20, 40)):
        words.append(WORDS[position])
        position = (position + rng.choice((1, 2))) % len(WORDS)
    return " ".join(words)


@pytest.fixture(scope="session")
def corpus(documents):
    return split_held_out(documents, every=5)


@pytest.fixture(scope="session")
def tokenizer(corpus):
    return train_vocabulary(corpus.train, 150)


@pytest.fixture(scope="session")
def rows(corpus, tokenizer):
    return encode_rows(corpus.train, tokenizer, LENGTH)


@pytest.fixture(scope="session")
def held_out(corpus, tokenizer):
    return encode_rows(corpus.held_out, tokenizer, LENGTH)


@pytest.fixture(scope="session")
def counts(rows, tokenizer):
    return unigram_counts(rows, tokenizer.get_vocab_size())


@pytest.fixture(scope="session")
def facts(tokenizer, counts):
    return text_facts(tokenizer, counts)


@pytest.fixture
def encoder_config(tokenizer):
    return EncoderConfig(tokenizer.get_vocab_size(), 32, 32, 2, 2, 64, family="modern", dropout=0.0)


@pytest.fixture
def electra_config(encoder_config, tokenizer):
    return ElectraConfig(encoder_config, None, special_ids(tokenizer).mask, tie="all", rtd_weight=10.0)


@pytest.fixture
def model(electra_config, counts):
    torch.manual_seed(0)
    return Electra(electra_config, counts)
