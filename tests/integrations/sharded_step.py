"""Compare two steps of two ranks, each with half a batch and a shard of the pair, with those of one whole pair.

torchrun runs this file (test_sharding).
"""

import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import AutoModelForTokenClassification

from electra_kernels.integrations import ReplacedTokenDetection
from tests.integrations.head_changes import CHANGES
from tests.integrations.parity import relative_difference
from tests.integrations.tiny import MASK, SPECIAL, batch, pair, uniforms
from tests.training.objectives import tiny_pair

TOLERANCE = 2e-6  # relative to the largest entry of the gradient
ROWS = 4
GATHERED = StateDictOptions(full_state_dict=True, cpu_offload=True)


UNTIED = {"tie_word_embeddings": False}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model(architecture, embeddings, **options):
    tokens = {"mask_token_id": MASK, "special_token_ids": SPECIAL}
    return ReplacedTokenDetection(*pair(architecture, **options), embeddings=embeddings, **tokens).eval()


def adapted(*arguments, **options):
    """A pair whose generator does not end with a plain Linear."""
    ours = model(*arguments, **options)
    CHANGES["lora on every linear"](ours.generator.cls.predictions, "transform.dense", "decoder")
    return ours


def checkpointed(*arguments, **options):
    ours = model(*arguments, **options, **NO_DROPOUT).train()
    ours.gradient_checkpointing_enable()  # named activation_checkpointing_enable since transformers 5.23
    return ours


def shard(modules, **options):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in modules:
        fully_shard(module, mesh=mesh, **options)


def layers(ours):
    """The layers and the root."""
    found = [module for module in ours.modules() if type(module).__name__ in ("ElectraLayer", "BertLayer")]
    assert len(found) == 4
    return [*found, ours]


def models(ours):
    """The layers, both models and the root."""
    return [*layers(ours)[:-1], ours.generator, ours.discriminator, ours]


def two_roots(ours):
    """Both models, without a root around them."""
    return [*layers(ours)[:-1], ours.generator, ours.discriminator]


def automatic(ours):
    """The modules of the classes in _no_split_modules, the heads and the root."""
    found = [module for module in ours.modules() if type(module).__name__ in ours._no_split_modules]
    assert {type(module).__name__ for module in found} == {"BertEmbeddings", "BertLayer"}
    return [*found, ours.generator.cls, ours.discriminator.classifier, ours]


def accelerated(ours):
    """As accelerate: the layers, the word embedding and the output of the generator, together if tied, and the root."""
    embedding, output = ours.get_input_embeddings(), ours.get_output_embeddings()
    tied = embedding.weight is output.weight
    return [*layers(ours)[:-1], *([[embedding, output]] if tied else [embedding, [output]]), ours]


def one_group(ours):
    """The layers, all modules that share the word embedding as one group, and the root."""
    parts = (ours.generator, ours.discriminator)
    shared = [*(part.get_input_embeddings() for part in parts), ours.get_output_embeddings()]
    return [*layers(ours)[:-1], shared, ours]


# name → the pair, and the modules to shard, from the inside outwards
CASES = {
    "Electra shared, layers": (partial(model, "Electra", "shared"), layers),
    "Electra disentangled, accelerated": (partial(model, "Electra", "gradient_disentangled"), accelerated),
    "Electra shared, one group": (partial(model, "Electra", "shared"), one_group),
    "Bert disentangled, models": (partial(model, "Bert", "gradient_disentangled"), models),
    "Bert separate, accelerated": (partial(model, "Bert", "separate", **UNTIED), accelerated),
    "Bert separate, automatic": (partial(model, "Bert", "separate", **UNTIED), automatic),
    "Bert disentangled, automatic": (partial(model, "Bert", "gradient_disentangled", **UNTIED), automatic),
    "Bert adapted, layers": (partial(adapted, "Bert", "shared"), layers),
    "Bert adapted, automatic": (partial(adapted, "Bert", "separate", **UNTIED), automatic),
    "Bert checkpointed, automatic": (partial(checkpointed, "Bert", "separate", **UNTIED), automatic),
}


def losses_and_gradients(ours, rows, factor):
    """The losses and the gradients of two steps on these rows of a batch, as parts of the whole batch."""
    ids, attention_mask = batch(ROWS)
    labels = ids.where(attention_mask == 1, -100)
    inputs = {"input_ids": ids, "attention_mask": attention_mask, "labels": labels, **uniforms(ROWS)}
    inputs = {name: value[rows] for name, value in inputs.items()}
    optimizer, steps = torch.optim.SGD(ours.parameters(), 1e-3), []
    for _ in range(2):
        loss = ours(**inputs, num_items_in_batch=(labels != -100).sum()).loss
        (loss * factor).backward()
        steps.append((loss.detach(), gradients(ours)))
        optimizer.step()
        optimizer.zero_grad()
    return steps


def gradients(ours):
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    return {
        name: grad.full_tensor() if hasattr(grad, "full_tensor") else grad for name, grad in found.items()
    }


def check(build, units, *, shares=False):
    """``shares``: the ranks share the generator's output layer, and have different numbers of rows."""
    whole = losses_and_gradients(build(), slice(None), 1)
    ours = build()
    shard(units(ours))
    # An adapted head computes its own logits, any other head keeps the fused loss.
    assert ours._generator_head.ends_with_plain_linear(ours.generator) == (build.func is not adapted)
    first = ROWS // 2
    if shares:
        ours.vocabulary_mesh, first = init_device_mesh("cpu", (dist.get_world_size(),)), 1
    mine = (slice(first), slice(first, None))[dist.get_rank()]
    for (loss, got), (expected_loss, expected) in zip(losses_and_gradients(ours, mine, 2), whole):
        dist.all_reduce(loss)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0.0)
        difference = relative_difference(got, expected)
        assert difference < TOLERANCE, difference
    return ours


def check_shared_vocabulary():
    def training(*arguments):
        return model(*arguments, **NO_DROPOUT).train()

    check(partial(training, "Electra", "shared"), layers, shares=True)
    ours = training("Bert", "separate")
    ours.vocabulary_mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    with pytest.raises(ValueError, match="num_items_in_batch is None, should be given"):
        ours(*batch(ROWS))
    CHANGES["lora on every linear"](ours.generator.cls.predictions, "transform.dense", "decoder")
    with pytest.raises(ValueError, match="ends with no plain Linear, as it should"):
        ours(batch(ROWS)[0], labels=batch(ROWS)[0], num_items_in_batch=7)


def check_saving(ours):
    """A sharded pair is saved with its gathered weights, and loads as plain models."""
    state = get_model_state_dict(ours, options=GATHERED)
    if dist.get_rank() == 0:
        with tempfile.TemporaryDirectory() as folder:
            ours.save_pretrained(folder, state_dict=state)  # does not change it
            loaded = ReplacedTokenDetection.from_pretrained(folder)
            plain = AutoModelForTokenClassification.from_pretrained(f"{folder}/discriminator")
        assert loaded.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
        assert torch.equal(plain.classifier.weight, state["discriminator.classifier.weight"])


def check_mixed_precision():
    """In bfloat16 the counts stay exact: 257 and 256 are the same number there."""
    ours = model("Bert", "shared")
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=True)
    shard(layers(ours), mp_policy=policy)
    ids, attention_mask = batch(ROWS)
    inputs = {"attention_mask": attention_mask, "labels": ids.where(attention_mask == 1, -100)}
    losses = []
    for count in (256, 257):
        ours.eval()  # starts the numbering of the rows again
        losses.append(ours(ids, **inputs, num_items_in_batch=torch.tensor(count)).loss)
    torch.testing.assert_close(losses[1] * 257, losses[0] * 256, rtol=1e-6, atol=0.0)
    losses[1].backward()
    assert all(p.grad.dtype == torch.float32 for p in ours.parameters())
    uniform = uniforms(ROWS)["sampling_uniforms"]
    with pytest.raises(TypeError, match="bfloat16"):
        ours(ids, **inputs, sampling_uniforms=uniform)


def check_parts_of_a_tied_embedding():
    """What cannot be sharded by itself is refused: by torch within one root, and by us between two."""
    within, between = "in the same FSDP group", "sharded as two, should be one"
    for units, message in ((automatic, within), (accelerated, within), (two_roots, between)):
        ours = model("Bert", "shared")
        shard(units(ours))
        with pytest.raises(ValueError, match=message):
            ours(*batch(ROWS))


def check_objective():
    """The trainer's objective, sharded by its layers: loss, gradients, scores and saved files are the whole one's."""
    tokens, half = tiny_pair.rows(ROWS), ROWS // 2
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        tiny_pair.config("ModernBert").save_pretrained(folder)
        whole, ours = (tiny_pair.pair((folder, folder), embeddings="shared") for _ in range(2))
        shard([*ours.layers(), ours])
        batch = ours.batch(tokens.split(half)[dist.get_rank()], 3)
        loss, _ = ours(batch, 0.0, whole.counts(whole.batch(tokens, 3)))
        (2 * loss).backward()
        dist.all_reduce(loss := loss.detach())
        expected_loss, expected, _ = tiny_pair.step(whole, tokens)
        torch.testing.assert_close(loss, expected_loss, rtol=1e-6, atol=0.0)
        assert relative_difference(gradients(ours), expected) < TOLERANCE
        with torch.no_grad():
            scores = [part.token_scores(tokens.input_ids, tokens.attention_mask) for part in (ours, whole)]
        torch.testing.assert_close(*scores)
        state = get_model_state_dict(ours, options=GATHERED)
        if dist.get_rank() == 0:
            ours.save(folder / "ours", state)
            whole.save(folder / "whole")
            for file in ("generator/model", "discriminator/model"):
                got, expected = (
                    load_file(folder / name / f"{file}.safetensors") for name in ("ours", "whole")
                )
                assert got.keys() == expected.keys()  # a shared weight is written once
                assert all(torch.equal(got[name], expected[name]) for name in got)


def main():
    dist.init_process_group("gloo")
    for name, (build, units) in CASES.items():
        ours = check(build, units)
        print(f"rank {dist.get_rank()}: {name}: right", flush=True)
    check_saving(ours)
    check_shared_vocabulary()
    check_objective()
    check_mixed_precision()
    check_parts_of_a_tied_embedding()
    print(f"rank {dist.get_rank()}: the rest: right", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
