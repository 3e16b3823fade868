import pytest
import torch

from electra_kernels.data.text import Corpus, Document
from electra_kernels.errors import UserError
from electra_kernels.evaluation.probing import real_word_errors as module
from electra_kernels.evaluation.probing.real_word_errors import error_detection

from .conftest import CONFUSED, LENGTH

pytestmark = pytest.mark.usefixtures("offline")


def wrong_words(examples, tokenizer):
    return {tokenizer.decode(row[asked & labels].tolist()) for row, asked, labels in zip(
        examples.input_ids, examples.asked, examples.labels
    )}  # fmt: skip


def test_a_row_has_one_wrong_word_and_all_its_pieces_are_labelled(corpus, tokenizer):
    task = error_detection(corpus, tokenizer, 64, 0)
    for part in (task.train, task.test):
        assert wrong_words(part, tokenizer) <= set(CONFUSED)
        wrong = (part.asked & part.labels).long()
        assert (wrong.diff(prepend=torch.zeros(len(wrong), 1).long()) > 0).sum(-1).tolist() == [1] * len(
            wrong
        )


def test_no_wrong_word_of_the_test_part_was_wrong_in_training(corpus, tokenizer):
    task = error_detection(corpus, tokenizer, 64, 0)
    assert not wrong_words(task.train, tokenizer) & wrong_words(task.test, tokenizer)
    assert set(task.baselines) == {"word alone", "word frequency", "word pieces"}


def test_no_test_sentence_is_in_the_training_part(corpus, tokenizer):
    overlapping = Corpus([*corpus.held_out, *corpus.train], corpus.held_out, 0.0)
    items = {}

    def watched(documents, *rest):
        found = items[len(items)] = errors_of(documents, *rest)
        return found

    errors_of = module.real_word_errors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "real_word_errors", watched)
        task = error_detection(overlapping, tokenizer, 64, 0)
    judged = {module._original(item) for item in items[0] if module._is_judged(item)}
    training = [module._original(item) for item in items[1] if not module._is_judged(item)]
    shared = sum(sentence in judged for sentence in training)
    assert shared > 0
    assert len(task.train.input_ids) == len(training) - shared


def test_a_word_is_judged_by_its_largest_piece(corpus, tokenizer):
    task = error_detection(corpus, tokenizer, LENGTH, 0)
    rows = {
        tuple(ids[mask].tolist()): labels[mask]
        for ids, mask, labels in zip(task.test.input_ids, task.test.attention_mask, task.test.labels)
    }

    def last_piece_only(input_ids, attention_mask):
        scores = torch.zeros(input_ids.shape)
        for row, ids, mask in zip(scores, input_ids, attention_mask):
            row[rows[tuple(ids[mask].tolist())].nonzero()[-1:]] = 1.0
        return scores

    assert task.measure(last_piece_only) == 1.0


def test_a_text_without_room_for_an_error_is_a_user_error(tokenizer):
    text = Document("d", ("No word of this one is ever mixed up with another.",))
    with pytest.raises(UserError, match="real_word_errors: the training text has 0 of 0"):
        error_detection(Corpus([text], [text], 0.0), tokenizer, LENGTH, 0)
