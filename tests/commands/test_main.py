"""The command line as a user runs it: one process per call, a small text, no network."""

import json
import os
import random
import subprocess
import sys

import pytest
from small_language import WORDS

from electra_kernels.models import electra_config
from electra_kernels.training.model_folder import load_encoder
from electra_kernels.training.objectives import OBJECTIVES


def run(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("environment", {})
    command = [sys.executable, "-m", "electra_kernels", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    documents = ["\n".join(" ".join(rng.choices(WORDS, k=60)) for _ in range(6)) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The output folder of a complete pretrain run, and its finished process.

    pip has no index, so the report must say which measurement lacks a download.
    """
    output = tmp_path_factory.mktemp("run")
    options = [
        "--steps",
        30,
        "--vocab-size",
        200,
        "--batch-size",
        4,
        "--pair-minutes",
        0.05,
        "--output",
        output,
    ]
    no_index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "ELECTRA_KERNELS_CACHE": str(output / "cache")}
    done = run("pretrain", "--text", text, *options, environment=no_index)
    assert done.returncode == 0, done.stderr
    return output, done


def test_pretrain_writes_model_report_and_metrics(trained):
    output, done = trained
    assert done.stdout == f"{output / 'report.html'}\n"
    assert "step     30" in done.stderr
    assert sorted(path.name for path in (output / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["run"]["steps"] == 30
    assert metrics["evaluations"][-1]["step"] == 30
    assert set(metrics["step_seconds"]) == {
        "data",
        "generator",
        "head and sampling",
        "discriminator",
        "optimiser",
    }
    assert metrics["pair"]["steps"] >= 1
    assert "cannot download nlpaug" in metrics["real_word_errors"]["reason"]


def test_the_report_shows_the_metrics_of_the_run_and_needs_no_other_file(trained):
    output, _ = trained
    page = (output / "report.html").read_text()
    metrics = json.loads((output / "metrics.json").read_text())
    assert f"{metrics['final']['auc_random']:.3f}" in page
    assert f"After {metrics['pair']['steps']:,} steps" in page
    assert f"--model {output / 'model'}" in page
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 6
    assert "http" not in page
    assert page.index("only the label differs") < page.index("The run")


def test_the_curves_are_also_written_as_files(trained):
    output, _ = trained
    for name in ("auc", "mlm_loss", "rtd_loss"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_detect_colours_a_text(trained):
    output, _ = trained
    done = run("detect", "the old cat saw a small dog", "every green hill", "--model", output / "model")
    assert done.returncode == 0, done.stderr
    assert "the old cat saw a small dog" in done.stdout
    assert done.stdout.count("most suspicious:") == 2


def test_detect_reads_standard_input_and_prints_json(trained):
    output, _ = trained
    done = run("detect", "-", "--json", "--model", output / "model", input="the old cat\n")
    (line,) = json.loads(done.stdout)
    assert [token["piece"] for token in line] == ["the", "old", "cat"]
    assert all(0 < token["probability"] < 1 for token in line)


def test_blank_lines_of_standard_input_are_skipped(trained):
    output, _ = trained
    done = run("detect", "-", "--json", "--model", output / "model", input="the old cat\n\n  \na dog\n")
    assert [len(line) for line in json.loads(done.stdout)] == [3, 2]


def test_undefined_metrics_are_null_in_json(trained, tmp_path):
    output, _ = trained
    (tmp_path / "one.txt").write_text("cat " * 40)
    done = run("evaluate", "--json", "--model", output / "model", "--text", tmp_path / "one.txt")
    assert "NaN" not in done.stdout
    json.loads(done.stdout)


def test_detect_covers_a_text_longer_than_a_row(trained):
    output, _ = trained
    words = " ".join(["cat"] * 150)
    done = run("detect", words, "--json", "--model", output / "model")
    assert len(json.loads(done.stdout)[0]) == 150


def test_evaluate_prints_metrics(trained, text):
    output, _ = trained
    done = run("evaluate", "--model", output / "model", "--text", text, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["tokens"] > 5_000
    assert {"auc_random", "auc_samples", "mlm_loss", "rtd_loss"} <= figures.keys()
    plain = run("evaluate", "--model", output / "model", "--text", text).stdout
    assert f"{figures['auc_random']:.4f}" in plain


@pytest.mark.parametrize("objective, saved", [("masked_lm", "encoder"), ("unigram_generator", "model")])
def test_an_objective_without_a_generator_writes_its_model_and_its_metrics(objective, saved, text, tmp_path):
    options = ["--steps", 20, "--vocab-size", 200, "--batch-size", 4, "--output", tmp_path]
    done = run("pretrain", "--objective", objective, "--text", text, *options)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'metrics.json'}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "model"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["objective"] == objective
    assert set(OBJECTIVES[objective].metrics) <= metrics["final"].keys()
    assert all(value > 0 for name, value in metrics["final"].items() if name.endswith("_loss"))
    assert metrics["evaluations"][-1]["step"] == 20
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["objective"] == objective
    assert config.keys() == {saved, "recipe", "objective"}
    demo = electra_config("demo", vocab_size=1_000, mask_token_id=4).discriminator
    assert load_encoder(tmp_path / "model").encoder.config.num_hidden_layers == demo.num_hidden_layers


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrain", "--output", "{tmp}", "--text", "{tmp}/none.txt"], "none.txt: no such file"),
        (["pretrain", "--output", "{tmp}", "--text", "{tmp}/empty.txt"], "no text in"),
        (["pretrain", "--output", "{tmp}", "--objective", "none"], "should be one of replaced_tokens, "),
        (
            ["pretrain", "--output", "{tmp}", "--objective", "masked_lm", "--pair-minutes", "1"],
            "--pair-minutes is given with --objective masked_lm",
        ),
        (["pretrain", "--output", "{tmp}/empty.txt", "--text", "{tmp}/short.txt"], "empty.txt"),
        (["pretrain", "--output", "{tmp}", "--text", "{tmp}/short.txt"], "too little"),
        (["pretrain", "--output", "{tmp}", "--text", "{tmp}/long.txt", "--vocab-size", "5"], "is too small"),
        (
            ["pretrain", "--output", "{tmp}", "--text", "{tmp}/long.txt", "--vocabulary", "{tmp}/empty.txt"],
            "[PAD]",
        ),
        (["pretrain", "--output", "{tmp}", "--text", "{tmp}/binary.txt"], "binary.txt: not UTF-8 text"),
        (
            ["pretrain", "--output", "{tmp}", "--text", "{tmp}/long.txt", "--vocabulary", "{tmp}/twice.txt"],
            "more than once",
        ),
        (["evaluate", "--text", "{tmp}/unknown.txt", "--model", "{model}"], "enough known words"),
        (["detect", "words", "--model", "{tmp}"], "config.json is missing"),
        (["detect", " ", "--model", "{model}"], "text 1 has no words"),
        (["evaluate", "--text", "{tmp}/long.txt", "--model", "{tmp}"], "config.json is missing"),
    ],
)
def test_an_error_of_the_user_gives_one_line(arguments, message, trained, tmp_path, text):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("two words\n\nthree more words\n")
    (tmp_path / "long.txt").write_text(text.read_text())
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "twice.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\ncat\n")
    (tmp_path / "unknown.txt").write_text("Ω " * 40)
    paths = {"tmp": tmp_path, "model": trained[0] / "model"}
    done = run(*(argument.format(**paths) for argument in arguments))
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("electra-kernels: error: ")
    assert message in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "option", [["--minutes", "0"], ["--steps", "-3"], ["--minutes", "1", "--steps", "2"]]
)
def test_an_impossible_length_is_refused(option, tmp_path):
    done = run("pretrain", "--output", tmp_path, *option)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_help_describes_each_command():
    page = run("--help").stdout
    for command in ("pretrain", "evaluate", "detect", "doctor"):
        assert command in page
        assert "usage: electra-kernels" in run(command, "--help").stdout


def test_the_version_is_that_of_the_package():
    from electra_kernels import __version__

    assert run("--version").stdout == f"electra_kernels {__version__}\n"


def test_doctor_prints_the_back_ends():
    page = run("doctor").stdout
    assert "sample_tokens" in page
    assert "reference" in page


def test_a_closed_output_pipe_is_not_an_error():
    command = f"{sys.executable} -m electra_kernels doctor | head -1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_without_the_extra_the_error_says_what_to_install(tmp_path):
    """A sitecustomize module hides rich from importlib, as if it were not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'rich' else find(name, *rest)\n"
    )
    done = run("detect", "words", "--model", tmp_path, environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 2
    assert "rich not installed: pip install 'electra_kernels[pretraining]'" in done.stderr
