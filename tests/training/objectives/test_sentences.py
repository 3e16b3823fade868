"""Sentence objectives: labels follow from what changed in a row, and nothing else in the row changes."""

import pytest
import torch

from electra_kernels.training.objectives import NextSentence, SentenceOrder

from .vocabulary import LENGTH, QUERY, SPECIAL, STOP, WORD, batch_of, texts_of


def test_whole_sentences_are_shuffled_and_the_label_says_whether_the_row_changed(config, text, mixed_rows):
    ids, attention_mask, labels, has_label = SentenceOrder(config, text).batch(mixed_rows, seed=0)
    assert torch.equal(attention_mask, mixed_rows.attention_mask)
    assert torch.equal(labels, (ids != mixed_rows.input_ids).any(-1))
    before, after = (list(map(_sentences, texts_of(part))) for part in (mixed_rows.input_ids, ids))
    several = torch.tensor([len(row) > 1 for row in before])
    assert 0.5 < several.float().mean() < 1
    assert torch.equal(has_label, several)
    assert not labels[~has_label].any()
    assert 0.3 < labels[has_label].float().mean() < 0.5
    # The unfinished end of a row may join the sentence after it. Then only the words can be compared.
    for old, new, joined in zip(before, after, texts_of(ids)):
        assert sorted(word for sentence in old for word in sentence) == sorted(joined)
        if all(sentence[0] not in (STOP, QUERY) and sentence[-1] in (STOP, QUERY) for sentence in old):
            assert sorted(old) == sorted(new)


def _sentences(words):
    parts = [[]]
    for word, following in zip(words, [*words[1:], None]):
        parts[-1].append(word)
        if word in (STOP, QUERY) and following not in (STOP, QUERY, None):
            parts.append([])
    return parts


def test_all_orders_are_equally_likely(config, text):
    words = [10, STOP, 11, STOP, STOP, 12, QUERY]
    ids, _, labels, _ = SentenceOrder(config, text).batch(batch_of([words] * 6_000), seed=0)
    orders = [tuple(token for token in row if token >= WORD) for row in texts_of(ids)]
    others = [(10, 12, 11), (11, 10, 12), (11, 12, 10), (12, 10, 11), (12, 11, 10)]
    expected = dict.fromkeys(others, 500)
    expected[10, 11, 12] = 3_500
    for order, count in expected.items():
        assert orders.count(order) == pytest.approx(count, abs=5 * count**0.5)
    assert labels.tolist() == [order != (10, 11, 12) for order in orders]


def test_the_second_part_is_the_rows_own_or_from_another_document(config, text, mixed_rows):
    ids, attention_mask, labels, has_label = NextSentence(config, text).batch(mixed_rows, seed=0)
    assert torch.equal(attention_mask, ids != SPECIAL.pad)
    assert torch.equal(ids[~has_label], mixed_rows.input_ids[~has_label])
    assert not labels[~has_label].any()
    assert 0.4 < labels[has_label].float().mean() < 0.6
    originals = texts_of(mixed_rows.input_ids)
    for row in has_label.nonzero().flatten().tolist():
        words = texts_of(ids[row : row + 1])[0]
        cut = words.index(SPECIAL.sep)
        first, second = words[:cut], words[cut + 1 :]
        assert first == originals[row][:cut]
        assert first[-1] in (STOP, QUERY)
        assert second[0] not in (STOP, QUERY)
        assert SPECIAL.sep not in second
        others = range(len(originals)) if labels[row] else [row]
        sources = {int(mixed_rows.document[n]) for n in others if _follows(originals[n], second)}
        assert any((document != int(mixed_rows.document[row])) == bool(labels[row]) for document in sources)


def _follows(words, second):
    """Whether ``second`` stands in ``words`` where a sentence begins."""
    starts = [n for n in range(1, len(words)) if words[n - 1] in (STOP, QUERY)]
    return any(words[n : n + len(second)] == second for n in starts)


def test_a_row_is_cut_at_the_boundary_nearest_to_its_middle(config, text):
    words = [10, STOP, *range(20, 26), STOP, STOP, 30, 31, 32, STOP, 40]
    ids, _, labels, has_label = NextSentence(config, text).batch(batch_of([words] * 8), seed=0)
    assert has_label.all()
    assert not labels.all()
    own = [SPECIAL.cls, *words[:10], SPECIAL.sep, *words[10:], SPECIAL.sep]
    assert all(row[: len(own)] == own for row in ids.tolist())


def test_the_length_does_not_give_the_label_away(config, text):
    """Full rows: if only foreign parts were cut, every row with its own second part would be full again."""
    torch.manual_seed(0)
    cuts = torch.randint(5, 30, (400,)).tolist()
    tokens = batch_of([[STOP if n == cut else 20 + n for n in range(LENGTH - 2)] for cut in cuts])
    _, attention_mask, labels, has_label = NextSentence(config, text).batch(tokens, seed=0)
    assert has_label.all()
    full = attention_mask.all(-1)
    shares = [full[labels].double().mean(), full[~labels].double().mean()]
    assert min(shares) > 0.3
    assert max(shares) < 0.7
    lengths = attention_mask.sum(-1).double()
    difference = lengths[labels].mean() - lengths[~labels].mean()
    assert difference.abs() < 4 * lengths.std() * (4 / len(lengths)) ** 0.5


def test_a_full_row_makes_room_for_the_second_separator(config, text):
    words = [STOP if n == 18 else 20 + n for n in range(LENGTH - 2)]
    ids, attention_mask, _, has_label = NextSentence(config, text).batch(batch_of([words] * 4), seed=0)
    assert has_label.all()
    assert attention_mask.all()
    assert (ids[:, -1] == SPECIAL.sep).all()
    assert ((ids == SPECIAL.sep).sum(-1) == 2).all()


@pytest.mark.parametrize(
    "texts, documents",
    [
        ([[10, STOP, 11, 12] * 3] * 4, [7, 7, 7, 7]),  # no other document
        ([[10, 11, 12, 13] * 3] * 4, [0, 1, 2, 3]),  # one sentence per row
        ([[*range(20, 20 + LENGTH - 4), STOP, 9]] * 4, [0, 1, 2, 3]),  # no room for a second part
    ],
)
def test_rows_without_a_second_part_have_no_label_and_no_loss(texts, documents, config, text):
    tokens = batch_of(texts, documents)
    objective = NextSentence(config, text)
    batch = objective.batch(tokens, seed=0)
    assert torch.equal(batch.input_ids, tokens.input_ids)
    assert not batch.has_label.any()
    loss, metrics = objective(batch, 1.0)
    assert loss.item() == 0
    assert metrics["labelled"].tolist() == [0, 4]
