"""Synthetic real-word errors in held-out sentences, and how well scores per token find them.

One word of a sentence is replaced by another real word that people are known to write for it ("look" for "luck").
A plain misspelling would not do: the rarity of the word gives it away without reading the sentence. So the wrong word
must be in the training text, about as often as the word that it replaces.
"""

import math
import random
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from electra_kernels.data.fetch import DownloadError, fetch_package
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import special_ids
from electra_kernels.data.words import split_words
from electra_kernels.errors import UserError
from electra_kernels.evaluation.held_out import Score
from electra_kernels.evaluation.sentences import encode_sentences, pad, sentences_in
from electra_kernels.metrics import area_under_curve

ErrorPairs = list[tuple[str, str]]  # (right, wrong)

_PACKAGE = ("nlpaug", "1.1.11", "01d3befce09e46cb7d990839e0b7dd80ba3e991485f772e678d329ffeb97fd80")
_PAIRS = "nlpaug/res/word/spelling/spelling_en.txt"
# Largest ratio of the counts of the two words.
_FREQUENCY_FACTOR = 4.0
# A rarer word of the training text may itself be a slip.
_SMALLEST_COUNT = 5
# Without a limit, most errors would be among the few most frequent words, such as "in" for "is".
_MOST_ITEMS_PER_PAIR = 5
_BATCH_ITEMS = 32


@dataclass(frozen=True)
class ErrorItem:
    """A sentence with one wrong word.

    Attributes:
        words: words and punctuation marks, the wrong word among them.
        wrong_index: index of the wrong word in ``words``.
        original: the word that it replaced.
    """

    words: list[str]
    wrong_index: int
    original: str


def fetch_error_pairs() -> ErrorPairs:
    """Pairs (right, wrong) of words and what people write for them, from the package nlpaug, downloaded once.

    Raises:
        DownloadError: the package cannot be downloaded.
        UserError: the cache folder is not known or cannot be written.
    """
    name, version, sha256 = _PACKAGE
    path = fetch_package(name, version, sha256, kind="wheel")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read(_PAIRS).decode("utf-8").splitlines()
    return [(right, wrong) for right, *others in map(str.split, filter(None, lines)) for wrong in others]


def error_pairs_or_reason(log: Callable[[str], None]) -> ErrorPairs | str:
    """`fetch_error_pairs`, or the reason why they are missing: a run without a network still gets its report."""
    try:
        return fetch_error_pairs()
    except DownloadError as error:
        log(f"real-word errors will not be measured: {error}")
        return str(error)


def count_words(documents: Sequence[Document]) -> Counter[str]:
    """How often each word and punctuation mark occurs, in lower case."""
    counts: Counter[str] = Counter()
    for document in documents:
        for paragraph in document.paragraphs:
            counts.update(split_words(paragraph.lower()))
    return counts


def real_word_errors(
    documents: Sequence[Document],
    word_counts: Mapping[str, int],
    pairs: Sequence[tuple[str, str]],
    seed: int = 0,
) -> list[ErrorItem]:
    """Put one real-word error into each held-out sentence that has room for one.

    A pair is used if both words are right somewhere in ``pairs``, have at least two letters, all lower case,
    occur at least 5 times in the training text, and their counts there differ by at most a factor of 4. A
    sentence gets the error that was used least so far, and none if that error was used 5 times; the seed breaks
    ties.

    Args:
        documents: held-out documents.
        word_counts: counts of the training text, from `count_words`.
        pairs: (right, wrong), from `fetch_error_pairs`.
        seed: seed of the choice.

    Returns:
        Items in the order of the sentences, which have 6 to 40 words and marks; each sentence once.
    """
    confusions = _matched_pairs(word_counts, pairs)
    draw = random.Random(seed)
    used: Counter[tuple[str, str]] = Counter()
    sentences = (sentence for document in documents for sentence in sentences_in(document.paragraphs))
    items = []
    for sentence in dict.fromkeys(sentences):
        possible = [
            (index, wrong) for index, word in enumerate(sentence) for wrong in confusions.get(word, ())
        ]
        if not possible:
            continue
        draw.shuffle(possible)
        index, wrong = min(possible, key=lambda choice: used[sentence[choice[0]], choice[1]])
        pair = (sentence[index], wrong)
        if used[pair] < _MOST_ITEMS_PER_PAIR:
            used[pair] += 1
            items.append(ErrorItem([*sentence[:index], wrong, *sentence[index + 1 :]], index, pair[0]))
    return items


def word_scores(items: Sequence[ErrorItem], tokenizer: Tokenizer, score: Score, length: int) -> list[Tensor]:
    """The score of each word: the maximum over its pieces.

    Args:
        items: sentences.
        tokenizer: the tokenizer of the model.
        score: gives scores [B, T].
        length: longest row that the model takes, [CLS] and [SEP] included; words beyond it are not scored.

    Returns:
        For each item float32 [number of words], NaN for a word beyond ``length``.
    """
    padding, scores = special_ids(tokenizer).pad, []
    for start in range(0, len(items), _BATCH_ITEMS):
        batch = items[start : start + _BATCH_ITEMS]
        encoded = encode_sentences([item.words for item in batch], tokenizer, length)
        width = max(len(sentence.input_ids) for sentence in encoded)
        input_ids = pad([sentence.input_ids for sentence in encoded], width, padding)
        token_scores = score(input_ids, input_ids != padding).detach().float().cpu()
        for item, sentence, row in zip(batch, encoded, token_scores):
            index = torch.tensor(sentence.words)
            is_piece = index >= 0
            words = torch.full((len(item.words),), math.nan)
            pieces = row[: len(index)][is_piece]
            scores.append(words.scatter_reduce(0, index[is_piece], pieces, "amax", include_self=False))
    return scores


def evaluate_real_word_errors(
    items: Sequence[ErrorItem],
    tokenizer: Tokenizer,
    score: Score,
    word_counts: Mapping[str, int],
    length: int,
) -> dict[str, float]:
    """How well scores find the wrong words among all words, and how well two rules find them without reading.

    Only words of letters count: punctuation, which is never wrong here, would flatter the figures. Items
    whose wrong word is beyond ``length`` are left out.

    Args:
        items: from `real_word_errors`.
        tokenizer: the tokenizer of the model.
        score: gives scores [B, T], higher where a token looks wrong.
        word_counts: counts of the training text, from `count_words`.
        length: longest row that the model takes, [CLS] and [SEP] included.

    Returns:
        ``auc`` of the scores, ``auc_word_frequency`` of -log(1 + count), ``auc_word_pieces`` of the number of
        pieces, and the numbers of ``items`` and ``words`` behind them.

    Raises:
        UserError: there are no items.
    """
    if not items:
        raise UserError("no sentence of the held-out text has room for a real-word error")
    rows = []
    used = 0
    for item, scores in zip(items, word_scores(items, tokenizer, score, length)):
        if scores[item.wrong_index].isnan():
            continue
        used += 1
        pieces = [len(tokenizer.encode(word, add_special_tokens=False).ids) for word in item.words]
        rows += [
            (value, -math.log1p(word_counts.get(word.lower(), 0)), count, index == item.wrong_index)
            for index, (word, value, count) in enumerate(zip(item.words, scores.tolist(), pieces))
            if word.isalpha() and not math.isnan(value)
        ]
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    labels = table[:, 3].bool()
    return {
        "auc": area_under_curve(table[:, 0], labels),
        "auc_word_frequency": area_under_curve(table[:, 1], labels),
        "auc_word_pieces": area_under_curve(table[:, 2], labels),
        "items": used,
        "words": len(rows),
    }


def _matched_pairs(word_counts: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Right word → the wrong words that may replace it."""
    real = {word for word, _ in pairs if len(word) > 1 and word.isalpha() and word.islower()}
    confusions: dict[str, set[str]] = {}
    for right, wrong in pairs:
        rarer, more_frequent = sorted((word_counts.get(right, 0), word_counts.get(wrong, 0)))
        matched = rarer >= _SMALLEST_COUNT and more_frequent <= _FREQUENCY_FACTOR * rarer
        if matched and right != wrong and {right, wrong} <= real:
            confusions.setdefault(right, set()).add(wrong)
    return {right: sorted(wrong_words) for right, wrong_words in confusions.items()}
