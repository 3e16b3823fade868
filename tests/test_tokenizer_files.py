"""An exported model has its tokenizer beside it. Without one, transformers makes a tokenizer that knows no word."""

import copy

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, ElectraForPreTraining

from electra_kernels.data.vocabulary import load_vocabulary
from electra_kernels.models import Electra, ElectraConfig, EncoderConfig, save_transformers
from electra_kernels.training.model_folder import Checkpoint, load_checkpoint, save_checkpoint
from electra_kernels.training.recipe import RECIPES

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# [PAD] is not first, as in other projects' vocabularies.
WORDS = ["list", "the", *SPECIAL, "of", "string", "##s", "return", "[", "]", "mask"]


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return load_vocabulary(tmp_path / "vocab.txt")


def electra(vocab_size=14):
    encoder = EncoderConfig(
        vocab_size=vocab_size,
        hidden_size=16,
        embedding_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
    )
    return Electra(ElectraConfig(encoder, encoder, mask_token_id=6))


def check(directory, tokenizer):
    for name in ("discriminator", "generator"):
        loaded = AutoTokenizer.from_pretrained(directory / name)
        assert len(loaded) == len(WORDS)
        plain = "the list of strings returns unheardof"
        ids = tokenizer.encode(plain).ids
        assert ids == [4, 1, 0, 7, 8, 9, 10, 9, 3, 5]
        assert loaded(plain)["input_ids"] == loaded(plain.title())["input_ids"] == ids
        assert [
            loaded.pad_token,
            loaded.unk_token,
            loaded.cls_token,
            loaded.sep_token,
            loaded.mask_token,
        ] == SPECIAL
        assert [loaded.pad_token_id, loaded.mask_token_id] == [2, 6]
        assert loaded("[MASK] list")["input_ids"] == [4, 6, 0, 5]
        assert loaded.model_max_length == 20
        assert len(loaded(50 * "list ", truncation=True)["input_ids"]) == 20
        padded = loaded(["list", "list of the list"], padding=True, return_tensors="pt")
        assert padded["input_ids"][0].tolist() == [4, 0, 5, 2, 2, 2]
    model = ElectraForPreTraining.from_pretrained(directory / "discriminator")
    assert torch.isfinite(model(**padded).logits).all()


def test_a_checkpoint_is_exported_with_its_tokenizer(tokenizer, tmp_path):
    save_checkpoint(tmp_path / "model", Checkpoint(electra(), tokenizer, RECIPES["demo"]))
    loaded = load_checkpoint(tmp_path / "model")
    save_transformers(loaded.model, tmp_path / "exported")
    check(tmp_path / "exported", tokenizer)
    save_transformers(copy.deepcopy(loaded.model), tmp_path / "copied")
    check(tmp_path / "copied", tokenizer)


def test_a_given_tokenizer_is_written(tokenizer, tmp_path):
    save_transformers(electra(), tmp_path / "exported", tokenizer=tokenizer)
    check(tmp_path / "exported", tokenizer)


def test_without_a_tokenizer_none_is_written(tmp_path):
    save_transformers(electra(), tmp_path)
    assert not list(tmp_path.rglob("*token*"))


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="tokenizer has 14 entries, should have 13 at most"):
        save_transformers(electra(13), tmp_path / "exported", tokenizer=tokenizer)
    other = Tokenizer(models.WordPiece({"[UNK]": 0, "[PAD]": 1, "[CLS]": 2}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"tokenizer has no \[SEP\], \[MASK\], should have \[PAD\], "):
        save_transformers(electra(), tmp_path / "exported", tokenizer=other)
    assert not (tmp_path / "exported").exists()
