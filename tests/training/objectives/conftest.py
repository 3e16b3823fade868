"""Fixtures for one objective at a time: a vocabulary made by hand, and batches in which every case occurs."""

import pytest
import torch

from electra_kernels.data.facts import TextFacts
from electra_kernels.models import ElectraConfig, EncoderConfig
from electra_kernels.training.objectives import token_batch

from .vocabulary import CONTINUATION, LENGTH, QUERY, SPECIAL, STOP, VOCABULARY, WORD, batch_of

ROWS = 400


@pytest.fixture
def config():
    """A small joint model with the vocabulary made by hand."""
    encoder = EncoderConfig(VOCABULARY, 16, 16, 1, 2, 32, family="modern", dropout=0.0)
    return ElectraConfig(encoder, None, SPECIAL.mask, tie="all")


@pytest.fixture
def text():
    """Facts of the vocabulary made by hand: the higher its id, the more frequent a word."""
    counts = torch.arange(VOCABULARY).masked_fill(torch.arange(VOCABULARY) <= SPECIAL.mask, 0)
    return TextFacts(counts, SPECIAL, torch.tensor([STOP, QUERY]), torch.tensor([CONTINUATION]))


@pytest.fixture
def mixed_rows():
    """Rows of 10 to 38 tokens: words with some stops, continuations and unknown words."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for _ in range(ROWS):
        count = int(torch.randint(10, LENGTH - 1, (), generator=generator))
        words = torch.randint(WORD, VOCABULARY, (count,), generator=generator)
        chance = torch.rand(len(words), generator=generator)
        for low, token in ((0.0, STOP), (0.1, QUERY), (0.13, CONTINUATION), (0.25, SPECIAL.unk)):
            words[(chance >= low) & (chance < low + 0.05)] = token
        texts.append(words.tolist())
    return batch_of(texts, [n // 4 for n in range(ROWS)])


@pytest.fixture
def short_and_long_rows(rows):
    """The six shortest rows, which do not use all slots for masks, and the six longest."""
    order = rows.attention_mask.sum(-1).argsort()
    return token_batch(rows, torch.cat([order[:6], order[-6:]]), torch.device("cpu"))


@pytest.fixture
def proposals(monkeypatch):
    """The proposals that generators make during the test."""
    from electra_kernels.models import Proposer

    made, propose = [], Proposer.propose

    def record(*arguments, **options):
        made.append(propose(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(Proposer, "propose", record)
    return made
