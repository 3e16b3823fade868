import copy
import dataclasses

import pytest
import torch

from electra_kernels.models import Electra, ElectraConfig

from .tiny import CONFIGS, COUNTS, DISCRIMINATOR, GENERATOR, MASK, V, batch, model, plain_loss, uniforms


@pytest.mark.parametrize("tie", ["none", "embeddings", "all"])
def test_the_joint_step_equals_plain_torch(tie):
    ours, (ids, attention_mask, maskable) = model(tie), batch()
    plain = copy.deepcopy(ours)
    output = ours(ids, attention_mask, maskable)
    mlm, rtd, loss = plain_loss(plain, ids, attention_mask, output.masked, output.replaced)
    torch.testing.assert_close(output.mlm.loss, mlm, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(output.rtd.loss, rtd, rtol=1e-6, atol=1e-6)
    output.loss.backward()
    loss.backward()
    assert len(dict(ours.named_parameters())) == len(dict(plain.named_parameters()))
    for (name, parameter), expected in zip(ours.named_parameters(), plain.parameters()):
        torch.testing.assert_close(
            parameter.grad, expected.grad, rtol=1e-4, atol=2e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_the_replaced_batch_has_the_samples_and_a_sample_equal_to_the_original_is_not_replaced():
    electra, (ids, attention_mask, maskable) = model("embeddings", mask_probability=0.9), batch(rows=8)
    equal_to_original = 0
    for _ in range(10):
        output = electra(ids, attention_mask, maskable)
        masked, replaced, expected = output.masked, output.replaced, ids.clone()
        for row in range(8):
            for position, target, token in zip(
                masked.positions[row], masked.targets[row], output.mlm.tokens[row]
            ):
                if target >= 0:
                    assert target == ids[row, position]
                    expected[row, position] = token
        equal_to_original += (output.mlm.tokens == masked.targets).sum()
        assert torch.equal(replaced.input_ids, expected)
        assert torch.equal(replaced.is_replaced, expected != ids)
    assert equal_to_original > 0


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("ban_original", [False, True])
def test_special_tokens_and_padding_are_never_replaced(name, ban_original):
    electra = model(name, mask_probability=0.9, ban_original=ban_original)
    ids, attention_mask, maskable = batch(rows=8)
    touched = torch.zeros_like(ids, dtype=torch.bool)
    for _ in range(20):
        replaced = electra(ids, attention_mask, maskable).replaced
        assert torch.equal(replaced.input_ids[maskable == 0], ids[maskable == 0])
        touched |= replaced.is_replaced
    assert not touched[maskable == 0].any()
    assert touched[maskable == 1].float().mean() > 0.9


@pytest.mark.parametrize("name", list(CONFIGS))
def test_with_ban_original_every_masked_position_is_replaced(name):
    ids, attention_mask, maskable = batch(rows=8)
    kept = {}
    for ban_original in (False, True):
        electra = model(name, ban_original=ban_original, mask_probability=0.9)
        outputs = [electra(ids, attention_mask, maskable) for _ in range(10)]
        masked = sum((output.masked.targets >= 0).sum() for output in outputs)
        kept[ban_original] = masked - sum(output.replaced.is_replaced.sum() for output in outputs)
    assert kept[False] > 0
    assert kept[True] == 0


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_same_uniforms_give_the_same_step(name):
    electra, (ids, attention_mask, maskable) = model(name), batch()
    first, second = (electra(ids, attention_mask, maskable, **uniforms(ids)) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert torch.equal(first.replaced.input_ids, second.replaced.input_ids)
    other = electra(ids, attention_mask, maskable, **uniforms(ids, seed=8))
    assert not torch.equal(first.replaced.input_ids, other.replaced.input_ids)


@pytest.mark.parametrize("name", ["embeddings", "unigram", "uniform"])
def test_without_padding_no_mask_is_needed(name):
    electra = model(name)
    ids, attention_mask, maskable = batch(rows=1)
    with_mask = electra(ids, attention_mask, maskable, **uniforms(ids))
    without = electra(ids, None, maskable, **uniforms(ids))
    torch.testing.assert_close(without.loss, with_mask.loss)


def test_without_a_model_as_generator_the_loss_is_the_discriminators():
    ids, attention_mask, maskable = batch()
    output = model("uniform")(ids, attention_mask, maskable)
    assert output.mlm is None
    assert torch.equal(output.loss, output.rtd.loss)


def test_without_replacements_only_the_generator_is_trained():
    electra, (ids, attention_mask, maskable) = model("none"), batch()
    output = electra(ids, attention_mask, maskable, replacements=None, **uniforms(ids))
    assert output.rtd is None
    assert output.replaced is None
    assert torch.equal(output.loss, electra(ids, attention_mask, maskable, **uniforms(ids)).mlm.loss)
    output.loss.backward()
    assert all(parameter.grad is None for parameter in electra.discriminator.parameters())


def test_in_the_head_start_the_generator_is_trained_and_replacements_are_drawn_by_frequency():
    ids, attention_mask, maskable = batch()
    electra = model("embeddings", unigram=COUNTS)
    output = electra(ids, attention_mask, maskable, replacements="unigram", **uniforms(ids))
    expected = model("unigram")(ids, attention_mask, maskable, **uniforms(ids)).replaced
    assert torch.equal(output.replaced.input_ids, expected.input_ids)
    assert torch.equal(output.mlm.loss, electra(ids, attention_mask, maskable, **uniforms(ids)).mlm.loss)
    assert torch.equal(output.loss, output.mlm.loss + 50.0 * output.rtd.loss)


def test_some_rows_get_replacements_by_frequency_and_the_others_those_of_the_generator():
    ids, attention_mask, maskable = batch()
    electra, rows = model("embeddings", unigram=COUNTS), torch.arange(len(ids)) % 2 == 0
    sources = [
        electra(ids, attention_mask, maskable, **uniforms(ids), **options).replaced
        for options in ({"replacements": "unigram"}, {}, {"unigram_rows": rows})
    ]
    by_frequency, generated, mixed = (source.input_ids for source in sources)
    assert not torch.equal(by_frequency, generated)
    assert torch.equal(mixed, torch.where(rows[:, None], by_frequency, generated))


def test_rows_by_frequency_need_frequencies():
    ids, attention_mask, maskable = batch()
    with pytest.raises(ValueError, match="unigram"):
        model("embeddings")(
            ids, attention_mask, maskable, unigram_rows=torch.ones(len(ids), dtype=torch.bool)
        )


def test_no_gradient_passes_through_the_sample():
    electra, (ids, attention_mask, maskable) = model("none"), batch()
    electra(ids, attention_mask, maskable).rtd.loss.backward()
    assert all(parameter.grad is None for parameter in electra.generator.parameters())


def test_with_normalizers_micro_batches_add_up_to_one_batch():
    ids, attention_mask, maskable = batch()
    whole, split, numbers = model("embeddings"), model("embeddings"), uniforms(ids)
    output = whole(ids, attention_mask, maskable, **numbers)
    output.loss.backward()
    counts = {
        "mlm_normalizer": (output.masked.targets >= 0).sum(),
        "rtd_normalizer": float(attention_mask.sum()),
    }
    losses = []
    for rows in (slice(0, 1), slice(1, 4)):
        part = {name: value[rows] for name, value in numbers.items()}
        losses.append(split(ids[rows], attention_mask[rows], maskable[rows], **part, **counts).loss)
        losses[-1].backward()
    torch.testing.assert_close(sum(losses), output.loss)
    for one, other in zip(whole.parameters(), split.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=2e-5)


def test_tied_models_share_parameters():
    none, embeddings, everything = model("none"), model("embeddings"), model("all")
    first, second = (part.encoder.embeddings for part in (none.generator, none.discriminator))
    assert not {id(each) for each in first.parameters()} & {id(each) for each in second.parameters()}
    assert embeddings.generator.encoder.embeddings is embeddings.discriminator.encoder.embeddings
    assert everything.generator.encoder is everything.discriminator.encoder
    for electra in (none, embeddings, everything):
        assert electra.generator.head.weight is electra.generator.encoder.embeddings.word.weight

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(none) - count(embeddings) == count(second) == (V + 40 + 2 + 2) * 16
    heads = 32 * 16 + 16 + 2 * 16 + V
    assert count(everything) == count(everything.discriminator) + heads


def test_ties_survive_a_change_of_dtype_and_a_state_dict():
    electra = model("embeddings").double()
    assert electra.generator.head.weight is electra.discriminator.encoder.embeddings.word.weight
    other = Electra(CONFIGS["embeddings"])
    other.load_state_dict(electra.state_dict())
    ids, attention_mask, _ = batch()
    expected = model("embeddings").discriminator.logits(ids, attention_mask)
    assert torch.equal(other.eval().discriminator.logits(ids, attention_mask), expected)


def test_sampling_without_dropout_draws_as_in_evaluation():
    ids, attention_mask, maskable = batch()
    expected = model("all")(ids, attention_mask, maskable, **uniforms(ids))
    without_dropout = model("all", sampling_dropout=False).train()(
        ids, attention_mask, maskable, **uniforms(ids)
    )
    assert torch.equal(without_dropout.mlm.loss, expected.mlm.loss)
    assert torch.equal(without_dropout.mlm.tokens, expected.mlm.tokens)
    assert not torch.equal(without_dropout.rtd.loss, expected.rtd.loss)
    with_dropout = model("all").train()(ids, attention_mask, maskable, **uniforms(ids))
    assert not torch.equal(with_dropout.mlm.loss, expected.mlm.loss)


def test_temperature_changes_the_draw_and_not_the_loss():
    ids, attention_mask, maskable = batch()
    cold = model("embeddings", temperature=1e-3)(ids, attention_mask, maskable, **uniforms(ids))
    warm = model("embeddings")(ids, attention_mask, maskable, **uniforms(ids))
    assert torch.equal(cold.mlm.loss, warm.mlm.loss)
    assert torch.equal(cold.mlm.tokens == cold.masked.targets, cold.mlm.is_top1)
    assert not torch.equal(cold.mlm.tokens, warm.mlm.tokens)


def test_inference_gives_the_logits_of_training():
    electra, (ids, attention_mask, maskable) = model("embeddings"), batch()
    output = electra(ids, attention_mask, maskable)
    logits = electra.discriminator.logits(output.replaced.input_ids, attention_mask)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, output.rtd.logits)


def test_bfloat16_autocast_trains_float32_weights():
    electra, (ids, attention_mask, maskable) = model("embeddings"), batch()
    expected = electra(ids, attention_mask, maskable, replacements=None, **uniforms(ids)).loss
    with torch.autocast("cpu", torch.bfloat16):
        output = electra(ids, attention_mask, maskable, **uniforms(ids))
        logits = electra.discriminator.logits(ids, attention_mask)
    output.loss.backward()
    assert logits.dtype == output.loss.dtype == torch.float32
    assert all(parameter.grad.dtype == torch.float32 for parameter in electra.parameters())
    torch.testing.assert_close(output.mlm.loss, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", ["embeddings", "unigram"])
def test_the_step_compiles_into_one_graph(name):
    electra, (ids, attention_mask, maskable) = model(name), batch()
    compiled = torch.compile(electra, backend="aot_eager", fullgraph=True)
    expected = electra(ids, attention_mask, maskable, **uniforms(ids))
    output = compiled(ids, attention_mask, maskable, **uniforms(ids))
    torch.testing.assert_close(output.loss, expected.loss)
    assert torch.equal(output.replaced.input_ids, expected.replaced.input_ids)


def test_training_steps_reduce_the_loss():
    electra, (ids, attention_mask, maskable) = model("all").train(), batch()
    optimizer = torch.optim.AdamW(electra.parameters(), lr=1e-3)
    losses = []
    for _ in range(40):
        losses.append(electra(ids, attention_mask, maskable, **uniforms(ids), replacements=None).loss)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize(
    "name, unigram, message",
    [
        ("unigram", None, r"unigram is None with generator_kind='unigram', should be counts \[90\]"),
        ("uniform", COUNTS, "unigram is given with generator_kind='uniform', should be None"),
        ("embeddings", COUNTS[1:], r"unigram has shape \[89\], should be \[V\] = \[90\]"),
    ],
)
def test_wrong_counts_are_refused(name, unigram, message):
    with pytest.raises(ValueError, match=message):
        Electra(CONFIGS[name], unigram)


@pytest.mark.parametrize(
    "name, replacements, message",
    [
        ("embeddings", "bigram", "replacements is 'bigram', should be one of 'generator', 'unigram', None"),
        (
            "embeddings",
            "unigram",
            "replacements is 'unigram', should be so only if Electra was given unigram counts",
        ),
        (
            "uniform",
            "unigram",
            "replacements is 'unigram', should be so only if Electra was given unigram counts",
        ),
        ("uniform", None, "replacements is None, should be 'generator' with generator_kind='uniform'"),
    ],
)
def test_impossible_replacements_are_refused(name, replacements, message):
    ids, attention_mask, maskable = batch()
    with pytest.raises(ValueError, match=message):
        model(name)(ids, attention_mask, maskable, replacements=replacements)


# Sums of the weights as they were before there was a second family.
@pytest.mark.parametrize(
    ("embedding_size", "tie", "sums"),
    [
        (16, "all", (-1.062460, 0.864994, -0.359495, 0.058351)),
        (16, "embeddings", (-1.062460, 0.864994, -0.359495, -0.261976)),
        (16, "none", (-1.062460, 0.864994, -0.359495, -0.077179)),
        (32, "all", (-1.526651, 1.198463, 0.847896, 0.333313)),
        (32, "embeddings", (-1.526651, 1.198463, 0.847896, -0.004746)),
        (32, "none", (-1.526651, 1.198463, 0.847896, -0.043182)),
    ],
)
def test_a_seed_gives_the_initial_weights_that_it_always_gave(embedding_size, tie, sums):
    first, second = (
        dataclasses.replace(config, embedding_size=embedding_size) for config in (DISCRIMINATOR, GENERATOR)
    )
    torch.manual_seed(0)
    electra = Electra(ElectraConfig(first, None if tie == "all" else second, MASK, tie=tie))
    encoder = electra.discriminator.encoder
    weights = (
        encoder.embeddings.word.weight,
        encoder.layers[1].output.weight,
        electra.discriminator.transform[0].weight,
        electra.generator.transform[0].weight,
    )
    assert [weight.double().sum().item() for weight in weights] == pytest.approx(sums, abs=1e-4)
