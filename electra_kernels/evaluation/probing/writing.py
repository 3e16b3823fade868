"""Labels per word that the text itself gives: was it capitalised, did a comma follow? The input shows neither."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

from tokenizers import Tokenizer

from electra_kernels.data.text import Corpus
from electra_kernels.evaluation.held_out import EVALUATION_SEED
from electra_kernels.evaluation.probing.task import Task, area, require_both_answers
from electra_kernels.evaluation.probing.words import Word, encode_words, pick_sentences, word_baseline
from electra_kernels.evaluation.sentences import Sentence

TRAIN_SENTENCES, TEST_SENTENCES = 2_000, 1_500


def capitalised(corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int) -> Task:
    """Does the word begin with a capital letter? The label is at the first piece of each word of letters.

    The first word of a sentence has no label: its capital comes from its position. The input is in lower case.

    Args:
        corpus: training and held-out documents, for training and test sentences.
        tokenizer: the tokenizer of the model.
        length: T of the rows; a longer sentence is cut.
        seed: seed of the choice of the training sentences; the test sentences are always the same.

    Raises:
        UserError: too little text, or no word in it is (or is not) capitalised.
    """
    return _task("capitalised", hide_capitals, corpus, tokenizer, length, seed)


def comma_follows(corpus: Corpus, tokenizer: Tokenizer, length: int, seed: int) -> Task:
    """Was there a comma after the word? The label is at the first piece of each word of letters.

    The input has no comma. The last word and a word before another mark have no label: no comma can follow them, as
    the mark alone shows. Arguments and errors are those of `capitalised`.
    """
    return _task("comma_follows", hide_commas, corpus, tokenizer, length, seed)


def _task(
    name: str,
    label: Callable[[Sentence], list[Word]],
    corpus: Corpus,
    tokenizer: Tokenizer,
    length: int,
    seed: int,
) -> Task:
    held_out = pick_sentences(corpus.held_out, TEST_SENTENCES, EVALUATION_SEED)
    training = pick_sentences(corpus.train, TRAIN_SENTENCES, seed, without=held_out)
    train, test = (
        encode_words(list(map(label, sentences)), tokenizer, length) for sentences in (training, held_out)
    )
    fitted, judged = train.examples(first_pieces=True), test.examples(first_pieces=True)
    require_both_answers(name, training=fitted, held_out=judged)
    baselines = {"word alone": word_baseline(train, test)}
    return Task(name, "token", "AUC", baselines, fitted, judged, partial(area, judged))


def hide_capitals(sentence: Sentence) -> list[Word]:
    """The words in lower case, labelled by whether they were capitalised; the first word is not asked about."""
    first = next((index for index, word in enumerate(sentence) if word.isalnum()), -1)
    return [
        Word(word.lower(), word.isalpha() and index != first, word[0].isupper())
        for index, word in enumerate(sentence)
    ]


def hide_commas(sentence: Sentence) -> list[Word]:
    """The words without commas, labelled by whether one followed; asked about where one could follow."""
    words: list[Word] = []
    for text in sentence:
        if text != ",":
            words.append(Word(text, asked=False, label=False))
        elif words:
            words[-1] = words[-1]._replace(label=True)
    asked = [word.text.isalpha() and after.text.isalnum() for word, after in pairwise(words)] + [False]
    return [word._replace(asked=is_asked) for word, is_asked in zip(words, asked)]
