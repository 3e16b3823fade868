"""Synthetic real-word errors in held-out sentences, and how well scores per token find them.

A word of a sentence is replaced by another real word that people are known to write for it ("look" for "luck").
Plain misspellings would not do: how rare a word is finds them without reading the sentence. So the wrong word
must be in the training text, about as often as the one it replaces.
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
from electra_kernels.data.words import SENTENCE_WORDS, split_sentences, split_words
from electra_kernels.errors import UserError
from electra_kernels.metrics import area_under_curve

ErrorPairs = list[tuple[str, str]]  # (right, wrong)
ScoreTokens = Callable[[Tensor, Tensor], Tensor]

_PACKAGE = ("nlpaug", "1.1.11", "01d3befce09e46cb7d990839e0b7dd80ba3e991485f772e678d329ffeb97fd80")
_PAIRS = "nlpaug/res/word/spelling/spelling_en.txt"
# Counts of the two words differ by at most this factor.
_FREQUENCY_FACTOR = 4.0
# A word that the training text has less often may be a slip of its own.
_SMALLEST_COUNT = 5
# With more of "in" for "is", most errors would be among the few most frequent words.
_MOST_ITEMS_PER_PAIR = 5
_ITEMS_AT_ONCE = 32


@dataclass(frozen=True)
class ErrorItem:
    """A sentence with one wrong word.

    Attributes:
        words: its words and punctuation marks, the wrong word in its place.
        wrong_index: where in `words` the wrong one is.
        original: the word that it replaced.
    """

    words: list[str]
    wrong_index: int
    original: str


def fetch_error_pairs() -> ErrorPairs:
    """Pairs (right, wrong) of what people write for a word, from the package nlpaug, downloaded once.

    Raises:
        DownloadError: it cannot be downloaded.
        UserError: the cache folder is not known or cannot be written.
    """
    name, version, sha256 = _PACKAGE
    path = fetch_package(name, version, sha256, kind="wheel")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read(_PAIRS).decode("utf-8").splitlines()
    return [(right, wrong) for right, *others in map(str.split, filter(None, lines)) for wrong in others]


def error_pairs_or_reason(say: Callable[[str], None]) -> ErrorPairs | str:
    """`fetch_error_pairs`, or the line that says why not: a run without a network still gets its report."""
    try:
        return fetch_error_pairs()
    except DownloadError as error:
        say(f"real-word errors will not be measured: {error}")
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

    A pair is used if both words are right somewhere in `pairs`, have at least two letters, all lower case,
    occur at least 5 times in the training text, and their counts there differ by at most a factor of 4. A
    sentence gets the error that was used least so far, and none if that one was used 5 times; ties are
    broken by the seed.

    Args:
        documents: held out.
        word_counts: of the training text, as `count_words` gives them.
        pairs: (right, wrong), as `fetch_error_pairs` gives them.
        seed: of the choice.

    Returns:
        Items in the order of the sentences: of 6 to 40 words and marks, each sentence once.
    """
    confusions = _matched_pairs(word_counts, pairs)
    draw = random.Random(seed)
    used: Counter[tuple[str, str]] = Counter()
    items = []
    for sentence in dict.fromkeys(_sentences(documents)):
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


def word_scores(
    items: Sequence[ErrorItem], tokenizer: Tokenizer, score_tokens: ScoreTokens, length: int
) -> list[Tensor]:
    """The score of each word: the maximum over its pieces.

    Args:
        items: sentences.
        tokenizer: of the model.
        score_tokens: (input_ids int64 [B, T], attention_mask bool [B, T]) → scores [B, T].
        length: longest row that the model takes, [CLS] and [SEP] included; what is beyond it is not scored.

    Returns:
        For each item float32 [number of words], nan for a word beyond `length`.
    """
    scores = []
    for start in range(0, len(items), _ITEMS_AT_ONCE):
        chunk = items[start : start + _ITEMS_AT_ONCE]
        input_ids, attention_mask, word_ids = _encode(chunk, tokenizer, length)
        token_scores = score_tokens(input_ids, attention_mask).detach().float().cpu()
        for item, row, places in zip(chunk, token_scores, word_ids):
            words = torch.full((len(item.words),), math.nan)
            index = torch.tensor([place for place in places if place is not None], dtype=torch.int64)
            pieces = torch.tensor([place is not None for place in places])
            scores.append(
                words.scatter_reduce(0, index, row[: len(places)][pieces], "amax", include_self=False)
            )
    return scores


def evaluate_real_word_errors(
    items: Sequence[ErrorItem],
    tokenizer: Tokenizer,
    score_tokens: ScoreTokens,
    word_counts: Mapping[str, int],
    length: int,
) -> dict[str, float]:
    """How well scores find the wrong words among all words, and how well two rules find them without reading.

    Only words of letters count: punctuation, which is never wrong here, would flatter the figures. Items
    whose wrong word is beyond `length` are left out.

    Returns:
        `auc` of the scores, `auc_word_frequency` of -log(1 + count), `auc_word_pieces` of the number of pieces,
        and the numbers of `items` and `words` behind them.

    Raises:
        UserError: there are no items.
    """
    if not items:
        raise UserError("no sentence of the held-out text has room for a real-word error")
    rows = []
    used = 0
    for item, scores in zip(items, word_scores(items, tokenizer, score_tokens, length)):
        if scores[item.wrong_index].isnan():
            continue
        used += 1
        pieces = [len(tokenizer.encode(word, add_special_tokens=False).ids) for word in item.words]
        rows += [
            (score, -math.log1p(word_counts.get(word.lower(), 0)), count, index == item.wrong_index)
            for index, (word, score, count) in enumerate(zip(item.words, scores.tolist(), pieces))
            if word.isalpha() and not math.isnan(score)
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


def _sentences(documents: Sequence[Document]) -> list[tuple[str, ...]]:
    parts = (
        tuple(split_words(sentence))
        for document in documents
        for paragraph in document.paragraphs
        for sentence in split_sentences(paragraph)
    )
    return [words for words in parts if len(words) in SENTENCE_WORDS]


def _matched_pairs(word_counts: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    real = {word for word, _ in pairs if len(word) > 1 and word.isalpha() and word.islower()}
    confusions: dict[str, set[str]] = {}
    for right, wrong in pairs:
        rarer, commoner = sorted((word_counts.get(right, 0), word_counts.get(wrong, 0)))
        matched = rarer >= _SMALLEST_COUNT and commoner <= _FREQUENCY_FACTOR * rarer
        if matched and right != wrong and {right, wrong} <= real:
            confusions.setdefault(right, set()).add(wrong)
    return {right: sorted(wrongs) for right, wrongs in confusions.items()}


def _encode(
    items: Sequence[ErrorItem], tokenizer: Tokenizer, length: int
) -> tuple[Tensor, Tensor, list[list[int | None]]]:
    """input_ids [B, T], attention_mask [B, T], and for each token the word that it is a piece of."""
    ids = special_ids(tokenizer)
    rows, word_ids = [], []
    for encoding in tokenizer.encode_batch([item.words for item in items], True, add_special_tokens=False):
        tokens, places = encoding.ids[: length - 2], encoding.word_ids[: length - 2]
        rows.append([ids.cls, *tokens, ids.sep])
        word_ids.append([None, *places, None])
    width = max(map(len, rows))
    input_ids = torch.tensor([row + [ids.pad] * (width - len(row)) for row in rows])
    return input_ids, input_ids != ids.pad, word_ids
