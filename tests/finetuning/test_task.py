"""What a training file asks for, which part is held out, and which settings follow."""

import pytest

from electra_kernels.errors import UserError
from electra_kernels.finetuning.held_out import split
from electra_kernels.finetuning.labelled import read_labelled
from electra_kernels.finetuning.settings import default_settings
from electra_kernels.finetuning.task import LARGEST_POSITIVE_WEIGHT, load_task, task_of
from tests.finetuning import tiny


def labelled(tmp_path, tags, count=60):
    return read_labelled(tiny.write_conll(tmp_path / "train.conll", tags, count), task="tokens")


def task_for(training, positive=None):
    return task_of(training, positive=positive, length=32, label_all_pieces=False)


@pytest.mark.parametrize(
    "tags, scheme, labels, figure",
    [
        (tiny.entity_tags, "BIO", ("O", "B-X", "I-X"), "f1"),
        (tiny.binary_tags, "binary", ("right", "wrong"), "average_precision"),
        (tiny.plain_tags, "plain", ("C", "N", "V"), "macro_f1"),
    ],
)
def test_the_tags_say_what_is_to_be_learnt(tmp_path, tags, scheme, labels, figure):
    task = task_for(labelled(tmp_path, tags))
    assert (task.scheme, task.labels, task.main_figure) == (scheme, labels, figure)
    task.save(tmp_path)
    assert load_task(tmp_path) == task


def test_the_rare_tag_is_the_positive_one_unless_told(tmp_path):
    training = labelled(tmp_path, tiny.binary_tags)
    assert task_for(training).labels == ("right", "wrong")
    assert task_for(training, "right").labels == ("wrong", "right")
    assert task_for(training, "right").positive_weight == 1.0, "it never lowers the frequent tag"
    with pytest.raises(UserError, match=r"--positive none is no tag .*should be right or wrong"):
        task_for(training, "none")


def test_the_weight_of_rare_tags_is_capped(tmp_path):
    training = labelled(tmp_path, lambda words: ["x" if word == "apple" else "y" for word in words], 10)
    few = sum(tag == "x" for example in training.examples for tag in example.tags)
    rare = labelled(
        tmp_path,
        lambda words: ["x" if words[i] == "apple" and i == 0 else "y" for i in range(len(words))],
        300,
    )
    assert 1 < task_for(training).positive_weight <= LARGEST_POSITIVE_WEIGHT
    assert few
    assert task_for(rare).positive_weight == LARGEST_POSITIVE_WEIGHT


@pytest.mark.parametrize("tags", [tiny.entity_tags, tiny.plain_tags])
def test_positive_needs_two_tags(tmp_path, tags):
    with pytest.raises(UserError, match=r"--positive B-X is given, but .* has 3 tags, should have two"):
        task_for(labelled(tmp_path, tags), "B-X")


def test_one_tag_is_nothing_to_learn(tmp_path):
    with pytest.raises(UserError, match="has only 'O' as label"):
        task_for(labelled(tmp_path, lambda words: ["O"] * len(words)))


def test_held_out_sentences_are_a_seeded_tenth(tmp_path):
    training = labelled(tmp_path, tiny.plain_tags)
    task = task_for(training)
    train, held_out = split(training, task, 0)
    assert len(held_out) == 6
    assert sorted([*train, *held_out], key=lambda e: e.line) == list(training.examples)
    assert split(training, task, 0) == (train, held_out)
    assert split(training, task, 1) != (train, held_out)


def test_each_part_has_the_positive_tag(tmp_path):
    training = labelled(tmp_path, lambda words: ["x" if word == "apple" else "y" for word in words], 30)
    task = task_for(training)
    for seed in range(20):
        for part in split(training, task, seed):
            assert any("x" in example.tags for example in part)


def test_too_few_examples_to_hold_some_out(tmp_path):
    training = labelled(tmp_path, lambda words: ["a", "b", "c"] + ["a"] * (len(words) - 3), 1)
    with pytest.raises(UserError, match=r"too few examples to hold some out.*or give --dev"):
        split(training, task_for(training), 0)


def test_settings_are_those_of_electra():
    """Table 7 of Clark et al. 2020, and layerwise_lr_decay in configure_finetuning.py."""
    chosen = [default_settings(size, 10_000, is_pretrained=True) for size in (256, 768, 1024)]
    assert [(s.learning_rate, s.layer_decay, s.epochs, s.batch_size) for s in chosen] == [
        (3e-4, 0.8, 3, 32),
        (1e-4, 0.8, 3, 32),
        (5e-5, 0.9, 3, 32),
    ]
    assert default_settings(256, 5749, is_pretrained=True).epochs == 10
    assert default_settings(256, 5749, is_pretrained=False).layer_decay == 1.0
