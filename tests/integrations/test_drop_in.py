"""A fused model has the loss and gradients of the plain one, changes only in training mode, and can be unfused."""

import copy
import inspect

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments

from electra_kernels.integrations import fuse_electra_loss, fuse_masked_lm_loss, unfuse

from .gradients import rows, tokenizer
from .head_changes import CHANGES, with_new_weights
from .tiny import ARCHITECTURES, SIZE, batch, pair


def without_dropout(module):
    for part in module.modules():
        for name in ("p", "attention_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    return module.train()


def masked_batch():
    ids, attention_mask = batch()
    labels = ids.where((ids >= 5) & (torch.arange(24) % 5 == 0), -100)
    return {"input_ids": ids.where(labels == -100, 4), "attention_mask": attention_mask, "labels": labels}


def electra_batch():
    ids, attention_mask = batch()
    return {"input_ids": ids, "attention_mask": attention_mask, "labels": (ids % 3 == 0).long()}


def assert_equal_steps(fused, plain, inputs):
    outputs = fused(**inputs), plain(**inputs)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss, rtol=1e-5, atol=1e-6)
    for output in outputs:
        output.loss.backward()
    for (name, got), expected in zip(fused.named_parameters(), plain.parameters()):
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
    return outputs[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_fused_masked_lm_loss_equals_the_plain_one(architecture):
    plain = without_dropout(pair(architecture)[0])
    fused, inputs = copy.deepcopy(plain), masked_batch()
    fuse_masked_lm_loss(fused)
    assert assert_equal_steps(fused, plain, inputs).logits is None
    count = int((inputs["labels"] != -100).sum())
    torch.testing.assert_close(fused(**inputs, num_items_in_batch=2 * count).loss, plain(**inputs).loss / 2)
    assert fused(inputs["input_ids"]).loss is None
    fused.eval(), plain.eval()
    assert torch.equal(fused(**inputs).logits, plain(**inputs).logits)


def test_fused_electra_loss_equals_the_plain_one():
    plain = without_dropout(pair("Electra")[1])
    fused, inputs = copy.deepcopy(plain), electra_batch()
    fuse_electra_loss(fused)
    output = assert_equal_steps(fused, plain, inputs)
    torch.testing.assert_close(output.logits, plain(**inputs).logits, rtol=1e-5, atol=1e-5)
    ids, mask, labels = inputs.values()
    torch.testing.assert_close(fused(ids, mask, labels=labels).loss, output.loss)
    count = int(mask.sum())
    torch.testing.assert_close(
        fused(**inputs, num_items_in_batch=torch.tensor(2.0 * count)).loss, output.loss / 2
    )


@pytest.mark.parametrize("which, fuse", [(0, fuse_masked_lm_loss), (1, fuse_electra_loss)])
def test_arguments_have_the_meaning_that_they_have_for_the_plain_model(which, fuse):
    plain = without_dropout(pair("Electra", attn_implementation="eager")[which])
    fused = copy.deepcopy(plain)
    fuse(fused)
    inputs = electra_batch() if which else masked_batch()
    flags = {"output_hidden_states": True, "output_attentions": True}
    outputs = fused(**inputs, **flags), plain(**inputs, **flags)
    for name, count in (("hidden_states", 3), ("attentions", 2)):
        got, expected = (getattr(output, name) for output in outputs)
        assert len(got) == len(expected) == count
        torch.testing.assert_close(got, expected)
    assert fused(**inputs).hidden_states is None
    as_tuple = fused(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple[0], outputs[1].loss)
    fused.config.return_dict = False
    assert isinstance(fused(**inputs), tuple)
    torch.testing.assert_close(fused(**inputs, return_dict=True).loss, outputs[1].loss)


# Model → index in the pair, function that fuses it, name of its head, names of the last two layers in the head.
HEADS = {
    "Electra discriminator": (1, fuse_electra_loss, "discriminator_predictions", "dense", "dense_prediction"),
    "Electra generator": (0, fuse_masked_lm_loss, "", "generator_predictions.dense", "generator_lm_head"),
    "Bert": (0, fuse_masked_lm_loss, "cls.predictions", "transform.dense", "decoder"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_changes_after_fusing_is_trained_as_it_is_now(name, change):
    which, fuse, head, dense, output = HEADS[name]
    plain = without_dropout(pair(name.split()[0])[which])
    fused, inputs = copy.deepcopy(plain), electra_batch() if which else masked_batch()
    fuse(fused)
    before = fused(**inputs).loss
    for model in (fused, plain):
        CHANGES[change](model.get_submodule(head), dense, output)
    assert_equal_steps(fused, plain, inputs)
    assert (fused(**inputs).loss - before).abs() > 1e-3
    for (parameter_name, parameter), reference in zip(fused.named_parameters(), plain.parameters()):
        assert (parameter.grad is None) == (reference.grad is None), parameter_name
    unfuse(fused)
    torch.testing.assert_close(fused(**inputs).loss, plain(**inputs).loss)


def wrap_head(model):
    """Change the path to the output layer, as modules_to_save of PEFT does."""
    model.cls = torch.nn.Sequential(model.cls, torch.nn.Softplus())


def hook_head(model):
    model.cls.register_forward_hook(lambda module, inputs, output: output.sigmoid())


def patch_head(model):
    forward = model.cls.predictions.forward
    model.cls.predictions.forward = lambda hidden: forward(hidden).sigmoid()


@pytest.mark.parametrize("change", [wrap_head, hook_head, patch_head])
def test_a_module_around_the_output_layer_may_change_too(change):
    plain = without_dropout(pair("Bert")[0])
    fused, inputs = copy.deepcopy(plain), masked_batch()
    fuse_masked_lm_loss(fused)
    for model in (fused, plain):
        change(model)
    assert_equal_steps(fused, plain, inputs)


def test_a_compiled_model_follows_changes_of_its_head():
    plain = without_dropout(pair("Electra")[1])
    fused, inputs = copy.deepcopy(plain), electra_batch()
    fuse_electra_loss(fused)
    compiled = torch.compile(fused, backend="aot_eager")
    torch.testing.assert_close(compiled(**inputs).loss, plain(**inputs).loss)
    for model in (fused, plain):
        CHANGES["lora on every linear"](model.discriminator_predictions, "dense", "dense_prediction")
    torch.testing.assert_close(compiled(**inputs).loss, plain(**inputs).loss)


def test_a_forward_that_is_patched_in_the_class_is_followed(monkeypatch):
    plain = without_dropout(pair("Electra")[1])
    fused, inputs = copy.deepcopy(plain), electra_batch()
    fuse_electra_loss(fused)
    kind = type(plain.discriminator_predictions)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, hidden: 3 * forward(self, hidden))
    assert_equal_steps(fused, plain, inputs)


def test_hooks_of_the_model_run_once_with_the_inputs_of_the_call():
    fused, calls = without_dropout(pair("Electra")[1]), []
    fuse_electra_loss(fused)
    fused.register_forward_hook(lambda module, inputs, kwargs, output: calls.append(kwargs), with_kwargs=True)
    fused(**electra_batch())
    assert [sorted(kwargs) for kwargs in calls] == [["attention_mask", "input_ids", "labels"]]


def test_a_discriminator_head_with_two_outputs_is_refused():
    fused = without_dropout(pair("Electra")[1])
    fuse_electra_loss(fused)
    fused.discriminator_predictions.dense_prediction = with_new_weights(torch.nn.Linear(32, 2))
    with pytest.raises(ValueError, match=r"weight has shape \[2, 32\]"):
        fused(**electra_batch())
    fused.discriminator_predictions.dense_prediction.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"gives logits of shape \[4, 24, 2\], should give one per token"):
        fused(**electra_batch())


def test_unfuse_restores_the_model():
    generator, discriminator = pair("Electra")
    for part, fuse in ((generator, fuse_masked_lm_loss), (discriminator, fuse_electra_loss)):
        before = dict(part.__dict__)
        fuse(part)
        assert inspect.signature(part.forward) == inspect.signature(type(part).forward.__get__(part))
        with pytest.raises(ValueError, match="is replaced already"):
            fuse(part)
        unfuse(part)
        assert part.__dict__ == before
        with pytest.raises(ValueError, match="has no loss of electra_kernels"):
            unfuse(part)
    with pytest.raises(TypeError, match="model is ElectraForMaskedLM, should be ElectraForPreTraining"):
        fuse_electra_loss(generator)


def test_training_a_deep_copy_leaves_the_original_unchanged():
    fused = without_dropout(pair("Bert")[0])
    fuse_masked_lm_loss(fused)
    copied = copy.deepcopy(fused)
    copied(**masked_batch()).loss.backward()
    assert all(parameter.grad is None for parameter in fused.parameters())
    assert copied.get_input_embeddings().weight.grad.any()


def test_accumulated_trainer_steps_add_up(tmp_path):
    """Plain BERT ignores the count that Trainer passes: its accumulated gradient is a sum of means."""
    collator = transformers.DataCollatorForLanguageModeling(tokenizer(), seed=3)
    losses = []
    for accumulation in (1, 4):
        torch.manual_seed(0)
        part = without_dropout(transformers.BertForMaskedLM(transformers.BertConfig(**SIZE)))
        fuse_masked_lm_loss(part)
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=16 // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(part, arguments, train_dataset=rows(), data_collator=collator)
        losses.append(trainer.train().training_loss)
    assert losses == pytest.approx([4.5, 4.5], abs=0.1)
