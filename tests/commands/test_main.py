"""The command line as a user runs it: one process per call, a small text, no network."""

import json
import os
import subprocess
import sys

import pytest
from small_language import WORDS
from transformers import AutoModel, BertConfig, BertModel

from electra_kernels.commands.main import main
from electra_kernels.models import electra_config
from electra_kernels.training.model_description import read_description
from electra_kernels.training.model_folder import load_encoder
from electra_kernels.training.objectives import OBJECTIVES

SMALL = ["--vocab-size", 200, "--batch-size", 4]
FILES = [
    "checkpoints",
    "data",
    "metrics.json",
    "metrics.jsonl",
    "model",
    "report.html",
    "run.json",
    "tensorboard",
]


def run(*arguments, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("environment", {})
    command = [sys.executable, "-m", "electra_kernels", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    """The output folder of a complete pretrain run, and its finished process.

    pip has no index, so the report must say which measurement lacks a download.
    """
    output = tmp_path_factory.mktemp("run")
    options = [*SMALL, "--steps", 30, "--pair-minutes", 0.05, "--output", output]
    no_index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "ELECTRA_KERNELS_CACHE": str(output / "cache")}
    done = run("pretrain", "--text", text, *options, environment=no_index)
    assert done.returncode == 0, done.stderr
    return output, done


def test_pretrain_writes_model_report_and_metrics(trained):
    output, done = trained
    assert done.stdout == f"{output / 'report.html'}\n"
    assert "step     30" in done.stderr
    assert sorted(path.name for path in (output / "model").iterdir()) == [
        "README.md",
        "discriminator",
        "electra_kernels.json",
        "generator",
        "unigram.safetensors",
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
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 12
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


def test_detect_reads_standard_input_and_prints_json(trained, in_process):
    output, _ = trained
    _, out, _ = in_process("detect", "-", "--json", "--model", output / "model", input="The OLD cat\n")
    (line,) = json.loads(out)
    assert [word["word"] for word in line] == ["The", "OLD", "cat"]
    assert [(word["start"], word["end"]) for word in line] == [(0, 3), (4, 7), (8, 11)]
    assert all(0 < word["probability"] < 1 for word in line)


def test_blank_lines_of_standard_input_are_skipped(trained, in_process):
    output, _ = trained
    lines = "the old cat\n\n  \na dog\n"
    _, out, _ = in_process("detect", "-", "--json", "--model", output / "model", input=lines)
    assert [len(line) for line in json.loads(out)] == [3, 2]


def test_undefined_metrics_are_null_in_json(trained, in_process, tmp_path):
    output, _ = trained
    (tmp_path / "one.txt").write_text("cat " * 40)
    _, out, _ = in_process("evaluate", "--json", "--model", output / "model", "--text", tmp_path / "one.txt")
    assert "NaN" not in out
    json.loads(out)


def test_detect_covers_a_text_longer_than_a_row(trained, in_process):
    output, _ = trained
    _, out, _ = in_process("detect", " ".join(["cat"] * 150), "--json", "--model", output / "model")
    assert len(json.loads(out)[0]) == 150


def test_evaluate_prints_metrics(trained, in_process, text):
    output, _ = trained
    command = ["evaluate", "--model", output / "model", "--text", text]
    status, out, err = in_process(*command, "--json")
    assert status == 0, err
    figures = json.loads(out)
    assert figures["tokens"] > 5_000
    assert {"auc_random", "auc_samples", "mlm_loss", "rtd_loss"} <= figures.keys()
    _, plain, _ = in_process(*command)
    assert f"{figures['auc_random']:.4f}" in plain


def test_pretrain_continues_an_encoder_of_transformers_with_its_vocabulary(text, tmp_path, in_process):
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join(tokens))
    options = ["--batch-size", 4, "--micro-batch", 4, "--phases", "32:20", "--threads", 1]
    command = [
        "pretrain",
        "--text",
        text,
        "--from",
        tmp_path / "bert",
        *options,
        "--output",
        tmp_path / "run",
    ]
    status, _, err = in_process(*command)
    assert status == 0, err
    model, report = AutoModel.from_pretrained(
        tmp_path / "run" / "model" / "discriminator", output_loading_info=True
    )
    assert (model.config.hidden_size, model.config.vocab_size) == (32, len(tokens))
    assert not report["missing_keys"]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (run["from"], run["config"]) == (str(tmp_path / "bert"), "small")
    card = (tmp_path / "run" / "model" / "discriminator" / "README.md").read_text()
    assert "| AUC, fixed random replacements |" in card
    status, _, err = in_process(*command, "--seed", 1)
    assert (status, "holds a run with --seed 0, not 1" in err) == (2, True)


@pytest.mark.parametrize(
    "objective, saved", [("masked_lm", "encoder"), ("unigram_generator", "discriminator")]
)
def test_an_objective_without_a_generator_writes_its_model_and_a_report(
    objective, saved, text, tmp_path, in_process
):
    options = [*SMALL, "--steps", 20, "--objective", objective, "--threads", 1, "--micro-batch", 4]
    status, out, err = in_process("pretrain", "--text", text, "--output", tmp_path, *options)
    assert (status, out) == (0, f"{tmp_path / 'report.html'}\n"), err
    but_curves = [path.name for path in tmp_path.iterdir() if path.suffix != ".png"]
    assert sorted(but_curves) == FILES
    assert (tmp_path / "mlm_loss.png").exists() == (objective == "masked_lm")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["objective"] == objective
    assert set(OBJECTIVES[objective].metrics) <= metrics["final"].keys()
    assert all(value > 0 for name, value in metrics["final"].items() if name.endswith("_loss"))
    assert metrics["evaluations"][-1]["step"] == 20
    assert read_description(tmp_path / "model")[1] == objective
    assert [path.name for path in (tmp_path / "model").iterdir() if path.is_dir()] == [saved]
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
            "--pair-minutes is given with the objective masked_lm",
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
        (["detect", "words", "--model", "{tmp}"], "electra_kernels.json is missing"),
        (["detect", " ", "--model", "{model}"], "text 1 has no words"),
        (["evaluate", "--text", "{tmp}/long.txt", "--model", "{tmp}"], "electra_kernels.json is missing"),
    ],
)
def test_an_error_of_the_user_gives_one_line(arguments, message, trained, tmp_path, text, in_process):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("two words\n\nthree more words\n")
    (tmp_path / "long.txt").write_text(text.read_text())
    (tmp_path / "binary.txt").write_bytes(bytes(range(256)))
    (tmp_path / "twice.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\ncat\n")
    (tmp_path / "unknown.txt").write_text("Ω " * 40)
    paths = {"tmp": tmp_path, "model": trained[0] / "model"}
    status, _, err = in_process(*(argument.format(**paths) for argument in arguments))
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("electra-kernels: error: ")
    assert message in last
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "option",
    [
        ["--minutes", "0"],
        ["--steps", "-3"],
        ["--minutes", "1", "--steps", "2"],
        ["--phases", "128:5", "--steps", "2"],
        ["--phases", "128"],
    ],
    ids=" ".join,
)
def test_an_impossible_length_is_refused(option, in_process, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        in_process("pretrain", "--output", tmp_path / "output", *option)
    assert stopped.value.code == 2
    assert f"argument {option[-2]}: " in capsys.readouterr().err
    assert not (tmp_path / "output").exists()


def help_page(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main([*arguments])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_describes_each_command(capsys):
    page = help_page(capsys, "--help")
    for command in ("prepare", "pretrain", "report", "compare", "evaluate", "detect", "doctor"):
        assert command in page
        assert f"usage: electra-kernels {command}" in help_page(capsys, command, "--help")


def test_the_version_is_that_of_the_package(capsys):
    from electra_kernels import __version__

    assert help_page(capsys, "--version") == f"electra_kernels {__version__}\n"


def test_doctor_prints_the_back_ends(in_process):
    _, page, _ = in_process("doctor")
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
