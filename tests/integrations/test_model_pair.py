"""The pair as one model of transformers: buffers, embeddings, resizing, adapters, saved folders."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoTokenizer, ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

from electra_kernels.integrations import ReplacedTokenDetection

from . import gradients
from .tiny import ARCHITECTURES, MASK, SIZE, SPECIAL, V, batch, model, pair, uniforms

EMBEDDINGS = ["shared", "gradient_disentangled", "separate"]
TIES = [
    *((architecture, "shared") for architecture in ARCHITECTURES),
    *(("Electra", embeddings) for embeddings in EMBEDDINGS[1:]),
    *(("Bert", embeddings) for embeddings in EMBEDDINGS[1:]),
]


def loss(ours, **options):
    return ours(*batch(), **uniforms(), **options).loss


def word_weight(part):
    return part.get_input_embeddings().weight


class TestBuffers:
    def test_buffers_missing_from_a_checkpoint_come_from_the_configuration(self, tmp_path):
        ours = model(mask_probability=0.9)
        ours.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        assert torch.equal(state.pop("special_token_ids"), torch.tensor(SPECIAL))
        del state["rows_seen"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = ReplacedTokenDetection.from_pretrained(tmp_path)
        assert loaded.special_token_ids.tolist() == SPECIAL
        assert loaded.rows_seen.tolist() == [0, 0]
        ids, attention_mask = batch()
        replaced = loaded(ids, attention_mask).is_replaced
        assert replaced.any()
        assert not replaced[ids < 5].any()

    def test_a_buffer_in_the_checkpoint_is_loaded(self, tmp_path):
        ours = model().train()
        ours(*batch())
        ours.save_pretrained(tmp_path)
        state = load_file(tmp_path / "model.safetensors")
        del state["special_token_ids"]
        save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
        loaded = ReplacedTokenDetection.from_pretrained(tmp_path)
        assert loaded.rows_seen.tolist() == [4, 0]
        assert loaded.special_token_ids.tolist() == SPECIAL

    def test_buffers_are_initialised_after_the_meta_device(self):
        config = model().config
        with torch.device("meta"):
            ours = ReplacedTokenDetection(copy.deepcopy(config))
        ours.to_empty(device="cpu")
        ours.rows_seen.fill_(9), ours.special_token_ids.fill_(9)
        ours.init_weights()
        assert ours.special_token_ids.tolist() == SPECIAL
        assert ours.rows_seen.tolist() == [0, 0]


class TestEmbeddings:
    def test_the_pair_has_the_embeddings_of_the_generator(self):
        ours = model()
        assert ours.get_input_embeddings() is ours.generator.get_input_embeddings()
        assert ours.get_output_embeddings() is ours.generator.generator_lm_head
        assert ours.config.vocab_size == V

    @pytest.mark.parametrize("embeddings", EMBEDDINGS)
    def test_a_new_embedding_is_used_wherever_the_old_one_was(self, embeddings):
        ours = model(embeddings=embeddings)
        before, kept = loss(ours), word_weight(ours.discriminator)
        new = nn.Embedding(V, 16)
        ours.set_input_embeddings(new)
        assert ours.get_input_embeddings() is new
        assert ours.get_output_embeddings().weight is new.weight
        assert word_weight(ours.discriminator) is (new.weight if embeddings == "shared" else kept)
        after = loss(ours)
        assert after != before
        after.backward()
        assert new.weight.grad.any()

    def test_a_replaced_difference_is_added_to_the_generators_embedding(self):
        ours = model(embeddings="gradient_disentangled")
        expected = loss(ours)
        zeros = nn.Embedding(V, 16)
        zeros.weight.data.zero_()
        ours.discriminator.set_input_embeddings(zeros)
        assert loss(ours) == expected
        assert loss(ours) == expected  # added once, not once more at each call

    def test_output_embeddings_can_be_replaced(self):
        ours = model(embeddings="separate")
        before = loss(ours)
        ours.set_output_embeddings(nn.Linear(16, V))
        assert ours.get_output_embeddings() is ours.generator.generator_lm_head
        assert loss(ours) != before


class TestResizing:
    @pytest.mark.parametrize("architecture, embeddings", TIES)
    @pytest.mark.parametrize("size", [V + 7, V - 9])
    def test_both_models_are_resized_and_stay_tied(self, architecture, embeddings, size, tmp_path):
        ours = model(architecture, embeddings=embeddings)
        kept = [
            word_weight(part).detach()[: min(V, size)].clone()
            for part in (ours.generator, ours.discriminator)
        ]
        assert ours.resize_token_embeddings(size) is ours.get_input_embeddings()
        for part, old in zip((ours.generator, ours.discriminator), kept):
            assert part.config.vocab_size == ours.config.vocab_size == len(word_weight(part)) == size
            assert torch.equal(word_weight(part)[: len(old)], old)
        output = ours.get_output_embeddings()
        assert output.weight is word_weight(ours.generator)
        assert output.bias.shape == (size,)
        assert (word_weight(ours.discriminator) is word_weight(ours.generator)) == (embeddings == "shared")
        ids, attention_mask = batch()
        ids[:, 3] = size - 1
        ids = ids.clamp(max=size - 1)
        expected = ours(ids, attention_mask, **uniforms()).loss
        expected.backward()
        assert output.bias.grad.shape == (size,)
        ours.save_pretrained(tmp_path)
        loaded = ReplacedTokenDetection.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded(ids, attention_mask, **uniforms()).loss, expected)

    @pytest.mark.parametrize("mean_resizing", [True, False])
    def test_the_difference_is_0_for_new_tokens(self, mean_resizing):
        ours = model(embeddings="gradient_disentangled")
        word_weight(ours.discriminator).data.normal_()
        ours.resize_token_embeddings(V + 7, mean_resizing=mean_resizing)
        assert word_weight(ours.discriminator)[:V].any(-1).all()
        assert not word_weight(ours.discriminator)[V:].any()
        assert word_weight(ours.generator)[V:].any(-1).all()

    def test_the_size_can_be_padded_to_a_multiple(self):
        ours = model()
        ours.resize_token_embeddings(pad_to_multiple_of=64)
        assert ours.config.vocab_size == len(word_weight(ours.discriminator)) == 128
        assert ours.resize_token_embeddings() is ours.get_input_embeddings()


class AdaptedLinear(nn.Module):
    """A Linear with a low-rank adapter, which adapter libraries put in place of the Linear."""

    def __init__(self, linear):
        super().__init__()
        self.base_layer = linear
        self.down = nn.Linear(linear.in_features, 2, bias=False)
        self.up = nn.Linear(2, linear.out_features, bias=False)

    def forward(self, hidden):
        return self.base_layer(hidden) + self.up(self.down(hidden))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_adapters_in_both_models_are_used_and_trained(architecture):
    ours = model(architecture)
    before = loss(ours)
    ours.requires_grad_(False)
    adapted, output = [], ours.get_output_embeddings()
    for part in (ours.generator, ours.discriminator):
        linear = [
            name
            for name, module in part.named_modules()
            if isinstance(module, nn.Linear) and module is not output
        ]
        in_base = [name.startswith(f"{part.base_model_prefix}.") for name in linear]
        assert not all(in_base)  # the head is adapted too
        for above, _, last in (name.rpartition(".") for name in linear):
            parent = part.get_submodule(above)
            adapted.append(AdaptedLinear(getattr(parent, last)))
            setattr(parent, last, adapted[-1])
    # Adapter libraries pass every argument that models for their task may have.
    arguments = dict.fromkeys(("inputs_embeds", "output_attentions", "output_hidden_states", "return_dict"))
    after = loss(ours, **arguments)
    assert after != before
    after.backward()
    assert all(module.down.weight.grad.any() and module.up.weight.grad.any() for module in adapted)
    assert ours.config.to_dict()["model_type"] == "replaced_token_detection"


class TestFolder:
    def test_two_models_built_from_one_configuration_object_can_be_saved_and_loaded(self, tmp_path):
        config = ElectraConfig(**SIZE, embedding_size=16)
        ours = ReplacedTokenDetection(
            ElectraForMaskedLM(config), ElectraForPreTraining(config), mask_token_id=MASK
        ).eval()
        ours.set_attn_implementation({"generator": "eager"})
        modules = ours.discriminator.modules()
        assert {module.config._attn_implementation for module in modules if hasattr(module, "config")} == {
            "sdpa"
        }
        ours.save_pretrained(tmp_path)
        loaded = ReplacedTokenDetection.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loss(loaded), loss(ours))

    def test_the_tokenizer_is_saved_beside_every_model(self, tmp_path):
        tokenizer = gradients.tokenizer()
        tokenizer.backend_tokenizer.pre_tokenizer = Whitespace()
        ours = ReplacedTokenDetection(*pair("Electra"), tokenizer=tokenizer)
        ours.save_pretrained(tmp_path / "first")
        ReplacedTokenDetection.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
        text = "w5 w17 w80 elsewhere"
        for name in ("first", "second"):
            for folder in ("", "generator", "discriminator"):
                loaded = AutoTokenizer.from_pretrained(tmp_path / name / folder)
                assert len(loaded) == V
                assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"] == [5, 17, 80, 1]
                special = [
                    loaded.pad_token,
                    loaded.unk_token,
                    loaded.cls_token,
                    loaded.sep_token,
                    loaded.mask_token,
                ]
                assert special == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
                assert loaded.mask_token_id == ours.config.mask_token_id

    def test_a_pair_without_a_tokenizer_saves_none(self, tmp_path):
        model().save_pretrained(tmp_path)
        assert not list(tmp_path.rglob("*token*"))
        assert ReplacedTokenDetection.from_pretrained(tmp_path).tokenizer is None
