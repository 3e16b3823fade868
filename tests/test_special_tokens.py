"""Special tokens are found by their role, whatever they are called."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from electra_kernels.special_tokens import (
    find_roles,
    missing_roles,
    read_roles,
    special_tokens,
    writes_any_text,
)

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
ROLES = ["pad", "unk", "cls", "sep", "mask"]


def word_pieces(tokens, unknown):
    return Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token=unknown))


@pytest.mark.parametrize("names", [BERT, ROBERTA])
def test_the_usual_names_are_found(names):
    tokenizer = word_pieces([*names, "<S>", "<T>", "the"], names[1])
    assert special_tokens(tokenizer) == dict(zip(ROLES, names))
    assert missing_roles(tokenizer) == []


def test_names_from_the_files_beside_it_come_first(tmp_path):
    names = ["<blank>", "<what>", "<begin>", "<end>", "<hole>"]
    tokenizer = word_pieces([*BERT, *names], "[UNK]")
    settings = {f"{role}_token": name for role, name in zip(ROLES, names)}
    settings["mask_token"] = {"content": "<hole>", "lstrip": True}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "mask_token": None}))
    read_roles(tokenizer, tmp_path)
    assert special_tokens(tokenizer) == dict(zip(ROLES, ["[PAD]", *names[1:]]))


def test_begin_and_end_of_a_text_stand_for_cls_and_sep(tmp_path):
    tokenizer = word_pieces(["<pad>", "<unk>", "<begin>", "<end>", "<mask>"], "<unk>")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<begin>", "eos_token": "<end>"}')
    assert missing_roles(tokenizer) == ["[CLS]", "[SEP]"]
    read_roles(tokenizer, tmp_path)
    assert missing_roles(tokenizer) == []


def test_a_name_that_is_no_token_is_ignored():
    assert find_roles(BERT, {"mask": "<absent>"})["mask"] == "[MASK]"


def test_only_a_vocabulary_of_bytes_may_lack_an_unknown_token():
    tokens = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<mask>"])}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    assert not writes_any_text(tokenizer)
    assert missing_roles(tokenizer) == ["[UNK]"]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel()])
    assert writes_any_text(tokenizer)
    assert missing_roles(tokenizer) == []


def test_the_unknown_token_of_a_model_counts_if_the_vocabulary_has_it():
    vocabulary = {"[PAD]": 0, "oov": 1}
    assert special_tokens(Tokenizer(models.WordPiece(vocabulary, unk_token="oov")))["unk"] == "oov"
    assert "unk" not in special_tokens(Tokenizer(models.WordPiece(vocabulary, unk_token="absent")))
