"""Words as written, whatever the tokenizer does with case, accents, blanks and bytes."""

from itertools import pairwise

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from electra_kernels.data.vocabulary import special_ids
from electra_kernels.evaluation.word_scores import score_words
from electra_kernels.models import Discriminator, Encoder, EncoderConfig

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    "The Old CAT saw\n  a Café, cafe\u0301 \u732b\u304c\u3044\u308b\r\n\n"
    "near\u00a0OUR Σίσυφος \U0001f408 [MASK] house.\n"
)


def byte_level(prefix):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    return tokenizer, trainer


def sentence_piece():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="[UNK]")
    return tokenizer, trainer


def word_piece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL)


@pytest.fixture(
    params=[
        lambda: word_piece(True),
        lambda: word_piece(False),
        lambda: byte_level(False),
        lambda: byte_level(True),
        sentence_piece,
    ],
    ids=["uncased", "cased", "byte-level", "byte-level with prefix", "SentencePiece"],
)
def tokenizer(request):
    tokenizer, trainer = request.param()
    tokenizer.train_from_iterator(["the old cat saw a small dog near our house while rain fell"], trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


def discriminator(tokenizer):
    torch.manual_seed(0)
    config = EncoderConfig(tokenizer.get_vocab_size(), 32, 32, 2, 2, 64, initializer_range=0.5)
    return Discriminator(Encoder(config)).eval()


def test_the_words_are_those_of_the_text_with_their_offsets(tokenizer):
    words = score_words(discriminator(tokenizer), tokenizer, TEXT, 32)
    assert all(TEXT[word.start : word.end] == word.word for word in words)
    assert all(before.end <= after.start for before, after in pairwise(words))
    assert all(0 <= word.probability <= 1 for word in words)
    assert "".join(word.word for word in words) == "".join(TEXT.split())
    assert [word.word for word in words[:4]] == ["The", "Old", "CAT", "saw"]


@pytest.mark.parametrize("length", [10, 64])
def test_a_word_has_the_highest_probability_of_its_pieces(length):
    tokenizer, trainer = word_piece(True)
    tokenizer.train_from_iterator(["the cat"], trainer)
    text, model = "The tac at the CAT " * 4, discriminator(tokenizer)
    ids, encoding = special_ids(tokenizer), tokenizer.encode(text)
    expected: dict[int, float] = {}
    for begin in range(0, len(encoding.ids), length - 2):
        part = encoding.ids[begin : begin + length - 2]
        logits = model.logits(torch.tensor([[ids.cls, *part, ids.sep]]))[0, 1:-1]
        for word, score in zip(encoding.word_ids[begin:], logits.sigmoid().tolist()):
            expected[word] = max(expected.get(word, 0.0), score)
    assert len(encoding.ids) > len(expected)
    words = score_words(model, tokenizer, text, length)
    assert [word.probability for word in words] == pytest.approx(list(expected.values()), abs=1e-5)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_a_text_without_words_has_none(text, tokenizer):
    assert score_words(discriminator(tokenizer), tokenizer, text, 16) == []
