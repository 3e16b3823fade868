"""What each objective does to a row: labels follow from the corruption, nothing else is touched."""

import pytest
import torch

from electra_kernels.data.vocabulary import SpecialIds
from electra_kernels.models import ElectraConfig, EncoderConfig
from electra_kernels.training.objectives import (
    OBJECTIVES,
    NextSentence,
    SentenceOrder,
    ShuffledWords,
    TextFacts,
    TokenBatch,
    UniformGenerator,
    UnigramGenerator,
)

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
STOP, QUERY, CONTINUATION, WORD = 5, 6, 7, 8  # from WORD on, every id is a word
VOCABULARY, ROWS, LENGTH = 100, 400, 40


@pytest.fixture
def config():
    encoder = EncoderConfig(
        VOCABULARY, 16, 16, 1, 2, 32, position_embedding="rotary", norm="pre", dropout=0.0
    )
    return ElectraConfig(encoder, None, SPECIAL.mask, tie="all")


@pytest.fixture
def text():
    counts = torch.arange(VOCABULARY).masked_fill(torch.arange(VOCABULARY) <= SPECIAL.mask, 0)
    return TextFacts(counts, SPECIAL, torch.tensor([STOP, QUERY]), torch.tensor([CONTINUATION]))


def batch_of(texts, documents=None):
    rows = [[SPECIAL.cls, *words, SPECIAL.sep] for words in texts]
    ids = torch.tensor([row + [SPECIAL.pad] * (LENGTH - len(row)) for row in rows])
    document = torch.arange(len(rows)) if documents is None else torch.tensor(documents)
    special = torch.tensor([SPECIAL.pad, SPECIAL.unk, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask])
    return TokenBatch(ids, ids != SPECIAL.pad, ~torch.isin(ids, special), document)


def texts_of(ids):
    """The words of each row between its first and last special token."""
    return [row[1 : max(i for i, token in enumerate(row) if token == SPECIAL.sep)] for row in ids.tolist()]


@pytest.fixture
def tokens():
    """Rows of 10 to 38 tokens: words, now and then a stop, a continuation or an unknown word."""
    generator = torch.Generator().manual_seed(0)
    texts = []
    for _ in range(ROWS):
        words = torch.randint(
            WORD, VOCABULARY, (int(torch.randint(10, LENGTH - 1, (), generator=generator)),)
        )
        chance = torch.rand(len(words), generator=generator)
        for low, token in ((0.0, STOP), (0.1, QUERY), (0.13, CONTINUATION), (0.25, SPECIAL.unk)):
            words[(chance >= low) & (chance < low + 0.05)] = token
        texts.append(words.tolist())
    return batch_of(texts, [n // 4 for n in range(ROWS)])


@pytest.mark.parametrize("name", ["corrupted_tokens", "shuffled_words"])
def test_labels_of_tokens_say_what_changed(name, config, text, tokens):
    torch.manual_seed(0)
    replaced, attention_mask = OBJECTIVES[name](config, text).batch(tokens)
    assert torch.equal(replaced.is_replaced, replaced.input_ids != tokens.input_ids)
    assert torch.equal(attention_mask, tokens.attention_mask)
    assert replaced.is_replaced.any()
    assert not replaced.is_replaced[~tokens.maskable].any()


def test_shuffled_words_are_those_of_the_row_in_the_stated_share(config, text, tokens):
    torch.manual_seed(0)
    replaced, _ = ShuffledWords(config, text).batch(tokens)
    assert torch.equal(replaced.input_ids.sort(-1).values, tokens.input_ids.sort(-1).values)
    continues = tokens.input_ids == CONTINUATION
    stays = continues | continues.roll(-1, 1)
    assert stays[tokens.maskable].any()
    assert not replaced.is_replaced[stays].any()
    movable = (tokens.maskable & ~stays).sum(-1)
    picked = (0.15 * movable + 0.5).floor()
    moved = replaced.is_replaced.sum(-1)
    assert (moved <= picked).all()
    assert (moved == picked)[picked > 1].float().mean() > 0.8  # else the same word came to a place
    assert not moved[picked == 1].any()


def test_words_that_are_all_the_same_are_not_moved(config, text):
    replaced, _ = ShuffledWords(config, text).batch(batch_of([[9] * 30] * 4))
    assert not replaced.is_replaced.any()


def test_every_word_comes_to_every_place(config, text):
    torch.manual_seed(0)
    words = list(range(20, 34))  # 14, of which 2 change places
    replaced, _ = ShuffledWords(config, text).batch(batch_of([words] * 3_000))
    assert (replaced.is_replaced.sum(-1) == 2).all()
    seen = torch.stack([(replaced.input_ids[:, 1:15] == word).sum(0) for word in words])
    away = seen[~torch.eye(14, dtype=torch.bool)].double()
    assert away.mean() == pytest.approx(3_000 * 2 / 14 / 13)
    assert (away - away.mean()).abs().max() < 5 * away.mean().sqrt()


def test_sentences_are_shuffled_whole_and_the_label_says_if_anything_moved(config, text, tokens):
    torch.manual_seed(0)
    ids, attention_mask, labels, has_label = SentenceOrder(config, text).batch(tokens)
    assert torch.equal(attention_mask, tokens.attention_mask)
    assert torch.equal(labels, (ids != tokens.input_ids).any(-1))
    before, after = (list(map(_sentences, texts_of(part))) for part in (tokens.input_ids, ids))
    several = torch.tensor([len(row) > 1 for row in before])
    assert 0.5 < several.float().mean() < 1
    assert torch.equal(has_label, several)
    assert not labels[~has_label].any()
    assert 0.3 < labels[has_label].float().mean() < 0.5
    # An end that comes first in the new order joins the one before it: then the pieces alone can be compared.
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


def test_every_order_is_as_likely(config, text):
    torch.manual_seed(0)
    words = [10, STOP, 11, STOP, STOP, 12, QUERY]
    ids, _, labels, _ = SentenceOrder(config, text).batch(batch_of([words] * 6_000))
    orders = [tuple(token for token in row if token >= WORD) for row in texts_of(ids)]
    others = [(10, 12, 11), (11, 10, 12), (11, 12, 10), (12, 10, 11), (12, 11, 10)]
    expected = dict.fromkeys(others, 500)
    expected[10, 11, 12] = 3_500
    for order, count in expected.items():
        assert orders.count(order) == pytest.approx(count, abs=5 * count**0.5)
    assert labels.tolist() == [order != (10, 11, 12) for order in orders]


def test_the_second_part_is_the_rows_own_or_of_another_document(config, text, tokens):
    torch.manual_seed(0)
    ids, attention_mask, labels, has_label = NextSentence(config, text).batch(tokens)
    assert torch.equal(attention_mask, ids != SPECIAL.pad)
    assert torch.equal(ids[~has_label], tokens.input_ids[~has_label])
    assert not labels[~has_label].any()
    assert 0.4 < labels[has_label].float().mean() < 0.6
    originals = texts_of(tokens.input_ids)
    for row in has_label.nonzero().flatten().tolist():
        words = texts_of(ids[row : row + 1])[0]
        cut = words.index(SPECIAL.sep)
        first, second = words[:cut], words[cut + 1 :]
        assert first == originals[row][:cut]
        assert first[-1] in (STOP, QUERY)
        assert second[0] not in (STOP, QUERY)
        assert SPECIAL.sep not in second
        others = range(ROWS) if labels[row] else [row]
        sources = {int(tokens.document[n]) for n in others if _follows(originals[n], second)}
        assert any((document != int(tokens.document[row])) == bool(labels[row]) for document in sources)


def _follows(words, second):
    """Whether ``second`` stands in ``words`` where a sentence begins."""
    starts = [n for n in range(1, len(words)) if words[n - 1] in (STOP, QUERY)]
    return any(words[n : n + len(second)] == second for n in starts)


def test_a_row_is_cut_next_to_its_middle(config, text):
    words = [10, STOP, *range(20, 26), STOP, STOP, 30, 31, 32, STOP, 40]
    torch.manual_seed(0)
    ids, _, labels, has_label = NextSentence(config, text).batch(batch_of([words] * 8))
    assert has_label.all()
    assert not labels.all()
    own = [SPECIAL.cls, *words[:10], SPECIAL.sep, *words[10:], SPECIAL.sep]
    assert all(row[: len(own)] == own for row in ids.tolist())


def test_no_length_tells_the_label(config, text):
    """Full rows: only a second part that is a row's own could fill it again, were it not cut like a foreign one."""
    torch.manual_seed(0)
    cuts = torch.randint(5, 30, (400,)).tolist()
    tokens = batch_of([[STOP if n == cut else 20 + n for n in range(LENGTH - 2)] for cut in cuts])
    _, attention_mask, labels, has_label = NextSentence(config, text).batch(tokens)
    assert has_label.all()
    full = attention_mask.all(-1)
    shares = [full[labels].double().mean(), full[~labels].double().mean()]
    assert min(shares) > 0.3
    assert max(shares) < 0.7
    lengths = attention_mask.sum(-1).double()
    difference = lengths[labels].mean() - lengths[~labels].mean()
    assert difference.abs() < 4 * lengths.std() * (4 / len(lengths)) ** 0.5


def test_a_full_row_has_room_for_the_second_separator(config, text):
    words = [STOP if n == 18 else 20 + n for n in range(LENGTH - 2)]
    ids, attention_mask, _, has_label = NextSentence(config, text).batch(batch_of([words] * 4))
    assert has_label.all()
    assert attention_mask.all()
    assert (ids[:, -1] == SPECIAL.sep).all()
    assert ((ids == SPECIAL.sep).sum(-1) == 2).all()


@pytest.mark.parametrize(
    "texts, documents",
    [
        ([[10, STOP, 11, 12] * 3] * 4, [7, 7, 7, 7]),  # no other document
        ([[10, 11, 12, 13] * 3] * 4, [0, 1, 2, 3]),  # one sentence a row
        ([[*range(20, 20 + LENGTH - 4), STOP, 9]] * 4, [0, 1, 2, 3]),  # no room for what follows
    ],
)
def test_rows_without_a_second_part_have_no_label_and_no_loss(texts, documents, config, text):
    tokens = batch_of(texts, documents)
    objective = NextSentence(config, text)
    batch = objective.batch(tokens)
    assert torch.equal(batch.input_ids, tokens.input_ids)
    assert not batch.has_label.any()
    loss, metrics = objective(batch, 1.0)
    assert loss.item() == metrics["labelled"].item() == 0


def test_fixed_generators_draw_by_their_distribution_and_never_a_special_token(config, text):
    uniform, unigram = (
        kind(config, text).model.unigram.shares() for kind in (UniformGenerator, UnigramGenerator)
    )
    assert uniform[SPECIAL.mask + 1 :].allclose(torch.tensor(1 / (VOCABULARY - 5)).double())
    assert unigram.allclose(text.counts.double() / text.counts.sum())
    assert not uniform[: SPECIAL.mask + 1].any()
