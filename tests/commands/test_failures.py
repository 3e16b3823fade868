"""Errors and signals on the command line: one line, no traceback, no half-written file."""

import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from small_language import WORDS

from electra_kernels.commands import doctor
from electra_kernels.commands import main as cli
from electra_kernels.errors import UserError
from electra_kernels.training.log import read_log
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
        "--micro-batch",
        1,
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
    """Starts an endless run and returns its process once it has logged a step after ``step``; kills it in the end."""
    processes = []

    def start(output, step=0):
        command = [*COMMAND, *map(str, tiny(text, output, 10**9))]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment)
        processes.append(process)
        end = time.monotonic() + 120
        while not ((output / "model").exists() and read_log(output / "metrics.jsonl").step > step):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.1)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_after_a_signal_state_and_model_are_saved_and_the_same_command_continues(start, tmp_path):
    output, step = tmp_path / "output", 0
    for number, word in ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")):
        process = start(output, step)
        process.send_signal(number)
        _, page = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        lines = page.decode().splitlines()
        assert "Traceback" not in page.decode()
        assert step == 0 or f"continuing at step {step:,} of 1,000,000,000" in lines
        end = f"{ERROR}{word}; step (.*) of 1,000,000,000 is saved; the same command continues there"
        step = int(re.fullmatch(end, lines[-1])[1].replace(",", ""))
        assert {path.name for path in output.iterdir()} == {
            "checkpoints",
            "data",
            "metrics.jsonl",
            "model",
            "run.json",
            "tensorboard",
        }
        assert (output / "checkpoints" / f"step-{step}" / ".metadata").exists()
        log = read_log(output / "metrics.jsonl")
        assert (log.step, log.end) == (step, number.name)
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
    third = run(*tiny(text, output, 1), "--resume", "never")
    assert third.returncode == 0, third.stderr
    assert not (output / "electra-kernels.lock").exists()
    assert json.loads((output / "metrics.json").read_text())["run"]["steps"] == 1


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--text", "{tmp}/none", "--output", "{tmp}/output"],
        ["prepare", "--text", "{tmp}/none", "--output", "{tmp}/output"],
    ],
    ids=lambda command: command[0],
)
def test_several_ranks_of_commands_that_write_alone_are_refused_before_anything_is_read(
    command, monkeypatch, capsys, tmp_path
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([argument.format(tmp=tmp_path) for argument in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{ERROR}started as RANK 1 of WORLD_SIZE 2")
    assert "only pretrain runs in several processes, start this command without torchrun" in line
    assert not (tmp_path / "output").exists()


def test_a_single_rank_may_run(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    cli._require_one_process()


@pytest.fixture
def run_ranks(environment):
    """Run a command as two ranks, as torchrun does; returns their statuses, outputs and errors."""

    def run_ranks(*arguments):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = str(taken.getsockname()[1])
        ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started = [
            subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                env=environment | ranks | {"RANK": rank, "LOCAL_RANK": rank},
                **pipes,
            )
            for rank in "01"
        ]
        pages = [process.communicate(timeout=240) for process in started]
        return [process.returncode for process in started], *zip(*pages)

    return run_ranks


def test_two_ranks_train_one_model_and_one_of_them_prints(run_ranks, text, tmp_path):
    output = tmp_path / "output"
    statuses, outs, errors = run_ranks(*tiny(text, output, 12), "--objective", "masked_lm")
    assert statuses == [0, 0], errors
    assert outs == (f"{output / 'report.html'}\n", "")
    assert "ranks: 2; rows at once on a rank: 1" in errors[0]
    assert errors[1] == ""
    assert json.loads((output / "run.json").read_text())["execution"]["ranks"] == 2
    assert read_log(output / "metrics.jsonl").step == 12


def test_a_batch_that_ranks_cannot_share_is_refused_in_one_line(run_ranks, text, tmp_path):
    statuses, outs, errors = run_ranks(*tiny(text, tmp_path / "output", 12), "--batch-size", 3)
    assert statuses == [2, 2]
    assert outs == ("", "")
    assert errors[0].splitlines()[-1] == (
        f"{ERROR}--batch-size is 3, should be a multiple of the number of ranks, 2"
    )
    assert "error" not in errors[1]


@pytest.mark.parametrize("number, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_signal_that_native_code_turns_into_its_own_error_still_stops(
    number, word, in_process, monkeypatch
):
    """As safetensors does: a signal while it calls Python became "cannot be loaded"."""

    def run(arguments):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as stop:
            raise UserError("cannot be loaded") from stop

    monkeypatch.setattr(doctor, "run", run)
    assert in_process("doctor") == (128 + number, "", f"electra-kernels: error: {word}\n")
    monkeypatch.undo()
    assert in_process("detect", "text", "--model", "nowhere")[0] == 2, "the next command begins anew"


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


def small_disk(size):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_before_the_training_gives_one_line_that_names_the_folder(run, text, tmp_path):
    done = run(*tiny(text, tmp_path / "output", 10), preexec_fn=small_disk(1_000))
    assert done.returncode == 2
    assert last_line(done) == f"{ERROR}{tmp_path / 'output' / 'data'}: File too large"
    assert not (tmp_path / "output" / "model").exists()


def test_a_full_disk_during_the_training_gives_warnings_and_the_training_goes_on(run, text, tmp_path):
    output = tmp_path / "output"
    command = tiny(text, output, 30)
    done = run(*command, "--objective", "masked_lm", preexec_fn=small_disk(100_000))
    assert done.returncode == 2
    assert last_line(done) == (
        f"{ERROR}the training is finished, but not its model: make room, then the same command goes on"
    )
    page = done.stderr.decode()
    assert "the model of step 10 could not be written: File too large; training goes on" in page
    assert "the checkpoint of step 30 could not be written" in page
    assert read_log(output / "metrics.jsonl").step == 30
    assert not (output / "model").exists()
    assert list((output / "checkpoints").iterdir()) == []


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
