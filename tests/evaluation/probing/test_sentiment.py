import torch

from electra_kernels.evaluation.probing import sentiment as module
from electra_kernels.evaluation.probing.sentiment import (
    RatedSentence,
    bag_of_words,
    fetch_rated_sentences,
    majority,
    sentiment,
    split_clear,
)
from electra_kernels.evaluation.probing.task import Examples

from .conftest import LENGTH


def test_the_four_files_are_read_from_the_inner_archive(offline):
    sentences = fetch_rated_sentences()
    assert len(sentences) == 320
    assert len({sentence.source for sentence in sentences}) == 80 + 80 + 20 + 20
    assert all(-4 <= sentence.rating <= 4 for sentence in sentences)
    assert not any("&amp;" in sentence.text for sentence in sentences)


def test_only_clear_ratings_are_kept_and_a_source_is_on_one_side():
    sentences = [RatedSentence(f"review {n // 5}", (n % 9 - 4) / 4, f"sentence {n}") for n in range(1_000)]
    fitted, judged = split_clear([*sentences, RatedSentence("review 999", 4.0, "Sentence 8")])
    assert {abs(sentence.rating) for sentence in fitted + judged} == {0.5, 0.75, 1.0}
    assert {s.source for s in fitted}.isdisjoint(s.source for s in judged)
    assert 0.1 < len(judged) / len(fitted + judged) < 0.3
    kept = {s.text for s in fitted + judged}
    assert kept == {s.text for s in sentences if abs(s.rating) >= 0.5}


def test_labels_follow_the_ratings_and_no_sentence_is_on_both_sides(offline, corpus, tokenizer):
    task = sentiment(corpus, tokenizer, LENGTH, 0)
    rated = {
        tuple(tokenizer.encode(s.text, add_special_tokens=False).ids[: LENGTH - 2]): s.rating
        for s in fetch_rated_sentences()
    }
    rows = []
    for part in (task.train, task.test):
        inputs = [tuple(ids[mask].tolist()[1:-1]) for ids, mask in zip(part.input_ids, part.attention_mask)]
        assert [rated[row] > 0 for row in inputs] == part.labels.tolist()
        assert all(abs(rated[row]) >= 0.5 for row in inputs)
        rows.append(set(inputs))
    assert not rows[0] & rows[1]


def test_the_seed_picks_the_training_sentences(offline, corpus, tokenizer, monkeypatch):
    monkeypatch.setattr(module, "TRAIN_SENTENCES", 40)
    one, other = (sentiment(corpus, tokenizer, LENGTH, seed) for seed in (0, 1))
    assert len(one.train.input_ids) == len(other.train.input_ids) == 40
    assert not torch.equal(one.train.input_ids, other.train.input_ids)
    assert torch.equal(one.test.input_ids, other.test.input_ids)


def rows(*tokens_and_labels):
    input_ids = torch.tensor([tokens for tokens, _ in tokens_and_labels])
    labels = torch.tensor([label for _, label in tokens_and_labels])
    return Examples(input_ids, input_ids != 0, torch.ones_like(labels), labels)


def test_the_baselines_know_the_words():
    train = rows(*20 * [([5, 7, 0], True), ([5, 8, 8], True), ([6, 7, 0], False)])
    test = rows(([9, 8, 5], True), ([9, 6, 0], False), ([6, 0, 0], False), ([9, 6, 6], False))
    assert majority(train, test) == 0.25
    assert bag_of_words(train, test, 10) == 1.0
