import pytest
import torch

from electra_kernels import mask_tokens
from electra_kernels.models.word_masking import mask_units

from .tiny import MASK, V, batch, model, uniforms

STARTS = torch.arange(V) % 2 == 1


@pytest.mark.parametrize(
    "changes, starts_word", [({}, None), ({"max_ngram": 2}, None), ({"whole_word_masking": True}, STARTS)]
)
def test_masking_is_of_tokens_words_or_spans_as_configured(changes, starts_word):
    electra, (ids, attention_mask, maskable) = model("uniform", starts_word=STARTS, **changes), batch()
    numbers = uniforms(ids)
    options = {"mask_token_id": MASK, "vocab_size": V, "uniforms": numbers["masking_uniforms"]}
    if changes:
        ngram = changes.get("max_ngram", 1)
        expected = mask_units(ids, maskable, starts_word, max_ngram=ngram, **options)
    else:
        expected = mask_tokens(ids, maskable, **options)
    for masked in (
        electra.mask(ids, maskable, uniforms=numbers["masking_uniforms"]),
        electra(ids, attention_mask, maskable, **numbers).masked,
    ):
        for one, other in zip(masked, expected):
            assert torch.equal(one, other)


def test_whole_word_masking_needs_to_know_which_tokens_start_a_word():
    electra, (ids, attention_mask, maskable) = model("uniform", whole_word_masking=True), batch()
    with pytest.raises(ValueError, match=r"starts_word is None with whole_word_masking=True, should be bool"):
        electra(ids, attention_mask, maskable)


def test_the_table_of_word_starts_moves_with_the_model_and_is_no_weight():
    electra = model("uniform", starts_word=STARTS)
    assert "starts_word" not in electra.state_dict()
    assert electra.to("meta").starts_word.device.type == "meta"
