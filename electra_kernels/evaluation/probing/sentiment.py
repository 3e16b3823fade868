"""Sentiment of sentences that people have rated: the material of Hutto and Gilbert (2014), "VADER".

The source archive of the package vaderSentiment holds an inner archive with four files of tab-separated (id, mean
rating, sentence). At least 20 trained raters gave each sentence -4 (extremely negative) to 4 (extremely positive):

- tweets_GroundTruth.txt: 4,200 tweets, real and made up; the id is a number.
- movieReviewSnippets_GroundTruth.txt: 10,605 sentences of film reviews (first gathered by Pang and Lee 2004); the id
  is a number.
- amazonReviewSnippets_GroundTruth.txt: 3,708 sentences of product reviews (Hu and Liu 2004); the id is
  REVIEW_SENTENCE.
- nytEditorialSnippets_GroundTruth.txt: 5,190 sentences of newspaper editorials; the id is ARTICLE_SENTENCE.

The package has the MIT licence. Its sentences were written by others, so they are read at run time and never kept with
this library. Sentences of one review or article stay on one side of the split.
"""

import hashlib
import html
import io
import random
import tarfile
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from electra_kernels.data.fetch import fetch_package
from electra_kernels.data.text import Corpus
from electra_kernels.data.vocabulary import special_ids
from electra_kernels.evaluation.held_out import EVALUATION_SEED
from electra_kernels.evaluation.probing.logistic import logistic_regression
from electra_kernels.evaluation.probing.task import Examples, Task, accuracy, require_both_answers
from electra_kernels.evaluation.sentences import pad

_PACKAGE = ("vaderSentiment", "3.3.2", "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9")
_INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
_FILES = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
# A mean nearer to 0 means that the raters found no sentiment, or did not agree.
_CLEAR_RATING = 0.5
_TEST_EVERY = 5
TRAIN_SENTENCES, TEST_SENTENCES = 6_000, 2_000


class RatedSentence(NamedTuple):
    """A sentence with its mean rating, -4 to 4; ``source`` names its tweet, review or article."""

    source: str
    rating: float
    text: str


def fetch_rated_sentences() -> list[RatedSentence]:
    """All rated sentences, downloaded once.

    Raises:
        UserError: the package cannot be downloaded.
    """
    name, version, sha256 = _PACKAGE
    inner = _member(fetch_package(name, version, sha256).read_bytes(), _INNER)
    sentences = []
    for kind in _FILES:
        lines = _member(inner, f"hutto_ICWSM_2014/{kind}_GroundTruth.txt").decode("utf-8").splitlines()
        for identity, rating, text in (line.split("\t") for line in lines if line.strip()):
            source = f"{kind} {identity.partition('_')[0]}"
            sentences.append(RatedSentence(source, float(rating), html.unescape(text).strip()))
    return sentences


def split_clear(sentences: Sequence[RatedSentence]) -> tuple[list[RatedSentence], list[RatedSentence]]:
    """The sentences rated 0.5 or more, or -0.5 or less: (training sentences, test sentences).

    One tweet, review or article in five, chosen by the hash of its name, is for testing. A repeated sentence is left
    out; case does not matter.
    """
    once = {sentence.text.lower(): sentence for sentence in reversed(sentences)}
    clear = [sentence for sentence in once.values() if abs(sentence.rating) >= _CLEAR_RATING]
    return (
        [sentence for sentence in clear if not _is_test(sentence)],
        [sentence for sentence in clear if _is_test(sentence)],
    )


def sentiment(corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int) -> Task:
    """Did people find the sentence positive (or negative)? One answer per row.

    Args:
        corpus: not used; the sentences are not from the text.
        tokenizer: the tokenizer of the model.
        length: T of the rows; a longer sentence is cut.
        seed: seed of the choice of the training sentences; the test sentences are always the same.

    Raises:
        UserError: the package cannot be downloaded.
    """
    fitted, judged = split_clear(fetch_rated_sentences())
    train = _encode(_pick(fitted, TRAIN_SENTENCES, seed), tokenizer, length)
    test = _encode(_pick(judged, TEST_SENTENCES, EVALUATION_SEED), tokenizer, length)
    require_both_answers("sentiment", training=train, held_out=test)
    baselines = {
        "majority": majority(train, test),
        "bag of words": bag_of_words(train, test, tokenizer.get_vocab_size()),
    }
    return Task("sentiment", "row", "accuracy", baselines, train, test, partial(accuracy, test))


def majority(train: Examples, test: Examples) -> float:
    """Accuracy of always giving the answer that is more frequent in ``train``."""
    answer = train.labels.double().mean() > 0.5
    return float((test.labels == answer).double().mean())


def bag_of_words(train: Examples, test: Examples, vocab_size: int) -> float:
    """Accuracy of a logistic regression on how often each token is in the row."""

    def score(weight: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        counted = attention_mask.to(weight.dtype)
        return F.embedding_bag(input_ids, weight[:, None], mode="sum", per_sample_weights=counted).squeeze(-1)

    weight, bias = logistic_regression(
        lambda weight: score(weight, train.input_ids, train.attention_mask), vocab_size, train.labels
    )
    return accuracy(test, lambda input_ids, attention_mask: score(weight, input_ids, attention_mask) + bias)


def _encode(sentences: Sequence[RatedSentence], tokenizer: Tokenizer, length: int) -> Examples:
    """One sentence per row, short sentences first."""
    ids = special_ids(tokenizer)
    encodings = tokenizer.encode_batch([sentence.text for sentence in sentences], add_special_tokens=False)
    rows = [
        ([ids.cls, *encoding.ids[: length - 2], ids.sep], sentence.rating > 0)
        for encoding, sentence in zip(encodings, sentences)
    ]
    rows.sort(key=lambda row: len(row[0]))
    input_ids = pad([tokens for tokens, _ in rows], length, ids.pad)
    labels = torch.tensor([label for _, label in rows], dtype=torch.bool)
    return Examples(input_ids, input_ids != ids.pad, torch.ones_like(labels), labels)


def _pick(sentences: Sequence[RatedSentence], most: int, seed: int) -> list[RatedSentence]:
    return random.Random(seed).sample(sentences, min(most, len(sentences)))


def _is_test(sentence: RatedSentence) -> bool:
    digest = hashlib.sha256(sentence.source.encode()).digest()
    return int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0


def _member(archive: bytes, name: str) -> bytes:
    """One file of a tar archive; the hash of the package guarantees that it exists."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        file = members.extractfile(name)
        return file.read() if file else b""
