"""Tiny fast tokenizers of the three kinds: WordPiece, byte-level BPE and SentencePiece's unigram."""

import string

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    roles = {f"{name[1:-1].lower()}_token": name for name in SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def word_piece() -> PreTrainedTokenizerFast:
    letters = string.ascii_lowercase + string.digits + ".,'"
    pieces = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), "the", "##ing", "##ed"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _fast(tokenizer)


def byte_level(*, add_prefix_space: bool = False) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "a"), ("Ġ", "w"), ("i", "n"), ("in", "g")]
    pieces = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer)


def unigram() -> PreTrainedTokenizerFast:
    letters = string.ascii_letters + string.digits + ".,'"
    pieces = [(name, 0.0) for name in SPECIAL] + [("▁", -2.0), ("▁the", -2.5), ("ing", -2.5)]
    tokenizer = Tokenizer(models.Unigram([*pieces, *((letter, -4.0) for letter in letters)], unk_id=1))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _fast(tokenizer)


ALL = {"WordPiece": word_piece, "byte-level BPE": byte_level, "unigram": unigram}
