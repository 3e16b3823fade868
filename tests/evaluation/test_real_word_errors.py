import math
import zipfile
from collections import Counter

import pytest
import torch

from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import special_ids, train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.evaluation import real_word_errors as module
from electra_kernels.evaluation.real_word_errors import (
    ErrorItem,
    count_words,
    evaluate_real_word_errors,
    fetch_error_pairs,
    real_word_errors,
    word_scores,
)

TRAIN = Document("train", ("The form is sent from the shop, so we look for luck there and they hope.",) * 20)
PAIRS = [
    ("from", "form"),
    ("form", "from"),
    ("luck", "look"),
    ("look", "luck"),
    ("there", "their"),
    ("so", "xo"),
]
TOKENIZER = train_vocabulary([TRAIN], 200)
WORD_COUNTS = count_words([TRAIN])


def held_out(*paragraphs):
    return [Document("held out", paragraphs)]


def items_of(*paragraphs, counts=WORD_COUNTS, pairs=PAIRS, seed=0):
    return real_word_errors(held_out(*paragraphs), counts, pairs, seed)


def test_words_are_counted_in_lower_case_and_apart_from_punctuation():
    assert count_words(held_out("The cat, the dog_s.")) == Counter(
        {"the": 2, "cat": 1, ",": 1, "dog": 1, "_": 1, "s": 1, ".": 1}
    )


def test_a_sentence_gets_one_error_and_the_rest_stays():
    (item,) = items_of("The letter came from her old friend.")
    assert item == ErrorItem(["The", "letter", "came", "form", "her", "old", "friend", "."], 3, "from")


def test_each_sentence_of_a_paragraph_is_an_item_and_no_sentence_comes_twice():
    sentence = "She will look at the old house."
    items = items_of(f"{sentence} It came from the old house.", sentence)
    assert [(item.original, item.words[item.wrong_index]) for item in items] == [
        ("look", "luck"),
        ("from", "form"),
    ]


@pytest.mark.parametrize(
    ("reason", "counts", "pairs"),
    [
        ("the wrong word is not in the training text", {"from": 100}, PAIRS),
        ("the wrong word is too rare to be sure of it", {"from": 4, "form": 4}, PAIRS),
        ("the wrong word is far less frequent", {"from": 100, "form": 24}, PAIRS),
        ("the wrong word is far more frequent", {"from": 24, "form": 100}, PAIRS),
        ("the wrong word is never right", {"from": 100, "form": 100}, [("from", "form")]),
        ("the two are the same", {"from": 100}, [("from", "from")]),
        ("a word is a single letter", {"from": 100, "a": 100}, [("from", "a"), ("a", "from")]),
    ],
)
def test_an_unsuitable_pair_is_not_used(reason, counts, pairs):
    assert items_of("The letter came from her old friend.", counts=counts, pairs=pairs) == [], reason


def test_a_pair_within_the_frequency_factor_is_used():
    assert len(items_of("The letter came from her old friend.", counts={"from": 100, "form": 25})) == 1


def test_sentences_that_are_too_short_or_too_long_are_left_out():
    assert items_of("Comes from her.", "It is from " + "the " * 40 + "shop.") == []


def test_a_pair_is_used_at_most_five_times():
    items = items_of(*(f"Letter {i} came from her old friend." for i in range(50)))
    assert len(items) == 5


def test_the_least_used_error_is_taken():
    items = items_of(*(f"We look at letter {i} from her." for i in range(10)))
    assert Counter(item.original for item in items) == {"look": 5, "from": 5}


def test_the_set_is_fixed_by_the_seed():
    sentences = [f"We look at letter {i} from the shop, in this form." for i in range(8)]
    assert items_of(*sentences, seed=3) == items_of(*sentences, seed=3)
    assert any(items_of(*sentences, seed=0) != items_of(*sentences, seed=seed) for seed in range(1, 9))


def test_pairs_are_read_from_the_package_without_importing_it(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "package.whl", "w") as archive:
        archive.writestr("nlpaug/res/word/spelling/spelling_en.txt", "luck lock look\n\nalone\nfrom form\n")
    monkeypatch.setattr(module, "fetch_package", lambda *package, kind: tmp_path / "package.whl")
    assert fetch_error_pairs() == [("luck", "lock"), ("luck", "look"), ("from", "form")]


def token_ids_as_scores(input_ids, attention_mask):
    return input_ids.double()


def item(text, wrong_index=0):
    return ErrorItem(text.split(), wrong_index, "original")


def test_the_score_of_a_word_is_the_largest_of_its_pieces():
    items = [item("the luckfromshop there"), item("so"), item("we hope , they look for luck .")]
    for entry, scores in zip(items, word_scores(items, TOKENIZER, token_ids_as_scores, 64)):
        pieces = [TOKENIZER.encode(word, add_special_tokens=False).ids for word in entry.words]
        assert scores.tolist() == [max(ids) for ids in pieces]
    assert len(TOKENIZER.encode("luckfromshop", add_special_tokens=False).ids) > 1


def test_the_model_sees_the_sentence_as_it_sees_text():
    seen = []

    def score(input_ids, attention_mask):
        seen.append((input_ids, attention_mask))
        return torch.zeros(input_ids.shape)

    word_scores([item("They hope , so look ."), item("the form")], TOKENIZER, score, 64)
    ((input_ids, attention_mask),) = seen
    assert input_ids[0].tolist() == TOKENIZER.encode("They hope, so look.").ids
    assert attention_mask.dtype == torch.bool
    assert torch.equal(attention_mask, input_ids != special_ids(TOKENIZER).pad)


def test_scores_of_a_sentence_do_not_depend_on_its_neighbours():
    items = [item(" ".join(["the"] * (1 + i % 7))) for i in range(80)]
    together = word_scores(items, TOKENIZER, token_ids_as_scores, 64)
    alone = [word_scores([entry], TOKENIZER, token_ids_as_scores, 64)[0] for entry in items]
    assert all(torch.equal(a, b) for a, b in zip(together, alone))


def test_words_beyond_the_length_have_no_score():
    (scores,) = word_scores([item("the form is sent from the shop")], TOKENIZER, token_ids_as_scores, 6)
    assert scores.isnan().tolist() == [False] * 4 + [True] * 3


def test_a_score_of_minus_infinity_is_kept():
    (scores,) = word_scores(
        [item("the form")], TOKENIZER, lambda ids, mask: torch.full(ids.shape, -math.inf), 64
    )
    assert scores.tolist() == [-math.inf] * 2


def test_a_model_that_knows_the_answer_has_an_auc_of_one_and_the_baselines_depend_on_words_alone():
    items = [item("the form , they look luckfromshop", 5), item("luckfromshop is sent .", 0)]
    wrong = TOKENIZER.encode("luckfromshop", add_special_tokens=False).ids

    def knows(input_ids, attention_mask):
        return torch.isin(input_ids, torch.tensor(wrong)).float()

    counts = dict.fromkeys(["the", "form", "they", "look", "is", "sent"], 10)
    figures = evaluate_real_word_errors(items, TOKENIZER, knows, counts, 64)
    assert figures == {
        "auc": 1.0,
        "auc_word_frequency": 1.0,
        "auc_word_pieces": 1.0,
        "items": 2,
        "words": 8,
    }
    counts["luckfromshop"] = 1000
    figures = evaluate_real_word_errors(items, TOKENIZER, lambda ids, mask: -knows(ids, mask), counts, 64)
    assert figures["auc"] == figures["auc_word_frequency"] == 0.0


def test_an_item_whose_error_is_beyond_the_length_is_not_counted():
    items = [item("the form is sent from the shop", 6), item("they hope", 1)]
    figures = evaluate_real_word_errors(items, TOKENIZER, token_ids_as_scores, WORD_COUNTS, 6)
    assert (figures["items"], figures["words"]) == (1, 2)


def test_no_items_is_a_user_error():
    with pytest.raises(UserError, match="has room for a real-word error"):
        evaluate_real_word_errors([], TOKENIZER, token_ids_as_scores, WORD_COUNTS, 64)
