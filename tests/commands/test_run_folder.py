"""The output folder of a run: who may write there, what another run replaces, and what stays of it."""

import json

import pytest

from electra_kernels.commands.run_folder import RUN, RunFolder
from electra_kernels.errors import UserError
from electra_kernels.training.model_folder import Checkpoint, load_checkpoint, save_checkpoint
from electra_kernels.training.recipe import RECIPES

IDENTITY = {"--config": "demo", "--seed": 3, "--generator": None, "packing": True}
RESULTS = (
    "metrics.json",
    "metrics.jsonl",
    "report.html",
    "auc.png",
    "mlm_loss.png",
    "rtd_loss.png",
    "auc.png.123.part",
)


@pytest.fixture
def save(model, tokenizer):
    return lambda folder: save_checkpoint(folder, Checkpoint(model, tokenizer, RECIPES["demo"]))


@pytest.fixture
def used(tmp_path, save):
    """The output folder of a finished run, with a file of the user in it."""
    save(tmp_path / "model")
    for name in (*RESULTS, "notes.txt"):
        (tmp_path / name).write_text("old")
    for name in ("checkpoints/step-5", "tensorboard"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("old")
    RunFolder(tmp_path).write_run({"identity": IDENTITY, "schedule": "128:5"})
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_new_run_replaces_all_results_except_the_model(used):
    folder = RunFolder(used)
    folder.check()
    folder.begin({"identity": IDENTITY, "schedule": "128:7"})
    assert names(used) == ["model", "notes.txt", RUN]
    assert folder.known()["schedule"] == "128:7"
    load_checkpoint(used / "model")


def test_the_results_stay_while_the_folder_is_only_looked_at(used):
    before = names(used)
    folder = RunFolder(used)
    folder.check()
    folder.require_same_run(IDENTITY)
    assert folder.known()["schedule"] == "128:5"
    assert names(used) == before


def test_run_json_is_the_last_file_that_goes(used, monkeypatch):
    """It says that the others are results of pretrain, so a killed process must not leave them without it."""
    folder, left = RunFolder(used), []
    monkeypatch.setattr(folder, "write_run", lambda run: left.append(names(used)))
    unlink = type(used).unlink

    def watched(path, missing_ok=False):
        assert path.name == RUN or (used / RUN).exists()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(used), "unlink", watched)
    folder.begin({})
    assert left == [["model", "notes.txt"]]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--seed", 4, "--seed 3, not 4"), ("--generator", "g", "--generator None, not g")],
)
def test_another_run_is_refused_in_a_used_folder(used, option, value, said):
    with pytest.raises(UserError, match=f"holds a run with {said}: choose another folder, or --resume never"):
        RunFolder(used).require_same_run(IDENTITY | {option: value})


def test_an_option_that_an_earlier_version_did_not_have_is_another_run(used):
    with pytest.raises(UserError, match="holds a run with --new None, not 1"):
        RunFolder(used).require_same_run(IDENTITY | {"--new": 1})


@pytest.mark.parametrize("name", ["model", "metrics.json"])
def test_results_without_run_json_cannot_be_continued(tmp_path, save, name):
    """Those of a version that wrote no run.json."""
    if name == "model":
        save(tmp_path / "model")
    else:
        (tmp_path / name).write_text(json.dumps({"recipe": {}, "run": {}}))
    folder = RunFolder(tmp_path)
    folder.check()
    with pytest.raises(UserError, match=r"holds results without run\.json.*--resume never to replace them"):
        folder.require_same_run(IDENTITY)
    folder.begin({"identity": IDENTITY})
    folder.require_same_run(IDENTITY)


def test_an_empty_folder_has_no_run(tmp_path):
    folder = RunFolder(tmp_path)
    folder.check()
    folder.require_same_run(IDENTITY)
    assert folder.known() is None


def test_a_damaged_run_json_is_one_clear_line(used):
    (used / RUN).write_text('{"identity": ')
    with pytest.raises(UserError, match=r"run\.json is damaged .*; --resume never starts again") as error:
        RunFolder(used).known()
    assert "\n" not in str(error.value)


def test_a_model_that_a_killed_process_had_moved_away_comes_back(tmp_path, save):
    save(tmp_path / "model.previous")
    RunFolder(tmp_path).check()
    assert names(tmp_path) == ["model"]
    load_checkpoint(tmp_path / "model")


def test_remains_of_a_killed_run_do_not_stop_the_next_run(tmp_path, save):
    for name in ("model.partial", "model.previous"):
        save(tmp_path / name)
    weights = tmp_path / "model.partial" / "generator" / "model.safetensors"
    weights.rename(weights.with_name("model.safetensors.123.part"))
    folder = RunFolder(tmp_path)
    folder.check()
    folder.begin({})
    save(folder.model)
    assert names(tmp_path) == ["model", RUN]


@pytest.mark.parametrize(
    "name, content",
    [
        (RUN, '{"steps": 3}'),
        (RUN, "not JSON"),
        ("metrics.json", '{"accuracy": 1.0}'),
        ("metrics.json", "not JSON"),
        ("metrics.jsonl", "mine"),
        ("report.html", "mine"),
        ("auc.png", "mine"),
        ("checkpoints/step-5", "mine"),
        ("tensorboard/events", "mine"),
        ("model", "a file"),
        ("model/config.json", '{"model_type": "bert"}'),
        ("model/model.safetensors", "weights of something else"),
        ("model/generator/notes.txt", "mine"),
        ("model.previous/thesis.txt", "mine"),
    ],
)
def test_files_of_another_program_are_left_alone(name, content, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"holds {name.split('/')[0]}, which is not from electra-kernels"):
        RunFolder(tmp_path).check()
    assert path.read_text() == content


@pytest.mark.parametrize(
    "name, content",
    [
        ("electra_kernels.json", {"format": 2}),
        ("config.json", {"model": {}, "recipe": {}}),
        ("config.json", {"generator": {}, "discriminator": {}}),
    ],
)
def test_a_model_of_this_or_a_former_version_may_be_replaced(tmp_path, name, content):
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / name).write_text(json.dumps(content))
    RunFolder(tmp_path).check()


def test_a_user_file_in_the_model_folder_is_not_lost(used):
    (used / "model" / "notes.md").write_text("mine")
    with pytest.raises(UserError, match="holds model"):
        RunFolder(used).check()
