"""Errors and signals on the command line: one line, no traceback, no half-written file."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch
from small_language import WORDS

from electra_kernels.commands import doctor
from electra_kernels.commands import main as cli
from electra_kernels.training.model_folder import load_checkpoint

COMMAND = [sys.executable, "-m", "electra_kernels"]
ERROR = "electra-kernels: error: "


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(" ".join(rng.choices(WORDS, k=60)) for _ in range(60)))
    return path


@pytest.fixture
def environment(tmp_path):
    """One thread, no package registry, and an empty cache."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "PIP_NO_INDEX": "1",
        "ELECTRA_KERNELS_CACHE": str(tmp_path / "cache"),
    }


@pytest.fixture
def run(environment):
    def run(*arguments, changes=(), command=COMMAND, **options):
        values = {**environment, **dict(changes)}
        given = {name: value for name, value in values.items() if value is not None}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, env=given, check=False, **options
        )

    return run


def tiny(text, output, steps):
    return [
        "pretrain",
        "--text",
        text,
        "--vocab-size",
        200,
        "--batch-size",
        2,
        "--steps",
        steps,
        "--output",
        output,
    ]


def last_line(done):
    """The last line of standard error, after a check that there is no traceback."""
    page = done.stderr.decode(errors="backslashreplace")
    assert "Traceback" not in page
    return page.splitlines()[-1]


@pytest.fixture
def start(text, environment):
    """Starts an endless run and returns its process once the first model is saved; kills it after the test."""
    processes = []

    def start(output):
        command = [*COMMAND, *map(str, tiny(text, output, 10**9))]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
        processes.append(process)
        end = time.monotonic() + 120
        while not (output / "model").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_after_a_signal_the_last_model_is_kept_and_its_folder_named(number, word, start, tmp_path):
    output = tmp_path / "output"
    process = start(output)
    process.send_signal(number)
    _, page = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    line = page.decode().splitlines()[-1]
    assert line.startswith(f"{ERROR}{word}; the model of step ")
    assert line.endswith(f" is in {output / 'model'}")
    assert "Traceback" not in page.decode()
    assert [path.name for path in output.iterdir()] == ["model"]
    load_checkpoint(output / "model")


def test_a_folder_has_one_writer_until_that_process_is_gone(start, run, text, tmp_path):
    output = tmp_path / "output"
    first = start(output)
    for command in (tiny(text, output, 10), ["compare", "--text", text, "--output", output]):
        second = run(*command)
        assert second.returncode == 2
        assert f"{output} is in use by process {first.pid} on " in last_line(second)
        assert len(second.stderr.splitlines()) == 1
    first.kill()
    first.wait()
    assert (output / "electra-kernels.lock").exists()
    third = run(*tiny(text, output, 1))
    assert third.returncode == 0, third.stderr
    assert not (output / "electra-kernels.lock").exists()
    assert json.loads((output / "metrics.json").read_text())["run"]["steps"] == 1


@pytest.mark.parametrize("command", ["pretrain", "compare"])
def test_several_ranks_are_refused_before_anything_is_read(command, run, tmp_path):
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}
    done = run(command, "--text", tmp_path / "none", "--output", tmp_path / "output", changes=ranks)
    assert done.returncode == 2
    assert "RANK 1 of WORLD_SIZE 2" in last_line(done)
    assert "start it without torchrun" in last_line(done)
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "output").exists()


def test_a_single_rank_may_run(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    cli._require_one_process()


@pytest.mark.parametrize("program", [["-m", "electra_kernels"], ["electra-kernels"]])
@pytest.mark.parametrize("number, word", [("SIGINT", "interrupted"), ("SIGTERM", "terminated")])
def test_a_signal_during_the_import_of_torch_gives_one_line(program, number, word, run, tmp_path):
    """A fake torch that is stopped during its import stands for the real one, whose import takes seconds."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        f"import os, signal, time\nos.kill(os.getpid(), signal.{number})\ntime.sleep(30)\n"
    )
    script = tmp_path / "electra-kernels"  # like the script that pip writes
    script.write_text("import sys\nfrom electra_kernels.commands.main import main\nsys.exit(main())\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("doctor", command=[sys.executable, *program], cwd=tmp_path, changes={"PYTHONPATH": path})
    assert done.stderr.decode() == f"{ERROR}{word}\n"
    assert done.returncode == 128 + signal.Signals[number]


def test_a_program_that_imports_the_library_keeps_its_handlers(run):
    code = (
        "import signal\nbefore = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)\n"
        "import electra_kernels\n"
        "assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))"
    )
    done = run(command=[sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr


def test_a_command_called_as_a_function_restores_the_signal_handlers(capsys):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert cli.main(["doctor"]) == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_full_disk_gives_one_line_that_names_the_file(run, text, tmp_path):
    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run(*tiny(text, tmp_path / "output", 10), preexec_fn=small_disk)
    assert done.returncode == 2
    assert last_line(done).startswith(ERROR)
    assert last_line(done).endswith("model.safetensors: File too large")
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_standard_output_gives_one_line(environment):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "doctor"], stdout=full, stderr=subprocess.PIPE, env=environment, check=False
        )
    assert done.returncode == 2
    assert last_line(done).endswith("No space left on device")
    assert len(done.stderr.splitlines()) == 1


def test_an_unknown_home_folder_is_reported_before_the_training(run, text, tmp_path):
    """A sitecustomize module makes the system not know the user."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\n\ndef unknown(uid):\n    raise KeyError(uid)\n\npwd.getpwuid = unknown\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    changes = {"HOME": None, "ELECTRA_KERNELS_CACHE": None, "PYTHONPATH": path}
    done = run(*tiny(text, tmp_path / "output", 10), changes=changes)
    assert done.returncode == 2
    assert "set HOME, or ELECTRA_KERNELS_CACHE to a folder" in last_line(done)
    assert b"step" not in done.stderr
    assert not (tmp_path / "output" / "model").exists()
    report = run("doctor", changes=changes)
    assert report.returncode == 0
    assert b"set HOME, or ELECTRA_KERNELS_CACHE" in report.stdout


def test_a_failed_download_is_reported_before_the_training(run, text, tmp_path):
    page = run(*tiny(text, tmp_path / "output", 1)).stderr.decode()
    assert page.index("real-word errors will not be measured: cannot download") < page.index("step ")


def test_brackets_and_colons_of_a_path_are_printed_as_they_are(run, text, tmp_path):
    output = tmp_path / "a[/red] [b] :cat:"
    done = run(*tiny(text, output, 1), "--objective", "masked_lm")
    assert done.returncode == 0, done.stderr
    assert f"the model is in {output / 'model'}" in done.stderr.decode()


def test_input_that_is_not_utf8_gives_one_line(run, tmp_path):
    done = run("detect", "-", "--model", tmp_path, input=b"the cat \xff\n")
    assert done.returncode == 2
    assert "standard input: not UTF-8 text" in last_line(done)


@pytest.mark.parametrize(
    "option, value",
    [
        ("--vocab-size", "1000000000"),
        ("--vocab-size", "0"),
        ("--batch-size", "99999999999"),
        ("--steps", "1e3"),
        ("--steps", "9" * 5_000),
        ("--minutes", "nan"),
        ("--minutes", "inf"),
        ("--minutes", "-1"),
        ("--pair-minutes", "nan"),
        ("--seed", "-1"),
        ("--output", os.fsdecode(b"\xff")),
    ],
)
def test_an_absurd_value_is_refused_while_the_options_are_parsed(option, value, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.command_line().parse_args(["pretrain", "--output", "x", option, value])
    assert exit.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--seeds", "1000000000"), ("--rates", "nan"), ("--tokens", "0")])
def test_an_absurd_value_of_compare_is_refused_while_the_options_are_parsed(option, value, capsys):
    with pytest.raises(SystemExit):
        cli.command_line().parse_args(["compare", option, value])
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 9 bytes"
        ),
    ],
)
def test_a_lack_of_memory_gives_one_line(error, monkeypatch, capsys):
    def command(arguments):
        raise error

    monkeypatch.setattr(doctor, "run", command)
    assert cli.main(["doctor"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{ERROR}out of memory: ")


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch):
    def command(arguments):
        raise RuntimeError("a fault")

    monkeypatch.setattr(doctor, "run", command)
    with pytest.raises(RuntimeError, match="a fault"):
        cli.main(["doctor"])
