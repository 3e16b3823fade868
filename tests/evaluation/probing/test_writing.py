import re

import pytest
import torch

from electra_kernels.data.text import Corpus, Document
from electra_kernels.data.words import split_words
from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing.task import Examples
from electra_kernels.evaluation.probing.words import encode_words, pick_sentences, word_baseline
from electra_kernels.evaluation.probing.writing import (
    capitalised,
    comma_follows,
    hide_capitals,
    hide_commas,
)

from .conftest import LENGTH


def answers(label, text):
    """The words that a model is shown, and word → answer where the label counts."""
    words = label(tuple(split_words(text)))
    return [word.text for word in words], {word.text: word.label for word in words if word.asked}


def test_all_words_but_the_first_have_a_label_for_capitals():
    shown, asked = answers(hide_capitals, '"The old HTTP server, by Twisted: see 2 ways.')
    assert shown == ['"', "the", "old", "http", "server", ",", "by", "twisted", ":", "see", "2", "ways", "."]
    assert asked == {
        "old": False, "http": True, "server": False, "by": False, "twisted": True, "see": False, "ways": False,
    }  # fmt: skip


def test_a_number_may_be_the_first_word():
    assert answers(hide_capitals, "2 Ways to go")[1] == {"Ways".lower(): True, "to": False, "go": False}


def test_words_before_words_have_a_label_for_commas_and_commas_are_not_shown():
    shown, asked = answers(hide_commas, "However, old (or new), 3, four,, and last.")
    assert shown == ["However", "old", "(", "or", "new", ")", "3", "four", "and", "last", "."]
    assert asked == {"However": True, "or": False, "four": True, "and": False}


@pytest.mark.parametrize("text", [", comma first", ",", "one"])
def test_a_sentence_may_have_no_label(text):
    assert answers(hide_commas, text)[1] in ({}, {"comma": False})


@pytest.mark.parametrize("make", [capitalised, comma_follows])
def test_the_input_shows_neither_capital_nor_comma_and_the_labels_are_those_of_the_text(
    make, corpus, tokenizer
):
    task = make(corpus, tokenizer, LENGTH, 0)
    sentences = {}
    for document in (*corpus.train, *corpus.held_out):
        for paragraph in document.paragraphs:
            for text in re.split(r"(?<=\.) ", paragraph):
                sentences[re.sub(r"\W", "", text.lower())] = re.findall(r"\w+,?", text)
    comma = tokenizer.token_to_id(",")
    for part in (task.train, task.test):
        assert not (part.input_ids == comma).any() or make is capitalised
        for ids, mask, asked, labels in zip(part.input_ids, part.attention_mask, part.asked, part.labels):
            row = ids[mask].tolist()[1:-1]
            text = tokenizer.decode(row)
            assert text == text.lower()
            if not text.endswith("."):
                continue  # cut: it cannot be looked up
            words = sentences[re.sub(r"\W", "", text)]
            if make is capitalised:
                expected = [word[0].isupper() for word in words[1:]]
            else:
                expected = [word.endswith(",") for word in words[:-1]]
            assert labels[asked].tolist() == expected
            assert all(not tokenizer.id_to_token(i).startswith("##") for i in ids[asked].tolist())


@pytest.mark.parametrize("make", [capitalised, comma_follows])
def test_no_test_sentence_is_in_the_training_part(make, corpus, tokenizer):
    shared = corpus.held_out[0].paragraphs[1]
    uppercased = shared.upper().replace(",", "")
    overlapping = Corpus([*corpus.train, Document("copy", (shared, uppercased))], corpus.held_out, 0.0)
    task = make(overlapping, tokenizer, LENGTH, 0)
    rows = [set(map(tuple, part.input_ids.tolist())) for part in (task.train, task.test)]
    assert len(rows[0]) == len(task.train.input_ids) == 420
    assert not rows[0] & rows[1]


def test_the_seed_picks_the_training_sentences_and_leaves_the_test_sentences(corpus, tokenizer, monkeypatch):
    monkeypatch.setattr("electra_kernels.evaluation.probing.writing.TRAIN_SENTENCES", 50)
    one, same, other = (capitalised(corpus, tokenizer, LENGTH, seed) for seed in (0, 0, 1))
    assert torch.equal(one.test.input_ids, other.test.input_ids)
    assert torch.equal(one.train.input_ids, same.train.input_ids)
    assert not torch.equal(one.train.input_ids, other.train.input_ids)
    assert len(one.train.input_ids) == 50


def test_sentences_are_picked_once_and_within_their_limits():
    text = "It is seen here once more. It is seen here, once more. Too short. The end is near, said one."
    document = Document("d", (text, "word " * 50))
    picked = pick_sentences([document], 10, 0)
    assert [" ".join(words) for words in picked] == [
        "It is seen here once more .",
        "The end is near , said one .",
    ]
    assert len(pick_sentences([document], 1, 0)) == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [(capitalised, "there is no capital in any of it"), (comma_follows, "There is no comma in any of it.")],
)
def test_a_text_with_a_single_answer_is_a_user_error(make, text, tokenizer):
    corpus = Corpus([Document("a", (text,))], [Document("b", (f"{text} {text}",))], 0.0)
    with pytest.raises(UserError, match="should have both yes and no"):
        make(corpus, tokenizer, LENGTH, 0)


def test_an_empty_text_is_a_user_error(tokenizer):
    with pytest.raises(UserError, match="0 of 0 answers"):
        capitalised(Corpus([], [], 0.0), tokenizer, LENGTH, 0)


def test_the_baseline_is_the_share_of_yes_of_the_word_in_training(tokenizer):
    def rows(*texts):
        return encode_words([hide_capitals(tuple(split_words(text))) for text in texts], tokenizer, LENGTH)

    train = rows("A Cat dog", "a Cat dog hill", "a Cat Hill")
    assert word_baseline(train, rows("A Cat dog Dog cat")) == pytest.approx(0.5)
    assert word_baseline(train, rows("A Cat hill dog")) == 1.0
    # A word that was never seen gets the share of all words (4 of 7): between hill (1 of 2) and cat (3 of 3).
    assert word_baseline(train, rows("A Cat River hill")) == 1.0
    assert word_baseline(train, rows("A cat River hill")) == 0.5


def test_a_label_is_on_the_first_piece_or_on_all_and_the_row_is_cut(tokenizer):
    sentence = hide_capitals(("the", "Catdogcat", *30 * ["catdog"]))
    rows = encode_words([sentence], tokenizer, LENGTH)
    pieces = len(tokenizer.encode("catdogcat", add_special_tokens=False).ids)
    assert pieces > 1
    every, first = rows.examples(first_pieces=False), rows.examples(first_pieces=True)
    assert int((every.asked & every.labels).sum()) == pieces
    assert int((first.asked & first.labels).sum()) == 1
    assert rows.input_ids.shape == (1, LENGTH)
    assert rows.attention_mask.all()


def test_values_come_in_the_order_of_the_answers():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 10, (150, 1), generator=generator)
    mask = torch.arange(10) < lengths
    labels = torch.rand(150, 10, generator=generator) < 0.5
    examples = Examples(mask.long() * (1 + labels), mask, mask & (torch.arange(10) > 0), labels)
    assert torch.equal(examples.values(lambda ids, mask: ids - 1).bool(), examples.answers())
