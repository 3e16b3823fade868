"""Every word of a sentence of any length is in exactly one window, with context, and scores find their way back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_kernels.finetuning.example import Example, join_words, split_text
from electra_kernels.finetuning.pieces import (
    IGNORED,
    notes,
    per_text,
    per_word,
    text_windows,
    windows,
)
from tests.finetuning.tokenizers import ALL, byte_level, word_piece

TOKENIZERS = {name: build() for name, build in ALL.items()}
UNSEEN = "words of which the tokenizer makes no piece, labelled without the model: "
INVISIBLE = "\u0007"  # a control character, which BERT's normalizer removes


def example(words, tags=None):
    text, spaces = join_words(words)
    return Example(tuple(words), spaces, text, 1, tags and tuple(tags))


def content(window):
    return window.input_ids[1:-1]


def alone(tokenizer, example):
    """The only window of a sentence in a row with room for all of it."""
    (window,) = windows([example], tokenizer, 1 << 20)
    return window


words = st.text("abthe,.é漢\u0007", min_size=1, max_size=9)


@pytest.mark.parametrize("name", ALL)
@given(st.lists(st.lists(words, min_size=1, max_size=30), max_size=3), st.integers(3, 24))
@settings(max_examples=60, deadline=None)
def test_each_word_is_in_exactly_one_window(name, sentences, length):
    tokenizer = TOKENIZERS[name]
    examples = [example(sentence) for sentence in sentences]
    rows = windows(examples, tokenizer, length)
    owned = [(row.example, word) for row in rows for word in dict.fromkeys(row.words) if word >= 0]
    assert len(owned) == len(set(owned))
    whole = windows(examples, tokenizer, 1 << 20)
    visible = {(row.example, word) for row in whole for word in row.words if word >= 0}
    assert set(owned) == visible
    assert owned == sorted(owned)
    unseen = sum(map(len, sentences)) - len(visible)
    assert [line for line in notes(rows, examples) if "no piece" in line] == (
        [UNSEEN + str(unseen)] if unseen else []
    )
    for row in rows:
        assert len(row.input_ids) == len(row.words) == len(row.labels) <= length
        assert row.input_ids[0] == tokenizer.cls_token_id
        assert row.input_ids[-1] == tokenizer.sep_token_id


@pytest.mark.parametrize("name", ALL)
@given(st.lists(st.text("abthe", min_size=1, max_size=3), min_size=1, max_size=40), st.integers(18, 40))
@settings(max_examples=40, deadline=None)
def test_windows_are_parts_of_the_sentence_with_context_on_both_sides(name, sentence, length):
    """Nothing is cut where no word is longer than half a row."""
    tokenizer = TOKENIZERS[name]
    whole = alone(tokenizer, example(sentence))
    rows = windows([example(sentence)], tokenizer, length)
    for number, row in enumerate(rows):
        places = [i for i, word in enumerate(row.words) if word >= 0]
        first, last = (whole.words.index(row.words[i]) for i in (places[0], places[-1]))
        begin = first - places[0]
        assert whole.input_ids[begin + 1 : begin + len(row.input_ids) - 1] == content(row)
        context = (length - 2) // 4
        assert places[0] - 1 >= context or number == 0
        assert len(row.input_ids) - 2 - places[-1] >= context or number == len(rows) - 1
        assert places == list(range(places[0], places[-1] + 1))
        assert row.words[places[-1]] == whole.words[last]


def test_a_word_that_is_longer_than_a_row_has_its_first_pieces():
    sentence = example(["a", "b" * 50, "c"], ["X", "Y", "X"])
    rows = windows([sentence], TOKENIZERS["WordPiece"], 10, label_ids={"X": 0, "Y": 1})
    assert [word for row in rows for word in dict.fromkeys(row.words) if word >= 0] == [0, 1, 2]
    (long,) = [row for row in rows if 1 in row.words]
    assert long.words.count(1) == 4  # half of the 8 pieces between [CLS] and [SEP]
    assert notes(rows, [sentence]) == ["words longer than half a row, of which the first pieces are read: 1"]
    assert long.labels[long.words.index(1)] == 1


@pytest.mark.parametrize("build", [word_piece, lambda: byte_level(add_prefix_space=True), ALL["unigram"]])
def test_pieces_are_those_of_transformers(build):
    tokenizer = build()
    sentence = "The weather, they say, isn't changing in Łódź 漢字 .".split()
    expected = tokenizer([sentence], is_split_into_words=True)
    window = alone(tokenizer, example(sentence))
    assert window.input_ids == expected["input_ids"][0]
    assert window.words == [-1 if word is None else word for word in expected.word_ids(0)]


@pytest.mark.parametrize("text", ["a the thing", "the, a.the  a", "thé-a\n漢字 the"])
def test_a_byte_level_tokenizer_sees_the_blanks_of_the_text(text):
    """Without `add_prefix_space`, words alone would have the pieces of the beginning of a text."""
    tokenizer = byte_level()
    window = alone(tokenizer, split_text(text))
    assert window.input_ids == tokenizer(" ".join(text.split()))["input_ids"]


def test_the_first_piece_carries_the_label():
    tags = {"O": 0, "B-A": 1, "I-A": 2}
    sentence = example(["the", "abc", "ab"], ["O", "B-A", "I-A"])
    tokenizer = TOKENIZERS["WordPiece"]
    (row,) = windows([sentence], tokenizer, 20, label_ids=tags)
    assert row.labels == [IGNORED, 0, 1, IGNORED, IGNORED, 2, IGNORED, IGNORED]
    (row,) = windows([sentence], tokenizer, 20, label_ids=tags, label_all_pieces=True)
    assert row.labels == [IGNORED, 0, 1, 2, 2, 2, 2, IGNORED]
    (row,) = windows([sentence], tokenizer, 20)
    assert set(row.labels) == {IGNORED}


def test_each_word_has_its_label_in_one_window_alone():
    names = [f"t{i}" for i in range(60)]
    rows = windows(
        [example(["ab"] * 60, names)],
        TOKENIZERS["WordPiece"],
        16,
        label_ids={n: i for i, n in enumerate(names)},
    )
    assert [label for row in rows for label in row.labels if label != IGNORED] == list(range(60))


@pytest.mark.parametrize("specials", [True, False])
def test_scores_come_back_in_the_order_of_the_words(specials):
    tokenizer = word_piece()
    if not specials:  # a row of a single word, without special tokens around it, too
        tokenizer.backend_tokenizer.post_processor = None
        tokenizer.cls_token = tokenizer.sep_token = None
    sentences = [example(["abc"]), example(["ab", INVISIBLE, "c"] * 9), example([INVISIBLE])]
    rows = windows(sentences, tokenizer, 12)
    scores = [np.array([[word, token] for token, word in enumerate(row.words)] + [[7, 7]]) for row in rows]
    merged = per_word(rows, scores, sentences, np.array([-5, -5]))
    assert [each.shape for each in merged] == [(1, 2), (27, 2), (1, 2)]
    expected = [-5 if i % 3 == 1 else i for i in range(27)]
    assert merged[1][:, 0].tolist() == expected
    assert merged[0][0].tolist() == [0, int(specials)]  # the first piece
    assert merged[2].tolist() == [[-5, -5]]
    assert notes(rows, sentences) == [UNSEEN + "10"]


def test_special_tokens_in_the_text_are_words():
    tokenizer = TOKENIZERS["WordPiece"]
    window = alone(tokenizer, example(["[SEP]", "a"]))
    assert window.input_ids.count(tokenizer.sep_token_id) == 1


def test_a_tokenizer_that_cuts_and_pads_does_not_here_and_is_unchanged():
    tokenizer = word_piece()
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=5)
    before = tokenizer.backend_tokenizer.to_str()
    assert len(alone(tokenizer, example(["a"] * 30)).input_ids) == 32
    assert len(alone(tokenizer, example(["a"])).input_ids) == 3
    assert tokenizer.backend_tokenizer.to_str() == before


def test_a_row_without_room_is_refused():
    with pytest.raises(ValueError, match="length: 2 should be at least 3"):
        windows([example(["a"])], TOKENIZERS["WordPiece"], 2)


@pytest.mark.parametrize("name", ALL)
def test_texts_are_divided_and_averaged(name):
    tokenizer = TOKENIZERS[name]
    texts = ["the ab, the", "a " * 40, INVISIBLE]
    labelled = [Example((), (), text, 1, label="x") for text in texts]
    rows = text_windows(labelled, tokenizer, 16, label_ids={"x": 3})
    assert rows[0].input_ids == tokenizer(texts[0])["input_ids"]
    assert {row.example for row in rows} == {0, 1, 2}
    assert {row.label for row in rows} == {3}
    assert (
        sum(len(row.input_ids) - 2 for row in rows if row.example == 1)
        > len(tokenizer(texts[1])["input_ids"]) - 2
    )
    scores = [np.array([row.example, number]) for number, row in enumerate(rows)]
    merged = per_text(rows, scores, 3)
    assert merged[:, 0].tolist() == [0, 1, 2]
    numbers = [number for number, row in enumerate(rows) if row.example == 1]
    assert len(numbers) > 1
    assert merged[1, 1] == np.mean(numbers)
