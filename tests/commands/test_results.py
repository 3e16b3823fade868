"""A new run replaces all results of the previous run, and no other file."""

import json
import random

import pytest
from small_language import WORDS

from electra_kernels.commands.pipeline import Options, pretrain
from electra_kernels.commands.progress import Progress
from electra_kernels.commands.results import Results
from electra_kernels.errors import UserError
from electra_kernels.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from electra_kernels.training.recipe import RECIPES


@pytest.fixture
def save(model, tokenizer):
    return lambda folder: save_checkpoint(folder, Checkpoint(model, tokenizer, RECIPES["demo"]))


@pytest.fixture
def used(tmp_path, save):
    """The output folder of a finished run, with a file of the user in it."""
    save(tmp_path / "model")
    (tmp_path / "metrics.json").write_text(json.dumps({"recipe": {}, "run": {}}))
    for name in ("report.html", "auc.png", "mlm_loss.png", "rtd_loss.png", "auc.png.123.part", "notes.txt"):
        (tmp_path / name).write_text("old")
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_first_model_replaces_all_results_of_an_earlier_run(used, save):
    before = names(used)
    results = Results(used)
    assert names(used) == before
    results.save_model(10, save)
    assert names(used) == ["model", "notes.txt"]
    load_checkpoint(used / "model")


def test_a_run_that_cannot_save_leaves_the_earlier_results_complete(used):
    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    before, results = names(used), Results(used)
    with pytest.raises(OSError, match="No space left"):
        results.save_model(10, full)
    assert names(used) == before
    assert results.last_saved() == "no model was saved"
    load_checkpoint(used / "model")


def test_the_report_of_this_run_stays_when_a_later_model_is_saved(used, save):
    results = Results(used)
    results.save_model(10, save)
    (used / "report.html").write_text("new")
    results.save_model(20, save)
    assert names(used) == ["model", "notes.txt", "report.html"]
    assert results.last_saved() == f"the model of step 20 is in {used / 'model'}"


def test_remains_of_a_killed_run_do_not_stop_the_next_run(tmp_path, save):
    for name in ("model.partial", "model.previous"):
        save(tmp_path / name)
    (tmp_path / "model.partial" / "model.safetensors").rename(
        tmp_path / "model.partial" / "model.safetensors.123.part"
    )
    Results(tmp_path).save_model(10, save)
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("metrics.json", '{"accuracy": 1.0}'),
        ("metrics.json", "not JSON"),
        ("report.html", "mine"),
        ("auc.png", "mine"),
        ("model", "a file"),
        ("model/config.json", '{"model_type": "bert"}'),
        ("model/model.safetensors", "weights of something else"),
        ("model.previous/thesis.txt", "mine"),
    ],
)
def test_files_of_another_program_are_left_alone(name, content, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]}, which is not from electra-kernels"):
        Results(tmp_path)
    assert path.read_text() == content


def test_a_user_file_in_the_model_folder_is_not_lost(used):
    (used / "model" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds model"):
        Results(used)


def test_a_run_of_another_objective_replaces_the_results_in_a_used_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("ELECTRA_KERNELS_CACHE", str(tmp_path / "cache"))
    rng = random.Random(0)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(" ".join(rng.choices(WORDS, k=60)) for _ in range(60)))
    output = tmp_path / "output"

    def run(objective, steps):
        options = Options(output, objective, text=[text], vocab_size=200, batch_size=2, steps=steps)
        return pretrain(options, Progress())

    run("replaced_tokens", 2)
    (output / "notes.txt").write_text("mine")
    assert "report.html" in names(output)
    run("replaced_tokens", 1)
    assert json.loads((output / "metrics.json").read_text())["run"]["steps"] == 1
    run("masked_lm", 1)
    assert names(output) == ["metrics.json", "model", "notes.txt"]
    assert json.loads((output / "metrics.json").read_text())["objective"] == "masked_lm"
