from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from electra_kernels.data import rows as rows_module
from electra_kernels.data.rows import Rows, batches, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import SpecialIds, train_vocabulary
from electra_kernels.errors import UserError

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega"]
TOKENIZER = train_vocabulary([Document("words", tuple(WORDS) * 3)], 120)
PAD, UNK, CLS, SEP, MASK = range(5)


def document(name, *word_counts):
    """A document whose paragraphs have ``word_counts`` words; every word is one token."""
    return Document(name, tuple(" ".join(WORDS[i % len(WORDS)] for i in range(n)) for n in word_counts))


def texts(rows):
    """The tokens of each row, without special tokens and padding."""
    return [[TOKENIZER.id_to_token(t) for t in row.tolist() if t > MASK] for row in rows.input_ids]


def blank_rows(count):
    return Rows(torch.zeros(count, 12, dtype=torch.int64), torch.arange(count), SpecialIds(*range(5)))


def test_a_row_is_cls_tokens_sep_padding():
    rows = encode_rows([document("a", 9)], TOKENIZER, 12)
    assert rows.input_ids.shape == (1, 12)
    assert rows.input_ids[0, [0, 10, 11]].tolist() == [CLS, SEP, PAD]
    assert texts(rows) == [(WORDS * 2)[:9]]


def test_a_long_document_continues_in_the_next_row_without_loss():
    rows = encode_rows([document("a", 30, 30)], TOKENIZER, 22)
    assert rows.input_ids.shape == (3, 22)
    assert [token for row in texts(rows) for token in row] == [WORDS[i % 6] for i in range(30)] * 2


def test_no_row_crosses_the_boundary_of_a_document():
    rows = encode_rows([document("a", 12), document("b", 9, 9), document("c", 10)], TOKENIZER, 22)
    assert rows.document.tolist() == [0, 1, 2]
    assert [len(text) for text in texts(rows)] == [12, 18, 10]


def test_a_row_of_fewer_than_8_tokens_is_left_out():
    rows = encode_rows([document("a", 7), document("b", 27), document("c", 28)], TOKENIZER, 22)
    assert rows.document.tolist() == [1, 2, 2]


def test_shorter_rows_are_kept_on_request():
    rows = encode_rows([document("a", 1), document("b", 0)], TOKENIZER, 22, shortest=1)
    assert texts(rows) == [["alpha"]]


def test_documents_stay_in_order_when_encoded_in_chunks(monkeypatch):
    documents = [document(str(i), *[8 + i] * (i % 4)) for i in range(20)]
    at_once = encode_rows(documents, TOKENIZER, 22)
    monkeypatch.setattr(rows_module, "_CHUNK_PARAGRAPHS", 5)
    in_chunks = encode_rows(documents, TOKENIZER, 22)
    assert torch.equal(at_once.input_ids, in_chunks.input_ids)
    assert torch.equal(at_once.document, in_chunks.document)


def test_masks_mark_tokens_and_maskable_tokens():
    rows = encode_rows([Document("a", ("alpha ☃ beta gamma delta kappa omega alpha",))], TOKENIZER, 14)
    ids = rows.input_ids
    assert UNK in ids[0]
    assert rows.attention_mask.dtype == rows.maskable.dtype == torch.bool
    assert torch.equal(rows.attention_mask, ids != PAD)
    assert torch.equal(rows.maskable, ids > MASK)


def test_no_documents_give_no_rows():
    rows = encode_rows([], TOKENIZER, 16)
    assert rows.input_ids.shape == rows.maskable.shape == (0, 16)
    assert unigram_counts(rows, 120).tolist() == [0] * 120


def test_a_length_without_room_for_text_is_refused():
    with pytest.raises(ValueError, match="length: 9 should be at least 10"):
        encode_rows([], TOKENIZER, 9)


def test_only_maskable_tokens_are_counted():
    rows = encode_rows([document("a", 12), document("b", 12)], TOKENIZER, 16)
    counts = unigram_counts(rows, 120)
    assert counts.shape == (120,)
    assert counts[TOKENIZER.token_to_id("gamma")] == 4
    assert counts.sum() == 24


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31))
def test_every_epoch_has_every_row_once_and_every_batch_is_full(count, batch_size, seed):
    drawn = list(islice(batches(blank_rows(count), batch_size, seed), 3 * count))
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in drawn)
    stream = torch.cat(drawn)
    for epoch in stream[: stream.numel() // count * count].view(-1, count):
        assert sorted(epoch.tolist()) == list(range(count))


def test_the_order_depends_on_the_seed_and_changes_between_epochs():
    def epochs(seed):
        return [batch.tolist() for batch in islice(batches(blank_rows(100), 100, seed), 3)]

    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    first, second, third = epochs(1)
    assert first != second != third != first


def test_the_global_random_state_is_neither_read_nor_changed():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = [batch.tolist() for batch in islice(batches(blank_rows(50), 7, 3), 20)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert [batch.tolist() for batch in islice(batches(blank_rows(50), 7, 3), 20)] == first


def test_batches_without_rows_are_refused_at_once():
    with pytest.raises(UserError, match="too little text"):
        batches(blank_rows(0), 4, 0)
    with pytest.raises(ValueError, match="batch_size: 0 should be at least 1"):
        batches(blank_rows(3), 0, 0)


def test_a_selection_is_spread_over_all_rows():
    rows = Rows(torch.arange(30).reshape(15, 2), torch.arange(15), SpecialIds(0, 1, 2, 3, 4))
    assert spread(rows, 10).document.tolist() == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14]
    assert spread(rows, 99).document.tolist() == list(range(15))
    assert torch.equal(spread(rows, 2).input_ids, rows.input_ids[[0, 14]])


def test_names_of_special_tokens_in_a_text_are_ordinary_text(tokenizer):
    document = Document("manual", ("the cat [PAD] saw [SEP] a small [MASK] dog near our house",))
    rows = encode_rows([document], tokenizer, 40)
    ids = rows.special_ids
    assert rows.input_ids[0, 0] == ids.cls
    inside = rows.input_ids[0, 1 : int(rows.attention_mask[0].sum()) - 1]
    assert not torch.isin(inside, torch.tensor([ids.pad, ids.cls, ids.sep, ids.mask])).any()
    assert tokenizer.decode(inside.tolist()).endswith("our house"), "text after [SEP] was lost"
