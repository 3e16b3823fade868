"""Files in, a folder out: what it holds, that it is repeatable, and that nothing else is touched."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

from electra_kernels.errors import UserError
from electra_kernels.finetuning.finetune import finetune
from electra_kernels.finetuning.labelled import read_labelled
from electra_kernels.finetuning.labeller import load_labeller
from electra_kernels.finetuning.quiet import quiet_libraries
from electra_kernels.finetuning.settings import Options
from electra_kernels.finetuning.training import binary_loss
from tests.finetuning import tiny

FAST = {"epochs": 3, "learning_rate": 0.02, "layer_decay": 1.0, "batch_size": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def encoder(folder):
    return tiny.save_encoder(folder / "encoder")


def files(folder, tags):
    name = tags.__name__
    return {
        "train": tiny.write_conll(folder / f"{name}.conll", tags),
        "test": tiny.write_conll(folder / f"{name}-test.conll", tags, 20, seed=1),
    }


def run(**options):
    with quiet_libraries():
        return finetune(Options(**FAST | options))


@pytest.fixture(scope="module")
def entities(folder, encoder):
    data, output = files(folder, tiny.entity_tags), folder / "entities"
    return run(model=encoder, output=output, **data), output, data


def test_the_output_is_a_folder_of_transformers(entities):
    _, output, _ = entities
    assert sorted(path.name for path in output.iterdir()) == ["metrics.json", "model", "predictions.conll"]
    with quiet_libraries():
        model, loading = transformers.AutoModelForTokenClassification.from_pretrained(
            output / "model", output_loading_info=True
        )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert model.config.id2label == {0: "O", 1: "B-X", 2: "I-X"}
    assert transformers.AutoTokenizer.from_pretrained(output / "model").pad_token == "[PAD]"
    assert not [path for path in output.parent.iterdir() if path.name.endswith((".partial", ".previous"))]


def test_the_task_is_learnt_and_scored_as_seqeval_does(entities):
    result, output, data = entities
    predicted = read_labelled(output / "predictions.conll", task="tokens")
    gold = read_labelled(data["test"], task="tokens")
    assert [example.words for example in predicted.examples] == [example.words for example in gold.examples]
    tags = [[list(example.tags) for example in part.examples] for part in (gold, predicted)]
    f1 = result.best.test.figures["f1"]
    assert f1 == pytest.approx(f1_score(*tags, mode="strict", scheme=IOB2))
    assert f1 > 0.5


def test_the_best_epoch_is_the_one_that_is_kept(entities):
    """The figures of the trainer's evaluation are those of the saved model: no row has lost its place."""
    best = entities[0].best
    assert best.history[best.best_epoch - 1]["figures"] == pytest.approx(best.dev.figures)


def test_metrics_count_the_data(entities):
    _, output, data = entities
    metrics = json.loads((output / "metrics.json").read_text())
    gold = read_labelled(data["test"], task="tokens").examples
    assert metrics["data"]["train"]["examples"] == 54
    assert metrics["data"]["dev"]["examples"] == 6
    assert metrics["data"]["test"]["labels"] == Counter(tag for example in gold for tag in example.tags)
    assert metrics["test"]["f1"] == {"mean": metrics["seeds"][0]["test"]["figures"]["f1"], "half_width": None}
    assert metrics["versions"].keys() >= {"electra_kernels", "transformers", "seqeval"}


def test_the_same_seed_gives_the_same_numbers(entities, encoder, folder):
    result, output, data = entities
    again = run(model=encoder, output=folder / "again", **data)
    assert again.best.test == result.best.test
    assert again.best.history == result.best.history
    weights = [(path / "model/model.safetensors").read_bytes() for path in (output, folder / "again")]
    assert weights[0] == weights[1]


def test_seeds_have_a_mean_and_the_best_of_them_is_the_model(folder, encoder):
    output = folder / "seeds"
    result = run(
        model=encoder, output=output, seeds=2, seed=3, **files(folder, tiny.plain_tags) | {"epochs": 1}
    )
    assert sorted(path.name for path in output.iterdir()) == [
        "metrics.json",
        "model",
        "predictions.conll",
        "seed-3",
        "seed-4",
    ]
    values = [seed.dev.figures["macro_f1"] for seed in result.seeds]
    best = 3 + values.index(max(values))
    assert json.loads((output / "metrics.json").read_text())["model_seed"] == best
    for name in ("model/model.safetensors", "predictions.conll"):
        assert (output / name).read_bytes() == (output / f"seed-{best}" / name).read_bytes()
    accuracies = [seed.test.figures["accuracy"] for seed in result.seeds]
    assert result.interval("test", "accuracy").mean == pytest.approx(np.mean(accuracies))
    assert math.isfinite(result.interval("test", "accuracy").half_width)


@pytest.mark.parametrize("label_all_pieces", [False, True])
def test_two_tags_are_one_logit_with_a_threshold_from_held_out_text(folder, label_all_pieces):
    encoder = tiny.save_encoder(folder / "modern", "ModernBert")
    output = folder / f"binary-{label_all_pieces}"
    data = files(folder, tiny.binary_tags)
    result = run(model=encoder, output=output, label_all_pieces=label_all_pieces, **data)
    assert result.best.test.figures["auc"] > 0.9
    labeller = load_labeller(output)
    task = labeller.task
    assert labeller.model.config.num_labels == 1
    assert labeller.model.config.id2label == {0: "wrong"}
    counts = Counter(tag for e in read_labelled(data["train"], task="tokens").examples for tag in e.tags)
    assert task.positive_weight == pytest.approx(counts["right"] / counts["wrong"])
    assert task.threshold == result.best.threshold
    gold = read_labelled(data["test"], task="tokens").examples
    probabilities = labeller.probabilities(gold)
    assert labeller.tags(probabilities) == [
        list(e.tags) for e in read_labelled(output / "predictions.conll", task="tokens").examples
    ]
    assert all(words.shape == (len(e.words), 1) for words, e in zip(probabilities, gold))


def test_texts_have_labels(folder, encoder):
    output = folder / "texts"
    train, test = (
        tiny.write_texts(folder / f"{name}.csv", count, seed)
        for name, count, seed in (("a", 40, 0), ("b", 10, 1))
    )
    result = run(model=encoder, output=output, train=train, dev=train, test=test, task="sequence", length=16)
    assert result.task.labels == ("bad", "good")
    assert set(result.best.test.figures) == {"accuracy", "macro_f1"}
    predicted = (output / "predictions.csv").read_text().splitlines()
    assert len(predicted) == 11
    assert {row.rsplit(",", 1)[1] for row in predicted[1:]} <= {"bad", "good"}


def test_without_weights_training_starts_from_scratch_and_says_so(folder):
    scratch = tiny.save_encoder(folder / "scratch", weights=False)
    lines = []
    data = files(folder, tiny.plain_tags)
    options = FAST | {"epochs": 1, "layer_decay": None}
    with quiet_libraries():
        finetune(Options(scratch, data["train"], folder / "from-scratch", **options), log=lines.append)
    assert any("random weights" in line and "layer decay 1" in line for line in lines)
    metrics = json.loads((folder / "from-scratch/metrics.json").read_text())
    assert metrics["settings"]["pretrained"] is False


def test_the_loss_of_two_tags_is_that_of_torch():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 1), torch.tensor([[0, 1, -100, 0, 1]] * 3)
    found = binary_loss(4.0)(type("Output", (), {"logits": logits}), labels)
    real = labels != -100
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.squeeze(-1)[real], labels[real].float(), pos_weight=torch.tensor(4.0)
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_failing_training_leaves_the_earlier_result(entities, encoder, monkeypatch):
    from electra_kernels.finetuning import finetune as module

    _, output, data = entities
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    monkeypatch.setattr(module, "fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(model=encoder, output=output, **data)
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert not output.with_name("entities.partial").exists()


def test_a_result_of_another_command_is_replaced_only_on_request(encoder, folder):
    data, output = files(folder, tiny.plain_tags), folder / "replaced"
    options = {"model": encoder, "output": output, **data, "epochs": 1}
    run(**options)
    with pytest.raises(UserError, match=r"holds a result with --seed 0, not 1.*--replace it"):
        run(**options, seed=1)
    run(**options, seed=1, replace=True)
    assert json.loads((output / "metrics.json").read_text())["finetuning"]["--seed"] == 1
    run(**options, seed=1)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds notes\.txt, which is not from electra-kernels finetune"):
        run(**options, seed=1, replace=True)
    assert (output / "notes.txt").read_text() == "mine"
