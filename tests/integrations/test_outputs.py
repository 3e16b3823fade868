"""Outputs and attention that a call or a configuration asks for, and options of Trainer."""

import copy

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from electra_kernels.integrations import (
    DataCollatorForReplacedTokens,
    ReplacedTokenDetection,
    ReplacedTokenDetectionConfig,
)

from . import gradients
from .tiny import ARCHITECTURES, MASK, batch, model, pair, uniforms


class TestOutputs:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_hidden_states_and_attentions_of_both_models_are_returned(self, architecture):
        ours, seen = model(architecture, attn_implementation="eager"), []
        handles = [
            part.base_model.register_forward_pre_hook(
                lambda module, inputs, named: seen.append(named["input_ids"]), with_kwargs=True
            )
            for part in (ours.generator, ours.discriminator)
        ]
        (ids, attention_mask), flags = batch(), {"output_hidden_states": True, "output_attentions": True}
        output = ours(ids, attention_mask, **uniforms(), **flags)
        for handle in handles:
            handle.remove()
        for part, prefix, given in zip((ours.generator, ours.discriminator), ("generator_", ""), seen):
            plain = part(given, attention_mask, **flags)
            for name, layers in (("hidden_states", 3), ("attentions", 2)):
                assert len(output[prefix + name]) == layers
                torch.testing.assert_close(output[prefix + name], plain[name])
        output.loss.backward()
        without = ours(ids, attention_mask, **uniforms())
        assert torch.equal(without.loss, output.loss)
        assert not any("hidden_states" in name or "attentions" in name for name in without)

    def test_the_configuration_can_ask_for_them(self):
        ours = model(attn_implementation="eager", output_hidden_states=True, output_attentions=True)
        output = ours(*batch())
        assert len(output.hidden_states) == len(output.generator_hidden_states) == 3
        assert len(output.attentions) == len(output.generator_attentions) == 2
        assert "hidden_states" not in ours(*batch(), output_hidden_states=False)

    def test_a_tuple_has_the_same_entries(self):
        ours = model()
        output = ours(*batch(), **uniforms())
        parts = ours(*batch(), **uniforms(), return_dict=False)
        assert isinstance(parts, tuple)
        assert all(torch.equal(got, expected) for got, expected in zip(parts, output.to_tuple(), strict=True))
        ours.config.return_dict = False
        assert isinstance(ours(*batch()), tuple)
        assert ours(*batch(), return_dict=True).loss > 0

    def test_models_configured_to_return_tuples_make_a_pair(self):
        ours = model()
        expected = ours(*batch(), **uniforms()).loss
        for part in (ours.generator, ours.discriminator):
            part.config.return_dict = False
        assert ours(*batch(), **uniforms()).loss == expected

    def test_inputs_embeds_are_refused(self):
        with pytest.raises(ValueError, match="inputs_embeds is given, should be None"):
            model()(batch()[0], inputs_embeds=torch.zeros(4, 24, 16))


class TestAttention:
    def implementations(self, ours):
        return [part.config._attn_implementation for part in (ours, ours.generator, ours.discriminator)]

    def test_one_implementation_is_set_for_both_models(self, tmp_path):
        ours = model(attn_implementation="eager")
        assert self.implementations(ours) == ["eager"] * 3
        ours.save_pretrained(tmp_path)
        assert self.implementations(ReplacedTokenDetection.from_pretrained(tmp_path)) == ["sdpa"] * 3
        loaded = ReplacedTokenDetection.from_pretrained(tmp_path, attn_implementation="eager")
        assert self.implementations(loaded) == ["eager"] * 3
        parts = ours.config.generator, ours.config.discriminator
        built = ReplacedTokenDetectionConfig(*map(copy.deepcopy, parts), attn_implementation="sdpa")
        assert self.implementations(ReplacedTokenDetection(built)) == ["sdpa"] * 3

    def test_each_model_may_have_its_own_implementation(self):
        ours = model(attn_implementation={"generator": "eager"})
        assert self.implementations(ours)[1:] == ["eager", "sdpa"]
        ours.set_attn_implementation({"discriminator": "eager", "generator": "sdpa"})
        assert self.implementations(ours)[1:] == ["sdpa", "eager"]

    def test_results_do_not_depend_on_the_implementation(self):
        found = [model(attn_implementation=name)(*batch(), **uniforms()) for name in ("eager", "sdpa")]
        torch.testing.assert_close(found[0].loss, found[1].loss)
        torch.testing.assert_close(found[0].logits, found[1].logits, rtol=1e-4, atol=1e-4)

    def test_by_default_each_model_keeps_its_implementation(self):
        generator, discriminator = pair("Electra")
        generator.set_attn_implementation("eager")
        ours = ReplacedTokenDetection(generator, discriminator, mask_token_id=MASK)
        assert self.implementations(ours)[1:] == ["eager", "sdpa"]


def trainer(directory, ours, **options):
    arguments = TrainingArguments(
        str(directory),
        per_device_train_batch_size=4,
        max_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        **options,
    )
    data = {"train_dataset": gradients.rows(), "eval_dataset": gradients.rows()}
    return Trainer(
        ours, arguments, data_collator=DataCollatorForReplacedTokens(gradients.tokenizer()), **data
    )


@pytest.mark.parametrize("embeddings", ["shared", "gradient_disentangled", "separate"])
def test_neftune_reaches_the_embeddings_of_both_models(embeddings, tmp_path):
    """The noise, the difference of a vector from its token's, is added once, in training only, and within its bound."""
    ours = model(embeddings=embeddings)
    noise = {"generator": [], "discriminator": []}

    def watch(name):
        part, seen = getattr(ours, name), []
        below = part.electra.embeddings
        for other in (below.position_embeddings, below.token_type_embeddings):
            other.weight.data.zero_(), other.requires_grad_(False)
        below.word_embeddings.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))

        def compare(module, inputs):
            expected = F.embedding(seen[-1], below.word_embeddings.weight)
            if embeddings == "gradient_disentangled" and name == "discriminator":
                expected = expected + F.embedding(seen[-1], ours.get_input_embeddings().weight)
            length, width = expected.shape[1:]
            noise[name].append((inputs[0] - expected).detach() * (length * width) ** 0.5)

        below.LayerNorm.register_forward_pre_hook(compare)

    watch("generator"), watch("discriminator")
    trainer(tmp_path, ours, neftune_noise_alpha=5.0).train()
    for found in noise.values():
        assert len(found) == 1
        assert 4.5 < found[0].abs().max() < 5.001
        assert abs(found[0].mean()) < 0.5
    ours(*batch())  # after training there is no noise
    ours.eval()(*batch())
    assert all(found[-1].abs().max() < 1e-4 and found[-2].abs().max() < 1e-4 for found in noise.values())


def test_label_smoothing_is_refused_with_an_explanation(tmp_path):
    smoothing = trainer(tmp_path, gradients.model(), label_smoothing_factor=0.1)
    for call in (smoothing.train, smoothing.evaluate):
        with pytest.raises(
            ValueError, match=r"labels is None, should be given .* label_smoothing_factor is not 0"
        ):
            call()
    trainer(tmp_path, gradients.model()).train()
