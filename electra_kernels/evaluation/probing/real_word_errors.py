"""Error detection: which word of a sentence was put in another's place? Fitted and judged on errors of one kind."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import partial

from tokenizers import Tokenizer

from electra_kernels.data.text import Corpus
from electra_kernels.evaluation.held_out import Score
from electra_kernels.evaluation.probing.task import Task, require_both_answers
from electra_kernels.evaluation.probing.words import Word, WordRows, encode_words, word_baseline
from electra_kernels.evaluation.real_word_errors import (
    ErrorItem,
    count_words,
    evaluate_real_word_errors,
    fetch_error_pairs,
    real_word_errors,
)
from electra_kernels.evaluation.sentences import Sentence


def error_detection(corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int) -> Task:
    """Is this word a real-word error? Every piece of each word of letters is asked.

    `evaluate_real_word_errors` judges the scores: per word, by the maximum over its pieces. The held-out sentences and
    their errors are those of the report of ``electra-kernels pretrain`` whose wrong word has an even hash; the
    training sentences get the errors whose wrong word has an odd hash. If they were the same words, the rule "wrong in
    training" alone, without reading a sentence, would reach an AUC of 0.93 on the demo's text.

    Args:
        corpus: training and held-out documents.
        tokenizer: the tokenizer of the model.
        length: T of the rows; a longer sentence is cut, and not judged if its error is cut off.
        seed: seed of the errors in the training sentences.

    Raises:
        UserError: the pairs cannot be downloaded, or no sentence has room for an error.
    """
    counts = count_words(corpus.train)
    training, held_out = divided_errors(corpus, counts, seed)
    train, test = _rows(training, tokenizer, length), _rows(held_out, tokenizer, length)
    fitted, judged = train.examples(first_pieces=False), test.examples(first_pieces=False)
    require_both_answers("real_word_errors", training=fitted, held_out=judged)

    figures = partial(_figures, held_out, tokenizer, counts, length)
    rules = figures(lambda input_ids, attention_mask: input_ids)
    baselines = {
        "word alone": word_baseline(train, test),
        "word frequency": rules["auc_word_frequency"],
        "word pieces": rules["auc_word_pieces"],
    }
    measure = partial(_auc, held_out, tokenizer, counts, length)
    return Task("real_word_errors", "token", "AUC", baselines, fitted, judged, measure)


def divided_errors(
    corpus: Corpus, counts: Counter[str], seed: int
) -> tuple[list[ErrorItem], list[ErrorItem]]:
    """Training and held-out sentences with errors, whose wrong words differ. ``counts`` are those of the training text.

    Raises:
        UserError: the pairs cannot be downloaded.
    """
    pairs = fetch_error_pairs()
    held_out = [item for item in real_word_errors(corpus.held_out, counts, pairs) if _is_judged(item)]
    sentences = set(map(_original, held_out))
    training = [
        item
        for item in real_word_errors(corpus.train, counts, pairs, seed + 1)
        if not _is_judged(item) and _original(item) not in sentences
    ]
    return training, held_out


def error_words(item: ErrorItem) -> list[Word]:
    """The words of a sentence, labelled by whether they are the error; asked about if they are letters."""
    return [Word(word, word.isalpha(), index == item.wrong_index) for index, word in enumerate(item.words)]


# These are functions of the module because a task is pickled for other processes.
def _figures(
    items: Sequence[ErrorItem], tokenizer: Tokenizer, counts: Counter[str], length: int, score: Score
) -> dict[str, float]:
    return evaluate_real_word_errors(items, tokenizer, score, counts, length)


def _auc(
    items: Sequence[ErrorItem], tokenizer: Tokenizer, counts: Counter[str], length: int, score: Score
) -> float:
    return _figures(items, tokenizer, counts, length, score)["auc"]


def _is_judged(item: ErrorItem) -> bool:
    return hashlib.sha256(item.words[item.wrong_index].encode()).digest()[0] % 2 == 0


def _original(item: ErrorItem) -> Sentence:
    words = [*item.words[: item.wrong_index], item.original, *item.words[item.wrong_index + 1 :]]
    return tuple(word.lower() for word in words)


def _rows(items: Sequence[ErrorItem], tokenizer: Tokenizer, length: int) -> WordRows:
    return encode_words(list(map(error_words, items)), tokenizer, length)
