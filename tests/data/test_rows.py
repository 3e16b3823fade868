import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from token_stores import Store, store
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from electra_kernels.data import rows as rows_module
from electra_kernels.data.packing import Plan, plan_rows
from electra_kernels.data.rows import PackedRows, Rows, encode_rows, spread, unigram_counts
from electra_kernels.data.text import Document
from electra_kernels.data.vocabulary import SpecialIds, train_vocabulary

WORDS = ["alpha", "beta", "gamma", "delta", "kappa", "omega"]
TOKENIZER = train_vocabulary([Document("words", tuple(WORDS) * 3)], 120)
PAD, UNK, CLS, SEP, MASK = range(5)


def document(name, *word_counts):
    """A document whose paragraphs have ``word_counts`` words; every word is one token."""
    return Document(name, tuple(" ".join(WORDS[i % len(WORDS)] for i in range(n)) for n in word_counts))


def encode(text):
    return TOKENIZER.encode(text, add_special_tokens=False).ids


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


def all_rows(corpus, length, **options):
    rows = PackedRows(corpus, plan_rows(corpus, length, **{"seed": 0, **options}))
    return rows.batch(torch.arange(len(rows)), torch.arange(len(rows)))


def pieces(batch, row):
    """The ids of each segment of a row, with [CLS] and [SEP]."""
    segments = batch.segments[row]
    return [batch.input_ids[row][segments == n].tolist() for n in range(1, int(segments.max()) + 1)]


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 60), max_size=40).filter(any),
    st.integers(10, 40),
    st.sampled_from([np.uint16, np.uint32]),
)
def test_packed_rows_hold_every_token_once(tmp_path_factory, lengths, length, dtype):
    corpus = store(tmp_path_factory.mktemp("store"), lengths, dtype)
    batch = all_rows(corpus, length)
    assert batch.input_ids.dtype == batch.segments.dtype == torch.int64
    assert sorted(batch.input_ids[batch.maskable].tolist()) == corpus.tokens.tolist()
    for row in range(len(batch.input_ids)):
        found = pieces(batch, row)
        assert all(piece[0] == CLS and piece[-1] == SEP and min(piece[1:-1]) > MASK for piece in found)
        # In their order, without gaps, then padding.
        flat = [token for piece in found for token in piece]
        assert batch.input_ids[row].tolist() == flat + [PAD] * (length - len(flat))
        first = found[0][1] - 5
        assert corpus.offsets[batch.document[row]] <= first < corpus.offsets[batch.document[row] + 1]
    assert torch.equal(batch.attention_mask, batch.segments > 0)
    assert torch.equal(batch.maskable, batch.input_ids > MASK)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 30), max_size=3), max_size=8).filter(
        lambda d: max(map(sum, d), default=0) > 7
    ),
    st.integers(10, 40),
)
def test_unpacked_rows_of_a_cache_are_those_in_memory(tmp_path_factory, word_counts, length):
    documents = [document(str(i), *counts) for i, counts in enumerate(word_counts)]
    ids = [[token for paragraph in d.paragraphs for token in encode(paragraph)] for d in documents]
    offsets = np.cumsum([0, *map(len, ids)])
    tokens = np.array([token for document in ids for token in document], np.uint16)
    corpus = Store(tmp_path_factory.mktemp("store"), tokens, offsets)
    ours, expected = all_rows(corpus, length, pack=False), encode_rows(documents, TOKENIZER, length)
    numbers = torch.arange(len(expected))
    for mine, theirs in zip(ours, expected.batch(numbers, numbers)):
        assert mine is theirs is None or torch.equal(mine, theirs)


def test_a_batch_has_the_rows_that_were_asked_for(tmp_path):
    rows = PackedRows(corpus := store(tmp_path, [50, 0, 9, 30, 4]), plan_rows(corpus, 20, seed=0))
    whole = rows.batch(torch.arange(len(rows)), torch.arange(len(rows)))
    index, numbers = torch.tensor([3, 0, 3, 1]), torch.tensor([2**40, 7, 8, 9])
    batch = rows.batch(index, numbers)
    for name in ("input_ids", "attention_mask", "maskable", "document", "segments"):
        assert torch.equal(getattr(batch, name), getattr(whole, name)[index])
    assert torch.equal(batch.numbers, numbers)
    assert rows.batch(torch.empty(0, dtype=torch.int64), numbers[:0]).input_ids.shape == (0, 20)
    with pytest.raises(IndexError):
        rows.batch(torch.tensor([len(rows)]), numbers[:1])


def test_unknown_words_and_special_tokens_in_a_text_are_not_maskable(tmp_path):
    corpus = Store(tmp_path, np.array([7, UNK, MASK, 8, PAD, 9], np.uint16), np.array([0, 6]))
    batch = all_rows(corpus, 10)
    assert batch.input_ids.tolist() == [[CLS, 7, UNK, MASK, 8, PAD, 9, SEP, PAD, PAD]]
    assert batch.maskable.tolist() == [[False, True, False, False, True, False, True, False, False, False]]
    assert batch.attention_mask.sum() == 8


def test_special_ids_may_stand_anywhere_in_the_vocabulary(tmp_path):
    ids = SpecialIds(pad=70_001, unk=3, cls=70_002, sep=70_000, mask=12)
    corpus = Store(tmp_path, np.array([70_003, 3, 0, 12], np.uint32), np.array([0, 4]), ids)
    batch = all_rows(corpus, 10)
    assert batch.input_ids.tolist() == [[70_002, 70_003, 3, 0, 12, 70_000, *[70_001] * 4]]
    assert batch.maskable[0].nonzero()[:, 0].tolist() == [1, 3]


def test_tokens_beyond_4_gib_are_read(tmp_path):
    """A sparse file; its documents begin at 2**31 and 2**32 tokens and some more."""
    starts = [2**31 + 7, 2**32 + 9]
    tokens = np.memmap(tmp_path / "tokens.bin", np.uint16, "w+", shape=(starts[1] + 14,))
    for start in starts:
        tokens[start : start + 14] = np.arange(5, 19) + start % 10
    # One document up to each start would be 17 million rows, so the rows are planned by hand.
    offsets = np.array([0, *starts, len(tokens)])
    corpus = Store(tmp_path, tokens, offsets)
    plan = Plan(16, True, np.array(starts), np.array([14, 14], np.int32), np.arange(3), 28, 0, 0)
    batch = PackedRows(corpus, plan).batch(torch.tensor([1, 0]), torch.arange(2))
    assert batch.document.tolist() == [2, 1]
    expected = [np.arange(5, 19) + start % 10 for start in (starts[1], starts[0])]
    assert batch.input_ids[:, 1:-1].tolist() == [tokens.tolist() for tokens in expected]


def test_both_kinds_of_rows_are_sources(tmp_path):
    in_memory = encode_rows([document("a", 30)], TOKENIZER, 12)
    mapped = PackedRows(corpus := store(tmp_path, [30]), plan_rows(corpus, 12, seed=0))
    for source in (in_memory, mapped):
        batch = source.batch(torch.tensor([2, 1]), torch.tensor([5, 6]))
        assert len(source) == 3
        assert source.length == batch.input_ids.shape[1] == 12
        assert batch.numbers.tolist() == [5, 6]


def test_rows_have_the_tokens_that_a_cache_has():
    """A byte-level vocabulary marks the word at the beginning of a paragraph only after a blank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" " + " ".join(WORDS)] * 3, trainer)
    rows = encode_rows([Document("a", ("alpha beta", "alpha gamma"))], tokenizer, 12, shortest=1)
    tokens = [tokenizer.id_to_token(i) for i in rows.input_ids[0].tolist()]
    assert tokens == ["<s>", "Ġalpha", "Ġbeta", "Ġalpha", "Ġgamma", "</s>", *["<pad>"] * 6]
