"""A modern model computes what transformers' ModernBERT computes with the same weights, in both directions."""

import dataclasses

import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForTokenClassification, ModernBertConfig

from electra_kernels.models import (
    Electra,
    ElectraConfig,
    EncoderConfig,
    encoder_from_transformers,
    from_transformers,
    read_checkpoint,
    save_transformers,
)

V, MASK, LENGTH = 60, 4, 40
PLAIN = EncoderConfig(
    V, 32, 32, 4, 4, 48, family="modern", dropout=0.0, layer_norm_eps=1e-5, max_position_embeddings=64
)
CONFIGS = {
    "plain": PLAIN,
    "bias": dataclasses.replace(PLAIN, bias=True),
    # Rows are longer than the window of 9 tokens, and the two bases differ.
    "local": dataclasses.replace(PLAIN, global_every=3, local_window=8, rotary_base=160_000.0),
}


def model(name, tie):
    torch.manual_seed(0)
    config = CONFIGS[name]
    # layer_types tells the period only if a second layer is global, so the generator is narrower but not less deep.
    generator = None if tie == "all" else dataclasses.replace(config, intermediate_size=40)
    ours = Electra(ElectraConfig(config, generator, MASK, tie=tie)).eval()
    for parameter in ours.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return ours


def batch():
    ids = torch.randint(5, V, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 25:], mask[2, 7:] = 0, 0
    return ids, mask


def load(auto, path):
    theirs, info = auto.from_pretrained(path, output_loading_info=True)
    assert not info["missing_keys"]
    if auto is AutoModel:
        assert all(name.startswith(("head.", "classifier.", "decoder.")) for name in info["unexpected_keys"])
    else:
        assert not info["unexpected_keys"]
    return theirs.eval()


@torch.no_grad()
def assert_equal_outputs(ours, theirs):
    ids, mask = batch()
    for given, real in ((None, torch.ones_like(mask).bool()), (mask, mask.bool())):
        expected = theirs(ids, attention_mask=given)[0].squeeze(-1)
        assert (ours(ids, given) - expected)[real].abs().max() <= 1e-5


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_written_model_loads_in_transformers_and_back(name, tie, tmp_path):
    ours = model(name, tie)
    save_transformers(ours, tmp_path)
    detector, proposer = ours.discriminator, ours.generator
    assert_equal_outputs(detector.logits, load(AutoModelForTokenClassification, tmp_path / "discriminator"))
    assert_equal_outputs(proposer.logits, load(AutoModelForMaskedLM, tmp_path / "generator"))
    assert_equal_outputs(detector.encoder, load(AutoModel, tmp_path / "discriminator"))
    parts = [read_checkpoint(tmp_path / part) for part in ("discriminator", "generator")]
    back = from_transformers(*parts, mask_token_id=MASK)
    assert back.config == ours.config
    for key, tensor in ours.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


def test_a_bare_encoder_loads_in_transformers(tmp_path):
    encoder = model("local", "all").discriminator.encoder
    save_transformers(encoder, tmp_path)
    assert_equal_outputs(encoder, load(AutoModel, tmp_path / "encoder"))


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMaskedLM, AutoModelForTokenClassification])
def test_an_encoder_of_transformers_loads_here(auto, tmp_path):
    torch.manual_seed(0)
    theirs = auto.from_config(
        ModernBertConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            local_attention=8,
            **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
            **dict.fromkeys(("eos_token_id", "sep_token_id"), 1),
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    ours = encoder_from_transformers(read_checkpoint(tmp_path))
    assert (ours.config.global_every, ours.config.rotary_base) == (3, 160_000.0)
    assert_equal_outputs(ours, theirs.base_model)
