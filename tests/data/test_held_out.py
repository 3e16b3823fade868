"""About a twentieth of the text is held out, whatever the lengths of the documents."""

import random

import pytest

from electra_kernels.data.document import Document
from electra_kernels.data.held_out import (
    Candidate,
    candidate,
    choose_held_out,
    divide,
    halves,
    largest_hash,
    name_hash,
)
from electra_kernels.data.text import split_held_out
from electra_kernels.errors import UserError


def document(name, paragraphs, words=5):
    return Document(name, tuple(f"{name} paragraph {n} {'word ' * words}".strip() for n in range(paragraphs)))


@pytest.mark.parametrize("seed", range(20))
def test_the_amount_is_near_a_twentieth_even_if_lengths_differ_a_thousandfold(seed):
    rng = random.Random(seed)
    documents = [document(f"{seed}-{n}", int(10 ** rng.uniform(0, 3))) for n in range(rng.randrange(1, 60))]
    if sum(len(each.paragraphs) for each in documents) < 100:
        documents.append(document("more", 200))
    corpus = split_held_out(documents)
    total = sum(each.size for each in documents)
    assert 0.03 <= sum(each.size for each in corpus.held_out) / total <= 0.08
    kept = sum(each.size for each in (*corpus.train, *corpus.held_out))
    assert kept == total


def test_a_long_and_a_short_document():
    corpus = split_held_out([document("corpus.txt#0", 2000), document("intro.txt#0", 10)])
    total = sum(each.size for each in (*corpus.train, *corpus.held_out))
    assert sum(each.size for each in corpus.held_out) == pytest.approx(total / 20, rel=0.3)
    assert max(corpus.train, key=lambda each: each.size).name == "corpus.txt#0"


def test_documents_that_cannot_be_divided_are_chosen_by_their_size():
    documents = [Document("long", ("long " * 1000,)), Document("short", ("short",))]
    assert [each.name for each in split_held_out(documents).held_out] == ["short"]


def test_the_smallest_hashes_are_held_out():
    candidates = [candidate(document(str(n), 3)) for n in range(1000)]
    chosen = choose_held_out(candidates, sum(each.size for each in candidates) // 20)
    hashes = sorted(name_hash(name) for name in chosen)
    assert hashes == sorted(each.hash for each in candidates)[: len(hashes)]
    assert choose_held_out(candidates[::-1], sum(each.size for each in candidates) // 20) == chosen


@pytest.mark.parametrize("size", [1, 40, 500, 10**9])
def test_a_divided_document_has_both_parts(size):
    whole = document("a", 20)
    train, held_out = divide(whole, size)
    if size >= whole.size:
        assert (train, held_out) == (None, whole)
    else:
        assert train.paragraphs + held_out.paragraphs == whole.paragraphs
        assert train.paragraphs
        assert held_out.size >= size or len(train.paragraphs) == 1
        assert divide(whole, held_out.size) == (train, held_out)


def test_nothing_is_chosen_from_a_single_paragraph():
    assert choose_held_out([Candidate(1, "a", 100, 1)], 5) == {}


def test_in_a_large_text_only_small_hashes_are_candidates():
    assert largest_hash(1 << 20, 20 << 20) == 1 << 64
    assert largest_hash(16 << 20, 16 << 30) / (1 << 64) == pytest.approx(3 / 1024)


def test_halves_are_every_other_document_or_those_of_a_single_one():
    documents = [document(str(n), 2) for n in range(5)]
    assert halves(documents) == (documents[::2], documents[1::2])
    ((first,), (second,)) = halves([document("a", 9)])
    assert first.paragraphs + second.paragraphs == document("a", 9).paragraphs
    with pytest.raises(UserError, match="too little held-out text"):
        halves([document("a", 1)])
