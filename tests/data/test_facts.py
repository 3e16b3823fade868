"""Facts about a vocabulary: the pieces that begin a word, and those that end a sentence."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from electra_kernels.data.facts import text_facts

SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]


def facts(model, tokens):
    return text_facts(Tokenizer(model), torch.zeros(len(tokens), dtype=torch.int64))


def numbered(tokens):
    return {token: i for i, token in enumerate(tokens)}


def test_a_word_piece_without_the_prefix_begins_a_word():
    tokens = [*SPECIAL, "cat", "##s", "."]
    found = facts(models.WordPiece(numbered(tokens), unk_token="<unk>"), tokens)
    assert found.starts_word.tolist() == [True] * 6 + [False, True]
    assert found.sentence_ends.tolist() == [7]


def test_a_byte_level_piece_with_the_mark_begins_a_word():
    tokens = [*SPECIAL, "Ġcat", "s", ".", "Ġ?"]
    found = facts(models.BPE(numbered(tokens), []), tokens)
    assert found.starts_word.tolist() == [True] * 6 + [False, False, True]
    assert found.sentence_ends.tolist() == [7, 8]


def test_a_sentencepiece_with_the_mark_begins_a_word():
    tokens = [*SPECIAL, "▁cat", "s"]
    found = facts(models.Unigram([(token, -1.0) for token in tokens], unk_id=1), tokens)
    assert found.starts_word.tolist() == [True] * 6 + [False]


def test_without_marks_every_piece_is_a_word():
    tokens = [*SPECIAL, "cat", "s"]
    tokenizer = Tokenizer(models.BPE(numbered(tokens), [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert text_facts(tokenizer, torch.zeros(7, dtype=torch.int64)).starts_word.all()
