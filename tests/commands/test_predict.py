"""``electra-kernels predict``: words as written, offsets, entities, and a model that is not one."""

import json
import shutil

import pytest

from electra_kernels.commands.predict import found_spans
from electra_kernels.finetuning.finetune import finetune
from electra_kernels.finetuning.labeller import load_labeller
from electra_kernels.finetuning.quiet import quiet_libraries
from electra_kernels.finetuning.settings import Options
from tests.finetuning import tiny

TEXT = "An apple,  DOGS  and Cats run."


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A fine-tuned model per kind of label."""
    folder = tmp_path_factory.mktemp("models")
    encoder = tiny.save_encoder(folder / "encoder")
    trained = {}
    for tags in (tiny.entity_tags, tiny.binary_tags, tiny.plain_tags):
        train = tiny.write_conll(folder / f"{tags.__name__}.conll", tags, 120)
        trained[tags.__name__] = {"train": train, "task": "tokens"}
    trained["texts"] = {"train": tiny.write_texts(folder / "texts.csv"), "task": "sequence"}
    for name, options in trained.items():
        with quiet_libraries():
            finetune(
                Options(
                    model=encoder,
                    output=folder / name,
                    epochs=4,
                    learning_rate=0.02,
                    layer_decay=1.0,
                    batch_size=16,
                    **options,
                )
            )
    return folder


def test_words_are_as_written_with_their_offsets(models, in_process):
    status, out, err = in_process("predict", "--model", models / "plain_tags", "--json", TEXT)
    assert (status, err) == (0, "")
    (words,) = json.loads(out)
    assert [word["word"] for word in words] == ["An", "apple", ",", "DOGS", "and", "Cats", "run", "."]
    assert all(TEXT[word["start"] : word["end"]] == word["word"] for word in words)
    assert [word["tag"] for word in words if word["word"].isalpha()] == ["V", "V", "N", "V", "N", "C"]
    assert all(0 <= word["probability"] <= 1 for word in words)


def test_words_may_end_at_blanks(models, in_process):
    command = ["predict", "--model", models / "plain_tags", "--json", "--words", "blanks", TEXT]
    words = json.loads(in_process(*command)[1])[0]
    assert [word["word"] for word in words] == TEXT.split()


def test_each_entity_has_a_line(models, in_process):
    command = ["predict", "--model", models / "entity_tags"]
    status, out, _ = in_process(*command, input="an old dogs on it\n\non it\n")
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "an old dogs on it"
    tag, probability, offsets, entity = lines[1].split("\t")
    assert (tag.strip(), offsets, entity) == ("X", "7-11", "dogs")
    assert 0.5 < float(probability) <= 1
    assert lines[2:] == ["on it"]


def test_the_words_of_an_entity_are_one(models):
    """Its probability is the lowest one, and I-X without B-X before it is no entity, as in the scores."""
    tags = [("I-X", 0.9), ("B-X", 0.8), ("I-X", 0.7), ("B-X", 0.6), ("O", 0.5)]
    words = [
        {"start": 10 * i, "end": 10 * i + 4, "tag": tag, "probability": probability}
        for i, (tag, probability) in enumerate(tags)
    ]
    assert found_spans(load_labeller(models / "entity_tags"), words) == [
        (10, 24, "X", 0.7),
        (30, 34, "X", 0.6),
    ]


def test_with_two_tags_the_positive_words_are_listed(models, in_process):
    _, out, _ = in_process("predict", "--model", models / "binary_tags/model", "every tree on big where")
    listed = [line.split("\t")[-1] for line in out.splitlines()[1:]]
    assert listed == ["tree", "where"]


def test_texts_get_a_label(models, in_process):
    _, out, _ = in_process("predict", "--model", models / "texts", "--json", "an apple", "cats " * 100)
    results = json.loads(out)
    assert len(results) == 2
    assert all(result["label"] in ("good", "bad") and result["probability"] >= 0.5 for result in results)


@pytest.mark.parametrize(
    "name, message",
    [
        ("none", "no such folder"),
        ("encoder", "finetuning.json is missing"),
        ("weightless", "model.safetensors is missing"),
        ("damaged", "finetuning.json is damaged"),
    ],
)
def test_a_folder_that_is_no_model_is_one_line(models, name, message, in_process):
    for copy, broken, content in (
        ("weightless", "model.safetensors", None),
        ("damaged", "finetuning.json", "{"),
    ):
        target = models / copy
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(models / "plain_tags/model", target)
        (target / broken).unlink()
        if content:
            (target / broken).write_text(content)
    status, out, err = in_process("predict", "--model", models / name, "words")
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize(
    "text, message", [(" ", "text 1 has no words"), ("\udcff", "text 1 is not UTF-8 text")]
)
def test_a_text_that_is_none_is_one_line(models, text, message, in_process):
    status, _, err = in_process("predict", "--model", models / "plain_tags", text)
    assert status == 2
    assert err == f"electra-kernels: error: {message}\n"
